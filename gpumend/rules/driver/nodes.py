"""GM108, GM109: device nodes that are there and are not what programs need: another kind of file, another number, another mode."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from gpumend.rules.driver.driver import loaded
from gpumend.rules.finding import Evidence, Finding, Status
from gpumend.rules.rule import Context, rule
from gpumend.state.snapshot import FileMeta

EVERYBODY = 0o666  # NVreg_DeviceFileMode's default, 438 (open-gpu-kernel-modules kernel-open/nvidia/nv-reg.h)
WORDS = {"file": "a regular file", "dir": "a directory"}
GPU_NODE_NAME = re.compile(r"nvidia(\d+)")


def present(context: Context) -> dict[str, FileMeta]:
    """NVIDIA's nodes that are there, by path. Raises Unread where one could not be looked at."""
    found = {path: reading.get() for path, reading in context.state.driver.nodes.items()}
    return {path: meta for path, meta in found.items() if meta is not None}


def numbers(path: str, majors: Mapping[str, int]) -> tuple[int, int] | None:
    """(Major, minor) that a node has to have by its name (open-gpu-kernel-modules nv-chardev-numbers.h, nvidia-uvm); None
    where the kernel names no major for it: the module is not loaded."""
    name = path.rpartition("/")[2]
    front = next(
        (majors[word] for word in ("nvidia", "nvidia-frontend", "nvidiactl") if word in majors), None
    )
    fixed = {"nvidiactl": 255, "nvidia-modeset": 254}
    unified = {"nvidia-uvm": 0, "nvidia-uvm-tools": 1}
    if name in unified:
        return (majors["nvidia-uvm"], unified[name]) if "nvidia-uvm" in majors else None
    match = GPU_NODE_NAME.fullmatch(name)
    minor = int(match.group(1)) if match else fixed.get(name)
    return None if front is None or minor is None else (front, minor)


def capabilities(context: Context) -> bool:
    """Whether MIG instances have nodes of their own in /dev/nvidia-caps; true also where that is not known. Two belong to no
    instance: cap1, configuration, and cap2, monitoring."""
    nodes = context.state.nodes.caps
    own = [
        path
        for path, meta in (nodes.value or {}).items()
        if meta.kind == "char" and path.rpartition("cap")[2] not in ("1", "2")
    ]
    return len(own) >= 2 or not nodes.known


def misplaced(context: Context) -> list[str]:
    """Paths at which lies something else than the kernel's device, as far as that is known."""
    majors, found = context.state.nodes.majors.value or {}, []
    for path, reading in sorted(context.state.driver.nodes.items()):
        meta, right = reading.value, numbers(path, majors)
        if meta is not None and (meta.kind != "char" or (right and meta.rdev and meta.rdev != right)):
            found.append(path)
    return found


@rule(
    "GM108",
    "device nodes are devices, with the kernel's numbers",
    "Proxmox LXC, lxc.container.conf(5) create=file; nct#1934, NemoClaw#4733; nct#50",
    applies=loaded,
)
def kinds(context: Context) -> Iterator[Finding]:
    nodes, majors = present(context), context.state.nodes.majors
    outer = context.state.machine.container
    wrong = {path: meta for path, meta in nodes.items() if meta.kind != "char"}
    if wrong:
        names = ", ".join(sorted(wrong))
        what = {WORDS.get(meta.kind, f"a {meta.kind}") for meta in wrong.values()}
        yield Finding(
            code="GM108",
            status=Status.FAIL,
            summary=f"{names}: {' and '.join(sorted(what))}, not a device: CUDA gives 999 although nvidia-smi works",
            evidence=tuple(
                Evidence(path, f"{WORDS.get(meta.kind, meta.kind)}, {meta.size} bytes")
                for path, meta in sorted(wrong.items())
            ),
            cause="A mount of the node made the file (lxc.mount.entry with create=file, a bind of Docker's), since the outer host "
            "had not loaded nvidia-uvm by then.",
            remedy="On the outer host, `nvidia-modprobe -u -c 0` before this container starts (at boot: a unit, or nvidia_uvm in "
            "/etc/modules-load.d and nvidia-persistenced); then start the container anew."
            if outer.ok
            else f"Remove it (`rm` a file, `rmdir` a directory: {names}), then `nvidia-modprobe -c 0 -u`, and find whose mount or "
            "`-v` made it.",
            refused="what lies in the place of a node was put there by somebody, and is not removed by mend",
            symptoms=(
                "cuInit returns 999 (CUDA_ERROR_UNKNOWN) although nvidia-smi works",
                "CUDA unknown error",
            ),
        )
    devices = {path: meta for path, meta in nodes.items() if meta.kind == "char"}
    if not devices:
        return
    known = majors.need()
    other = {}
    for path, meta in sorted(devices.items()):
        right = numbers(path, known)
        if right is not None and meta.rdev is not None and meta.rdev != right:
            other[path] = (meta.rdev, right)
    if not other:
        return
    shown = {
        path: f"{is_[0]}:{is_[1]}, the kernel's is {right[0]}:{right[1]}"
        for path, (is_, right) in other.items()
    }
    first = next(iter(shown))
    yield Finding(
        code="GM108",
        status=Status.FAIL,
        summary=f"{first} is {shown[first]}" + (f", and {len(shown) - 1} more" if len(shown) > 1 else ""),
        evidence=(
            *(Evidence(path, text) for path, text in shown.items()),
            Evidence(
                "/proc/devices",
                ", ".join(f"{number} {name}" for name, number in known.items() if "nvidia" in name),
            ),
        ),
        cause="The node was made by hand or by a script, or bound into this container before a reboot: nvidia-uvm gets its major "
        "from the kernel, and another one after any boot.",
        remedy="Start the container anew, with numbers or paths of the outer host as they are now (lxc.cgroup2.devices.allow names majors)."
        if outer.ok
        else f"`rm {' '.join(shown)}`, then `nvidia-modprobe -c 0 -u`; take away what makes them with fixed numbers (rc.local, a unit).",
        refused="a node that somebody made is not replaced by mend",
        symptoms=("cuInit returns 999 (CUDA_ERROR_UNKNOWN) although nvidia-smi works", "CUDA unknown error"),
    )


