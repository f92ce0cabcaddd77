"""The part of the program on the host that installs and removes packages, whichever manager the host has.

Stdlib only, Python 3.6 or newer: its text goes to the host between the probe's and the transaction's. What a package
manager would do is asked first, in its own simulation, and held against one rule: the named packages and nothing that
belongs to the driver, nothing removed, nothing else upgraded. A target is a package's name, or `NAME=VERSION`.
"""

import glob
import os
import re
import shutil
from typing import Dict, Iterable, List, Optional, Sequence, Tuple

from gpumend.payload.change.apt import HALF, apt, apt_changes, cached, dpkg, half_installed, left_alone
from gpumend.payload.change.dnf import dnf, dnf_changes, dnf_versions
from gpumend.payload.change.managers import ENGINE_UNITS, PackageChange, Unfit, last_line
from gpumend.payload.change.package_locks import wait_for_lock
from gpumend.payload.change.progress import at_work_on
from gpumend.payload.change.toolkit_version import TOOLKIT, one_version, safe_version
from gpumend.payload.change.zypper import (
    ZYPPER_GOOD,
    ZYPPER_NOT_FOUND,
    zypper,
    zypper_changes,
    zypper_download,
    zypper_offers,
    zypper_versions,
    zypper_words,
)
from gpumend.payload.probe.files import Json
from gpumend.payload.probe.running import run

LISTS_TIMEOUT = 900  # seconds; what only reads, or fetches lists: killed in between it harms nothing
SIMULATE_TIMEOUT = 120

DRIVER = re.compile(
    r"nvidia-|libnvidia|cuda-drivers|libcuda1|libnvcuvid1|linux-(?:image|modules|objects|signatures|headers)|kernel"
    r"|kmod-nvidia|akmod-nvidia|dkms|xserver-xorg-video-nvidia|xorg-x11-drv-nvidia|firmware-nvidia"
)

# Written on its own by the unit that toolkit 1.18 and newer bring; without their programs it is of no use.
LEFT_BEHIND = "/var/run/cdi/nvidia.yaml"

# What pulls a driver along, or floats to the newest release of everything (cuda-drivers* is the driver's own, above).
METAPACKAGE = re.compile(r"cuda(?:-\d+(?:-\d+)?)?|cuda-(?:runtime|demo-suite)(?:-\d+-\d+)?")


def objection(
    changes: Iterable[PackageChange], action: str, names: Sequence[str], driver: bool = False
) -> str:
    """Why these changes are not made, where these packages are to be installed (or brought to an older version:
    `downgrade`), removed, or put back as they were (`restore`); an empty text where they may be. driver: they are those of
    a driver that a transaction of ours has installed."""
    for what, other, version in changes:
        named = other in names or one_of_many(other, version) in names
        if DRIVER.match(other) and not (named and (driver or other in TOOLKIT)):
            return "it would %s the driver's %s" % (what, other)
        if what != "remove" and METAPACKAGE.fullmatch(other):
            return "it would %s %s, which pulls a driver" % (what, other)
        if what == "module":
            return "it would change the module stream %s" % other
        if what == "remove" and not (named and action in ("remove", "purge", "restore")):
            return "it would remove %s" % other
        if what in ("upgrade", "downgrade") and not named:
            return "it would %s %s" % (what, other)
        if what == "downgrade" and action == "install":
            return "it would downgrade %s" % other
        if what != "remove" and (action in ("remove", "purge") or (action == "restore" and not named)):
            return "it would %s %s" % (what, other)
    return ""


def one_of_many(name: str, version: Optional[str]) -> str:
    """What rpm and dnf call this one where others of its name are there, too (dnf.conf(5) installonlypkgs): NAME-VERSION."""
    return "%s-%s" % (name, re.sub("^[0-9]+:", "", version or ""))


def name_of(target: str) -> str:
    """apt takes `NAME-` for one that is to go."""
    return target.partition("=")[0].rstrip("-")


def word(manager: str, target: str) -> str:
    """A target as the manager takes it. A version without a revision stands for each of its revisions."""
    name, _, version = target.partition("=")
    if not version:
        return name
    if manager == "apt":
        return "%s=%s" % (name, version if "-" in version else version + "-*")
    return "%s-%s" % (name, version)


