"""The kinds of step on a host that install a driver: its packages, the initramfs, units, holds, and the proof. Stdlib only,
Python 3.6 or newer.

No package is removed, no kernel comes along, nothing is loaded, and nothing reboots: the new driver counts from the next boot on.
"""

import os
import re
from typing import Dict, List, Optional, Sequence

from gpumend.payload.change.cuda_steps import HoldPackages
from gpumend.payload.change.files import Failed, Refused
from gpumend.payload.change.gpu_use import gpu_users
from gpumend.payload.change.hooks import hooks_told
from gpumend.payload.change.journal import Entry, Journal
from gpumend.payload.change.managers import PackageChange, Unfit, last_line
from gpumend.payload.change.package_locks import wait_for_lock
from gpumend.payload.change.package_steps import PackageStep
from gpumend.payload.change.packaging import (
    METAPACKAGE,
    foreseen,
    installed,
    name_of,
    package_entries,
    perform,
    way_back,
)
from gpumend.payload.change.step import Step, command
from gpumend.payload.driver import (
    driver_number,
    driver_numbers,
    is_driver_package,
    is_kernel_package,
    shown_number,
)
from gpumend.payload.probe.execution import which
from gpumend.payload.probe.running import run

INITRAMFS_TIMEOUT = 600  # seconds: each installed kernel has one, and a slow disk takes a minute for it
# Programs that write the initramfs anew, and how for every kernel (update-initramfs(8), dracut(8)).
INITRAMFS = (
    ("update-initramfs", ["update-initramfs", "-u", "-k", "all"]),
    ("dracut", ["dracut", "--force", "--regenerate-all"]),
)


def listed_packages() -> Dict[str, str]:
    """Installed packages with their versions. Raises Unfit where dpkg does not say."""
    found = run(["dpkg-query", "-W", "-f=${db:Status-Abbrev}\\t${Package}\\t${Version}\\n"], 60)
    if found["status"] != "ok" or found["rc"] != 0:
        raise Unfit("dpkg-query: %s" % last_line(found))
    rows = (line.split("\t") for line in found["out"].splitlines())
    return dict((row[1], row[2]) for row in rows if len(row) == 3 and row[0][1:2] == "i")


def driver_objection(changes: Sequence[PackageChange], upgrade: bool) -> str:
    """Why a driver's installation is not made like this; an empty text where it may be. upgrade: whether the driver that is
    there may become another."""
    for what, name, _ in changes:
        if what == "remove":
            return "it would remove %s" % name
        if is_kernel_package(name):
            return "it would %s %s: which kernel boots is not this change's" % (what, name)
        if METAPACKAGE.fullmatch(name):
            return "it would %s %s, which is more than a driver" % (what, name)
        if what != "install" and not is_driver_package(name):
            return "it would %s %s" % (what, name)
        if what != "install" and not upgrade:
            return "it would %s the driver's %s, and driver.replace is false" % (what, name)
    return ""


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


class DriverPackages(PackageStep):
    """A driver's packages are there, all of one version. pinning: a package that is installed by itself before, so that apt
    knows the branch when it chooses the others. upgrade: a driver of packages that is there becomes this one."""

    kind = "driver"

    def foresee(self, wait: int, notes: List[str]) -> None:
        self.wait = wait
        waited = wait_for_lock(self.manager, wait)
        notes.extend([waited] if waited else [])
        users = gpu_users() if self.wanted["upgrade"] else []
        if users and self.wanted["in_use"] != "allow":
            told = ", ".join(users[:6])
            raise Refused(
                "the GPU is in use by %s: with other libraries below them they fail until the reboot" % told
            )
        if users:
            notes.append("in use by %s meanwhile" % ", ".join(users[:6]))
        if self.pins():
            self.changes = self.judged([self.wanted["pinning"]])  # the others are chosen by what it says
        else:
            self.changes = self.chosen()

    def pins(self) -> bool:
        return bool(self.wanted["pinning"]) and installed(self.manager, self.wanted["pinning"]) is None

    def judged(self, targets: List[str]) -> List[PackageChange]:
        changes: List[PackageChange] = foreseen(self.manager, self.verb, targets, self.wait)
        against = driver_objection(changes, self.wanted["upgrade"])
        if against:
            raise Unfit("%s %s is refused: %s" % (self.verb, " ".join(targets), against))
        way_back(self.manager, changes)
        return changes

    def chosen(self) -> List[PackageChange]:
        """What would be done, in one version. Fabric Manager and IMEX start beside a driver of exactly their own version
        alone, and their packages depend on none: they are asked for in the driver's."""
        changes = self.judged(self.targets)
        numbers = driver_numbers(dict((name, version or "") for _, name, version in changes))
        beside = [name for name in numbers if re.match("nvidia-(?:fabricmanager|imex)", name)]
        driver = set(number for name, number in numbers.items() if name not in beside)
        if not driver:
            have = driver_numbers(listed_packages())
            driver = set(number for name, number in have.items() if name not in beside)
        wrong = [name for name in beside if driver and numbers[name] not in driver]
        if wrong and len(driver) == 1:
            exact = shown_number(next(iter(driver)))
            self.targets = ["%s=%s" % (name, exact) if name in wrong else name for name in self.targets]
            changes = self.judged(self.targets)
        will_be = dict(listed_packages(), **dict((name, version or "") for _, name, version in changes))
        one_branch(will_be, self.wanted["branch"], self.wanted["version"])
        return changes

    def do(self, journal: Journal, notes: List[str]) -> None:
        if self.pins():
            self.made(journal, [self.wanted["pinning"]])
            self.changes = self.chosen()
        self.made(journal, self.targets)
        notes.extend(hooks_told(self.manager))
        version = one_branch(listed_packages(), self.wanted["branch"], self.wanted["version"])
        notes.append("driver %s: %s" % (version, ", ".join(name for _, name, _ in self.changes)))

    def made(self, journal: Journal, targets: List[str]) -> None:
        entry = journal.packages()
        for package in package_entries(self.manager, self.changes):
            package["driver"] = True
            entry["packages"].append(package)
        journal.log("package %s %s" % (self.verb, " ".join(targets)))
        perform(self.manager, self.verb, targets, self.changes, self.wait, journal.mark())


