"""The GPUs of a host: from nvidia-smi where it may be asked, else from /proc and PCI."""

from __future__ import annotations

import re

from gpumend.state.reading import Reading, Status, first_unknown
from gpumend.state.request import Command, Glob, Request
from gpumend.state.snapshot import Output, Snapshot
from gpumend.text.record import Record
from gpumend.text.version import Version, parse_version

NVIDIA_VENDOR = "0x10de"
DISPLAY_CLASS = "0x03"  # PCI base class 03: display controllers, VGA and 3D (pci.ids)
BRIDGE_CLASS = "0x0680"  # NVSwitch shows as a bridge, "other"

MIG_MANAGER = (
    "nvidia-mig-manager.service"  # mig-parted deployments/systemd: makes the instances anew at each boot
)

NODES = ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/nvidia0")

# What of `nvidia-smi -q` leaves the host: no serial numbers. MIG Mode is the heading of its two lines.
DETAIL_LINES = (
    r"(?m)^GPU \S+$|^[ \t]+Product (?:Name|Brand|Architecture)[ \t]*:.*$"
    r"|^[ \t]+MIG Mode\n[ \t]+Current[ \t]*:.*\n[ \t]+Pending[ \t]*:.*$|^(?:Driver|CUDA|KMD|CUDA UMD) Version[ \t]*:.*$"
    r"|^[ \t]+FB Memory Usage\n[ \t]+Total[ \t]*:.*$"
    r"|^[ \t]+Fabric\n[ \t]+State[ \t]*:.*\n[ \t]+Status[ \t]*:.*$"
    r"|^[ \t]+(?:Persistence Mode|License Status|Virtualization Mode|Reset Required|GPU Recovery Action)[ \t]*:.*$"
)
# What it says where it shows no GPU.
FAILURES = r"^(?:Failed to initialize NVML|No devices|NVIDIA-SMI has failed|Unable to determine)[^\n]{0,300}$"
# nvidia-smi(1), RETURN VALUE: "infoROM is corrupted" is a warning beside a full answer (gpu-operator#285).
WARNED = 14
# nvidia-smi --version has it of the same call of NVML's (nvmlSystemGetCudaDriverVersion): a tenth of a second's time for one line.
CUDA_LINE = r"(?m)^CUDA(?: UMD)? Version[ \t]*:[ \t]*\d+\.\d"
# Of a device's uevent: the driver that it is bound to, if any, and its numbers (linux drivers/pci/pci-driver.c pci_uevent)
UEVENT = r"(?:DRIVER=\S+\n)?PCI_CLASS=\w+\nPCI_ID=10DE:\w{4}"

GPU_LINE = re.compile(r"GPU (\d+): (.*) \(UUID: (GPU-[^()]+)\)")
MIG_LINE = re.compile(r"\s+MIG .*\(UUID: (MIG-[^()]+)\)")
CUDA_NUMBER = re.compile(r"CUDA(?:\s+UMD)?\s+Version\s*:\s*(\d+\.\d+)")
MODEL = re.compile(r"(?m)^Model:(.*)$")
INFORMATION = re.compile(r"(?m)^([\w ]+):(.*)$")
MINOR = re.compile(r"[0-9]{1,4}")

# nvidia-smi has named each GPU that the module knows and each NVIDIA display controller on the bus, and has said nothing else.
EVERY_GPU = (
    "nvidia-smi",
    r"GPU \d+: .* \(UUID: GPU-[^)\s]{1,80}\)\n(?:\s+MIG .*\n)*",
    (
        ("/proc/driver/nvidia/gpus/*/information", ""),
        ("/sys/bus/pci/devices/*/uevent", r"PCI_CLASS=3\w{4}\n"),
    ),
)