def arguments(manager: str, action: str, targets: Iterable[str]) -> List[str]:
    """What follows `apt-get` or `dnf`. dnf's install takes a package down to a version that is named, too."""
    if manager == "zypper":
        return zypper_words(action, targets)
    words = [word(manager, target) for target in targets]
    if action in ("downgrade", "restore"):
        # One whose upgrade broke off before it was unpacked has its old version, and dpkg wants it anew.
        anew = manager == "apt" and any(status_of("apt", name_of(target))[0] == "H" for target in targets)
        flags = ["--allow-downgrades"] + (["--reinstall"] if anew else [])
        return (["install"] + flags if manager == "apt" else ["install"]) + words
    if manager == "dnf" and action in ("remove", "purge"):  # and nothing that came for somebody else
        return ["remove", "--setopt=clean_requirements_on_remove=False"] + words
    return [action] + words


def foreseen(manager: str, action: str, targets: Sequence[str], wait: int) -> List[PackageChange]:
    """What the manager would do. Raises Unfit where it would not do it."""
    names = [name_of(target) for target in targets]
    called = "%s %s" % (action, " ".join(targets))
    words = arguments(manager, action, targets)
    if manager == "apt":
        left_alone(names)
        argv = apt(wait, "-s", *words)
        found = run(argv, SIMULATE_TIMEOUT)
        if (
            action in ("install", "downgrade")
            and found.get("rc") == 100
            and re.search(r"Unable to locate|no installation candidate|was not found", found["err"])
        ):
            wait_for_lock(manager, wait)
            run(apt(wait, "update"), LISTS_TIMEOUT)  # lists that were never fetched, or are old
            found = run(argv, SIMULATE_TIMEOUT)
        changes = apt_changes(found.get("out", ""))
        good = found["status"] == "ok" and found["rc"] == 0
    elif manager == "zypper":
        dry = zypper(wait, "--xmlout", words[0], "--dry-run", *words[1:])
        found = run(dry, LISTS_TIMEOUT)
        read = zypper_changes(found.get("out", ""))
        changes = read or []
        good = found["status"] == "ok" and found["rc"] in ZYPPER_GOOD and read is not None
    else:
        found = run(["dnf", "--assumeno", "--setopt=install_weak_deps=False"] + words, LISTS_TIMEOUT)
        changes = dnf_changes(found.get("out", ""))
        # --assumeno ends with status 1 by design; then its table is there
        good = found["status"] == "ok" and (found["rc"] == 0 or bool(changes))
    if not good or found.get("cut"):
        raise Unfit("%s cannot %s: %s" % (manager, called, last_line(found)))
    return changes


def simulate(
    manager: str,
    action: str,
    targets: Sequence[str],
    wait: int,
    least: str = "",
    broken: Sequence[str] = (),
    driver: bool = False,
) -> List[PackageChange]:
    """What the manager would do. Raises Unfit where it would not do it, or more than it may, or would bring the toolkit in a
    version below `least` or in one of `broken`. driver: as in `objection`."""
    names = [name_of(target) for target in targets]
    changes = foreseen(manager, action, targets, wait)
    against = objection(changes, action, names, driver)
    if against:
        raise Unfit("%s %s is refused: %s" % (action, " ".join(targets), against))
    if action in ("install", "downgrade"):
        way_back(manager, changes)
        if any(name in TOOLKIT for name in names):
            will_be = dict((name, installed(manager, name)) for name in TOOLKIT)
            will_be.update((name, version) for _, name, version in changes if name in TOOLKIT)
            safe_version(one_version(will_be), least, broken)
    return changes


def way_back(manager: str, changes: Iterable[PackageChange]) -> None:
    """Each package that would get another version can be had in its present one, too. Raises Unfit: what cannot be put
    back is not changed."""
    for what, name, _ in changes:
        if what in ("upgrade", "downgrade") and not offered(manager, name, installed(manager, name)):
            raise Unfit(
                "there would be no way back: %s no longer has %s %s"
                % (manager, name, installed(manager, name))
            )


def way_home(manager: str, name: str) -> None:
    """A package that is to go can be had again in its version. Raises Unfit: what cannot be put back is not removed."""
    version = installed(manager, name)
    if not (manager == "apt" and cached(name, version)) and not offered(manager, name, version):
        raise Unfit(
            "there would be no way back: neither a repository nor apt's cache has %s %s" % (name, version)
        )


