"""The GPUs of a host: from nvidia-smi where it may be asked, else from /proc and PCI."""

from __future__ import annotations

import re
from dataclasses import dataclass

from gpumend.state.reading import Reading, Status
from gpumend.state.request import Command, Glob, Request
from gpumend.state.snapshot import Snapshot
from gpumend.text.version import Version, parse_version

NVIDIA_VENDOR = "0x10de"
DISPLAY_CLASS = "0x03"  # PCI base class 03: display controllers, VGA and 3D (pci.ids)
BRIDGE_CLASS = "0x0680"  # NVSwitch shows as a bridge, "other"

NODES = ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/nvidia0")

# What of `nvidia-smi -q` leaves the host: no serial numbers. MIG Mode is the heading of its two lines.
DETAIL_LINES = (
    r"(?m)^GPU \S+$|^[ \t]+Product (?:Name|Brand|Architecture)[ \t]*:.*$"
    r"|^[ \t]+MIG Mode\n[ \t]+Current[ \t]*:.*\n[ \t]+Pending[ \t]*:.*$|^(?:Driver|CUDA|KMD|CUDA UMD) Version[ \t]*:.*$"
    r"|^[ \t]+FB Memory Usage\n[ \t]+Total[ \t]*:.*$"
    r"|^[ \t]+Fabric\n[ \t]+State[ \t]*:.*\n[ \t]+Status[ \t]*:.*$"
)

# nvidia-smi creates missing device nodes and loads modules through the setuid nvidia-modprobe: asked only where
# there is nothing left for it to create (an audit writes nothing).
REQUEST = Request(
    globs=(
        Glob("/proc/driver/nvidia/gpus/*/information"),
        Glob("/sys/bus/pci/devices/*/vendor"),
        Glob("/sys/bus/pci/devices/*/class"),
        Glob("/sys/bus/pci/drivers/nouveau/*:*:*", read=False),
    ),
    commands={
        "nvidia-smi": Command(
            ("nvidia-smi", "-L"),
            timeout=20,
            needs=NODES,
        ),
        "nvidia-smi-version": Command(("nvidia-smi", "--version"), timeout=20, needs=NODES),
        "nvidia-smi-query": Command(("nvidia-smi", "-q"), timeout=20, needs=NODES, keep=DETAIL_LINES),
        # WSL2's own, which has nothing to create: the driver is Windows's
        "nvidia-smi-wsl": Command(
            ("/usr/lib/wsl/lib/nvidia-smi", "-q"), timeout=20, needs=("/dev/dxg",), keep=DETAIL_LINES
        ),
    },
)


@dataclass(frozen=True, slots=True)
class Gpu:
    """index as nvidia-smi counts; uuid `GPU-...`; mig: UUIDs of its MIG devices."""

    index: int
    name: str
    uuid: str
    mig: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Detail:
    """What one GPU is. brand and architecture as nvidia-smi -q writes them (`NVIDIA RTX`, `Hopper`); mig: now, pending:
    after a reset (None: this GPU has no MIG). memory: of its frame buffer, in MiB; None where that is not told.
    fabric: (state, status) of its registration with NVSwitches, (`Completed`, `Success`); None where it has none."""

    name: str
    brand: str
    architecture: str
    mig: bool | None = None
    mig_pending: bool | None = None
    memory: int | None = None
    fabric: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Details:
    """driver: the version that the GPU's driver says it has (on WSL2 a Windows number). cuda: what libcuda serves,
    which an active compat library changes: decide on `driver`."""

    gpus: tuple[Detail, ...]
    driver: Version
    cuda: Version | None


@dataclass(frozen=True, slots=True)
class Gpus:
    """listed: what nvidia-smi says. proc: models by PCI address, of the loaded module. pci: addresses of NVIDIA
    display controllers on the bus, driver or not. nvswitches: their count.
    cuda: the newest CUDA that the driver serves, as nvidia-smi says. details: each GPU's brand, architecture
    and MIG mode."""

    listed: Reading[tuple[Gpu, ...]]
    proc: Reading[dict[str, str]]
    pci: Reading[tuple[str, ...]]
    nvswitches: Reading[int]
    cuda: Reading[Version]
    nouveau_bound: Reading[tuple[str, ...]]
    details: Reading[Details]

    def present(self) -> Reading[bool]:
        """Whether this host has an NVIDIA GPU at all, by any of the three. Only the bus can say that there is none."""
        if self.listed.value or self.proc.value or self.pci.value:
            return Reading.of(True, "nvidia-smi, /proc/driver/nvidia, PCI")
        if self.pci.ok:
            return Reading.of(False, "/sys/bus/pci/devices, /proc/driver/nvidia/gpus")
        return Reading(self.pci.status, None, self.pci.source, self.pci.detail)


def smi_list(text: str) -> tuple[Gpu, ...]:
    """`nvidia-smi -L`: `GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-...)`, MIG devices indented below it."""
    found: list[Gpu] = []
    for line in text.splitlines():
        gpu = re.match(r"GPU (\d+): (.*) \(UUID: (GPU-[^)]+)\)", line)
        mig = re.match(r"\s+MIG .*\(UUID: (MIG-[^)]+)\)", line)
        if gpu:
            found.append(Gpu(int(gpu.group(1)), gpu.group(2), gpu.group(3)))
        elif mig and found:
            last = found.pop()
            found.append(Gpu(last.index, last.name, last.uuid, (*last.mig, mig.group(1))))
        elif line.startswith("Unable to determine the device handle"):
            raise ValueError(line)  # one that is there and lost: the others are not all
    if not found:
        raise ValueError(f"no GPU in: {text.strip()[:120] or 'an empty answer'}")
    return tuple(found)


