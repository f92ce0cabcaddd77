"""The kinds of step on a host that install a driver: its packages, the initramfs, units, holds, and the proof. Stdlib only,
Python 3.6 or newer.

No package is removed, no kernel comes along, nothing is loaded, and nothing reboots: the new driver counts from the next boot on.
"""

import os
import re
from typing import Any, Dict, List, Optional

from gpumend.payload.change.cuda_steps import HoldPackages
from gpumend.payload.change.dnf import module_streams
from gpumend.payload.change.driver_choice import (
    EITHER,
    at_one_version,
    driver_objection,
    listed_packages,
    one_branch,
)
from gpumend.payload.change.file_steps import WriteFile, hash_of
from gpumend.payload.change.files import Failed, Refused, clean, current
from gpumend.payload.change.gpu_use import gpu_users
from gpumend.payload.change.hooks import hooks_told
from gpumend.payload.change.journal import Entry, Journal, restore
from gpumend.payload.change.managers import PackageChange, Unfit, last_line
from gpumend.payload.change.package_locks import wait_and_note, wait_for_lock
from gpumend.payload.change.package_steps import PackageStep
from gpumend.payload.change.packaging import (
    LISTS_TIMEOUT,
    foreseen,
    installed,
    name_of,
    one_of_many,
    package_entries,
    perform,
    rpm_versions,
    way_back,
)
from gpumend.payload.change.services import LOCK_WAIT
from gpumend.payload.change.step import Step, command
from gpumend.payload.driver import driver_number, driver_numbers, is_driver_package, shown_number
from gpumend.payload.probe.execution import which
from gpumend.payload.probe.running import run

INITRAMFS_TIMEOUT = 600  # seconds: each installed kernel has one, and a slow disk takes a minute for it
# Programs that write the initramfs anew, and how for every kernel (update-initramfs(8), dracut(8)).
INITRAMFS = (
    ("update-initramfs", ["update-initramfs", "-u", "-k", "all"]),
    ("dracut", ["dracut", "--force", "--regenerate-all"]),
)


DRIVER_MODULE = "nvidia-driver"  # NVIDIA's: each branch and flavour is a stream of it (driver installation guide, Kernel Modules)
# Of which several may be installed (dnf.conf(5) installonlypkgs): each is named with its version.
HEADERS = re.compile(r"kernel\S*-(?:devel|modules-extra)")
# Where dnf 4, dnf 5 and zypp keep locks (dnf-versionlock(8), locks(5)), and the words that set and take them.
LOCK_FILES = {
    "dnf": ("/etc/dnf/plugins/versionlock.list", "/etc/dnf/versionlock.toml"),
    "zypper": ("/etc/zypp/locks",),
}
LOCKING = {
    "dnf": (["dnf", "-q", "versionlock", "add"], ["dnf", "-q", "versionlock", "delete"]),
    "zypper": (["zypper", "--non-interactive", "addlock"], ["zypper", "--non-interactive", "removelock"]),
}


class ModuleStream(WriteFile):
    """dnf takes the driver from this stream of NVIDIA's module, where repositories have that module; its default stream hides every
    branch but the newest. The file is dnf's own (dnf.modularity(7)), with the bytes that `dnf module enable` writes: undone
    exactly, and without a repository."""

    kind = "module_stream"

    def __init__(self, wanted: Dict[str, Any]) -> None:
        WriteFile.__init__(self, wanted)
        self.offered = False

    def describe(self) -> str:
        return "enable %s:%s in %s" % (DRIVER_MODULE, self.wanted["stream"], self.path)

    def foresee(self, wait: int, notes: List[str]) -> None:
        wait_and_note("dnf", wait, notes)
        streams = module_streams(DRIVER_MODULE, LISTS_TIMEOUT)
        self.offered = bool(streams)
        if streams and self.wanted["stream"] not in streams:
            told = (DRIVER_MODULE, self.wanted["stream"], ", ".join(sorted(streams)))
            raise Unfit("no repository has the module stream %s:%s, but %s" % told)

    def stage(self, journal: Journal) -> None:
        if self.offered:
            WriteFile.stage(self, journal)


