"""GM107: every GPU that is here answers. While one does not, nothing is made that would leave it out for good."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from gpumend.rules.data import load
from gpumend.rules.driver.driver import loaded
from gpumend.rules.finding import Component, Evidence, Finding, Risk, Status
from gpumend.rules.rule import Context, rule
from gpumend.state.gpu import WARNED, address_of
from gpumend.state.reading import Status as ReadStatus
from gpumend.state.snapshot import Output
from gpumend.text.pattern import Pattern
from gpumend.text.record import Record
from gpumend.text.version import show

# An address in nvidia-smi's words: `GPU0: 0000:00:06.0`, `GPU0000:17:00.0`, `GPU 0000:D8:00.0` (open-gpu-kernel-modules#259,
# dcgm-exporter#604)
ADDRESS = Pattern(r"(?<![0-9A-Fa-f:])([0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-7])(?![0-9A-Fa-f])")
WARNING = Pattern(
    r"WARNING: "
)  # beside an answer: `WARNING: infoROM is corrupted at gpu 0000:B3:00.0` (gpu-operator#20, #285)
ROW = re.compile(r"GPU \d+: .*\(UUID: |\s+MIG ")
LISTED = re.compile(r"(?m)^GPU \d+: .* \(UUID: (GPU-[^)\s]{1,80})\)")

# Xid errors after which a GPU does not come back by itself (docs.nvidia.com/deploy/xid-errors)
LOST_XIDS = {
    "79": "the GPU has fallen off the bus",
    "109": "a context switch timed out",
    "119": "the GPU's own processor (GSP) gave no answer",
    "120": "the GPU's own processor (GSP) failed",
    "154": "the driver says which recovery the GPU needs",
}


class Fault(Record):
    """What is wrong with the GPUs as a whole. told: in one line. addresses: of those that do not answer; empty where none
    does, or where it is not known which. words: nvidia-smi's own."""

    told: str
    addresses: tuple[str, ...] = ()
    words: tuple[str, ...] = ()


def chip(device: int | None) -> dict[str, Any] | None:
    """The row of the table of chips for a PCI device id; None where there is none."""
    rows: list[dict[str, Any]] = load("gpu_chips")["chips"]
    return next(
        (
            row
            for row in rows
            if device is not None and int(row["first"], 16) <= device <= int(row["last"], 16)
        ),
        None,
    )


def expected(context: Context) -> tuple[str, ...]:
    """Addresses of the GPUs that nvidia-smi has to list: those of the bus that are the driver's or nobody's, and those that
    the module knows. In a container, whose nodes say which GPUs it was given, those with a node.

    Not those that another driver has (vfio-pci, nouveau), virtual functions, or what NVreg_ExcludedGpus names."""
    gpus, state = context.state.gpus, context.state
    known = gpus.known.value or {}
    mine = {address for address, found in known.items() if not found.excluded}
    if state.machine.container.ok:
        nodes = {path for path, reading in state.driver.nodes.items() if reading.ok}
        return tuple(sorted(address for address in mine if f"/dev/nvidia{known[address].minor}" in nodes))
    for address, function in (gpus.functions.value or {}).items():
        if function.virtual or function.driver not in (None, "", "nvidia"):
            mine.discard(address)
        elif address not in known:
            mine.add(address)
    return tuple(sorted(mine))


def missing(context: Context) -> tuple[str, ...]:
    """Addresses of GPUs that are here and that nvidia-smi does not list."""
    gpus = context.state.gpus
    wanted, uuids = expected(context), LISTED.findall(gpus.said.value.out if gpus.said.value else "")
    if len(uuids) >= len(wanted):
        return ()
    answering = {gpu.address for gpu in gpus.details.value.gpus} if gpus.details.value else set()
    for uuid in uuids if not answering & set(wanted) else ():
        matching = (
            address
            for address in wanted
            if address in (gpus.known.value or {})
            and (gpus.known.value or {})[address].uuid == uuid
            and address not in answering
        )
        answering.add(next(matching, ""))
    return tuple(address for address in wanted if address not in answering)


def _words(said: Output) -> tuple[str, ...]:
    """What nvidia-smi -L says besides its list."""
    return tuple(
        line.strip()
        for line in (said.out + "\n" + said.err).splitlines()
        if line.strip() and not ROW.match(line)
    )


def _on_wsl(said: Output) -> Fault | None:
    if said.rc in (0, WARNED):
        return None
    lines = tuple(line.strip() for line in (said.out + "\n" + said.err).splitlines() if line.strip())
    return Fault(f"nvidia-smi fails: {lines[0] if lines else exit_status(said.rc)}", words=lines)


