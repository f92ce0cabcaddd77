"""The part of the program on the host that installs and removes packages, and asks CUDA whether it works.

Stdlib only, Python 3.6 or newer: its text goes to the host between the probe's and the transaction's. What a package
manager would do is asked first, in its own simulation, and held against one rule: the named packages and nothing that
belongs to the driver, nothing removed, nothing else upgraded. A target is a package's name, or `NAME=VERSION`.
"""

import base64
import fcntl
import glob
import json
import os
import re
import shutil
import struct
import sys
import time
from html import unescape
from typing import Iterable, List, Mapping, Optional, Sequence, Tuple, Union

from gpumend.payload.change.zypper import (
    ZYPPER_GOOD,
    zypper,
    zypper_changes,
    zypper_download,
    zypper_holder,
    zypper_offers,
    zypper_words,
)
from gpumend.payload.probe.execution import which
from gpumend.payload.probe.files import Json, elf_section
from gpumend.payload.probe.running import run

PackageChange = Tuple[str, str, Optional[str]]  # what, a package's name, its new version

LISTS_TIMEOUT = 900  # seconds; what only reads, or fetches lists: killed in between it harms nothing
SIMULATE_TIMEOUT = 120
CUDA_TIMEOUT = (
    120  # the first cuInit after boot initialises the GPU: tens of seconds on machines with eight of them
)
APT_LOCKS = (
    "/var/lib/dpkg/lock-frontend",
    "/var/lib/dpkg/lock",
    "/var/cache/apt/archives/lock",
    "/var/lib/apt/lists/lock",  # apt itself does not wait for this one, whatever DPkg::Lock::Timeout says
)
# dpkg-query(1), package-status: what apt and `dpkg --configure --pending` finish, whosever it is. A trigger that has not
# run is none of them: it sets nothing up.
HALF = ("U", "F", "H")
# No questions, no service restarted behind our back (needrestart's apt hook), no removal whatever apt comes to think.
APT_ENV = [
    "env",
    "DEBIAN_FRONTEND=noninteractive",
    "NEEDRESTART_SUSPEND=1",
    "NEEDRESTART_MODE=l",
    "APT_LISTCHANGES_FRONTEND=none",
]
DRIVER = re.compile(
    r"nvidia-|libnvidia|cuda-drivers|libcuda1|libnvcuvid1|linux-(?:image|modules|objects|signatures|headers)|kernel"
    r"|kmod-nvidia|akmod-nvidia|dkms|xserver-xorg-video-nvidia|xorg-x11-drv-nvidia|firmware-nvidia"
)
# The NVIDIA Container Toolkit's packages. Their names look like the driver's, and they are the only such ones that may be
# named; released together under one version (nct#1091: mixed ones took the GPU from every container of a CI).
TOOLKIT = (
    "nvidia-container-toolkit",
    "nvidia-container-toolkit-base",
    "libnvidia-container-tools",
    "libnvidia-container1",
)
# Packages of container engines, by the unit whose containers end with them. They are never purged: docker.io's script deletes
# /var/lib/docker then (its postrm, nuke-graph-directory.sh), whoever's images and volumes these were.
ENGINE_UNITS = {
    "docker.io": "docker.service",
    "docker-cli": "docker.service",
    "docker-ce": "docker.service",
    "docker-ce-cli": "docker.service",
    "containerd": "containerd.service",
    "containerd.io": "containerd.service",
    "runc": "containerd.service",
    "podman": "",
}
NEVER = "1.18.0"  # nct#1376: `nvidia-ctk cdi generate` fails in mode cdi; in this tag alone
# Written on its own by the unit that toolkit 1.18 and newer bring; without their programs it is of no use.
LEFT_BEHIND = "/var/run/cdi/nvidia.yaml"

MAX_HISTORY = 50  # of dnf's transactions that are looked at for one of ours
HISTORY = re.compile(r"(?m)^(Transaction ID|Return-Code|Status|Comment)[ \t]*:[ \t]*([^:\n]*)")

ARCHIVES = "/var/cache/apt/archives"  # what apt has fetched, until somebody runs `apt-get clean`

CU_INIT = """
import ctypes
try:
    cuda = ctypes.CDLL("libcuda.so.1")
    version = ctypes.c_int(0)
    print(cuda.cuInit(0), cuda.cuDriverGetVersion(ctypes.byref(version)), version.value)
except (OSError, AttributeError) as error:
    print(-1, -1, error)
"""


