"""The NVIDIA driver: as loaded module, as user-space libraries, as packages. Kept apart, never merged.

Sources of the layouts: reference drivers 535-580 (/proc/driver/nvidia/version), nvidia-container-toolkit docs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from gpumend.state.reading import Reading, Status
from gpumend.state.request import Command, Glob, Request
from gpumend.state.snapshot import FileContent, FileMeta, Snapshot
from gpumend.text.record import Record
from gpumend.text.shared import shared
from gpumend.text.version import Version, parse_version

CONTROL_NODES = ("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia-modeset")
LIBRARY_DIRECTORIES = (
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib/*-linux-gnu/nvidia/current",  # Debian's packages, behind alternatives
    "/usr/lib64",
    "/usr/lib/wsl/lib",
    "/usr/local/nvidia/lib64",
    "/run/nvidia/driver/usr/lib/*-linux-gnu",  # the GPU Operator's driver container
    "/run/nvidia/driver/usr/lib64",
    "/home/kubernetes/bin/nvidia/lib64",  # GKE's installer, on a read-only root
)

# udev rule that makes /dev/char links at boot (NVIDIA container toolkit, troubleshooting)
CHAR_RULE = "/etc/udev/rules.d/71-nvidia-dev-char.rules"

# Links to devices of a major that the kernel gave out, 234 to 254 and 384 to 511 (Documentation/admin-guide/devices.txt).
# Of these nvidia-uvm has minors 0 and 1.
DYNAMIC_LINKS = "/dev/char/[2-5][0-9][0-9]:[01]"

PARAMS = "/proc/driver/nvidia/params"
GRIDD_UNIT = "nvidia-gridd.service"  # gets the licence of a vGPU (vGPU Client Licensing User Guide)
FABRIC_UNIT, FABRIC_PROGRAM = "nvidia-fabricmanager.service", "nv-fabricmanager"

MODULE_NUMBER = re.compile(r"Kernel Module\s+(?:for \S+\s+)?(\d+\.\d+(?:\.\d+)?)")
OPEN_MODULE = re.compile(r"\bOpen Kernel Module\b")
LIBRARY_FILE = re.compile(r"(lib[\w-]+)\.so\.(\d+\.\d+(?:\.\d+)?)")

REQUEST = Request(
    files=(
        "/proc/driver/nvidia/version",
        PARAMS,
        "/sys/module/nvidia/version",
        "/proc/modules",
        "/proc/devices",
        CHAR_RULE,
    ),
    stats=(*CONTROL_NODES, "/usr/lib/wsl/lib/libnvidia-ml.so.1", "/proc/driver/nvidia"),
    globs=(
        Glob("/dev/nvidia[0-9]*", read=False),
        Glob("/dev/char/195:*", read=False),
        Glob(DYNAMIC_LINKS, read=False),
        *(
            Glob(f"{directory}/{library}.so.*", read=False)
            for directory in LIBRARY_DIRECTORIES
            for library in ("libcuda", "libnvidia-ml")
        ),
        Glob("/etc/modprobe.d/*.conf"),
    ),
    commands={
        "modinfo": Command(("modinfo", "-F", "version", "nvidia"), timeout=5),
        # A cache has a thousand libraries; these are the ones of which anything is asked.
        "ldconfig": Command(("ldconfig", "-p"), timeout=5, keep=r"(?m)^[ \t]*lib(?:cu|nv).*$"),
    },
    processes=(FABRIC_PROGRAM,),
    units=("nvidia-persistenced.service", GRIDD_UNIT, FABRIC_UNIT),
    unit_properties=("LoadState", "ActiveState", "UnitFileState", "Result"),
)


class Library(Record):
    """A driver library: its versioned file, and every name it was found under (links lead to it)."""

    soname: str
    path: str
    version: Version
    names: tuple[str, ...]


class Driver(Record):
    """loaded: version of the module in the kernel. module_on_disk: what modinfo would load next.

    libraries: user-space files found, by soname; cached: sonames in `ldconfig -p` with their paths.
    modules: loaded kernel modules of interest (nvidia*, nouveau). nodes: device nodes by path.
    fabricmanager: its unit's ActiveState; fabric_runs: its process is there, the unit's or a container's (GPU Operator).
    nvlink_off: the module was loaded with NVreg_NvLinkDisable=1.
    """

    loaded: Reading[Version]
    flavour: Reading[str]
    module_on_disk: Reading[Version]
    libraries: Reading[tuple[Library, ...]]
    cached: Reading[Mapping[str, tuple[str, ...]]]
    modules: Reading[tuple[str, ...]]
    nodes: Mapping[str, Reading[FileMeta]]
    char_links: Reading[tuple[str, ...]]
    uvm_major: Reading[int]
    persistenced: Reading[str]
    gridd: Reading[str]
    fabricmanager: Reading[str]
    fabric_runs: Reading[bool]
    nvlink_off: Reading[bool]
    nouveau_blacklisted: Reading[bool]
    char_rule: Reading[FileContent]

    def userspace(self) -> Reading[Version]:
        """The version of the libnvidia-ml that programs get: the one the linker's cache names first, else the newest
        file found. Absent where there is none."""
        if not self.libraries.ok:
            return Reading(self.libraries.status, None, self.libraries.source, self.libraries.detail)
        versions = [found for found in self.libraries.value or () if found.soname == "libnvidia-ml.so.1"]
        for cached in (self.cached.value or {}).get("libnvidia-ml.so.1", ()):
            for found in versions:
                if _merged(cached) in found.names:
                    return Reading.of(found.version, cached)
        if not versions:
            return Reading.none("libnvidia-ml.so.1")
        newest = max(versions, key=lambda found: found.version)
        return Reading.of(newest.version, newest.path)

    def is_cached(self, soname: str) -> Reading[bool]:
        """Whether the dynamic linker's cache knows a library, as `ldconfig -p` prints it."""
        return self.cached.map(lambda cache: soname in cache)