# nvidia-smi creates missing device nodes and loads modules through the setuid nvidia-modprobe: asked only where
# there is nothing left for it to create (an audit writes nothing).
REQUEST = Request(
    globs=(
        Glob("/proc/driver/nvidia/gpus/*/information"),
        Glob("/sys/bus/pci/devices/*/vendor"),
        Glob("/sys/bus/pci/devices/*/class"),
        Glob("/sys/bus/pci/devices/*/uevent", read=False, search=UEVENT),
        Glob(
            "/sys/bus/pci/devices/*/physfn", read=False
        ),  # virtual functions (linux Documentation/PCI/pci-iov-howto.rst)
        Glob("/sys/bus/pci/drivers/nouveau/*:*:*", read=False),
    ),
    commands={
        "nvidia-smi": Command(
            ("nvidia-smi", "-L"),
            timeout=20,
            needs=NODES,
        ),
        "nvidia-smi-version": Command(
            ("nvidia-smi", "--version"), timeout=20, needs=NODES, said_by=("nvidia-smi-query", CUDA_LINE)
        ),
        "nvidia-smi-query": Command(("nvidia-smi", "-q"), timeout=20, needs=NODES, keep=DETAIL_LINES),
        # WSL2's own, which has nothing to create: the driver is Windows's
        "nvidia-smi-wsl": Command(
            ("/usr/lib/wsl/lib/nvidia-smi", "-q"),
            timeout=20,
            needs=("/dev/dxg",),
            keep=rf"{DETAIL_LINES}|{FAILURES}",
        ),
    },
    units=(MIG_MANAGER,),
    unit_properties=("LoadState", "ActiveState"),
)


class Gpu(Record):
    """index as nvidia-smi counts; uuid `GPU-...`; mig: UUIDs of its MIG devices."""

    index: int  # type: ignore[assignment]  # no tuple's method is asked for here
    name: str
    uuid: str
    mig: tuple[str, ...] = ()


class Detail(Record):
    """What one GPU is. brand and architecture as nvidia-smi -q writes them (`NVIDIA RTX`, `Hopper`); mig: now, pending:
    after a reset (None: this GPU has no MIG). memory: of its frame buffer, in MiB; None where that is not told.
    fabric: (state, status) of its registration with NVSwitches, (`Completed`, `Success`); None where it has none.
    address: on the PCI bus, as the kernel writes it. persistence: its mode. licence: vGPU software's status, as
    written. reset: the GPU waits for one. vgpu: it is a vGPU. None, or empty: not told."""

    name: str
    brand: str
    architecture: str
    mig: bool | None = None
    mig_pending: bool | None = None
    memory: int | None = None
    fabric: tuple[str, str] | None = None
    address: str = ""
    persistence: bool | None = None
    licence: str = ""
    reset: bool = False
    vgpu: bool = False


class Details(Record):
    """driver: the version that the GPU's driver says it has (on WSL2 a Windows number). cuda: what libcuda serves,
    which an active compat library changes: decide on `driver`."""

    gpus: tuple[Detail, ...]
    driver: Version
    cuda: Version | None


class Known(Record):
    """What the loaded module says of a GPU (/proc/driver/nvidia/gpus/ADDRESS/information). uuid is of question marks where
    it was never initialised. excluded: by NVreg_ExcludedGpus."""

    model: str
    uuid: str = ""
    minor: int | None = None
    excluded: bool = False


class Function(Record):
    """An NVIDIA display controller on the bus. driver: what it is bound to; empty where nothing is, None where that was
    not told. device: its PCI device id; None where that was not told. virtual: an SR-IOV virtual function."""

    driver: str | None = None
    device: int | None = None
    virtual: bool = False


