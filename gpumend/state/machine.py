"""Where this system runs, as far as its GPUs hang on it: in a container, in a virtual machine; and what its kernel says of them."""

from __future__ import annotations

import re

from gpumend.state.drift import MODULES
from gpumend.state.gpu import EVERY_GPU
from gpumend.state.reading import Reading
from gpumend.state.request import Command, Request
from gpumend.state.snapshot import Output, Snapshot
from gpumend.text.pattern import Pattern
from gpumend.text.record import Record

CONTAINER = "/run/systemd/container"  # written by systemd as pid 1 of a container (systemd docs/CONTAINER_INTERFACE.md)
NEEDS = ("/proc/driver/nvidia/version",)
# A module that the kernel refuses for its signature is on the disk and not loaded, and without EFI none is refused (GM120).
LOADED_OR_REFUSED = (*NEEDS, "/sys/firmware/efi")
LOADED_OR_THERE = (*NEEDS, MODULES)

# The driver's own lines: Xid errors, adapters that do not initialise, and why (open-gpu-kernel-modules nv-pci.c, osinit.c). A
# message of several lines comes as several; its later ones begin with spaces in dmesg, and with a time of their own elsewhere.
LOG_LINES = (
    r"(?m)^(?:(?!NVRM: ).)*NVRM: (?:Xid \(PCI|GPU \S+ RmInitAdapter failed|RmInitAdapter|The NVIDIA \S.*(?:GPU|installed)"
    r"|.*(?:fallen off the bus|open kernel modules|not supported by open|nvidia\.ko because|System Processor|Legacy drivers"
    r"|supported through|driver will ignore|No NVIDIA GPU found|probe routine|PCI ID:)).*$"
    r"|^.*(?:module verification failed|Loading of (?:unsigned|module with unavailable key)|Key was rejected).*$"
)
KEPT = 40  # lines, the last ones
ADDRESS = Pattern(r"\b[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\b")

BOOT = "/proc/sys/kernel/random/boot_id"  # random(4): another one each boot, and a container's is its host's

REQUEST = Request(
    files=(CONTAINER, BOOT),
    commands={
        # A full log takes as long to read as a tenth of all the rest, and where every GPU answers no rule asks for it.
        "kernel-log": Command(
            ("dmesg",),
            timeout=5,
            needs_one=LOADED_OR_REFUSED,
            keep=LOG_LINES,
            where_one=LOADED_OR_THERE,
            listed_by=EVERY_GPU,
        ),
        "vm": Command(("systemd-detect-virt", "--vm"), timeout=5, needs=NEEDS, by_systemd=True),
    },
)


class Machine(Record):
    """container: what kind of one this is (`lxc`, `systemd-nspawn`); absent where it is none that says so. vm: the
    hypervisor's name (`kvm`); absent on bare metal. log: the last lines of the kernel's that concern GPUs, oldest first;
    absent where every GPU answers. boot: this boot's id."""

    container: Reading[str]
    vm: Reading[str]
    log: Reading[tuple[str, ...]]
    boot: Reading[str]

    def said_of(self, address: str = "") -> tuple[str, ...]:
        """Lines of the kernel's that name a GPU by its address, with or without the function, and those that follow one and
        name none: a message of several lines names it in the first. All without an address."""
        slot = address.rpartition(".")[0] or address
        found, mine = [], not slot
        for line in self.log.value or ():
            named = ADDRESS.search(line)
            mine = slot in line if named else mine
            if mine:
                found.append(line)
        return tuple(found)


def virtualization(output: Output) -> str:
    """`systemd-detect-virt`: a name, or `none` with exit status 1; raises ValueError where it says neither."""
    word = output.out.strip()
    if not re.fullmatch(r"[\w-]+", word):
        raise ValueError(output.err.strip() or "systemd-detect-virt said nothing")
    return word


def _vm(snapshot: Snapshot) -> Reading[str]:
    found = snapshot.command("vm").map(virtualization)
    return Reading.none("systemd-detect-virt --vm", "none") if found.value == "none" else found


def parse(snapshot: Snapshot) -> Machine:
    return Machine(
        container=snapshot.text(CONTAINER).map(lambda text: text.strip() or "container"),
        vm=_vm(snapshot),
        log=snapshot.succeeded("kernel-log").map(
            lambda output: tuple(line for line in output.out.splitlines() if line.strip())[-KEPT:]
        ),
        boot=snapshot.text(BOOT).map(str.strip),
    )