def _merged(path: str) -> str:
    """A path with /lib as /usr/lib, which it is a link to on merged-usr systems (Debian 12, Ubuntu 20.04, ...)."""
    return f"/usr{path}" if path.startswith(("/lib/", "/lib64/")) else path


def proc_version(text: str) -> Version:
    """The driver's number in /proc/driver/nvidia/version: the one after 'Kernel Module'.

    `NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (root@host)`
    """
    match = MODULE_NUMBER.search(text)
    if match is None:
        raise ValueError(f"no driver version in {text.splitlines()[:1]}")
    return parse_version(match.group(1))


def proc_flavour(text: str) -> str:
    """`open` or `proprietary`, by the words before 'Kernel Module'."""
    return "open" if OPEN_MODULE.search(text) else "proprietary"


@shared(64)
def ldconfig_cache(text: str) -> Mapping[str, tuple[str, ...]]:
    """`ldconfig -p`, for reading, as soname -> paths of this machine's own 64-bit libraries, in the linker's order."""
    found: dict[str, tuple[str, ...]] = {}
    for line in text.splitlines():
        soname, _, rest = line.strip().partition(" (")
        kind, _, path = rest.partition(") => ")
        if path and ("x86-64" in kind or "AArch64" in kind):
            found[soname] = (*found.get(soname, ()), path)
    return found


def uvm_major(text: str) -> int:
    """nvidia-uvm's character major in /proc/devices. It is dynamic: a new one every boot is normal."""
    for line in text.splitlines():
        fields = line.split()
        if len(fields) == 2 and fields[1] == "nvidia-uvm":
            return int(fields[0])
    raise ValueError("nvidia-uvm has no major in /proc/devices")


def _links(snapshot: Snapshot) -> Reading[tuple[str, ...]]:
    fixed, dynamic = snapshot.glob("/dev/char/195:*"), snapshot.glob(DYNAMIC_LINKS)
    if not fixed.ok or not dynamic.ok:
        return fixed if dynamic.ok else dynamic
    return Reading.of((*fixed.need(), *dynamic.need()), "/dev/char")


def _libraries(snapshot: Snapshot) -> Reading[tuple[Library, ...]]:
    found: dict[str, Library] = {}
    for directory in LIBRARY_DIRECTORIES:
        for name in ("libcuda", "libnvidia-ml"):
            listed = snapshot.glob(f"{directory}/{name}.so.*")
            if not listed.known:
                return listed.without_value()
            for path in listed.value or ():
                meta = snapshot.stat(path).value
                real = meta.real or path if meta else ""
                match = LIBRARY_FILE.fullmatch(real.rpartition("/")[2])
                if match:
                    names = (*(found[real].names if real in found else (real,)), path)
                    found[real] = Library(
                        f"{match.group(1)}.so.1", real, parse_version(match.group(2)), names
                    )
    return Reading.of(tuple(found.values()), "driver libraries")


def _unit_state(snapshot: Snapshot, name: str) -> Reading[str]:
    return snapshot.unit(name).map(lambda unit: unit["ActiveState"])


def _blacklist(snapshot: Snapshot) -> Reading[bool]:
    listed = snapshot.glob("/etc/modprobe.d/*.conf")
    if not listed.ok:
        return listed.without_value()
    found = False
    for path in listed.value or ():
        content = snapshot.file(path)
        if content.value is None:
            return Reading(Status.FAILED if content.absent else content.status, None, path, content.detail)
        found = found or bool(re.search(rb"(?m)^[ \t]*blacklist[ \t]+nouveau\b", content.value.data))
    return Reading.of(found, "/etc/modprobe.d")


def parse(snapshot: Snapshot) -> Driver:
    version = snapshot.text("/proc/driver/nvidia/version")
    numbered = snapshot.glob("/dev/nvidia[0-9]*")
    modules = snapshot.text("/proc/modules").map(
        lambda text: tuple(
            name
            for name in (line.split(" ")[0] for line in text.splitlines())
            if name.startswith("nvidia") or name == "nouveau"
        )
    )
    return Driver(
        loaded=version.map(proc_version),
        flavour=version.map(proc_flavour),
        module_on_disk=snapshot.succeeded("modinfo").map(lambda found: parse_version(found.out)),
        libraries=_libraries(snapshot),
        cached=snapshot.succeeded("ldconfig").map(lambda found: ldconfig_cache(found.out)),
        modules=modules,
        nodes={
            **{path: snapshot.stat(path) for path in (*CONTROL_NODES, *(numbered.value or ()))},
            **(
                {}
                if numbered.ok
                else {"/dev/nvidia0": Reading(numbered.status, None, "/dev", numbered.detail)}
            ),
        },
        char_links=_links(snapshot),
        uvm_major=snapshot.text("/proc/devices").map(uvm_major),
        persistenced=_unit_state(snapshot, "nvidia-persistenced.service"),
        gridd=_unit_state(snapshot, GRIDD_UNIT),
        fabricmanager=_unit_state(snapshot, FABRIC_UNIT),
        fabric_runs=snapshot.processes(FABRIC_PROGRAM).map(bool),
        nvlink_off=snapshot.text(PARAMS).map(
            lambda text: re.search(r"(?m)^NvLinkDisable:\s*1\s*$", text) is not None
        ),
        nouveau_blacklisted=_blacklist(snapshot),
        char_rule=snapshot.file(CHAR_RULE),
    )