# What pulls a driver along, or floats to the newest release of everything (cuda-drivers* is the driver's own, above).
METAPACKAGE = re.compile(r"cuda(?:-\d+(?:-\d+)?)?|cuda-(?:runtime|demo-suite)(?:-\d+-\d+)?")


class Unfit(Exception):
    """It cannot be done here, or did not come out right; the text is for the report."""


# What apt says whatever the reason was, which stands elsewhere; and of its own log.
NO_REASON = ("E: Unable to fetch some archives", "E: Sub-process ", "E: Can not write log")


# zypper's --xmlout: why it does nothing.
IN_XML = re.compile(r'<message type="error">([^<]{1,2000})|<description>(Problem: [^<]{1,2000})')


def last_line(found: Json) -> str:
    """The line of a command's output that says why it failed: of dpkg's errors the one below the package's name, else of apt's the
    first."""
    lines: List[str] = (
        found.get("err", "").strip() or found.get("error", "") or found.get("out", "").strip()
    ).splitlines()
    in_xml = IN_XML.findall(found.get("out", ""))
    if in_xml:  # zypper's
        return unescape(" ".join("".join(in_xml[0]).split()))[:400]
    said = (
        lines + found.get("out", "").splitlines()
    )  # where apt has a terminal, what dpkg says goes to its output
    scripts = [line for line in said if "scriptlet failed" in line]
    if scripts:  # rpm's: dnf goes on to the end after it, and zypper ends with 107
        return str(scripts[0])[:400]
    errors = [line for line in lines if line.startswith(("E:", "Error:", "No match for argument:"))]
    reasons = [line for line in errors if line.startswith("E:") and not line.startswith(NO_REASON)]
    of_dpkg = [
        "%s %s" % (line, below.strip())
        for line, below in zip(said, said[1:])
        if line.startswith("dpkg: error processing ")
    ]
    if of_dpkg or reasons:
        return (of_dpkg or reasons)[0][:400]
    return str((errors or lines or ["exit status %s" % found.get("rc", found["status"])])[-1])[:400]


def apt_changes(text: str) -> List[PackageChange]:
    """What `apt-get -s` would do, in its order: (`install` | `upgrade` | `remove`, name, version or None)."""
    changes = []
    for line in text.splitlines():
        match = re.match(r"(Inst|Remv|Purg) (\S+)(?: \[([^\]]*)\])?(?: \((\S+))?", line)
        if match:
            word, name, old, new = match.groups()
            what = "remove" if word != "Inst" else "upgrade" if old else "install"
            changes.append((what, name.partition(":")[0], new))
    return changes


DNF_SECTIONS = (
    (r"Installing(?: dependencies| weak dependencies| group/module packages)?:", "install"),
    (r"(?:Upgrading|Reinstalling|Replacing|Obsoleting)(?: dependencies)?:", "upgrade"),
    (r"Downgrading(?: dependencies)?:", "downgrade"),
    (r"Removing(?: dependent packages| unused dependencies)?:|Removing [\w ]+:", "remove"),
    (r"Enabling module streams:|Switching module streams:|Disabling modules?:|Resetting modules?:", "module"),
)


def dnf_changes(text: str) -> List[PackageChange]:
    """What `dnf --assumeno` would do: its table's sections, a package a row (measured with dnf 4.14 and dnf5 5.4).
    Below a row is what that replaces: dnf 4 tells of obsoleted packages alone, dnf5 of a package's old version, too, and
    counts both.

    Raises Unfit where the rows that were understood are not as many as dnf's own summary says.
    """
    changes: List[PackageChange] = []
    section, name, expected, replaced = None, "", 0, 0
    for line in text.splitlines():
        count = re.match(
            r"\s*(?:Install|Upgrad|Remov|Downgrad|Reinstall|Replac)\w*:?\s+(\d+) [Pp]ackages?$", line
        )
        expected += int(count.group(1)) if count else 0
        if count or (line and not line[0].isspace()):
            section = next((word for pattern, word in DNF_SECTIONS if re.match(pattern, line)), None)
            continue
        fields = line.split()
        if section is None or not fields:
            continue
        if section == "module":
            changes.append(("module", fields[0], None))
        elif fields[0] == "replacing" and len(fields) > 4:
            replaced += 1
            if not changes or fields[1] != changes[-1][1]:
                changes.append(("remove", fields[1], None))
        elif fields[0] == "replacing":
            changes.append(("remove", fields[1].rpartition(".")[0] or fields[1], None))
        elif len(fields) == 1:
            name = fields[0]  # too long for its column: the rest is on the next row
        else:
            full = [name] + fields if name else fields
            name = ""
            changes.append((section, full[0], re.sub("^0:", "", full[2]) if len(full) > 2 else ""))
    if len([change for change in changes if change[2] is not None]) + replaced != expected:
        raise Unfit("what dnf would do could not be read: %d packages, not %d" % (len(changes), expected))
    return changes


