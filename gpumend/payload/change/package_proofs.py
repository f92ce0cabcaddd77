"""What the toolkit's programs and CUDA say after their packages came: stdlib only, Python 3.6 or newer."""

import base64
import glob
import json
import os
import re
import sys
from typing import Optional, Tuple, Union

from gpumend.payload.change.managers import Unfit, last_line
from gpumend.payload.change.packaging import installed
from gpumend.payload.change.toolkit_version import TOOLKIT, numbers, one_version, upstream
from gpumend.payload.probe.execution import which
from gpumend.payload.probe.files import elf_section
from gpumend.payload.probe.running import run

CUDA_TIMEOUT = (
    120  # the first cuInit after boot initialises the GPU: tens of seconds on machines with eight of them
)

CU_INIT = """
import ctypes
try:
    cuda = ctypes.CDLL("libcuda.so.1")
    version = ctypes.c_int(0)
    print(cuda.cuInit(0), cuda.cuDriverGetVersion(ctypes.byref(version)), version.value)
except (OSError, AttributeError) as error:
    print(-1, -1, error)
"""


def prove_toolkit(manager: str, version: Optional[str]) -> str:
    """The toolkit's packages are of one version, of `version` where one is given, and its programs answer with it. Returns
    what was seen; raises Unfit otherwise."""
    have = one_version(dict((name, installed(manager, name)) for name in TOOLKIT))
    if version and upstream(version) != have:
        raise Unfit("the toolkit's packages are %s, not %s" % (have, version))
    for program in ("nvidia-ctk", "nvidia-container-runtime"):
        if which(program) is None:
            raise Unfit("the packages brought no %s" % program)
    found = run(["nvidia-ctk", "--version"], 20)
    match = re.search(r"version (\d+\.\d+\.\d+)", found.get("out", ""))
    if found["status"] != "ok" or found["rc"] != 0 or match is None:
        raise Unfit("nvidia-ctk --version gives no answer: %s" % last_line(found))
    if numbers(match.group(1)) != numbers(have)[:3]:
        raise Unfit("nvidia-ctk says it is %s, its packages are %s" % (match.group(1), have))
    return "nvidia-ctk answers as %s" % have


def check_note(directory: str, section: str, driver: str) -> None:
    """The compat library in a directory says itself that it is for the loaded driver (its ELF note), and is newer.

    Raises Unfit. The rule is nvidia-container-toolkit's: branch in the list, and compat newer than the host's driver.
    """
    libraries = [
        path for path in glob.glob(os.path.join(directory, "libcuda.so.*.*")) if not os.path.islink(path)
    ]
    if not libraries:
        raise Unfit("there is no libcuda in %s" % directory)
    path = max(libraries, key=lambda name: numbers(name.rpartition(".so.")[2]))
    version = path.rpartition(".so.")[2]
    found = elf_section(path, section)
    if found["status"] != "ok":
        raise Unfit("%s has no note that says which drivers it is for (%s)" % (path, found.get("error")))
    data = base64.b64decode(found["data"])
    try:
        branches = json.loads(data[data.index(b"{") : data.rindex(b"}") + 1].decode("utf-8"))["driver"]
    except (ValueError, KeyError, UnicodeDecodeError):
        branches = None
    if not isinstance(branches, list):
        raise Unfit("%s has a note that cannot be read" % path)
    with_loaded = loaded_driver() or driver
    if numbers(with_loaded)[0] not in branches:
        listed = ", ".join(map(str, branches))
        raise Unfit("%s is not for driver %s: its note lists the branches %s" % (path, with_loaded, listed))
    if numbers(version) <= numbers(with_loaded):
        raise Unfit("%s is not newer than the loaded driver %s" % (path, with_loaded))


def loaded_driver() -> Optional[str]:
    """The loaded module's version, now; or None."""
    try:
        with open("/proc/driver/nvidia/version") as handle:
            match = re.search(r"Kernel Module\s+(?:for \S+\s+)?(\d+(?:\.\d+)+)", handle.read())
    except OSError:
        return None
    return match.group(1) if match else None


def cu_init(directory: str = "") -> Tuple[int, int]:
    """(cuInit's answer, CUDA version served as cuDriverGetVersion gives it) in a process of its own, with a directory
    first on its library path or with none. -1 where there is no libcuda. Raises Unfit where it does not answer."""
    python = sys.executable or which("python3") or "python3"
    path = ["env", "LD_LIBRARY_PATH=" + directory] if directory else ["env", "-u", "LD_LIBRARY_PATH"]
    found = run(path + [python, "-I", "-S", "-B", "-c", CU_INIT], CUDA_TIMEOUT)
    match = re.match(r"(-?\d+) (-?\d+) (.*)", found.get("out", ""))
    if found["status"] != "ok" or match is None:
        raise Unfit("cuInit gave no answer: %s" % last_line(found))
    return int(match.group(1)), int(match.group(3)) if match.group(2) == "0" else 0


def shown(answer: Tuple[int, int]) -> str:
    """(0, 13000) -> `cuInit 0, CUDA 13.0`."""
    rc, version = answer
    return "no libcuda" if rc == -1 else "cuInit %d, CUDA %d.%d" % (rc, version // 1000, version % 1000 // 10)


def prove_cuda(kind: str, directory: str, version: Union[int, str], before: Tuple[int, int]) -> str:
    """CUDA works as it should now: `with` the directory on the path, or as the whole `host` has it, cuInit is 0 and at
    least `version` is served; `plain`: cuInit is 0 without it. Returns what was seen; raises Unfit otherwise."""
    plain = cu_init()
    if kind == "plain":
        seen, least = plain, 0
    else:
        seen, least = (plain if kind == "host" else cu_init(directory)), int(version)
    told = "without: %s; with %s: %s" % (shown(before if kind == "host" else plain), directory, shown(seen))
    if kind == "plain":
        told = "before: %s; now: %s" % (shown(before), shown(plain))
    if seen[0] != 0 or seen[1] < least:
        raise Unfit("CUDA does not work with it (%s)" % told)
    return told
