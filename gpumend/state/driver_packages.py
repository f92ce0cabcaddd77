"""What a wanted driver is installed from, and what of it is there. Read only where the desired state has `driver`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from gpumend.state.driver import FABRIC_UNIT
from gpumend.state.packages import NO_CACHE, Offer, parse_policy
from gpumend.state.reading import NONE, Reading
from gpumend.state.request import Command, Glob
from gpumend.state.snapshot import NOT_ASKED, FileContent, Output, Snapshot
from gpumend.text.record import Record

KEY = "driver"
NOUVEAU_OFF = "/etc/modprobe.d/gpumend-nouveau.conf"
AT_BOOT = "/etc/modules-load.d/gpumend-nvidia.conf"
LEFT_ALONE = "/etc/apt/apt.conf.d/52gpumend-driver"
MODULE_FILE = (
    "/etc/dnf/modules.d/nvidia-driver.module"  # which stream of NVIDIA's module dnf takes (dnf.modularity(7))
)
ZYPP_LOCKS = "/etc/zypp/locks"  # locks(5) of libzypp
FILES = (NOUVEAU_OFF, AT_BOOT, LEFT_ALONE)
# Of the kernel's headers, wherever their package puts them: what `make` in /lib/modules/KERNEL/build takes (kbuild, modules.rst).
HEADERS = "/lib/modules/*/build/Makefile"
MOK = "/var/lib/dkms/mok.pub"  # DKMS signs with its key (dkms(8), module signing)
PERSISTENCED = "nvidia-persistenced.service"
UNITS = (PERSISTENCED, FABRIC_UNIT)


def names(branch: str, version: str = "") -> tuple[str, ...]:
    """Every package that a driver of this branch could be, whoever packs it (rules/data/drivers.json); of those that are named
    by a kernel only the driver's branch is known here."""
    server = [f"nvidia-headless-no-dkms-{branch}-server{kind}" for kind in ("", "-open")]
    numbered = ("libnvidia-compute", "nvidia-utils", "nvidia-compute-utils", "nvidia-dkms")
    return (
        *("nvidia-driver-cuda", "nvidia-kernel-open-dkms", "nvidia-kernel-dkms", "nvidia-open-kernel-dkms"),
        *("nvidia-open", "cuda-drivers", "libcuda1", "nvidia-smi", "nvidia-persistenced", "nvlsm"),
        *(f"{name}-{branch}" for name in numbered),
        *(f"nvidia-dkms-{branch}-open", *server, f"nvidia-utils-{branch}-server"),
        *("nvidia-fabricmanager", f"nvidia-fabricmanager-{branch}", "nvidia-imex", f"nvidia-imex-{branch}"),
        *(f"nvidia-driver-pinning-{each}" for each in (branch, version) if each),
    )


def request(raw: Mapping[str, Any]) -> dict[str, Any]:
    """What is asked of the probe besides, where the desired state has `driver`; else nothing."""
    wanted = raw.get(KEY)
    if not isinstance(wanted, Mapping):
        return {}
    branch, version = str(wanted.get("branch", "")), str(wanted.get("version", ""))
    asked = {
        "driver-offers": Command(("apt-cache", *NO_CACHE, "policy", *names(branch, version)), timeout=20),
        "header-names": Command(("apt-cache", *NO_CACHE, "pkgnames", "linux-headers-"), timeout=20),
        "module-names": Command(
            ("apt-cache", *NO_CACHE, "pkgnames", f"linux-modules-nvidia-{branch}-"), timeout=20
        ),
        "mok-enrolled": Command(("mokutil", "--test-key", MOK), timeout=5, needs=(MOK,)),
    }
    return {
        "files": [*FILES, MODULE_FILE, ZYPP_LOCKS],
        "globs": [Glob(HEADERS, read=False).entry()],
        "commands": {name: each.entry() for name, each in asked.items()},
    }


class DriverPackages(Record):
    """files: gpumend's own and dnf's of the module, by path. zypp_locks: patterns of names. headers: kernels whose headers are here; header_names, module_names: packages that apt has.
    offers, origins: what apt has of the driver's packages, and where each version of them is from. mok: whether the
    firmware knows the key with which DKMS signs. units: how the driver's services start (UnitFileState)."""

    files: Mapping[str, Reading[FileContent]] = {}
    zypp_locks: Reading[tuple[str, ...]] = NONE
    headers: Reading[tuple[str, ...]] = NONE
    header_names: frozenset[str] = frozenset()
    module_names: frozenset[str] = frozenset()
    offers: Reading[Mapping[str, Offer]] = NONE
    origins: Mapping[str, Mapping[str, tuple[str, ...]]] = {}
    mok: Reading[bool] = NONE
    units: Mapping[str, str] = {}


def parse_origins(output: Output) -> dict[str, dict[str, tuple[str, ...]]]:
    """`apt-cache policy`: of each package's version the addresses that have it."""
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for block in re.split(r"(?m)^(?=\S)", output.out):
        name = block.partition(":")[0]
        for row in re.split(r"(?m)^ (?:\*\*\*|   ) (?=\S)", block)[1:]:
            head, *sources = row.splitlines()
            sites = [each.split()[1] for each in sources if len(each.split()) > 2]
            if sites:
                found.setdefault(name, {})[head.split()[0]] = tuple(dict.fromkeys(sites))
    return found


def parse_locks(text: str) -> tuple[str, ...]:
    """libzypp's locks: blocks of `attribute: value`, of which the names are patterns."""
    return tuple(re.findall(r"(?m)^[ \t]*solvable_name[ \t]*:[ \t]*(\S+)[ \t]*$", text))


def parse_module(text: str) -> tuple[str, str]:
    """(state, stream) of a file in dnf's modules.d: `enabled` or `disabled`; empty for a module that was reset."""
    fields = dict(re.findall(r"(?m)^[ \t]*(state|stream)[ \t]*=[ \t]*(\S*)", text))
    return fields.get("state", ""), fields.get("stream", "")


def enrolled(output: Output) -> bool:
    """`mokutil --test-key`, by its words: its exit status is 1 for a key that is enrolled. Raises ValueError."""
    if "already enrolled" in output.out:
        return True
    if "not enrolled" in output.out:
        return False
    raise ValueError((output.out + output.err).strip() or "mokutil said nothing")


def parse(snapshot: Snapshot) -> DriverPackages:
    asked = snapshot.command("driver-offers")
    if asked.detail == NOT_ASKED:
        return DriverPackages()
    words = {
        name: frozenset((snapshot.succeeded(name).value or Output("", "", 0)).out.split())
        for name in ("header-names", "module-names")
    }
    units = {name: snapshot.unit(name).value for name in UNITS}
    return DriverPackages(
        files={path: snapshot.file(path) for path in (*FILES, MODULE_FILE)},
        zypp_locks=snapshot.text(ZYPP_LOCKS).map(parse_locks),
        headers=snapshot.glob(HEADERS).map(lambda paths: tuple(path.split("/")[3] for path in paths)),
        header_names=words["header-names"],
        module_names=words["module-names"],
        offers=snapshot.succeeded("driver-offers").map(parse_policy),
        origins=snapshot.succeeded("driver-offers").map(parse_origins).value or {},
        mok=snapshot.command("mok-enrolled").map(enrolled),
        units={name: unit.get("UnitFileState", "") for name, unit in units.items() if unit},
    )