def objection(
    changes: Iterable[PackageChange], action: str, names: Sequence[str], driver: bool = False
) -> str:
    """Why these changes are not made, where these packages are to be installed (or brought to an older version:
    `downgrade`), removed, or put back as they were (`restore`); an empty text where they may be. driver: they are those of
    a driver that a transaction of ours has installed."""
    for what, other, _ in changes:
        named = other in names
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


def lock_holder(paths: Iterable[str] = APT_LOCKS) -> str:
    """Who holds apt's or dpkg's lock (`process 123 (apt-get)`), or an empty text. Asks the kernel and takes no lock."""
    for path in paths:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            question = struct.pack("hhqqi", fcntl.F_WRLCK, 0, 0, 0, 0)
            kind, _, _, _, pid = struct.unpack("hhqqi", fcntl.fcntl(handle, fcntl.F_GETLK, question))
        except (OSError, struct.error):
            continue
        finally:
            os.close(handle)
        if kind != fcntl.F_UNLCK:
            try:
                with open("/proc/%d/comm" % pid) as comm:
                    return "process %d (%s)" % (pid, comm.read().strip())
            except OSError:
                return "process %d" % pid
    return ""


def wait_for_lock(manager: str, seconds: float) -> str:
    """The package manager is free. Returns what to tell where it was waited for; raises Unfit where that took too long.
    dnf waits by itself."""
    asked = {"apt": lock_holder, "zypper": zypper_holder}.get(manager)
    holder = asked() if asked else ""
    if not asked or not holder:
        return ""
    first, began = holder, time.monotonic()
    while holder:
        if time.monotonic() - began > seconds:
            raise Unfit("%s's lock is held by %s; waited %d s for it" % (manager, holder, seconds))
        time.sleep(0.2)
        holder = asked()
    return "waited %d s for %s's lock, which %s held" % (round(time.monotonic() - began), manager, first)


def apt(wait: int, *words: str) -> List[str]:
    """apt-get's argv. It waits for its lock by itself, too: somebody may have been faster."""
    options = ["-o", "DPkg::Lock::Timeout=%d" % max(wait, 1), "-o", "Dpkg::Options::=--force-confold"]
    return APT_ENV + ["apt-get", "-q", "-y", "--no-install-recommends"] + options + list(words)


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
    return ["remove" if action == "purge" and manager == "dnf" else action] + words


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


def half_installed() -> List[str]:
    """dpkg's packages that are half-installed. Raises Unfit where dpkg does not say."""
    found = run(["dpkg-query", "-W", "-f=${db:Status-Abbrev}\\t${Package}\\n"], 20)
    if found["status"] != "ok" or found["rc"] not in (0, 1):
        raise Unfit("dpkg-query: %s" % last_line(found))
    rows = [line.split("\t") for line in found["out"].splitlines()]
    return sorted(row[1] for row in rows if len(row) == 2 and row[0][1:2] in HALF)


def left_alone(names: Iterable[str]) -> None:
    """No other package than these is half-installed. Raises Unfit: whatever apt is asked for, it finishes those, too
    (apt-pkg's order list takes every package that needs to be configured), and their scripts may restart anything."""
    others = sorted(set(half_installed()) - set(names))
    if others:
        told = " ".join(others)
        raise Unfit(
            "apt would finish %s as well, which is not ours: `dpkg --configure %s` first" % (told, told)
        )


def dpkg(*words: str) -> None:
    """dpkg has done this to the packages that are named, and to no other. Raises Unfit with its own words."""
    found = run(APT_ENV + ["dpkg", "--force-confold"] + list(words), None)
    if found["status"] != "ok" or found["rc"] != 0:
        raise Unfit("dpkg %s: %s" % (" ".join(words), last_line(found)))


def way_back(manager: str, changes: Iterable[PackageChange]) -> None:
    """Each package that would get another version can be had in its present one, too. Raises Unfit: what cannot be put
    back is not changed."""
    for what, name, _ in changes:
        if what in ("upgrade", "downgrade") and not offered(manager, name, installed(manager, name)):
            raise Unfit(
                "there would be no way back: %s no longer has %s %s"
                % (manager, name, installed(manager, name))
            )