def exit_status(rc: int) -> str:
    return f"it is ended by signal {-rc}" if rc < 0 else f"exit status {rc}"


def fault(context: Context) -> Fault | None:
    """What is wrong with the GPUs as nvidia-smi shows them; None where nothing is, or where it was not asked. A mismatch
    of versions is GM101's."""
    gpus, driver = context.state.gpus, context.state.driver
    wsl = context.state.host.wsl2
    said = gpus.said_wsl if wsl else gpus.said
    if not (wsl or loaded(context)):
        return None
    if said.status is ReadStatus.TIMEOUT:
        return Fault(f"nvidia-smi hangs: timeout, {said.detail}")
    if said.value is None:
        return None
    if wsl:
        return _on_wsl(said.value)
    lines = tuple(line for line in _words(said.value) if not WARNING.match(line))
    if any("Driver/library version mismatch" in line for line in lines):
        library = driver.userspace().value
        if library is not None and library != driver.loaded.value:
            return None
    lost = tuple(dict.fromkeys(address_of(found) for line in lines for found in ADDRESS.findall(line)))
    if lost:
        return Fault(f"GPU {', '.join(lost)} does not answer; nvidia-smi says: {lines[0]}", lost, lines)
    if said.value.rc not in (0, WARNED):
        word = lines[0] if lines else exit_status(said.value.rc)
        return Fault(f"nvidia-smi fails: {word}", missing(context), lines)
    away = missing(context)
    if away:
        count, there = len(LISTED.findall(said.value.out)), len(expected(context))
        if not count:
            return Fault(
                f"nvidia-smi lists none of {there} GPUs: {lines[0] if lines else 'it says nothing'}",
                away,
                lines,
            )
        return Fault(f"nvidia-smi lists {count} of {there} GPUs: {', '.join(away)} is missing", away, lines)
    return None


def _by_chip(context: Context, addresses: tuple[str, ...]) -> tuple[str, str, tuple[Evidence, ...]] | None:
    """(Cause, remedy, evidence) where the loaded module is not one for a chip; None where that is not so, or not known."""
    driver, functions = context.state.driver, context.state.gpus.functions.value or {}
    version, flavour = driver.loaded.value, driver.flavour.value
    for address in addresses or tuple(functions):
        device = functions[address].device if address in functions else None
        row = chip(device)
        if row is None or version is None or device is None:
            continue
        seen = (
            Evidence(f"/sys/bus/pci/devices/{address}", f"10de:{device:04x}, {row['architecture']}"),
            Evidence("/proc/driver/nvidia/version", f"{flavour} kernel module {show(version)}"),
        )
        if row["last_branch"] and version[0] > row["last_branch"]:
            return (
                f"Driver {show(version)} does not have {row['architecture']} any more: {row['last_branch']} is the last branch with it.",
                f"Install a driver of branch {row['last_branch']}, and reboot.",
                seen,
            )
        if row["modules"] == "open" and flavour == "proprietary":
            return _flavour("open", str(row["architecture"]), version[0], seen)
        if row["modules"] == "proprietary" and flavour == "open":
            return _flavour("proprietary", str(row["architecture"]), version[0], seen)
    return None


def _flavour(
    wanted: str, what: str, branch: int, seen: tuple[Evidence, ...]
) -> tuple[str, str, tuple[Evidence, ...]]:
    other = "proprietary" if wanted == "open" else "open"
    package = (
        f"nvidia-driver-{branch}-open or nvidia-open"
        if wanted == "open"
        else f"nvidia-driver-{branch} or cuda-drivers"
    )
    return (
        f"{what} works with the {wanted} kernel modules only; the {other} ones are loaded.",
        f"Install the {wanted} flavour of the same driver ({package}), and reboot.",
        seen,
    )


def _by_log(context: Context, log: tuple[str, ...]) -> tuple[str, str] | None:
    """(Cause, remedy) that the kernel's own lines name; None where they name none."""
    text, version = "\n".join(log), context.state.driver.loaded.value or (0,)
    if "requires use of the NVIDIA open" in text:
        return _flavour("open", "This GPU", version[0], ())[:2]
    if "not supported by open" in text:
        return _flavour("proprietary", "This GPU", version[0], ())[:2]
    legacy = re.search(r"(\d{3})\.xx Legacy drivers", text)
    if legacy:
        return (
            f"This driver does not have the GPU any more: {legacy.group(1)} is the last branch with it.",
            f"Install a driver of branch {legacy.group(1)}, and reboot.",
        )
    xids = [xid for xid in re.findall(r"Xid \(PCI:[^()]*\): (\d+)", text) if xid in LOST_XIDS]
    if xids:
        return (
            f"Xid {xids[-1]}: {LOST_XIDS[xids[-1]]}.",
            "Reboot; where it comes again, power off, and look at seating, power, temperature and firmware.",
        )
    if "fallen off the bus" in text:
        return (
            "The GPU has fallen off the bus (the driver's words for Xid 79).",
            "Power the machine off and on; where it comes again, look at seating, power, temperature and firmware.",
        )
    if "RmInitAdapter failed" in text:
        return (
            "The driver cannot initialise the GPU.",
            "Reboot. Where it comes again: the BIOS (Above 4G Decoding, Resizable BAR), the GPU's power, another driver; in a "
            "virtual machine, how the GPU is passed through.",
        )
    return None


