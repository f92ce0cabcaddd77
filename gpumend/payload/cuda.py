"""The part of the probe that asks CUDA once: cuInit and the count of devices, in a process of no rights.

Stdlib only, Python 3.6 or newer. What is asked creates nothing and loads nothing on the host:

- the device nodes that libcuda opens are there, are character devices and have the kernel's numbers;
- the process has an unprivileged uid and no capability, and no new privileges (prctl(2), PR_SET_NO_NEW_PRIVS): the setuid
  nvidia-modprobe, which libcuda would call for a node that is missing, is executed as nobody and cannot make one;
- its environment is empty: no CUDA cache, no HOME, and the MPS pipes are looked for in a directory of /proc in which no
  process can make anything, so that nobody's daemon answers in the place of MPS (libcuda looks in /tmp/nvidia-mps);
- libcuda is named by its full path, which nobody but root can have put there.

It is not asked while nvidia-smi does not answer, or a GPU waits for a reset or for MIG: it would hang, or be in the way.
"""

import glob
import os
import re
import stat
import sys
import time
from typing import Any, Callable, Dict, List, Optional, Tuple

NOBODY = 65534  # nobody, or an id without a name: it owns nothing
SMI, CACHE = "nvidia-smi-query", "ldconfig"  # the commands whose answers are waited for
EMPTY = ("/proc/tty/ldisc", "/proc/driver/nvidia")  # of the kernel alone, and always there: proc(5)
WAITS = re.compile(
    r"(?m)^[ \t]+Reset Required[ \t]*:[ \t]*Yes|^[ \t]+GPU Recovery Action[ \t]*:[ \t]*(?!None|N/A)\S"
)
MIG_MODES = re.compile(r"(?m)^[ \t]+Current[ \t]*:[ \t]*(\w+)[ \t]*\n[ \t]+Pending[ \t]*:[ \t]*(\w+)")
LIBRARY = re.compile(r"(?m)^[ \t]*libcuda\.so\.1 \([^)\n]{0,99}(?:x86-64|AArch64)[^)\n]{0,99}\) => (/\S+)$")

# Its arguments: library, uid, gid, the directory for MPS. os.environ.clear() takes the C library's environment away, too.
# A wrong answer of setuid raises. RLIMIT_CORE: a crash leaves no file.
QUESTION = """
import os, sys
library, uid, gid, pipes = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
import ctypes, resource
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
os.environ.clear()
os.environ["CUDA_MPS_PIPE_DIRECTORY"] = pipes
os.environ["CUDA_CACHE_DISABLE"] = "1"
os.chdir("/")
if os.getuid() == 0:
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
if ctypes.CDLL(None, use_errno=True).prctl(38, 1, 0, 0, 0) != 0:
    raise OSError(ctypes.get_errno(), "prctl")
cuda = ctypes.CDLL(library)
number, count = cuda.cuInit(0), ctypes.c_int(-1)
if number == 0:
    cuda.cuDeviceGetCount(ctypes.byref(count))
print(number, count.value, library)
"""


def unasked(why: str) -> Dict[str, Any]:
    """CUDA was not asked, and that is known: an answer of its own."""
    return {"status": "absent", "error": "not asked: " + why}


def kernel_majors(root: str) -> Dict[str, int]:
    """Character devices of /proc/devices: their numbers by name."""
    with open(root + "/proc/devices") as handle:
        rows = [line.split() for line in handle.read().partition("Block devices:")[0].splitlines()]
    return dict((row[1], int(row[0])) for row in rows if len(row) == 2 and row[0].isdigit())


def wanted_nodes(root: str) -> List[Tuple[str, int, str]]:
    """(path, minor, name in /proc/devices) of the nodes that libcuda opens: the control node, unified memory's, and each
    GPU's that the module knows and has not excluded."""
    found = [("/dev/nvidiactl", 255, "nvidia"), ("/dev/nvidia-uvm", 0, "nvidia-uvm")]
    for path in sorted(glob.glob(root + "/proc/driver/nvidia/gpus/*/information")):
        with open(path) as handle:
            text = handle.read()
        minor = re.search(r"(?m)^Device Minor:\s*(\d+)", text)
        if minor and not re.search(r"(?m)^GPU Excluded:\s*Yes", text):
            found.append(("/dev/nvidia" + minor.group(1), int(minor.group(1)), "nvidia"))
    return found