def cached(name: str, version: Optional[str]) -> Optional[str]:
    """apt's own archive of a package in that version, or None. In its name a colon is %3a."""
    found = glob.glob("%s/%s_%s_*.deb" % (ARCHIVES, name, glob.escape((version or "").replace(":", "%3a"))))
    return found[0] if found else None


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


def upstream(version: str) -> str:
    """A package's version without epoch and revision: `1:1.17.8-1` -> `1.17.8`."""
    return version.rpartition(":")[2].rpartition("-")[0] or version.rpartition(":")[2]


def one_version(versions: Mapping[str, Optional[str]]) -> str:
    """The one upstream version of these packages (name -> version, None for one that is not there), as far as they are
    there. Raises Unfit where they differ, and for a version that is never right."""
    found = sorted(set(upstream(version) for version in versions.values() if version))
    if len(found) != 1:
        told = ", ".join("%s %s" % (name, version) for name, version in sorted(versions.items()) if version)
        raise Unfit("the toolkit's packages would not be of one version: %s" % (told or "none is there"))
    if found[0] == NEVER:
        raise Unfit("the toolkit would be %s, which is never right (nct#1376): name another" % NEVER)
    return found[0]


def safe_version(version: str, least: str, broken: Sequence[str]) -> None:
    """The toolkit's version is one that may be installed: `least` or newer, and none of `broken`. Raises Unfit. 1.19.1~rc.1 is
    older than 1.19.1."""
    bare = version.partition("~")[0]
    if least and (numbers(bare) < numbers(least) or (numbers(bare) == numbers(least) and bare != version)):
        raise Unfit(
            "the toolkit would be %s, which is below the security floor %s (`gpumend explain GM203`)"
            % (version, least)
        )
    if bare in broken:
        raise Unfit("the toolkit would be %s, which is a broken release (`gpumend explain GM220`)" % version)


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
            len(versions) > 1
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


def dnf(mark: str, *words: str) -> List[str]:
    """dnf's argv, for what it is to do at once. mark: what its history says of it, by which it is found again (dnf(8) --comment)."""
    return ["dnf", "-y", "--setopt=install_weak_deps=False", "--comment=" + mark] + list(words)


def broken_off(mark: str) -> str:
    """The number of dnf's newest transaction of that mark where it has not come to its end, or an empty text: dnf 4 says
    `Return-Code : Failure`, dnf5 `Status : Started` (measured with 4.14 and 5.4, whose dnf was killed)."""
    number = "last"
    for _ in range(MAX_HISTORY):
        said = dict(HISTORY.findall(run(["dnf", "history", "info", number], 60).get("out", "")))
        ident = said.get("Transaction ID", "")
        if said.get("Comment") == mark:
            return "" if said.get("Return-Code", said.get("Status")) in ("Success", "Ok") else ident
        if not ident.isdigit() or int(ident) < 2:  # asked for number 0, dnf 4 does not come to its end
            return ""
        number = str(int(ident) - 1)
    return ""


def redo(mark: str, number: str) -> None:
    """dnf has done what is left of one of its transactions, and of no other: of an upgrade that broke off it takes the old
    packages away. Raises Unfit with its own words."""
    found = run(dnf(mark, "history", "redo", number), None)
    if found["status"] != "ok" or found["rc"] != 0:
        raise Unfit("dnf history redo %s: %s" % (number, last_line(found)))


def perform(
    manager: str,
    action: str,
    targets: Sequence[str],
    changes: Iterable[PackageChange],
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
    if manager == "apt":
        flags = ["--no-remove"] if action in ("install", "downgrade") else []
        found = run(apt(wait, *(flags + words)), None)
    else:
        found = run(zypper(wait, *words) if manager == "zypper" else dnf(mark, *words), None)
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
        for action, targets in steps:
            wait_for_lock(manager, wait)
            simulate(manager, action, targets, wait, driver=any(entry.get("driver") for entry in mine))
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


def prove_toolkit(manager: str, version: Optional[str]) -> str:
    """The toolkit's packages are of one version, of `version` where one is given, and its programs answer with it. Returns
    what was seen; raises Unfit otherwise."""
    have = one_version(dict((name, installed(manager, name)) for name in TOOLKIT))
    if version and upstream(version) != have:
        raise Unfit("the toolkit's packages are %s, not %s" % (have, version))
    for program in ("nvidia-ctk", "nvidia-container-runtime"):
        if which(program) is None:
            raise Unfit("the packages brought no %s" % program)
    found = run(["nvidia-ctk", "--version"], 20)
    match = re.search(r"version (\d+\.\d+\.\d+)", found.get("out", ""))
    if found["status"] != "ok" or found["rc"] != 0 or match is None:
        raise Unfit("nvidia-ctk --version gives no answer: %s" % last_line(found))
    if numbers(match.group(1)) != numbers(have)[:3]:
        raise Unfit("nvidia-ctk says it is %s, its packages are %s" % (match.group(1), have))
    return "nvidia-ctk answers as %s" % have


def numbers(text: str) -> Tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text))