class Gpus(Record):
    """listed: what nvidia-smi says. said: its own words, whatever its exit status; said_wsl: of WSL2's own. known: what the module says, and
    functions: what the bus says, by PCI address. mig_manager: its unit's ActiveState. proc: models by PCI address, of the loaded module. pci: addresses of NVIDIA
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
    said: Reading[Output]
    said_wsl: Reading[Output]
    known: Reading[dict[str, Known]]
    functions: Reading[dict[str, Function]]
    mig_manager: Reading[str]

    @property
    def possible(self) -> bool:
        """Whether there is an NVIDIA GPU, or it is not known that there is none."""
        return bool(self.listed.value or self.proc.value or self.pci.value) or not self.pci.ok

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
        gpu = GPU_LINE.match(line)
        mig = MIG_LINE.match(line)
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
    match = CUDA_NUMBER.search(text)
    if match is None:
        raise ValueError("no CUDA Version in `nvidia-smi --version`")
    return parse_version(match.group(1))


def smi_details(text: str) -> Details:
    """The lines of `nvidia-smi -q` that the probe keeps; raises ValueError where there is no GPU or no driver in them."""
    driver = re.search(r"(?m)^(?:Driver|KMD) Version\s*:\s*(\d+\.\d+(?:\.\d+)?)", text)
    if driver is None:
        raise ValueError("no Driver Version in `nvidia-smi -q`")
    found = []
    parts = re.split(r"(?m)^GPU (\S+)$", text)[1:]
    for where, block in zip(parts[::2], parts[1::2]):
        rows = re.findall(
            r"(?m)^[ \t]+(Product \w+|Current|Pending|Persistence Mode|License Status|Virtualization Mode|Reset Required"
            r"|GPU Recovery Action)[ \t]*:(.*)$",
            block,
        )
        fields = {
            name: value.strip(" \t") for name, value in reversed(rows)
        }  # a name's first line is the GPU's own: vGPU software has a Product Name, too
        fabric = re.search(r"[ \t]Fabric\n[ \t]+State[ \t]*:(.*)\n[ \t]+Status[ \t]*:(.*)", block)
        memory = re.search(r"FB Memory Usage\n[ \t]+Total[ \t]*:[ \t]*(\d{1,9}) MiB", block)
        found.append(
            Detail(
                fields.get("Product Name", ""),
                fields.get("Product Brand", ""),
                fields.get("Product Architecture", ""),
                _mig(fields.get("Current", "")),
                _mig(fields.get("Pending", "")),
                int(memory.group(1)) if memory else None,
                (fabric.group(1).strip(), fabric.group(2).strip())
                if fabric and fabric.group(1).strip() not in ("N/A", "Not Supported")
                else None,
                address_of(where),
                _mig(fields.get("Persistence Mode", "")),
                fields.get("License Status", ""),
                fields.get("Reset Required") == "Yes"
                or fields.get("GPU Recovery Action", "None") not in ("None", "N/A"),
                fields.get("Virtualization Mode") == "VGPU",
            )
        )
    if not found:
        raise ValueError("no GPU in `nvidia-smi -q`")
    cuda = re.search(r"(?m)^CUDA(?: UMD)? Version\s*:\s*(\d+\.\d+)", text)
    return Details(
        tuple(found), parse_version(driver.group(1)), parse_version(cuda.group(1)) if cuda else None
    )


def address_of(text: str) -> str:
    """NVML's `00000000:00:06.0` or `00000001:00:00.0` as the kernel writes it: four digits of domain, or more, lower case."""
    domain, sign, rest = text.lower().partition(":")
    return f"{domain.lstrip('0').rjust(4, '0')}:{rest}" if sign else ""


def _mig(text: str) -> bool | None:
    return {"Enabled": True, "Disabled": False}.get(text)


def _answered(snapshot: Snapshot, name: str) -> Reading[Output]:
    """What nvidia-smi printed, where that is an answer."""
    found = snapshot.command(name)
    return found if found.value is not None and found.value.rc == WARNED else snapshot.succeeded(name)


def _details(snapshot: Snapshot) -> Reading[Details]:
    found = _answered(snapshot, "nvidia-smi-query")
    if found.absent:
        found = _answered(snapshot, "nvidia-smi-wsl")
    return found.map(lambda output: smi_details(output.out))


