"""`gpumend explain`: an error text leads to its finding, as it is seen in the wild, with ids, paths and versions in it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from gpumend.cli import explain
from gpumend.places import PAGES
from gpumend.text import symptoms

INDEX = symptoms.Index(symptoms.read(PAGES))

TASK = (
    "docker: Error response from daemon: failed to create task for container: failed to create shim task: OCI runtime create "
    "failed: runc create failed: unable to start container process: error during container init: error running prestart hook "
    "#0: exit status 1, stdout: , stderr: Auto-detected mode as 'legacy'\n"
)
OLD = (
    "docker: Error response from daemon: OCI runtime create failed: container_linux.go:380: starting container process caused: "
    "process_linux.go:545: container init caused: Running hook #0:: error running hook: exit status 1, stdout: , stderr: "
)
MERGED = "/var/lib/docker/overlay2/d5771d7f73e2a9123ffbd81240a921ae42daa83fae87c0731b4880c31f882f40/merged"
SPEC = (
    "docker: Error response from daemon: failed to create task for container: failed to create shim task: OCI runtime create "
    "failed: could not apply required modification to OCI specification: error modifying OCI spec: "
)
# (where it was seen, its text, the codes of which one is to be among the first three)
TEXTS: list[tuple[str, str, str]] = [
    ("nct#394", TASK + "nvidia-container-cli: initialization error: nvml error: driver/library version mismatch: unknown.", "GM101"),
    ("nct#171", "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 535.161", "GM101"),
    ("nct#260", TASK + "nvidia-container-cli: initialization error: nvml error: driver not loaded: unknown.", "GM102"),
    ("nd#365", "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA "
     "driver is installed and running.", "GM102"),
    ("nd#1225", OLD + "nvidia-container-cli.real: initialization error: driver error: failed to process request: unknown.", "GM102"),
    ("mattshma/bigdata#133", "[   12.345678] NVRM: The NVIDIA probe routine was not called for 2 device(s).\n[   12.345701] NVRM: This "
     "can occur when a driver such as: \n               NVRM: nouveau, rivafb, nvidiafb or rivatv", "GM103"),
    ("report 002", "nvidia-container-cli: initialization error: load library failed: libnvidia-ml.so.1: cannot open shared object "
     "file: no such file or directory: unknown", "GM104"),
    ("captures/toolkit", 'time="2026-11-23T04:13:33Z" level=error msg="failed to generate CDI spec: failed to create device CDI specs: '
     'failed to construct device spec generators: failed to initialize NVML: ERROR_LIBRARY_NOT_FOUND"', "GM104"),
    ("nct#735", "failed to generate CDI spec: failed to create edits common for entities: failed to create discoverer for driver files: "
     "failed to create discoverer for driver libraries: failed to locate libcuda.so.550.54.14", "GM104"),
    ("immich-deduper#126", "/usr/local/lib/python3.12/site-packages/torch/cuda/__init__.py:180: UserWarning: CUDA initialization: CUDA "
     "unknown error - this may be due to an incorrectly set up environment, e.g. changing env variable CUDA_VISIBLE_DEVICES after "
     "program start. Setting the available devices to be zero. (Triggered internally at /pytorch/c10/cuda/CUDAFunctions.cpp:119.)",
     "GM105 GM108 GM117"),
    ("nct#50", SPEC + 'failed to inject devices: failed to stat CDI host device "/dev/nvidia-uvm": no such file or directory: unknown.', "GM105"),
    ("pytorch#35710", "RuntimeError: Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before calling "
     "NumCudaDevices() that might have already set an error? Error 802: system not yet initialized", "GM106"),
    ("gpu-operator#1043", "Failed to allocate device vector A (error code system not yet initialized)!", "GM106 GM117"),
    ("OWOD#81", "Unable to determine the device handle for GPU 0000:02:00.0: GPU is lost.  Reboot the system to recover this GPU", "GM107"),
    ("bench of dmesg", "[  900.1] NVRM: Xid (PCI:0000:41:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.", "GM107"),
    ("a lost GPU", "No devices were found", "GM107"),
    ("systems.md", "[903.609564] NVRM: GPU 0000:00:06.0: RmInitAdapter failed! (0x62:0x65:1792)", "GM107"),
    ("nd#1608", "$ podman run --rm --security-opt=label=disable nvidia/cuda:11.0-base nvidia-smi\nFailed to initialize NVML: "
     "Insufficient Permissions", "GM109"),
    ("containerd#6042", "initialization error: nvml error: insufficient permissions: unknown", "GM109 GM116 GM542 GM543"),
    ("typed by hand", "Insufficient Permissions", "GM109"),
    ("a MIG host", "Warning: MIG mode is in pending enable state for GPU 00000000:07:00.0:In use by another client", "GM115"),
    ("a MIG host", "No MIG devices found.", "GM115"),
    ("pytorch#98885", "torch.cuda.is_available() False", "GM117"),
    ("pytorch#18690", "torch.cuda.is_available() is False in container", "GM117"),
    ("nvidia-smi -q", "        License Status                : Unlicensed (Restricted)", "GM118"),
    ("Secure Boot", "modprobe: ERROR: could not insert 'nvidia': Key was rejected by service", "GM120"),
    ("dkms", "Error! Bad return status for module build on kernel: 6.8.0-101-generic (x86_64)\nConsult "
     "/var/lib/dkms/nvidia/550.54.14/build/make.log for more information.", "GM121"),
    ("apt", "dpkg: error processing package nvidia-dkms-580-open (--configure):\n installed nvidia-dkms-580-open package "
     "post-installation script subprocess returned error exit status 10", "GM122"),
    ("fabric manager", 'nv-fabricmanager[2210]: Kernel module "ib_umad" has not been loaded, fabric manager cannot start', "GM124"),
    ("nd#1399", OLD + "nvidia-container-cli: ldcache error: open failed: /sbin/ldconfig.real: no such file or directory: unknown.", "GM201"),
    ("nct#147", OLD + "nvidia-container-cli: ldcache error: process /sbin/ldconfig failed with error code: 127: unknown", "GM201"),
    ("nct#830", 'nvidia-container-cli.ldconfig value "/usr/sbin/ldconfig" is not host-relative (does not start with a \'@\')', "GM201"),
    ("docker/cli#2425", 'docker: Error response from daemon: could not select device driver "" with capabilities: [[gpu]].', "GM203"),
    ("nct#854", 'Error response from daemon: could not select device driver "nvidia" with capabilities: [[gpu]]', "GM203 GM406"),
    ("fireshare#689", "docker: Error response from daemon: failed to discover GPU vendor from CDI: no known GPU vendor found", "GM203"),
    ("NemoClaw#3575", "Error response from daemon: AMD CDI spec not found", "GM203"),
    ("dstack#2306", OLD + "Using requested mode 'cdi'\ninvoking the NVIDIA Container Runtime Hook directly (e.g. specifying the docker "
     "--gpus flag) is not supported. Please use the NVIDIA Container Runtime (e.g. specify the --runtime=nvidia flag) instead: unknown.",
     "GM205"),
    ("nct#1376", 'time="2025-10-22T09:12:01Z" level=error msg="failed to generate CDI spec: failed to create nvcdi library: invalid discovery '
     'mode: cdi"', "GM206"),
    ("captures/toolkit", 'failed to construct OCI spec modifier: invalid mode "banana"', "GM207"),
    ("captures/toolkit", "unable to create config: failed to load specified config file: (2, 1): unterminated array", "GM208"),
    ("lnc#194", "E: Conflicting values set for option Signed-By regarding source "
     "https://nvidia.github.io/libnvidia-container/stable/deb/amd64/ /: /usr/share/keyrings/nvidia-container-toolkit-keyring.gpg != \n"
     "E: The list of sources could not be read.", "GM210"),
    ("container-toolkit.md", "error getting hook config: failed to load config: failed to unmarshal config: (2, 1): Can't convert "
     "yes(string) to bool", "GM211"),
    ("lnc#154", OLD + "nvidia-container-cli: mount error: failed to add device rules: unable to find any existing device filters attached to "
     "the cgroup: bpf_prog_query(BPF_CGROUP_DEVICE) failed: operation not permitted: unknown.", "GM215"),
    ("nct#678", TASK + "nvidia-container-cli: mount error: failed to add device rules: unable to find any existing device filters attached "
     "to the cgroup: bpf_prog_query(BPF_CGROUP_DEVICE) failed: operation not permitted: unknown.", "GM424"),
    ("eks-ami#2062", "Error: failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed: "
     "unable to start container process: error during container init: error running hook #0: error running hook: exit status 1, stdout: , "
     "stderr: Auto-detected mode as 'legacy' nvidia-container-cli: error parsing IMEX info: unsupported IMEX channel value: all: unknown",
     "GM220"),
    ("nct#289", OLD + f"nvidia-container-cli: mount error: file creation failed: {MERGED}/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1: file "
     "exists: unknown.", "GM223"),
    ("nd#1786", TASK + "nvidia-container-cli: initialization error: WSL environment detected but no adapters were found: unknown", "GM223"),
    ("nct#146", SPEC + "failed to inject CDI devices: unresolvable CDI devices nvidia.com/gpu=all: unknown.", "GM301"),
    ("nct#1239", "Error: setting up CDI devices: unresolvable CDI devices nvidia.com/gpu=all", "GM301"),
    ("captures/toolkit", 'time="2026-11-23T04:13:33Z" level=error msg="failed to write CDI spec to STDOUT: failed to write spec: invalid CDI '
     'Spec: failed add device \\"0\\": invalid device, empty device edits"', "GM302"),
    ("CDI cache", 'conflicting device "nvidia.com/gpu=all" (specs "/etc/cdi/nvidia.yaml", "/etc/cdi/nvidia-old.yaml")', "GM303"),
    ("podman#23935", "Error: crun: error stat'ing file `/usr/lib64/libEGL_nvidia.so.535.161.07`: No such file or directory: OCI runtime "
     "attempted to invoke a command that was not found", "GM304"),
    ("container-toolkit.md", 'failed to inject devices: failed to stat CDI host device "/dev/nvidia3": no such file or directory', "GM304"),
    ("toolbox#1577", "Error: crun: error stat'ing file `/run/nvidia-persistenced/socket`: No such file or directory", "GM304"),
    ("nct#1860", 'WARN[0000] failed to parse CDI Spec "/var/run/cdi/nvidia.yaml": json: unknown field "additionalGids"', "GM308"),
    ("nct#1611", "nvidia-ctk[812]: level=error msg=\"failed to generate CDI spec: failed to create device CDI specs: failed to initialize "
     "NVML: Driver Not Loaded\"\nsystemd[1]: nvidia-cdi-refresh.service: Failed with result 'exit-code'.", "GM310 GM102"),
    ("nd#1420", "unable to configure the Docker daemon with file /etc/docker/daemon.json: invalid character '\"' after object key:value pair",
     "GM401"),
    ("nd#751", "unable to configure the Docker daemon with file /etc/docker/daemon.json: the following directives are specified both as a flag "
     "and in the configuration file: runtimes: (from flag: [nvidia], from file: map[nvidia:map[path:/usr/bin/nvidia-container-runtime]])",
     "GM402"),
    ("nct#150", "docker: Error response from daemon: unknown or invalid runtime name: nvidia.\nSee 'docker run --help'.", "GM403"),
    ("nd#1264", "docker: Error response from daemon: Unknown runtime specified nvidia.", "GM403"),
    ("nd#1121", "OCI runtime create failed: unable to retrieve OCI runtime error (open /run/containerd/io.containerd.runtime.v1.linux/moby/"
     "1038f5ace29cf151f9d9dcbb991037c88f6bf5bd533d3c0fada5fe32134ba828/log.json: no such file or directory): fork/exec "
     "/usr/bin/nvidia-container-runtime: no such file or directory: unknown.", "GM403"),
    ("nixpkgs#305312", 'Error response from daemon: could not select device driver "cdi" with capabilities: []', "GM404"),
    ("docker ps", "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?", "GM407"),
    ("nct#152", OLD + "nvidia-container-cli: requirement error: unsatisfied condition: cuda>=12.8, please update your driver to a newer version, "
     "or use an earlier cuda container: unknown.", "GM414"),
    ("nd#1300", OLD + f"nvidia-container-cli: mount error: file creation failed: {MERGED}/run/nvidia-persistenced/socket: no such device or "
     "address: unknown", "GM416"),
    ("nd#1283", OLD + "nvidia-container-cli: device error: 1: unknown device: unknown.", "GM417"),
    ("nct#223", OLD + "nvidia-container-cli: device error: GPU-08283365-4b53-3311-bff5-d5c37f82021d: unknown device: unknown", "GM417"),
    ("nd#1034", "failed to start daemon: specified default runtime 'nvidia' does not exist", "GM419"),
    ("nd#1034", "unable to configure the Docker daemon with file /etc/docker/daemon.json: specified default runtime does not exist", "GM419"),
    ("Docker 29", "OSError: [Errno 24] Too many open files: '/app/data'", "GM420"),
    ("pytorch", "RuntimeError: No CUDA GPUs are available", "GM117"),
    ("a program in a container", "ImportError: libcuda.so.1: cannot open shared object file: No such file or directory", "GM104"),
    ("nd#1190", OLD + 'unable to retrieve OCI runtime error exec: "nvidia-container-runtime": executable file not found in $PATH: : unknown.', "GM403"),
    ("typed by hand", "nvidia-cdi-refresh.service failed", "GM206 GM310"),
    ("typed by hand", "cuInit 999", "GM304 GM108 GM117"),
    ("typed by hand", "GPU is lost", "GM107"),
    ("apt", "E: Unable to locate package nvidia-container-toolkit", "GM203"),
    ("AppArmor", 'audit: type=1400 audit(1732841.123:77): apparmor="DENIED" operation="open" profile="nvidia_modprobe" '
     'name="/proc/driver/nvidia/params" pid=4211 comm="nvidia-modprobe"', "GM423"),
    ("containerd", "containerd: failed to load TOML: /etc/containerd/config.toml: (4, 2): duplicated tables", "GM501"),
    ("kubelet", "Failed to create pod sandbox: rpc error: code = Unknown desc = failed to get sandbox runtime: no runtime for \"nvidia\" is "
     "configured", "GM503"),
    ("nct#48", "in a container that ran for days: Failed to initialize NVML: Unknown Error", "GM509 GM209 GM107"),
    ("kubelet", "\"command failed\" err=\"validate service connection: validate CRI v1 runtime API for endpoint "
     "\\\"unix:///run/containerd/containerd.sock\\\": rpc error: code = Unimplemented desc = unknown service runtime.v1.RuntimeService\"", "GM514"),
    ("device plugin", "Detected non-NVML platform: could not load NVML library: libnvidia-ml.so.1: cannot open shared object file: No such file or "
     "directory\nIncompatible strategy detected auto", "GM513"),
    ("report 001", "RuntimeError: Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU", "GM522"),
    ("report 001", "Error (criu/fsnotify.c:284): fsnotify: Can't dump that handle", "GM536"),
    ("report 001", "Error (criu/mount.c:3141): mnt: No mapping for 1373:(null) mountpoint", "GM537"),
    ("selinux-policy#1695", "type=AVC msg=audit(1707.1:512): avc:  denied  { read write } for  pid=901 comm=\"nvidia-smi\" "
     "path=\"/dev/nvidiactl\" scontext=system_u:system_r:container_t:s0:c1,c2 tcontext=system_u:object_r:xserver_misc_device_t:s0", "GM542"),
    ("CRI-O", "failed to find runtime handler nvidia from runtime list map[crun:0xc0004 runc:0xc0005]", "GM552"),
    ("container-toolkit.md", "no runtime binary found from candidate list: [runc crun]", "GM556"),
    ("report 000", "[TRT] [W] CUDA initialization failure with error: 35. Please check your CUDA installation", "GM601 GM606 GM608"),
    ("cuda", "CUDA driver version is insufficient for CUDA runtime version", "GM601 GM606 GM608"),
    ("LightLLM#191", "UserWarning: CUDA initialization: Unexpected error from cudaGetDeviceCount(). Error 804: forward compatibility was attempted "
     "on non supported HW (function operator())", "GM603"),
    ("cuda", "Error 803: system has unsupported display driver / cuda driver combination", "GM603"),
    ("cuda.md", "ImportError: libcupti.so.12: cannot open shared object file: No such file or directory", "GM605"),
    ("captures/dind", 'docker: Error response from daemon: failed to mount /tmp/containerd-mount3909361867: mount source: "overlay", target: '
     '"/tmp/containerd-mount3909361867", fstype: overlay, flags: 0, data: "workdir=/var/lib/docker/containerd/daemon/'
     'io.containerd.snapshotter.v1.overlayfs/snapshots/3/work,upperdir=...", err: invalid argument', "GM701"),
    ("systems.md", "failed to start daemon: error initializing graphdriver: driver not supported: overlay2", "GM701"),
    ("fuse-overlayfs", "fuse: device not found, try 'modprobe fuse' first", "GM702"),
]  # fmt: skip


def call(
    *words: str, given: str | None = None, monkeypatch: pytest.MonkeyPatch | None = None
) -> tuple[int, str, str]:
    if monkeypatch is not None and given is not None:
        text = given
        monkeypatch.setattr(explain, "_piped", lambda: text)
    done = CliRunner().invoke(explain.command, words, input=given)
    return done.exit_code, done.stdout, done.stderr


# (of which the page is to be among the first three, a text): what issue 19 and the notes behind it quote, and what CUDA's numbers say
QUOTED: list[tuple[str, str]] = [
    ("GM207", 'invalid mode "x"'),
    ("GM203", "couldn't find binary"),
    ("GM203", "nvidia-container-runtime-hook: couldn't find binary nvidia-container-cli"),
    ("GM208", "couldn't open required configuration file: file does not exist"),
    ("GM211 GM207", 'invalid config option: undefined field: "foo"'),
    ("GM302", "invalid vendor. empty name"),
    ("GM302", "invalid class. invalid character ' ' in name \"gp u\""),
    ("GM302", 'invalid hook name "foo"'),
    ("GM509 GM209 GM107", "NVML: Unknown Error"),
    ("GM205", "invoking the NVIDIA Container Runtime Hook directly ... not supported"),
    ("GM526 GM525 GM524 GM522", "Checkpoint path /mnt/grit/x does not exist, skip restoration"),
    ("GM533 GM535", "cuda-checkpoint is not able to lock frozen threads"),
    ("GM903 GM904", 'service device "nvidia.com/gpu=all" is missing a mount target'),
    ("GM117 GM115", "CUDA error: all CUDA-capable devices are busy or unavailable"),
    ("GM117 GM115", "CUDA_ERROR_DEVICE_UNAVAILABLE"),
    ("GM117 GM115", "CUDA error 46"),
    ("GM117", "RuntimeError: CUDA error: no CUDA-capable device is detected"),
    ("GM117 GM116", "CUDA error: invalid device ordinal"),
    ("GM117 GM116", "cuInit 101"),
    ("GM602 GM603 GM117", "system has unsupported display driver / cuda driver combination"),
    ("GM602 GM603 GM117", "forward compatibility was attempted on non supported HW"),
    ("GM117", "CUDA_ERROR_NOT_INITIALIZED"),
    ("GM117", "cuInit: 3 initialization error"),
    ("GM117", "cuInit returns 3"),
    ("GM117", "uvm_disable_hmm"),
    ("GM117 GM106 GM124", "cuInit returned 802"),
    ("GM117 GM108", "CUDA unknown error after suspend"),
    ("GM107", "WARNING: infoROM is corrupted at gpu 0000:B3:00.0"),
    ("GM107", "Failed to initialize NVML: GPU access blocked by the operating system"),
    (
        "GM107",
        "NVIDIA-SMI couldn't find libnvidia-ml.so library in your system. Please make sure that the NVIDIA Display Driver is properly installed and present in your system.",
    ),
    ("GM107", "Unable to determine the device handle for GPU0: 0000:06:00.0: GPU requires reset"),
    (
        "GM107",
        "NVRM: Xid (PCI:0000:41:00): 119, pid=1, name=python, Timeout after 6s of waiting for RPC response from GPU0 GSP!",
    ),
    ("GM107", "GPU has fallen off the bus"),
    ("GM107", "NVRM: installed in this system requires use of the NVIDIA open kernel modules."),
    (
        "GM107",
        "NVRM: The NVIDIA GPU installed in this system is not supported by open nvidia.ko because it does not include the required GPU System Processor (GSP)",
    ),
    (
        "GM107",
        "NVRM: The NVIDIA GeForce GTX 1050 GPU installed in this system is supported through the NVIDIA 580.xx Legacy drivers.",
    ),
    ("GM116", "NVML: Insufficient Permissions nvidia-caps"),
    ("GM314 GM301", "unresolvable CDI devices nvidia.com/gpu=all Exited (128)"),
    ("GM214", "DOCKER_RESOURCE_GPU is ignored swarm-resource"),
    ("GM214", "swarm service gets all GPUs"),
    ("GM010", "fork/exec /usr/local/nvidia/toolkit/nvidia-container-runtime: no such file or directory"),
    (
        "GM010",
        'failed to create containerd task: exec: "/usr/local/nvidia/toolkit/nvidia-container-runtime": stat /usr/local/nvidia/toolkit/nvidia-container-runtime: no such file or directory',
    ),
    ("GM514", "unknown service runtime.v1.RuntimeService"),
    ("GM513", "Incompatible strategy detected auto"),
    ("GM513", "0/1 nodes are available: 1 Insufficient nvidia.com/gpu"),
    ("GM418", "container with CDI device does not come back after docker restart"),
    ("GM419", "specified default runtime does not exist"),
    ("GM420", "Too many open files"),
    ("GM542", "NVML: Insufficient Permissions SELinux"),
    ("GM543 GM542", "avc: denied { read write } nvidia container_t"),
    ("GM423", 'apparmor="DENIED" nvidia-modprobe'),
    ("GM223", "WSL environment detected but no adapters were found"),
    ("GM223", "libnvidia-ml.so.1: file exists: unknown"),
    (
        "GM205",
        "jetson --gpus Auto-detected mode as 'csv' invoking the NVIDIA Container Runtime Hook directly (e.g. specifying the docker --gpus flag) is not supported",
    ),
    ("GM118", "Valid GRID license not found"),
    ("GM118", "License Status : Unlicensed (Restricted)"),
    ("GM120", "Required key not available"),
    ("GM120", "modprobe: ERROR: could not insert 'nvidia': Required key not available"),
    ("GM121", "Error! Bad return status for module build on kernel"),
    ("GM122", "dpkg: error processing package nvidia-dkms-580"),
    ("GM123", "nvidia-driver-580 : Depends: libnvidia-compute-580 but it is not going to be installed"),
    ("GM125", "CUDA_ERROR_NOT_PERMITTED in cuMemCreate"),
    ("GM124", "/opt/nvidia/nvlsm/sbin/nvlsm does not exist"),
    ("GM106 GM124", "nvidia-fabricmanager.service failed"),
    ("GM106", "fabric manager NVIDIA GPU driver interface version mismatch"),
    ("GM408", "could not select device driver snap docker"),
    ("GM701", "overlay: filesystem on /var/lib/docker not supported as upperdir"),
    ("GM701", "fuse-overlayfs: cannot mount: Invalid argument"),
    ("GM417", "nvidia-container-cli: device error: 7: unknown device"),
    ("GM304", 'failed to stat CDI host device "/dev/nvidia77": no such file or directory'),
    ("GM304", "cuInit 999 nvidia-smi works"),
    ("GM313 GM301", "permission denied /etc/cdi/nvidia.yaml"),
    ("GM310", "nvidia-cdi-refresh.service: Failed with result 'exit-code'"),
    ("GM222", "accept-nvidia-visible-devices-envvar-when-unprivileged"),
    ("GM222", "insufficient privileges to read device list from NVIDIA_VISIBLE_DEVICES envvar"),
    ("GM220", "unsupported IMEX channel value: all"),
    ("GM221", "CVE-2025-23266"),
    ("GM105", 'failed to stat CDI host device "/dev/nvidia-uvm": no such file or directory'),
    ("GM209", "NVML: Unknown Error no-cgroups"),
    ("GM701", 'configured driver "overlay2" not available'),
    ("GM517", "restore through CreateContainer enable_experimental_restore_via_create"),
    ("GM907", "NVIDIA_VISIBLE_DEVICES and device_ids name other GPUs"),
    ("GM907", "CUDA_VISIBLE_DEVICES"),
]


@pytest.mark.parametrize(("codes", "text"), QUOTED, ids=[text[:50] for _, text in QUOTED])
def test_a_quoted_symptom_leads_to_its_page(codes: str, text: str) -> None:
    found = [match.page.title[:5] for match in INDEX.rank(text)[:3]]
    assert set(codes.split()) & set(found), found


def test_there_are_enough_texts_of_the_wild() -> None:
    assert len({text for _, text, _ in TEXTS}) >= 60


@pytest.mark.parametrize(
    ("source", "text", "wanted"), TEXTS, ids=[f"{n}-{source}" for n, (source, _, _) in enumerate(TEXTS)]
)
def test_a_text_has_its_finding_among_the_first_three(source: str, text: str, wanted: str) -> None:
    found = [match.page.code for match in INDEX.rank(text)[: explain.SHOWN]]
    assert set(found) & set(wanted.split()), (source, found)


@pytest.mark.parametrize(
    "text",
    ["my printer is on fire", "../README", "", " \n ", "hello-world", "Segmentation fault (core dumped)", "error", "docker", "make: *** [all] Error 2",
     "curl: (6) Could not resolve host: example.com", "gpu not working", "Error: image not found: nvidia/cuda:99",
     'Error response from daemon: Conflict. The container name "/x" is already in use by container'],
)  # fmt: skip
def test_what_no_page_has_matches_nothing(text: str) -> None:
    assert INDEX.rank(text) == []


@pytest.mark.parametrize("word", ["304", "GM304", "gm304", "GM-304"])
def test_a_code_in_any_spelling_is_its_page(word: str) -> None:
    assert call(word) == (0, (PAGES / "GM304.md").read_text("utf-8"), "")


def test_several_codes_print_several_pages() -> None:
    status, out, _ = call("304", "GM201")
    assert status == 0
    assert [line[2:7] for line in out.splitlines() if line.startswith("# GM")] == ["GM304", "GM201"]


def test_a_near_code_is_guessed() -> None:
    status, out, err = call("GM3O4")
    assert (status, out) == (2, "")
    assert "did you mean 'GM304'?" in err


def test_one_wrong_code_does_not_hide_the_others() -> None:
    status, out, err = call("GM999", "GM201")
    assert status == 2
    assert out.strip().startswith("# GM201")
    assert "no finding 'GM999'" in err


def test_an_error_number_is_no_code() -> None:
    status, out, _ = call("802")
    assert status == 0
    assert "GM106" in out


def test_a_near_word_is_guessed_and_the_audit_named() -> None:
    status, out, err = call("persistensed")
    assert (status, out) == (2, "")
    assert "Did you mean 'persistenced'?" in err
    assert "gpumend audit" in err


def test_words_without_quotes_are_one_text() -> None:
    assert call("AMD", "CDI", "spec", "not", "found")[1] == call("AMD CDI spec not found")[1]


def test_several_texts_are_looked_at_one_by_one() -> None:
    status, out, _ = call("AMD CDI spec not found", "GPU has fallen off the bus")
    assert status == 0
    assert "GM203: " in out
    assert "GM107: " in out


def test_a_clear_leader_is_shown_in_full() -> None:
    out = call("unsupported IMEX channel value: all")[1]
    lines = out.splitlines()
    assert lines[0].startswith("GM220: ")
    assert "unsupported IMEX channel value: all" in lines[1]
    assert (PAGES / "GM220.md").read_text("utf-8") in out


def test_without_one_the_first_three_are_told_shortly() -> None:
    status, out, _ = call("unresolvable CDI devices nvidia.com/gpu=all")
    assert status == 0
    assert len([line for line in out.splitlines() if line.startswith("GM")]) == 3
    assert "## Why" not in out
    assert "gpumend explain GM" in out


def test_a_log_is_read_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = "".join(
        f"Nov 28 22:0{n % 10}:11 gpu1 systemd[1]: Started session {n} of user root.\n" for n in range(3000)
    )
    log = noise + "Nov 28 22:10:12 gpu1 dockerd[1]: unsupported IMEX channel value: all\n"
    assert call("-", given=log)[1].startswith("GM220: ")
    assert call(given=log, monkeypatch=monkeypatch)[1].startswith("GM220: ")


def test_bytes_that_are_no_text_are_read_all_the_same() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gpumend.cli.main", "explain"],
        input=b"\xff\xfe\x00 AMD CDI spec not found \xff\n",
        capture_output=True,
        timeout=60,
        env={"PYTHONPATH": str(Path(__file__).resolve().parents[2]), "LC_ALL": "C.UTF-8"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"GM203" in done.stdout


def test_nothing_piped_is_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    status, out, _ = call(given="", monkeypatch=monkeypatch)
    assert status == 0
    assert len(out.splitlines()) == len(INDEX.pages)


def test_ids_versions_and_addresses_do_not_count() -> None:
    text = "GPU-08283365-4b53-3311-bff5-d5c37f82021d 0000:41:00.0 d5771d7f73e2a9123ff 550.54.14 /dev/nvidia7 nvidia.com/gpu=GPU-1"
    assert symptoms.normal(text) == "# # # # /dev/nvidia# nvidia.com/gpu=#"


def test_every_page_has_a_line_to_be_found_by() -> None:
    assert [page.code for page in INDEX.pages if not any(item.words for item in page.symptoms)] == []