def check_note(directory: str, section: str, driver: str) -> None:
    """The compat library in a directory says itself that it is for the loaded driver (its ELF note), and is newer.

    Raises Unfit. The rule is nvidia-container-toolkit's: branch in the list, and compat newer than the host's driver.
    """
    libraries = [
        path for path in glob.glob(os.path.join(directory, "libcuda.so.*.*")) if not os.path.islink(path)
    ]
    if not libraries:
        raise Unfit("there is no libcuda in %s" % directory)
    path = max(libraries, key=lambda name: numbers(name.rpartition(".so.")[2]))
    version = path.rpartition(".so.")[2]
    found = elf_section(path, section)
    if found["status"] != "ok":
        raise Unfit("%s has no note that says which drivers it is for (%s)" % (path, found.get("error")))
    data = base64.b64decode(found["data"])
    try:
        branches = json.loads(data[data.index(b"{") : data.rindex(b"}") + 1].decode("utf-8"))["driver"]
    except (ValueError, KeyError, UnicodeDecodeError):
        branches = None
    if not isinstance(branches, list):
        raise Unfit("%s has a note that cannot be read" % path)
    with_loaded = loaded_driver() or driver
    if numbers(with_loaded)[0] not in branches:
        listed = ", ".join(map(str, branches))
        raise Unfit("%s is not for driver %s: its note lists the branches %s" % (path, with_loaded, listed))
    if numbers(version) <= numbers(with_loaded):
        raise Unfit("%s is not newer than the loaded driver %s" % (path, with_loaded))


def loaded_driver() -> Optional[str]:
    """The loaded module's version, now; or None."""
    try:
        with open("/proc/driver/nvidia/version") as handle:
            match = re.search(r"Kernel Module\s+(?:for \S+\s+)?(\d+(?:\.\d+)+)", handle.read())
    except OSError:
        return None
    return match.group(1) if match else None


def cu_init(directory: str = "") -> Tuple[int, int]:
    """(cuInit's answer, CUDA version served as cuDriverGetVersion gives it) in a process of its own, with a directory
    first on its library path or with none. -1 where there is no libcuda. Raises Unfit where it does not answer."""
    python = sys.executable or which("python3") or "python3"
    path = ["env", "LD_LIBRARY_PATH=" + directory] if directory else ["env", "-u", "LD_LIBRARY_PATH"]
    found = run(path + [python, "-I", "-S", "-B", "-c", CU_INIT], CUDA_TIMEOUT)
    match = re.match(r"(-?\d+) (-?\d+) (.*)", found.get("out", ""))
    if found["status"] != "ok" or match is None:
        raise Unfit("cuInit gave no answer: %s" % last_line(found))
    return int(match.group(1)), int(match.group(3)) if match.group(2) == "0" else 0


def shown(answer: Tuple[int, int]) -> str:
    """(0, 13000) -> `cuInit 0, CUDA 13.0`."""
    rc, version = answer
    return "no libcuda" if rc == -1 else "cuInit %d, CUDA %d.%d" % (rc, version // 1000, version % 1000 // 10)


def prove_cuda(kind: str, directory: str, version: Union[int, str], before: Tuple[int, int]) -> str:
    """CUDA works as it should now: `with` the directory on the path, or as the whole `host` has it, cuInit is 0 and at
    least `version` is served; `plain`: cuInit is 0 without it. Returns what was seen; raises Unfit otherwise."""
    plain = cu_init()
    if kind == "plain":
        seen, least = plain, 0
    else:
        seen, least = (plain if kind == "host" else cu_init(directory)), int(version)
    told = "without: %s; with %s: %s" % (shown(before if kind == "host" else plain), directory, shown(seen))
    if kind == "plain":
        told = "before: %s; now: %s" % (shown(before), shown(plain))
    if seen[0] != 0 or seen[1] < least:
        raise Unfit("CUDA does not work with it (%s)" % told)
    return told