def _cuda(snapshot: Snapshot) -> Reading[Version]:
    """As nvidia-smi --version says; where that does not know the option (drivers of 470 and older: containers/ramalama#1311),
    or was not asked since -q has said the same, as that does."""
    found = snapshot.succeeded("nvidia-smi-version").map(lambda output: smi_cuda(output.out))
    if found.status in (Status.FAILED, Status.ABSENT):
        details = snapshot.once(_details)
        if details.value and details.value.cuda:
            return Reading.of(details.value.cuda, details.source)
    return found


def _proc(snapshot: Snapshot) -> Reading[dict[str, str]]:
    listed = snapshot.glob("/proc/driver/nvidia/gpus/*/information")
    if not listed.ok:
        return listed.without_value()
    found = {}
    for path in listed.value or ():
        match = MODEL.search(snapshot.text(path).value or "")
        found[path.split("/")[-2]] = (match.group(1).strip() if match else "") or "NVIDIA GPU"
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


def _known(snapshot: Snapshot) -> Reading[dict[str, Known]]:
    listed = snapshot.glob("/proc/driver/nvidia/gpus/*/information")
    if not listed.ok:
        return listed.without_value()
    found = {}
    for path in listed.value or ():
        text = snapshot.text(path)
        if text.value is None:
            return Reading(text.status if not text.ok else Status.FAILED, None, path, text.detail)
        told = INFORMATION.findall(text.value)
        rows = {name: value.strip(" \t") for name, value in told}
        minor = rows.get("Device Minor", "")
        found[path.split("/")[-2]] = Known(
            rows.get("Model", "NVIDIA GPU"),
            rows.get("GPU UUID", ""),
            int(minor) if MINOR.fullmatch(minor) else None,
            rows.get("GPU Excluded") == "Yes",
        )
    return Reading.of(found, "/proc/driver/nvidia/gpus")


def _functions(snapshot: Snapshot, addresses: Reading[tuple[str, ...]]) -> Reading[dict[str, Function]]:
    events, virtual = (
        snapshot.glob("/sys/bus/pci/devices/*/uevent"),
        snapshot.glob("/sys/bus/pci/devices/*/physfn"),
    )
    unread = first_unknown((addresses, events, virtual))
    if unread is not None:
        return unread.without_value()
    told = {
        path.split("/")[-2]: "".join(snapshot.found(path, UEVENT).value or ()) for path in events.value or ()
    }
    functions = {path.split("/")[-2] for path in virtual.value or ()}
    found = {}
    for address in addresses.value or ():
        text = told.get(address, "")
        driver, number = re.search(r"DRIVER=(\S+)", text), re.search(r"PCI_ID=10DE:(\w{4})", text)
        found[address] = Function(
            driver.group(1) if driver else "" if text else None,
            int(number.group(1), 16) if number else None,
            address in functions,
        )
    return Reading.of(found, "/sys/bus/pci/devices")


def parse(snapshot: Snapshot) -> Gpus:
    bound = snapshot.glob("/sys/bus/pci/drivers/nouveau/*:*:*")
    pci = _pci(snapshot, DISPLAY_CLASS)
    return Gpus(
        listed=_answered(snapshot, "nvidia-smi").map(lambda found: smi_list(found.out)),
        proc=_proc(snapshot),
        pci=pci,
        nvswitches=_pci(snapshot, BRIDGE_CLASS).map(len),
        cuda=_cuda(snapshot),
        nouveau_bound=bound.map(lambda paths: tuple(path.rpartition("/")[2] for path in paths)),
        details=snapshot.once(_details),
        said=snapshot.command("nvidia-smi"),
        said_wsl=snapshot.command("nvidia-smi-wsl"),
        known=_known(snapshot),
        functions=_functions(snapshot, pci),
        mig_manager=snapshot.unit(MIG_MANAGER).map(lambda unit: unit["ActiveState"]),
    )