class DriverPackages(PackageStep):
    """A driver's packages are there, all of one version. pinning: a package that is installed by itself before, so that apt
    knows the branch when it chooses the others. upgrade: a driver of packages that is there becomes this one. dnf and zypper are
    asked for each by its version, and for the first there is of `a|b`. stream: whether a step before this one enables a stream of
    the module; headers: of the running kernel, of which the first that there is comes along."""

    kind = "driver"
    later = False  # whether what is to be done can only be asked once a part of it is
    # Whose present versions the stream has that was enabled before this transaction: it is put back before its packages are.
    ways: List[str] = []

    def foresee(self, wait: int, notes: List[str]) -> None:
        self.wait = wait
        wait_and_note(self.manager, wait, notes)
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
            self.later = True
        elif self.wanted["stream"] and module_streams(DRIVER_MODULE, LISTS_TIMEOUT):
            self.resolved(hidden=True)  # what dnf would do of it shows once the stream is enabled
            self.later = True
            have = listed_packages(self.manager)
            mine = [name for name in have if is_driver_package(name)]
            offers = rpm_versions(self.manager, mine) if mine else {}
            self.ways = [name for name in mine if have[name] in offers.get(name, ())]
        else:
            self.changes = self.chosen()

    def pins(self) -> bool:
        return bool(self.wanted["pinning"]) and installed(self.manager, self.wanted["pinning"]) is None

    def judged(self, targets: List[str]) -> List[PackageChange]:
        try:
            changes: List[PackageChange] = foreseen(self.manager, self.verb, targets, self.wait)
        except Unfit as reason:  # to dnf a package that is locked in another version is not there
            locked = [name for name in map(name_of, targets) if is_locked(name, locks_of(self.manager))]
            if not locked:
                raise
            told = (reason, " ".join(locked), " ".join(LOCKING[self.manager][1]))
            raise Unfit("%s; there are locks of %s: `%s` them first" % told)
        against = driver_objection(changes, self.wanted["upgrade"], os.uname().release)
        if against:
            raise Unfit("%s %s is refused: %s" % (self.verb, " ".join(targets), against))
        way_back(self.manager, [change for change in changes if change[1] not in self.ways])
        return changes

    def chosen(self) -> List[PackageChange]:
        """What would be done, in one version. Fabric Manager and IMEX start beside a driver of exactly their own version
        alone, and their packages depend on none: they are asked for in the driver's."""
        if self.manager != "apt":
            self.targets = self.resolved()
        changes = self.judged(self.targets)
        numbers = driver_numbers(dict((name, version or "") for _, name, version in changes))
        beside = [name for name in numbers if re.match("nvidia-(?:fabric-?manager|imex)", name)]
        driver = set(number for name, number in numbers.items() if name not in beside)
        if not driver:
            have = driver_numbers(listed_packages(self.manager))
            driver = set(number for name, number in have.items() if name not in beside)
        wrong = [name for name in beside if driver and numbers[name] not in driver]
        if wrong and len(driver) == 1:
            exact = shown_number(next(iter(driver)))
            self.targets = ["%s=%s" % (name, exact) if name in wrong else name for name in self.targets]
            changes = self.judged(self.targets)
        will_be = dict(
            listed_packages(self.manager), **dict((name, version or "") for _, name, version in changes)
        )
        one_branch(will_be, self.wanted["branch"], self.wanted["version"])
        return changes

    def resolved(self, hidden: bool = False) -> List[str]:
        """The targets as dnf and zypper take them. hidden: packages of module streams that are not enabled count, too."""
        have = listed_packages(self.manager)
        names = [name for target in self.targets for name in name_of(target).split(EITHER)]
        versions = rpm_versions(self.manager, names, hidden)
        for name in set(names) & set(have):
            versions.setdefault(name, []).append(have[name])
        kept = [] if self.wanted["upgrade"] else driver_numbers(have).values()
        found = at_one_version(self.targets, versions, self.wanted["branch"], self.wanted["version"], kept)
        return found + self.headers()

    def headers(self) -> List[str]:
        """What has the running kernel's headers, each name with that kernel's release in it, as far as they are not here. Raises
        Unfit where none has."""
        found = []
        for group in self.wanted["headers"]:
            names = group.split(EITHER)
            if any(installed(self.manager, each) for each in names):
                continue  # a name with a release in it takes no version besides
            there = [each for each in names if rpm_versions(self.manager, [each])]
            if not there:
                told = " or ".join(names)
                raise Unfit(
                    "no repository has %s: the module could not be built for the running kernel" % told
                )
            found.append(there[0])
        return found

    def do(self, journal: Journal, notes: List[str]) -> None:
        if self.pins():
            self.made(journal, [self.wanted["pinning"]])
        if self.later:
            self.changes = self.chosen()
        self.made(journal, self.targets)
        notes.extend(hooks_told(self.manager))
        version = one_branch(listed_packages(self.manager), self.wanted["branch"], self.wanted["version"])
        notes.append("driver %s: %s" % (version, ", ".join(name for _, name, _ in self.changes)))

    def made(self, journal: Journal, targets: List[str]) -> None:
        entry = journal.packages()
        many = self.manager == "dnf"
        named = [
            (what, one_of_many(name, version) if many and HEADERS.fullmatch(name) else name, version)
            for what, name, version in self.changes
        ]
        for package in package_entries(self.manager, named):
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
    """The manager leaves all of the driver's packages as they are: one that is held alone keeps none of those below it."""

    kind = "hold_driver"
    wait = LOCK_WAIT

    def describe(self) -> str:
        return "hold the driver"

    def foresee(self, wait: int, notes: List[str]) -> None:
        self.wait = wait
        if self.wanted["manager"] != "apt":
            wait_and_note(self.wanted["manager"], wait, notes)

    def do(self, journal: Journal, notes: List[str]) -> None:
        manager = self.wanted["manager"]
        names = sorted(name for name in listed_packages(manager) if is_driver_package(name))
        if manager == "apt":
            self.wanted["names"] = names
            HoldPackages.do(self, journal, notes)
            return
        text = locks_of(manager)
        names = [name for name in names if not is_locked(name, text)]
        if not names:
            return
        entry: Entry = {"manager": manager, "names": names, "files": [], "made": []}
        journal.begin_step(self.kind, entry)
        for path in LOCK_FILES[manager]:
            file = journal.keep(path, current(path))
            entry["files"].append(dict(file, after=""))  # which of them it writes is the manager's own
        journal.log(self.describe())
        set_locks(manager, LOCKING[manager][0], names, self.wait)
        for file in entry["files"]:
            file["after"] = hash_of(current(file["path"]))

    @staticmethod
    def undo(journal: Journal, entry: Entry) -> List[str]:
        if "files" not in entry:
            return HoldPackages.undo(journal, entry)
        changed = [
            file
            for file in entry["files"]
            if hash_of(current(file["path"])) not in (file["before"], file["after"])
        ]
        if any(file["after"] != "" for file in changed):  # somebody has locked others since
            set_locks(entry["manager"], LOCKING[entry["manager"]][1], entry["names"], LOCK_WAIT)
            return []
        for file in entry["files"]:
            restore(journal, file)
            clean(file["real"])
        return []