def octal(mode: int) -> str:
    return f"{mode:04o}"


def _cause(context: Context, mode: int) -> tuple[str, str, list[Evidence]]:
    """(Cause, remedy, evidence): who gives the nodes their mode."""
    nodes = context.state.nodes
    evidence = [Evidence(path, f"NVreg_DeviceFileMode={value}") for path, value in nodes.options]
    if nodes.mode.value is not None:
        evidence.insert(
            0,
            Evidence(
                nodes.mode.source, f"DeviceFileMode: {nodes.mode.value}, which is {octal(nodes.mode.value)}"
            ),
        )
    for path, value in nodes.options:
        if re.fullmatch(r"[1-7][0-7]{2}", value):  # no 0 before it: the kernel reads it as decimal
            return (
                f"NVreg_DeviceFileMode={value} is read as decimal: it is {octal(int(value) & 0o7777)}.",
                f"Write 0{value} in {path} (0666 for everybody), renew the initramfs, and load the module anew or reboot.",
                evidence,
            )
    if nodes.mode.value is not None and nodes.mode.value & EVERYBODY != EVERYBODY:
        return (
            "The module was loaded with NVreg_DeviceFileMode for fewer users.",
            f"Take it out of {', '.join(path for path, _ in nodes.options) or '/etc/modprobe.d and the kernel command line'}, or set 0666; "
            "or put who needs the GPU into the nodes' group, and give rootless engines that group.",
            evidence,
        )
    lines = [(path, line) for path, found in nodes.rules.items() for line in found]
    evidence.extend(Evidence(path, line.strip()[:160]) for path, line in lines[:3])
    return (
        "A rule of udev gives them their mode."
        if lines
        else "Somebody or a script changed them: the module makes them for everybody.",
        f"Change {', '.join(dict.fromkeys(path for path, _ in lines))}, then `udevadm control --reload` and `udevadm trigger`, or put who "
        "needs the GPU into the nodes' group."
        if lines
        else f"`chmod 0666` them, and look for what sets {octal(mode)} (a udev rule, a script).",
        evidence,
    )


@rule(
    "GM109",
    "device nodes are for every user",
    "nct#210, nct#268, nd#1608 (Gentoo, openSUSE: 0660 root:video); Gentoo nvidia-drivers files/nvidia.conf (432: decimal)",
    applies=loaded,
)
def modes(context: Context) -> Iterator[Finding]:
    narrow = {
        path: meta
        for path, meta in sorted(present(context).items())
        if meta.kind == "char"
        and meta.mode & EVERYBODY != EVERYBODY
        # the X server's and the profilers' own: containers without graphics and users do without
        and path not in ("/dev/nvidia-modeset", "/dev/nvidia-uvm-tools")
    }
    if not narrow:
        return
    path, meta = next(iter(narrow.items()))
    cause, remedy, evidence = _cause(context, meta.mode)
    yield Finding(
        code="GM109",
        status=Status.WARN,
        summary=f"{path} is {octal(meta.mode)}"
        + (f", and {len(narrow) - 1} more" if len(narrow) > 1 else "")
        + ": rootless engines and users without its group get no GPU",
        evidence=(
            *(
                Evidence(name, f"mode {octal(found.mode)}, uid {found.uid}, gid {found.gid}")
                for name, found in narrow.items()
            ),
            *evidence,
        ),
        cause=cause,
        remedy=remedy,
        refused="who may use the GPU is the owner's decision",
        symptoms=("NVML: Insufficient Permissions", "Failed to initialize NVML: Insufficient Permissions"),
    )
