"""What a container, or this machine, runs to use the GPU: cuInit, the devices, and a vector addition through the driver API.

The programs are source text for `python3 -c`: a container's image has Python's standard library and nothing of ours.
"""

from __future__ import annotations

# One addition of 4,096 pairs of floats per device that is seen. Prints one JSON object; exit status 0: all sums were right.
ADD = r"""
import ctypes, json, sys
PTX = '''.version 6.4
.target sm_%d
.address_size 64
.visible .entry add(.param .u64 a, .param .u64 b, .param .u64 c, .param .u32 n)
{
  .reg .pred %%p<2>; .reg .f32 %%f<4>; .reg .b32 %%r<6>; .reg .b64 %%d<11>;
  ld.param.u64 %%d1, [a]; ld.param.u64 %%d2, [b]; ld.param.u64 %%d3, [c]; ld.param.u32 %%r2, [n];
  mov.u32 %%r3, %%ctaid.x; mov.u32 %%r4, %%ntid.x; mov.u32 %%r5, %%tid.x; mad.lo.s32 %%r1, %%r3, %%r4, %%r5;
  setp.ge.u32 %%p1, %%r1, %%r2;
  @%%p1 bra DONE;
  cvta.to.global.u64 %%d4, %%d1; mul.wide.u32 %%d5, %%r1, 4; add.s64 %%d6, %%d4, %%d5;
  cvta.to.global.u64 %%d7, %%d2; add.s64 %%d8, %%d7, %%d5;
  ld.global.f32 %%f1, [%%d6]; ld.global.f32 %%f2, [%%d8]; add.f32 %%f3, %%f1, %%f2;
  cvta.to.global.u64 %%d9, %%d3; add.s64 %%d10, %%d9, %%d5; st.global.f32 [%%d10], %%f3;
DONE: ret;
}
'''
said = {"cuinit": None, "devices": None, "uuids": [], "added": 0}
def end(status):
    print(json.dumps(said))
    sys.exit(status)
try:
    cuda = ctypes.CDLL("libcuda.so.1")
except OSError as error:
    said["error"] = str(error)
    end(2)
def call(name, *arguments):
    status = getattr(cuda, name)(*arguments)
    if status:
        said["error"] = "%s: %d" % (name, status)
        end(3)
said["cuinit"] = cuda.cuInit(0)
if said["cuinit"]:
    end(1)
count = ctypes.c_int()
call("cuDeviceGetCount", ctypes.byref(count))
said["devices"] = count.value
N = 4096
for index in range(count.value):
    device, context, module, add = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
    major, minor, uuid = ctypes.c_int(), ctypes.c_int(), (ctypes.c_ubyte * 16)()
    call("cuDeviceGet", ctypes.byref(device), index)
    call("cuDeviceGetUuid", uuid, device)
    said["uuids"].append(bytes(uuid).hex())
    call("cuDeviceGetAttribute", ctypes.byref(major), 75, device)
    call("cuDeviceGetAttribute", ctypes.byref(minor), 76, device)
    call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    call("cuCtxSetCurrent", context)
    source = (PTX % min(10 * major.value + minor.value, 75)).encode() + b"\0"
    call("cuModuleLoadData", ctypes.byref(module), source)
    call("cuModuleGetFunction", ctypes.byref(add), module, b"add")
    hosts, devices = [], []
    for values in ([float(i) for i in range(N)], [2.0 * i for i in range(N)], [0.0] * N):
        host, place = (ctypes.c_float * N)(*values), ctypes.c_uint64()
        call("cuMemAlloc_v2", ctypes.byref(place), ctypes.c_size_t(4 * N))
        call("cuMemcpyHtoD_v2", place, host, ctypes.c_size_t(4 * N))
        hosts.append(host)
        devices.append(place)
    number = ctypes.c_uint(N)
    arguments = (ctypes.c_void_p * 4)(*(ctypes.addressof(a) for a in (*devices, number)))
    one, wide = ctypes.c_uint(1), ctypes.c_uint(256)
    call("cuLaunchKernel", add, ctypes.c_uint(N // 256), one, one, wide, one, one, ctypes.c_uint(0), None, arguments, None)
    call("cuCtxSynchronize")
    call("cuMemcpyDtoH_v2", hosts[2], devices[2], ctypes.c_size_t(4 * N))
    if list(hosts[2]) != [3.0 * i for i in range(N)]:
        said["error"] = "device %d: wrong sums" % index
        end(4)
    said["added"] += 1
end(0 if said["added"] else 5)
"""

# Holds a pattern in GPU memory, says so, waits for a line, and says whether the pattern is still there.
HOLD = r"""
import ctypes, sys
cuda = ctypes.CDLL("libcuda.so.1")
def call(name, *arguments):
    status = getattr(cuda, name)(*arguments)
    if status:
        sys.exit("%s: %d" % (name, status))
N = 1 << 20
device, context, place = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
call("cuInit", 0)
call("cuDeviceGet", ctypes.byref(device), 0)
call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
call("cuCtxSetCurrent", context)
call("cuMemAlloc_v2", ctypes.byref(place), ctypes.c_size_t(N))
pattern = bytes((7 * i + 3) % 251 for i in range(N))
call("cuMemcpyHtoD_v2", place, pattern, ctypes.c_size_t(N))
print("held", flush=True)
sys.stdin.readline()
back = ctypes.create_string_buffer(N)
call("cuMemcpyDtoH_v2", back, place, ctypes.c_size_t(N))
print("kept" if back.raw == pattern else "lost", flush=True)
"""