def group_of_nodes(root: str) -> Tuple[int, Optional[str]]:
    """(The group as which nobody may open all nodes, None), or (any, why it may not)."""
    majors, group = kernel_majors(root), NOBODY
    nodes = wanted_nodes(root)
    if len(nodes) == 2:
        return NOBODY, "the driver knows no GPU"
    for path, minor, name in nodes:
        major = majors.get(name, majors.get("nvidia-frontend") if name == "nvidia" else None)
        try:
            found = os.stat(root + path)
        except OSError as error:
            return NOBODY, "%s: %s" % (path, error.strerror)
        if not stat.S_ISCHR(found.st_mode):
            return NOBODY, "%s is no device" % path
        if (os.major(found.st_rdev), os.minor(found.st_rdev)) != (major, minor):
            return NOBODY, "%s has not the kernel's numbers" % path
        if found.st_mode & 0o006 == 0o006:
            continue
        if found.st_mode & 0o060 != 0o060 or found.st_gid == 0 or group not in (NOBODY, found.st_gid):
            return NOBODY, "only root may open %s" % path
        group = found.st_gid
    return group, None


def settled(answers: Dict[str, Any], name: str, deadline: float) -> Optional[Dict[str, Any]]:
    """A command's answer, once it is there; None where it is not within the time."""
    while name not in answers and time.monotonic() < deadline:
        time.sleep(0.005)
    return answers.get(name)


def in_the_way(smi: Optional[Dict[str, Any]]) -> Optional[str]:
    """Why CUDA is not asked now, by what `nvidia-smi -q` says, or None."""
    if smi is None or smi.get("status") != "ok" or smi.get("rc") != 0:
        return "nvidia-smi gives no answer"
    if WAITS.search(smi["out"]):
        return "a GPU waits for a reset"
    if any(current != pending for current, pending in MIG_MODES.findall(smi["out"])):
        return "a change of MIG mode waits for a reset"
    return None


def ask_cuda(
    command: Dict[str, Any],
    answers: Dict[str, Any],
    root: str,
    run: Callable[[List[str], float], Dict[str, Any]],
    resolved: Callable[[str], Tuple[Optional[str], Optional[str]]],
) -> Dict[str, Any]:
    """What cuInit says, as a command's answer whose output is `NUMBER DEVICES LIBRARY`; `absent` where it is not asked.
    answers: of the other commands, which come meanwhile. run, resolved: the probe's, by which everything is executed, and
    which says where a path leads, or who besides root could have chosen that."""
    if command.get("never"):
        return unasked("ask_cuda is never")
    try:
        group, why = group_of_nodes(root)
        if why:
            return unasked(why)
        deadline = time.monotonic() + 25  # nvidia-smi's own limit is 20
        why = in_the_way(settled(answers, SMI, deadline))
        if why:
            return unasked(why)
        cache = settled(answers, CACHE, deadline) or {}
        named = LIBRARY.search(cache.get("out", ""))
        if not named:
            return unasked("the linker's cache has no libcuda.so.1")
        library, why = resolved(named.group(1))
        if library is None or why:
            return unasked(str(why))
        if not stat.S_ISREG(os.stat(library).st_mode):
            return unasked("%s is no regular file" % library)
        pipes = next((path for path in EMPTY if os.path.isdir(path) and os.stat(path).st_uid == 0), None)
    except (OSError, ValueError) as error:
        return unasked(str(error))
    if pipes is None:
        return unasked("there is no directory that is the kernel's alone")
    # Not by the name that a virtual environment has for it: that may lie in a user's directory.
    python = os.path.realpath(sys.executable)
    argv = [python, "-I", "-S", "-B", "-c", QUESTION, library, str(NOBODY), str(group), pipes]
    found = run(argv, command.get("timeout", 60))
    if "No module named" in found.get("err", ""):  # Debian's python3-minimal has no ctypes
        return unasked("this host's Python has no ctypes")
    return found
