"""The driver's kernel module as something that is built, signed and packaged: DKMS, Secure Boot, dpkg's states."""

from __future__ import annotations

import re

from gpumend.state.reading import Reading
from gpumend.state.request import Command, Glob, Request
from gpumend.state.snapshot import Output, Snapshot
from gpumend.text.record import Record

# DKMS' tree (dkms(8), FILES): MODULE/VERSION/source once it was added, MODULE/VERSION/KERNEL/ARCH/module once it was built.
# A build that ends well removes `build`; after one that failed its log stays there. `dkms status` is not asked: it is a
# shell script that may repair the tree.
SOURCES = "/var/lib/dkms/nvidia*/*/source"
BUILT = "/var/lib/dkms/nvidia*/*/*/*/module/nvidia*.ko*"
LOGS = "/var/lib/dkms/nvidia*/*/build/make.log"
FIRST_ERROR = r"(?s)\A.*?(?:^|\n)([^\n]*(?:\berror:|Error!|\*\*\*)[^\n]{0,300})"
LOG_KERNEL = (
    r"\A[^\n]*?for kernel:? ?(\S+)"  # `DKMS make.log for nvidia-580.119.02 for kernel 6.17.9-... (x86_64)`
)

REQUEST = Request(
    globs=(
        Glob(SOURCES, read=False),
        Glob(BUILT, read=False),
        Glob(LOGS, read=False, search=FIRST_ERROR),
        Glob(LOGS, read=False, search=LOG_KERNEL),
    ),
    # Without EFI nothing is refused for its signature (GM120).
    commands={
        "modinfo-signer": Command(
            ("modinfo", "-F", "signer", "nvidia"), timeout=5, needs=("/sys/firmware/efi",)
        )
    },
)

BROKEN = {
    "U": "unpacked, not configured",
    "F": "half configured",
    "H": "half installed",
    "W": "waiting for triggers",
    "t": "triggers are pending",
}


class Failed(Record):
    """A DKMS build that failed: its log, the kernel it was for (empty: not told) and the first line with an error."""

    log: str
    kernel: str
    error: str


class Modules(Record):
    """added: versions in DKMS' tree; built: (version, kernel) of what it built; failed: builds that did not end well.
    signer: who signed the module on disk, empty where nobody did. unconfigured: packages that dpkg did not finish, with
    its state in words."""

    added: Reading[tuple[str, ...]]
    built: Reading[tuple[tuple[str, str], ...]]
    failed: tuple[Failed, ...]
    signer: Reading[str]
    unconfigured: Reading[dict[str, str]]


def unconfigured(output: Output) -> dict[str, str]:
    """dpkg-query's packages whose state is between not installed and installed (dpkg(1), PACKAGE STATES)."""
    found = {}
    for line in output.out.splitlines():
        fields = line.split("\t")
        word = BROKEN.get(fields[0][1:2]) if len(fields) == 3 else None
        if word:
            found[fields[1]] = word
    return found


def parse(snapshot: Snapshot) -> Modules:
    failed = []
    for path in snapshot.glob(LOGS).value or ():
        kernel, error = snapshot.found(path, LOG_KERNEL).value, snapshot.found(path, FIRST_ERROR).value
        if error:
            failed.append(Failed(path, kernel[0] if kernel else "", re.sub(r"\s+", " ", error[0]).strip()))
    return Modules(
        added=snapshot.glob(SOURCES).map(lambda paths: tuple(path.split("/")[5] for path in paths)),
        built=snapshot.glob(BUILT).map(
            lambda paths: tuple(dict.fromkeys((path.split("/")[5], path.split("/")[6]) for path in paths))
        ),
        failed=tuple(failed),
        signer=snapshot.succeeded("modinfo-signer").map(lambda output: output.out.strip()),
        unconfigured=snapshot.command("dpkg").map(unconfigured),
    )