@rule(
    "GM107",
    "every GPU says what it is when it is asked",
    "open-gpu-kernel-modules#862, #872, #507; microsoft/pai#4344, NVSentinel#155, nd#1553; gpu-operator#285; microsoft/WSL#9938, #14339; "
    "docs.nvidia.com/deploy/xid-errors",
    applies=lambda context: loaded(context) or context.state.host.wsl2,
)
def answers(context: Context) -> Iterator[Finding]:
    gpus, machine = context.state.gpus, context.state.machine
    found = fault(context)
    if context.state.host.wsl2:
        if found is not None:
            yield from blocked(found)
        return
    if found is None:
        if gpus.said.value is not None:
            yield from warned(gpus.said.value)
        if gpus.said.absent:  # nobody to ask, or nodes are missing (GM105)
            return
        gpus.said.need()
        gpus.functions.get()
        gpus.known.get()
        return
    log = (
        tuple(dict.fromkeys(line for address in found.addresses for line in machine.said_of(address)))
        or machine.said_of()
    )
    flavour = _by_chip(context, found.addresses)
    cause, remedy = flavour[:2] if flavour else _by_log(context, log) or _by_words(context, found)
    unread = [] if machine.log.known else [Evidence("dmesg", f"could not be read: {machine.log.detail}")]
    yield Finding(
        code="GM107",
        status=Status.FAIL,
        summary=found.told[:300],
        evidence=(
            *(Evidence("nvidia-smi -L", line[:200]) for line in found.words[:4]),
            *(
                Evidence(f"/sys/bus/pci/devices/{address}", "on the bus, or known to the module")
                for address in found.addresses[:8]
            ),
            *(flavour[2] if flavour else ()),
            *(Evidence("dmesg", line.strip()[:200]) for line in log[-6:]),
            *unread,
            *([] if found.words or found.addresses else [Evidence("nvidia-smi -L", str(gpus.said.status))]),
        ),
        cause=cause,
        remedy=f"{remedy} Until then mend makes no CDI spec and changes no mode: it would leave the GPU out.",
        risk=Risk.REBOOT,
        refused="GPUs and drivers are not changed by mend",
        symptoms=(
            "No devices were found",
            "No devices found",
            "Unable to determine the device handle for GPU",
            "GPU is lost. Reboot the system to recover this GPU",
            "Failed to initialize NVML: Unknown Error",
            "RmInitAdapter failed!",
            "requires use of the NVIDIA open kernel modules",
        ),
    )


def warned(said: Output) -> Iterator[Finding]:
    """What nvidia-smi warns of where every GPU answers: containers get them all the same."""
    lines = tuple(dict.fromkeys(line for line in _words(said) if WARNING.match(line)))
    if lines:
        yield Finding(
            code="GM107",
            status=Status.NOTE,
            summary=f"nvidia-smi warns: {lines[0].partition(' ')[2][:200]}",
            evidence=tuple(Evidence("nvidia-smi -L", line[:200]) for line in lines[:4]),
            cause="Every GPU answers. nvidia-smi's exit status is not 0, which stops scripts and validators that ask for that.",
            remedy="Have the board looked at by whoever sold it: its infoROM holds counters of errors and its settings.",
            refused="GPUs are not repaired by mend",
            symptoms=("WARNING: infoROM is corrupted at gpu",),
        )


def blocked(found: Fault) -> Iterator[Finding]:
    """nvidia-smi fails on WSL2: the driver is Windows's."""
    yield Finding(
        code="GM107",
        status=Status.FAIL,
        summary=found.told[:300],
        evidence=tuple(Evidence("/usr/lib/wsl/lib/nvidia-smi -q", line[:200]) for line in found.words[:4])
        or (Evidence("/usr/lib/wsl/lib/nvidia-smi -q", found.told[:200]),),
        cause="Windows gives this distribution no GPU: its driver and WSL do not fit each other, or the GPU is in a mode (TCC) that WSL "
        "has not.",
        remedy="In Windows: `nvidia-smi` has to work there; `wsl --update`, a current NVIDIA driver for Windows, then `wsl --shutdown` "
        "and start this distribution again. No driver is installed in Linux.",
        refused="the driver is Windows's",
        symptoms=("Failed to initialize NVML: GPU access blocked by the operating system",),
    )