def keep_archive(manager: str, name: str, version: Optional[str], directory: str) -> str:
    """The path of a copy of an installed package in that directory. Raises Unfit or OSError."""
    there = cached(name, version) if manager == "apt" else None
    found: Json = {"status": "failed"}
    if there:
        return str(shutil.copy(there, directory))
    if manager == "apt":
        found = run(
            ["env", "-C", directory, "apt-get", "-q", "download", "%s=%s" % (name, version)], LISTS_TIMEOUT
        )
    elif manager == "dnf":
        found = run(
            ["dnf", "-q", "download", "--destdir=" + directory, "%s-%s" % (name, version)], LISTS_TIMEOUT
        )
    kept = glob.glob("%s/%s[-_]*.%s" % (directory, name, "deb" if manager == "apt" else "rpm"))
    if manager == "zypper":
        found, kept = zypper_download(name, version, directory, LISTS_TIMEOUT)
    if found["status"] != "ok" or found["rc"] != 0 or not kept:
        raise Unfit("%s %s cannot be kept, so it is not removed: %s" % (name, version, last_line(found)))
    return kept[0]


def offered(manager: str, name: str, version: Optional[str]) -> bool:
    """Whether a repository of this host has that version of a package."""
    if manager == "apt":
        rows = [row.split("|") for row in run(["apt-cache", "madison", name], 60).get("out", "").splitlines()]
        return any(len(row) == 3 and row[1].strip() == version for row in rows)
    if manager == "zypper":
        return zypper_offers(name, version, LISTS_TIMEOUT)
    found = run(["dnf", "-q", "repoquery", "%s-%s" % (name, version)], LISTS_TIMEOUT)
    return found.get("rc") == 0 and bool(found.get("out", "").strip())


def rpm_versions(manager: str, names: Iterable[str], hidden: bool = False) -> Dict[str, List[str]]:
    """VERSION-RELEASEs of these packages that repositories of dnf or zypper have. hidden: as in `dnf_versions`. Raises Unfit."""
    if manager != "zypper":
        return dnf_versions(names, LISTS_TIMEOUT, hidden)
    found, versions = zypper_versions(names, LISTS_TIMEOUT)
    if found["status"] != "ok" or found["rc"] not in ZYPPER_GOOD + (ZYPPER_NOT_FOUND,):
        raise Unfit("zypper search %s: %s" % (" ".join(names), last_line(found)))
    return versions


def status_of(manager: str, name: str) -> Tuple[str, Optional[str]]:
    """(dpkg's letter of a package's state, version), `i` where all is well; (`n`, None) for one that is not known. Raises
    Unfit where the database does not say: what passed for not there would be taken away again by a rollback."""
    if manager == "apt":
        found = run(["dpkg-query", "-W", "-f=${db:Status-Abbrev}\\t${Version}\\n", name], 20)
        if found["status"] != "ok" or found["rc"] not in (0, 1):  # 1: no such package, dpkg-query(1)
            raise Unfit("dpkg-query %s: %s" % (name, last_line(found)))
        rows = [line.split("\t") for line in found.get("out", "").splitlines()]
        return next(((row[0][1:2], row[1]) for row in rows if len(row) == 2), ("n", None))
    found = run(["rpm", "-q", "--qf", "%{VERSION}-%{RELEASE}\\n", name], 20)
    if found.get("rc") == 0 and found.get("out"):
        versions = found["out"].split()
        if (
            len(set(versions)) > 1
        ):  # an upgrade that broke off before it took the old one away (dnf(8) --duplicates)
            told = " and ".join(versions)
            raise Unfit("%s is there as %s: `dnf remove` the one that does not belong there" % (name, told))
        return "i", versions[0]
    if found["status"] != "ok" or "is not installed" not in found["out"]:
        raise Unfit("rpm -q %s: %s" % (name, last_line(found)))
    return "n", None


def installed(manager: str, name: str) -> Optional[str]:
    """A package's installed version, or None."""
    letter, version = status_of(manager, name)
    return version if letter == "i" else None


def perform(
    manager: str,
    action: str,
    targets: Sequence[str],
    changes: Sequence[PackageChange],
    wait: int,
    mark: str = "gpumend",
) -> None:
    """Do what was simulated, in the versions that it showed. Raises Unfit with the manager's own words where it fails."""
    exact = dict((name, version) for what, name, version in changes if what != "remove" and version)
    if action in ("install", "downgrade"):
        # One that is not among the changes has its version already, and is to keep it.
        names = [name_of(target) for target in targets]
        pinned = [(name, exact.get(name) or installed(manager, name)) for name in names]
        targets = ["%s=%s" % pair if pair[1] else pair[0] for pair in pinned]
    words = arguments(manager, action, targets)
    count = len(changes or targets)
    at_work_on("%s of %d package%s" % (action, count, "s" * (count != 1)))
    if manager == "apt":
        flags = ["--no-remove"] if action in ("install", "downgrade") else []
        found = run(apt(wait, *(flags + words)), None)
    else:
        found = run(zypper(wait, *words) if manager == "zypper" else dnf(mark, *words), None)
    at_work_on("")
    good = ZYPPER_GOOD if manager == "zypper" else (0,)
    if found["status"] != "ok" or found["rc"] not in good:
        raise Unfit("%s %s %s: %s" % (manager, action, " ".join(targets), last_line(found)))


