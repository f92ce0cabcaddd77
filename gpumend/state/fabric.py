"""What joins GPUs besides PCI: the subnet manager of fourth-generation NVSwitches, the fabric manager's mode, IMEX."""

from __future__ import annotations

import re
from dataclasses import dataclass

from gpumend.state.reading import Reading
from gpumend.state.request import Request
from gpumend.state.snapshot import FileMeta, Snapshot

SUBNET_MANAGER = "/opt/nvidia/nvlsm/sbin/nvlsm"  # nvidia-fabricmanager-start.sh, 570 and newer
CONFIG = "/usr/share/nvidia/nvswitch/fabricmanager.cfg"
IMEX_UNIT, IMEX_PROGRAM = "nvidia-imex.service", "nvidia-imex"

REQUEST = Request(
    files=(CONFIG,),
    stats=(SUBNET_MANAGER, "/sys/module/ib_umad"),
    processes=(IMEX_PROGRAM,),
    units=(IMEX_UNIT,),
    unit_properties=("LoadState", "ActiveState", "UnitFileState", "Result"),
)


@dataclass(frozen=True, slots=True)
class Fabric:
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
    match = re.search(r"(?m)^\s*FABRIC_MODE\s*=\s*(\d)\s*$", text)
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
