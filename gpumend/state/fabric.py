"""What joins GPUs besides PCI: the subnet manager of fourth-generation NVSwitches, the fabric manager's mode, IMEX."""

from __future__ import annotations

import re

from gpumend.state.gpu import Gpus
from gpumend.state.machine import Machine
from gpumend.state.reading import Reading
from gpumend.state.request import Request
from gpumend.state.snapshot import FileMeta, Snapshot
from gpumend.text.record import Record

SUBNET_MANAGER = "/opt/nvidia/nvlsm/sbin/nvlsm"  # nvidia-fabricmanager-start.sh, 570 and newer
CONFIG = "/usr/share/nvidia/nvswitch/fabricmanager.cfg"
IMEX_UNIT, IMEX_PROGRAM = "nvidia-imex.service", "nvidia-imex"
RACK = re.compile(r"\bGB[23]00\b")
FOURTH = re.compile(r"\bB[123]00\b")

REQUEST = Request(
    files=(CONFIG,),
    stats=(SUBNET_MANAGER, "/sys/module/ib_umad"),
    processes=(IMEX_PROGRAM,),
    units=(IMEX_UNIT,),
    unit_properties=("LoadState", "ActiveState", "UnitFileState", "Result"),
)


class Fabric(Record):
    """subnet_manager: the program; umad: whether the ib_umad module is in the kernel. mode: FABRIC_MODE of the fabric
    manager's file, 0 bare metal or full passthrough, 1 shared NVSwitches, 2 vGPU. imex: its unit's ActiveState;
    imex_runs: its process is there, the unit's or a container's."""

    subnet_manager: Reading[FileMeta]
    umad: Reading[bool]
    mode: Reading[int]
    imex: Reading[str]
    imex_runs: Reading[bool]


def fabric_mode(text: str) -> int:
    """`FABRIC_MODE=0`; 0 where it does not stand there (Fabric Manager User Guide, config options)."""
    match = re.search(r"(?m)^[ \t]*FABRIC_MODE[ \t]*=[ \t]*(\d)[ \t\r]*$", text)
    return int(match.group(1)) if match else 0


def parse(snapshot: Snapshot) -> Fabric:
    umad = snapshot.stat("/sys/module/ib_umad")
    return Fabric(
        subnet_manager=snapshot.stat(SUBNET_MANAGER),
        umad=Reading.of(False, "/sys/module/ib_umad") if umad.absent else umad.map(lambda _: True),
        mode=snapshot.text(CONFIG).map(fabric_mode),
        imex=snapshot.unit(IMEX_UNIT).map(lambda unit: unit["ActiveState"]),
        imex_runs=snapshot.processes(IMEX_PROGRAM).map(bool),
    )


def waiting(gpus: Gpus) -> dict[int, str]:
    """The GPUs, by index, that say that they are not registered, with (`State, Status`) as nvidia-smi writes them."""
    details = gpus.details.value
    found = enumerate(details.gpus if details else ())
    return {
        index: ", ".join(detail.fabric)
        for index, detail in found
        if detail.fabric and detail.fabric != ("Completed", "Success")
    }


def kind(gpus: Gpus, machine: Machine, fabric: Fabric) -> str:
    """Who registers this host's GPUs: `rack` (GB200, GB300: NVSwitches are in the rack's trays), `subnet` (HGX B200, B300:
    fabric manager and nvlsm), `guest` (the hypervisor), `shared` (FABRIC_MODE 1 or 2), `own` (the host's fabric manager).

    By product name and bus: NVSwitches before the fourth generation are PCI bridges (Fabric Manager User Guide, Supported
    Platforms)."""
    details = gpus.details.value
    names = " ".join(detail.name for detail in details.gpus) if details else ""
    count = len(details.gpus) if details else 0
    switches = gpus.nvswitches.value or 0
    if RACK.search(names):
        return "rack"
    fourth = FOURTH.search(names) is not None
    if machine.vm.ok and not switches and (not fourth or count == 1):
        return "guest"
    if fourth and not switches:
        return "subnet"
    return "shared" if fabric.mode.value in (1, 2) and not machine.vm.ok else "own"
