"""Which packages of a driver are asked for, and which changes are made for it: stdlib only, Python 3.6 or newer."""

import re
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple

from gpumend.payload.change.managers import PackageChange, Unfit, last_line
from gpumend.payload.change.packaging import METAPACKAGE
from gpumend.payload.driver import (
    driver_number,
    driver_numbers,
    is_driver_package,
    is_kernel_package,
    shown_number,
)
from gpumend.payload.probe.running import run

Number = Tuple[int, ...]

DPKG_LIST = ["dpkg-query", "-W", "-f=${db:Status-Abbrev}\\t${Package}\\t${Version}\\n"]
RPM_LIST = ["rpm", "-qa", "--qf", "ii\\t%{NAME}\\t%{VERSION}-%{RELEASE}\\n"]
MATCHED = "kernel-devel-matched"  # empty: it holds headers and kernel at one version (kernel.spec of Fedora)
EITHER = "|"  # between names of which the first that there is is meant


def listed_packages(manager: str) -> Dict[str, str]:
    """Installed packages with their versions. Raises Unfit where dpkg or rpm does not say."""
    argv = DPKG_LIST if manager == "apt" else RPM_LIST
    found = run(argv, 60)
    if found["status"] != "ok" or found["rc"] != 0:
        raise Unfit("%s: %s" % (argv[0], last_line(found)))
    rows = (line.split("\t") for line in found["out"].splitlines())
    return dict((row[1], row[2]) for row in rows if len(row) == 3 and row[0][1:2] == "i")


def driver_objection(changes: Sequence[PackageChange], upgrade: bool, kernel: str = "") -> str:
    """Why a driver's installation is not made like this; an empty text where it may be. upgrade: whether the driver that is
    there may become another; kernel: the release that runs, whose own parts are no other kernel."""
    for what, name, version in changes:
        if what == "remove":
            return "it would remove %s" % name
        if what == "module":
            return "it would change the module stream of %s" % name
        if is_kernel_package(name) and not (what == "install" and is_of_kernel(version or "", kernel)):
            return "it would %s %s: which kernel boots is not this change's" % (what, name)
        if METAPACKAGE.fullmatch(name):
            return "it would %s %s, which is more than a driver" % (what, name)
        if name == MATCHED and what == "upgrade" and is_of_kernel(version or "", kernel):
            continue
        if what != "install" and not is_driver_package(name):
            return "it would %s %s" % (what, name)
        if what != "install" and not upgrade:
            return "it would %s the driver's %s, and driver.replace is false" % (what, name)
    return ""


def is_of_kernel(version: str, kernel: str) -> bool:
    """Whether an rpm of this version is of the kernel that runs: its release has the architecture behind it."""
    plain = re.sub("^[0-9]+:", "", version)
    return bool(plain) and kernel.rpartition(".")[0] == plain


def one_branch(versions: Dict[str, str], branch: int, exact: str) -> str:
    """The one version of the driver's packages, of this branch. Raises Unfit where they differ, or are of another one: a
    name says nothing of it (Ubuntu's nvidia-driver-570-server-open installs 580)."""
    numbers = driver_numbers(versions)
    if not numbers:
        raise Unfit("none of the packages has a driver's version")
    different = sorted(set(numbers.values()))
    if len(different) > 1:
        told = ", ".join("%s %s" % (name, shown_number(numbers[name])) for name in sorted(numbers))
        raise Unfit("the driver's packages would be of different versions: %s" % told)
    said = shown_number(different[0])
    if different[0][0] != branch:
        raise Unfit(
            "%s would be %s, not of branch %d: it is transitional, or a pin leads elsewhere"
            % (sorted(numbers)[0], said, branch)
        )
    if exact and different[0] != driver_number(exact):
        raise Unfit("the driver would be %s, not %s" % (said, exact))
    return said


def natural(version: str) -> List[Tuple[int, str]]:
    """What releases of one version are sorted by: numbers as numbers."""
    parts = re.findall("[0-9]+|[^0-9]+", version)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def at_one_version(
    targets: Sequence[str], versions: Dict[str, List[str]], branch: int, exact: str, kept: Iterable[Number]
) -> List[str]:
    """The targets as dnf and zypper take them: those of the driver as NAME=VERSION, all in the newest version of the branch that each
    of them can be had in, or in the one that is kept. A kernel module of SUSE's has its kernel's version behind the driver's.
    Raises Unfit where there is none."""
    groups = [target.split(EITHER) for target in targets]
    for target, group in zip(targets, groups):
        if not any(versions.get(name) for name in group):
            raise Unfit("no repository has %s" % target.replace(EITHER, " or "))
    kept, wanted = set(kept), driver_number(exact)
    fit: Any = None
    for group in groups:
        numbers = set(driver_number(each) for name in group for each in versions.get(name, ())) - {()}
        if not numbers:
            continue  # nvlsm and others that have versions of their own
        numbers = set(number for number in numbers if not kept or number in kept)
        numbers = set(
            number for number in numbers if number == wanted or (not wanted and number[0] == branch)
        )
        fit = numbers if fit is None else fit & numbers
    if fit is not None and not fit:
        which = exact or "one version of branch %d" % branch
        had = ["%s %s" % (name, " ".join(versions.get(name, ()))) for group in groups for name in group]
        raise Unfit("no repository has all packages in %s: %s" % (which, "; ".join(had)[:600]))
    return [in_version(group, versions, max(fit) if fit else None) for group in groups]


def in_version(group: Sequence[str], versions: Dict[str, List[str]], number: Optional[Number]) -> str:
    """The first of these names that there is in that version of the driver, with it; else the first that there is."""
    for name in group:
        releases = [each for each in versions.get(name, ()) if driver_number(each) == number]
        if releases:
            return "%s=%s" % (name, max(releases, key=natural))
    return next(name for name in group if versions.get(name))