def smi_cuda(text: str) -> Version:
    """`CUDA Version        : 13.0` of `nvidia-smi --version`, `CUDA UMD Version` from R610 on; raises ValueError without
    it."""
    match = re.search(r"CUDA(?:\s+UMD)?\s+Version\s*:\s*(\d+\.\d+)", text)
    if match is None:
        raise ValueError("no CUDA Version in `nvidia-smi --version`")
    return parse_version(match.group(1))


def smi_details(text: str) -> Details:
    """The lines of `nvidia-smi -q` that the probe keeps; raises ValueError where there is no GPU or no driver in them."""
    driver = re.search(r"(?m)^(?:Driver|KMD) Version\s*:\s*(\d+\.\d+(?:\.\d+)?)", text)
    if driver is None:
        raise ValueError("no Driver Version in `nvidia-smi -q`")
    found = []
    for block in re.split(r"(?m)^GPU \S+$", text)[1:]:
        fields = dict(re.findall(r"(?m)^[ \t]+(Product \w+|Current|Pending)[ \t]*:[ \t]*(.*?)[ \t]*$", block))
        fabric = re.search(
            r"[ \t]Fabric\n[ \t]+State[ \t]*:[ \t]*(.*?)[ \t]*\n[ \t]+Status[ \t]*:[ \t]*(.*)", block
        )
        memory = re.search(r"FB Memory Usage\n[ \t]+Total[ \t]*:[ \t]*(\d{1,9}) MiB", block)
        found.append(
            Detail(
                fields.get("Product Name", ""),
                fields.get("Product Brand", ""),
                fields.get("Product Architecture", ""),
                _mig(fields.get("Current", "")),
                _mig(fields.get("Pending", "")),
                int(memory.group(1)) if memory else None,
                (fabric.group(1), fabric.group(2).strip())
                if fabric and fabric.group(1) not in ("N/A", "Not Supported")
                else None,
            )
        )
    if not found:
        raise ValueError("no GPU in `nvidia-smi -q`")
    cuda = re.search(r"(?m)^CUDA(?: UMD)? Version\s*:\s*(\d+\.\d+)", text)
    return Details(
        tuple(found), parse_version(driver.group(1)), parse_version(cuda.group(1)) if cuda else None
    )


def _mig(text: str) -> bool | None:
    return {"Enabled": True, "Disabled": False}.get(text)


def _details(snapshot: Snapshot) -> Reading[Details]:
    found = snapshot.succeeded("nvidia-smi-query")
    if found.absent:
        found = snapshot.succeeded("nvidia-smi-wsl")
    return found.map(lambda output: smi_details(output.out))


def _cuda(snapshot: Snapshot) -> Reading[Version]:
    """As nvidia-smi --version says; where that does not know the option (drivers of 470 and older: containers/ramalama#1311),
    as its -q does."""
    found = snapshot.succeeded("nvidia-smi-version").map(lambda output: smi_cuda(output.out))
    details = _details(snapshot)
    if found.status is Status.FAILED and details.value and details.value.cuda:
        return Reading.of(details.value.cuda, details.source)
    return found


def _proc(snapshot: Snapshot) -> Reading[dict[str, str]]:
    listed = snapshot.glob("/proc/driver/nvidia/gpus/*/information")
    if not listed.ok:
        return listed.without_value()
    found = {}
    for path in listed.value or ():
        match = re.search(r"^Model:\s*(.+?)\s*$", snapshot.text(path).value or "", re.MULTILINE)
        found[path.split("/")[-2]] = match.group(1) if match else "NVIDIA GPU"
    return Reading.of(found, "/proc/driver/nvidia/gpus")


def _pci(snapshot: Snapshot, wanted: str) -> Reading[tuple[str, ...]]:
    listed = snapshot.glob("/sys/bus/pci/devices/*/vendor")
    if not listed.ok:
        return listed.without_value()
    found = []
    for path in listed.value or ():
        directory = path.removesuffix("/vendor")
        vendor, kind = snapshot.text(path), snapshot.text(f"{directory}/class")
        if not (vendor.known and kind.known):
            return Reading(Status.FAILED, None, directory, "its vendor and class could not be read")
        if (vendor.value or "").strip() == NVIDIA_VENDOR and (kind.value or "").startswith(wanted):
            found.append(directory.rpartition("/")[2])
    return Reading.of(tuple(found), "/sys/bus/pci/devices")


def parse(snapshot: Snapshot) -> Gpus:
    bound = snapshot.glob("/sys/bus/pci/drivers/nouveau/*:*:*")
    return Gpus(
        listed=snapshot.succeeded("nvidia-smi").map(lambda found: smi_list(found.out)),
        proc=_proc(snapshot),
        pci=_pci(snapshot, DISPLAY_CLASS),
        nvswitches=_pci(snapshot, BRIDGE_CLASS).map(len),
        cuda=_cuda(snapshot),
        nouveau_bound=bound.map(lambda paths: tuple(path.rpartition("/")[2] for path in paths)),
        details=_details(snapshot),
    )