def package_entries(manager: str, changes: Iterable[PackageChange]) -> List[Json]:
    """For the journal: what each package is now that these changes are about to make another."""
    found = []
    for _, name, version in changes:
        letter, _ = status_of(manager, name)
        entry: Json = {"manager": manager, "name": name, "before": installed(manager, name), "after": version}
        entry["purge"] = letter == "n" and name not in ENGINE_UNITS
        entry["leaves"] = [LEFT_BEHIND] if name == TOOLKIT[1] and not os.path.exists(LEFT_BEHIND) else []
        found.append(entry)
    return found


def bring_back(found: Sequence[Json], wait: int) -> None:
    """Packages of these entries that are not there, and whose archives were kept, are there again. Raises Unfit."""
    for entry in found:
        path = entry.get("archive", "")
        if not os.path.isfile(path) or status_of(entry["manager"], entry["name"])[0] not in ("n", "c"):
            continue
        wait_for_lock(entry["manager"], wait)
        if entry["manager"] == "apt":
            dpkg("--install", path)
        else:
            done = run(["rpm", "--upgrade", "--oldpackage", path], None)
            if done["status"] != "ok" or done["rc"] != 0:
                raise Unfit("rpm --upgrade %s: %s" % (path, last_line(done)))


def take_back(found: Sequence[Json], wait: int, mark: str = "gpumend") -> None:
    """The packages of these entries are as they were before their transaction: what it installed is gone, what it removed
    is back, what it gave another version has its old one. Raises Unfit where not."""
    bring_back(found, wait)
    for manager in sorted(set(entry["manager"] for entry in found)):
        mine = [entry for entry in found if entry["manager"] == manager]
        gone = [
            entry
            for entry in mine
            if entry["before"] is None and status_of(manager, entry["name"])[0] not in ("n", "c")
        ]
        back = [entry for entry in mine if entry["before"] not in (None, installed(manager, entry["name"]))]
        steps = []
        if gone:
            purge = all(entry.get("purge", False) for entry in gone)
            steps.append(("purge" if purge else "remove", [entry["name"] for entry in gone]))
        if back:
            steps.append(("restore", ["%s=%s" % (entry["name"], entry["before"]) for entry in back]))
        if manager == "apt" and any(status_of("apt", entry["name"])[0] == "H" for entry in gone):
            # Broken off before it was unpacked: dpkg wants to be forced, and apt does not do that.
            names = [entry["name"] for entry in gone]
            dpkg("--force-remove-reinstreq", "--purge" if purge else "--remove", *names)
            steps = steps[1:]
        elif manager == "apt" and gone and not back and set(half_installed()) - set(e["name"] for e in mine):
            # apt would finish others', too
            dpkg("--" + steps[0][0], *steps[0][1])
            steps = []
        if manager == "apt" and gone and len(steps) > 1:  # in one go: neither need be possible alone
            away = [entry["name"] + "-" for entry in gone]
            steps = [("restore", steps[1][1] + away)]
        driver = any(entry.get("driver") for entry in mine)
        if manager != "apt" and len(steps) > 1:
            wait_for_lock(manager, wait)
            try:
                simulate(manager, *steps[0], wait, driver=driver)
            except Unfit:  # what has its old version afterwards may need it until then
                steps.reverse()
        for action, targets in steps:
            wait_for_lock(manager, wait)
            simulate(manager, action, targets, wait, driver=driver)
            perform(manager, action, targets, [], wait, mark)
        for entry in gone:
            for path in entry.get("leaves", ()):
                if os.path.exists(path):
                    os.unlink(path)
        for entry in mine:
            letter, version = status_of(manager, entry["name"])
            if (None if letter in ("n", "c") else version) != entry["before"] or letter in HALF:
                told = (entry["name"], version, entry["before"] or "not there")
                raise Unfit("%s is %s and not whole, it was %s" % told)