def initramfs_command() -> Optional[List[str]]:
    return next((argv for name, argv in INITRAMFS if which(name)), None)


class RenewInitramfs(Step):
    """The initramfs of each kernel has been written anew. `first` stands before the files that it takes in, and has it
    written anew when they are gone again."""

    kind = "initramfs"

    def describe(self) -> str:
        return "initramfs"

    def stage(self, journal: Journal) -> None:
        """Noted before the files that are staged after it: what is undone last is what was noted first."""
        if self.wanted["first"] and initramfs_command():
            journal.begin_step(self.kind, {"made": []})

    def do(self, journal: Journal, notes: List[str]) -> None:
        argv = initramfs_command()
        if self.wanted["first"]:
            return
        if argv is None:
            notes.append("this host has no program for an initramfs: none is written")
            return
        journal.log(self.describe())
        renew_initramfs(argv)

    @staticmethod
    def undo(journal: Journal, entry: Entry) -> List[str]:
        argv = initramfs_command()
        if argv and "initramfs" in journal.record["log"]:
            renew_initramfs(argv)
        return []


def renew_initramfs(argv: List[str]) -> None:
    found = run(argv, INITRAMFS_TIMEOUT)
    if found["status"] != "ok" or found["rc"] != 0:
        raise Failed("%s: %s" % (" ".join(argv), last_line(found)))


class EnableUnits(Step):
    """Units that were disabled start at boot. Nothing is started now."""

    kind = "enable"
    silent = True

    def describe(self) -> str:
        return "enable %s" % " ".join(self.wanted["units"])

    def do(self, journal: Journal, notes: List[str]) -> None:
        units = [unit for unit in self.wanted["units"] if enabled_state(unit) == "disabled"]
        if not units:
            return
        journal.begin_step(self.kind, {"units": units, "made": []})
        journal.log(self.describe())
        command(["systemctl", "enable"] + units)

    @staticmethod
    def undo(journal: Journal, entry: Entry) -> List[str]:
        units = [unit for unit in entry["units"] if enabled_state(unit) == "enabled"]
        if units:
            command(["systemctl", "disable"] + units)
        return []


def enabled_state(unit: str) -> str:
    """systemctl(1) is-enabled: `enabled`, `disabled`, `static`, `not-found` and others."""
    return str(run(["systemctl", "is-enabled", unit], 20).get("out", "")).strip()


class HoldDriver(HoldPackages):
    """apt leaves all of the driver's packages as they are: one that is held alone keeps none of those below it."""

    kind = "hold_driver"

    def describe(self) -> str:
        return "hold the driver"

    def do(self, journal: Journal, notes: List[str]) -> None:
        self.wanted["names"] = sorted(name for name in listed_packages() if is_driver_package(name))
        HoldPackages.do(self, journal, notes)


class DriverProof(Step):
    """The driver's packages are configured and of one version, and the running kernel has its module, of the wanted
    flavour. Whether it works shows at the next boot."""

    kind = "driver_proof"

    def describe(self) -> str:
        return "driver_proof %s" % self.wanted["branch"]

    def do(self, journal: Journal, notes: List[str]) -> None:
        for target in self.wanted["names"]:
            if installed("apt", name_of(target)) is None:
                raise Unfit("%s is not installed" % name_of(target))
        version = one_branch(listed_packages(), self.wanted["branch"], self.wanted["version"])
        kernel = os.uname().release
        found, licence = module_field("version"), module_field("license")
        if found is None:
            raise Unfit(
                "the kernel %s has no module nvidia: `dkms status`, /var/lib/dkms/nvidia*/*/build/make.log"
                % kernel
            )
        if driver_number(found) != driver_number(version):
            raise Unfit("the module for %s is %s, the packages are %s" % (kernel, found, version))
        flavour = "proprietary" if licence == "NVIDIA" else "open"
        if self.wanted["flavour"] not in ("", flavour):
            raise Unfit("the module for %s is the %s one" % (kernel, flavour))
        notes.append(
            "kernel %s has the %s module %s; it is loaded at the next boot" % (kernel, flavour, version)
        )


def module_field(name: str) -> Optional[str]:
    """What modinfo says of the module that the running kernel would load; None where there is none."""
    found = run(["modinfo", "-F", name, "nvidia"], 20)
    return found["out"].strip() if found["status"] == "ok" and found["rc"] == 0 else None