def locks_of(manager: str) -> str:
    """The text of the files where a manager keeps locks; apt has its holds elsewhere."""
    files = LOCK_FILES.get(manager, ())
    return "\n".join((current(path) or b"").decode("utf-8", "replace") for path in files)


def is_locked(name: str, text: str) -> bool:
    """Whether a lock file has a row of this package: `NAME-EPOCH:VERSION` of dnf 4, a name of dnf 5 and of zypp."""
    return re.search(r"(?m)(?:^|[\s\"])%s(?:-[0-9]+[:.]|[\s\"]|$)" % re.escape(name), text) is not None


def set_locks(manager: str, words: List[str], names: List[str], wait: int) -> None:
    """Once the manager is free: whoever looks at what was installed (PackageKit) keeps it busy. Raises Failed with its own words."""
    try:
        wait_for_lock(manager, wait)
    except Unfit as reason:
        raise Failed(str(reason))
    found = run(words + names, LISTS_TIMEOUT)
    if found["status"] != "ok" or found["rc"] != 0:
        raise Failed("%s: %s" % (" ".join(words), last_line(found)))


class DriverProof(Step):
    """The driver's packages are configured and of one version, and the running kernel has its module, of the wanted
    flavour. Whether it works shows at the next boot."""

    kind = "driver_proof"

    def describe(self) -> str:
        return "driver_proof %s" % self.wanted["branch"]

    def do(self, journal: Journal, notes: List[str]) -> None:
        manager = self.wanted["manager"]
        for target in self.wanted["names"]:
            names = name_of(target).split(EITHER)
            if not any(installed(manager, name) for name in names):
                raise Unfit("%s is not installed" % " or ".join(names))
        version = one_branch(listed_packages(manager), self.wanted["branch"], self.wanted["version"])
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