def _of_container(context: Context, text: str) -> tuple[str, str] | None:
    """(Cause, remedy) where this system is a container that was not given what it needs."""
    words = ("Unknown Error", "Insufficient Permissions", "couldn't communicate")
    if not context.state.machine.container.ok or not any(word in text for word in words):
        return None
    return (
        "The driver is loaded on the outer host, and this container may not open its device nodes.",
        "On the outer host, bind /dev/nvidiactl, /dev/nvidia0, /dev/nvidia-uvm and allow their majors: lxc.cgroup2.devices.allow: "
        "c 195:* rwm and nvidia-uvm's of /proc/devices there, or Proxmox' `dev0: /dev/nvidia0`; then start this container anew.",
    )


def _by_words(context: Context, found: Fault) -> tuple[str, str]:
    """(Cause, remedy) where neither chip nor log say more: by nvidia-smi's own words."""
    text = "\n".join(found.words)
    if outer := _of_container(context, text):
        return outer
    if "Insufficient Permissions" in text:
        return (
            "nvidia-smi may not open the device nodes.",
            "Look at GM109 (modes of the nodes), and what confines it: SELinux or AppArmor denials in `dmesg`.",
        )
    if "requires reset" in text or "reset required" in text.lower():
        return (
            "The GPU had an error that it cannot go on after, and waits for a reset.",
            "End what uses it and `nvidia-smi --gpu-reset -i INDEX`, or reboot; read `dmesg` for its Xid.",
        )
    if "couldn't find libnvidia-ml" in text:
        return (
            "nvidia-smi does not find the driver's library libnvidia-ml.so.1.",
            "`ldconfig -p | grep libnvidia-ml`: install the driver's libraries in the loaded driver's version, then `ldconfig`.",
        )
    if "GPU is lost" in text:
        return (
            "The GPU is lost: as a rule Xid 79, it has fallen off the bus.",
            "Reboot; where it comes again, power off, and look at seating, power and temperature.",
        )
    if not found.words and not found.addresses:
        return (
            "A program that asks the driver waits for a GPU that does not answer.",
            "Read `dmesg` for NVRM and Xid lines; as a rule only a reboot helps.",
        )
    if "Driver/library version mismatch" in text:
        return (
            "nvidia-smi's libraries are not of the loaded driver.",
            "Reboot, or find who brought other libraries: `ldconfig -p`.",
        )
    return (
        "The module is loaded, and does not initialise the GPU.",
        "Read `dmesg` for NVRM, Xid and RmInitAdapter. On Blackwell and newer, only the open kernel modules work; before Turing, "
        "only the proprietary ones.",
    )


def empty(context: Context) -> tuple[int, ...]:
    """Indices of the GPUs with MIG on and without an instance; none where nvidia-smi did not say."""
    gpus = context.state.gpus
    details = gpus.details.value.gpus if gpus.details.value else ()
    split = {gpu.index for gpu in gpus.listed.value or () if gpu.mig}
    listed = {gpu.index for gpu in gpus.listed.value or ()}
    if not loaded(context):
        return ()
    return tuple(
        index for index, detail in enumerate(details) if detail.mig and index in listed and index not in split
    )


def waived(context: Context, code: str) -> bool:
    """Whether somebody answers for a finding here and today."""
    return any(
        waiver.covers(code, context.host) and waiver.until >= context.today
        for waiver in context.wanted.waivers
    )


def withheld(context: Context) -> str:
    """Why no spec is made and no mode switched on this host now, or an empty text."""
    found = None if waived(context, "GM107") else fault(context)
    if found is not None:
        return f"a GPU does not answer (GM107: {found.told[:120]}): what is made now would leave it out"
    indices = () if waived(context, "GM115") else empty(context)
    if indices:
        return f"GPU {', '.join(map(str, indices))} has MIG on and no instance (GM115): no spec can be made for it"
    return ""


def hold(findings: list[Finding], context: Context) -> list[Finding]:
    """The findings without changes of CDI specs and of the runtime's mode while a GPU does not answer."""
    reason = withheld(context)
    if not reason:
        return findings
    return [
        found._replace(change=None, refused=reason)
        if found.change and found.change.component in (Component.CDI, Component.TOOLKIT)
        else found
        for found in findings
    ]
