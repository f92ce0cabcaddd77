"""Installed packages that concern GPUs and containers, from dpkg and rpm."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from types import MappingProxyType

from gpumend.state.host import release_fields
from gpumend.state.reading import Reading, Status
from gpumend.state.request import Command, Glob, Request
from gpumend.state.snapshot import Output, Snapshot
from gpumend.text.record import Record
from gpumend.text.shared import shared

PATTERNS = (
    "nvidia*", "libnvidia*", "cuda*", "cudnn*", "libcu*", "libnv*", "libnpp*", "libnccl*", "nv-tensorrt*", "tensorrt*",
    "gds-tools*", "docker*", "containerd*", "runc", "crun", "podman*", "cri-o*", "criu", "linux-modules-nvidia*",
    "linux-objects-nvidia*", "linux-signatures-nvidia*", "xserver-xorg-video-nvidia*", "unattended-upgrades",
)  # fmt: skip

# The NVIDIA Container Toolkit's packages (install guide 1.20): released together, under one version.
TOOLKIT = (
    "nvidia-container-toolkit", "nvidia-container-toolkit-base", "libnvidia-container-tools", "libnvidia-container1",
)  # fmt: skip
# cuda-compat by release, and the directory by which one is seen to be there (CUDA compatibility guide, Installation).
COMPATS = {
    f"cuda-compat-{major}-{minor}": f"/usr/local/cuda-{major}.{minor}/compat"
    for major in range(11, 15)
    for minor in range(10)
}
ARCHIVES = "/var/cache/apt/archives/cuda-compat-*.deb"
# Without these two files on disk, the cache is built in memory: as root, apt-cache would write it (measured).
NO_CACHE = ("-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache=")

# rpm's database by its back ends (bdb, ndb, sqlite) and places: Red Hat and Amazon; Fedora and SUSE; rpm-ostree. Without one
# `rpm -qa` as root makes it: rpm lib/backend/sqlite.c, seen with Debian's rpm 6.1.0, whose directory is empty.
RPM_DATABASES = tuple(
    f"{directory}/{name}"
    for directory in ("/var/lib/rpm", "/usr/lib/sysimage/rpm", "/usr/share/rpm")
    for name in ("rpmdb.sqlite", "Packages", "Packages.db")
)

# dpkg-query(1): the second letter is the package's state, the third says that it must be installed anew.
BROKEN = r"\wU|\wF|\wH|\wW|\wt|\w\wR"
NAMES = "|".join(pattern.replace("*", r"[^\t\n]*") for pattern in PATTERNS)
DPKG_KEEP = rf"(?m)^(?:[^\t\n]*\t(?:{NAMES})\t|(?:{BROKEN})[^\t\n]*\t)[^\n]*$"
# dpkg-query(1), package-status letters
HALVES = {
    "U": "unpacked, not configured",
    "F": "half-configured: its configuration script failed or was killed",
    "H": "half-installed: its installation broke off",
    "W": "waits for another package's trigger",
    "t": "its trigger has not run",
}

REQUEST = Request(
    globs=(Glob(ARCHIVES, read=False),),
    programs=("apt-get", "dnf", "zypper", "rpm"),
    commands={
        # A second of one core's time where there are many lists: only where the toolkit could be wanted and is not there.
        "apt-offers": Command(
            (
                "apt-cache",
                *NO_CACHE,
                "policy",
                *TOOLKIT,
                "apt",
            ),  # apt itself tells whether there are lists at all
            timeout=20,
            needs=("/proc/driver/nvidia/version",),
            spares=("/usr/bin/nvidia-ctk",),
        ),
        # Whether one that the driver has outgrown could be had again: only where there is one.
        "compat-offers": Command(
            ("apt-cache", *NO_CACHE, "policy", *COMPATS), timeout=20, needs_one=tuple(COMPATS.values())
        ),
        # All are asked for: it costs the same, and of the others those leave the host that are not whole.
        "dpkg": Command(
            ("dpkg-query", "-W", "-f=${db:Status-Abbrev}\\t${Package}\\t${Version}\\n"),
            timeout=20,
            keep=DPKG_KEEP,
        ),
        "rpm": Command(
            ("rpm", "-qa", "--qf", "%{NAME}\\t%{EPOCH}:%{VERSION}-%{RELEASE}\\n"),
            timeout=20,
            needs_one=RPM_DATABASES,
        ),
    },
)


class Offer(Record):
    """What apt has of one package. candidate: what it would install; versions: all that a repository offers, newest first."""

    candidate: str | None
    versions: tuple[str, ...]


class Packages(Record):
    """installed: package name -> full version, of dpkg and rpm together. held: names that dpkg is told to leave as
    they are (`apt-mark hold`). manager: `apt`, `dnf` or `zypper`, whose database the driver's packages would be in; empty where
    neither dpkg nor rpm answers. managers: package managers that are here. offers: what apt's lists have of the toolkit's
    packages; absent where that was not asked (the toolkit is there, no driver is loaded, or there is no apt).
    fetched: whether apt has its distribution's lists. halves: of dpkg's packages, GPU's or not, those that are not whole:
    name -> in which way. compats: what apt's lists have of cuda-compat's packages, where one is there; archives: those that
    apt has kept. doubles: rpm's packages of which two versions are there, which is one too many.
    forbidden: of the toolkit's packages those that repositories have and a pin forbids, in every version."""

    installed: Reading[Mapping[str, str]]
    held: frozenset[str] = frozenset()
    manager: str = ""
    managers: tuple[str, ...] = ()
    offers: Reading[Mapping[str, Offer]] = Reading.none("apt-cache policy")
    fetched: bool = False
    halves: Reading[Mapping[str, str]] = Reading.none("dpkg-query")
    compats: Reading[Mapping[str, Offer]] = Reading.none("apt-cache policy")
    archives: tuple[str, ...] = ()
    doubles: Mapping[str, str] = MappingProxyType({})
    forbidden: frozenset[str] = frozenset()

    def unfinished(self) -> tuple[str, ...]:
        """dpkg's packages that apt finishes, whosever they are, whatever else it is asked for: all that are not whole but
        those whose triggers have not run."""
        triggers = (HALVES["W"], HALVES["t"])
        return tuple(sorted(name for name, why in (self.halves.value or {}).items() if why not in triggers))

    def comes_back(self, name: str) -> bool | None:
        """Whether an installed cuda-compat could be had again in its version: from a repository, or from apt's archives. None
        where that is not known."""
        version = (self.installed.value or {}).get(name, "")
        if self.manager != "apt" or not self.compats.ok or not version:
            return None
        kept = f"/{name}_{version.replace(':', '%3a')}_"
        offer = (self.compats.value or {}).get(name)
        return bool(offer and version in offer.versions) or any(kept in path for path in self.archives)

    def concerned(self, names: Iterable[str]) -> frozenset[str]:
        """Of these packages the ones of GPUs and containers."""
        return frozenset(name for name in names if any(fnmatchcase(name, pattern) for pattern in PATTERNS))


@shared(64)
def _rows(text: str) -> tuple[tuple[str, str, str], ...]:
    """(status, name, version) of dpkg-query's lines."""
    rows = (line.split("\t") for line in text.splitlines())
    return tuple((row[0], row[1], row[2]) for row in rows if len(row) == 3)


def parse_dpkg(output: Output) -> dict[str, str]:
    """Packages whose status is installed. dpkg-query exits 1 when one pattern matches nothing: no error."""
    found = {name: version for status, name, version in _rows(output.out) if status[1:2] == "i"}
    if output.rc not in (0, 1):  # negative: killed by a signal, in the middle of its list
        raise ValueError(f"dpkg-query: exit status {output.rc}: {output.err.strip()}")
    return found


def parse_halves(output: Output) -> dict[str, str]:
    """Packages of which dpkg says that their installation, configuration or removal did not come to its end."""
    return {
        name: HALVES.get(status[1:2], "it has to be installed anew")
        for status, name, _ in _rows(output.out)
        if status[1:2] in HALVES or status[2:3] == "R"
    }


def parse_held(output: Output) -> frozenset[str]:
    """Installed packages on hold: the first letter of dpkg's status, the wish, is `h`."""
    return frozenset(name for status, name, _ in _rows(output.out) if status[:2] == "hi")


def parse_rpm(output: Output) -> dict[str, str]:
    """Name -> [epoch:]version-release; an epoch of (none) is left out."""
    if output.rc:
        raise ValueError(f"rpm: exit status {output.rc}: {output.err.strip()}")
    found = {}
    for line in output.out.splitlines():
        name, _, version = line.partition("\t")
        if version := version.removeprefix("(none):"):
            found[name] = version
    return found


# Of these rpm never keeps two on purpose, as it does of kernels and their modules (dnf.conf(5) installonlypkgs).
SINGLE = (*TOOLKIT, "docker*", "containerd*", "podman*", "cri-o*", "runc", "crun")


def parse_doubles(output: Output) -> dict[str, str]:
    """rpm's packages of which two versions are there: an upgrade broke off before the old one was gone."""
    found: dict[str, set[str]] = {}
    for line in output.out.splitlines():
        name, _, version = line.partition("\t")
        if any(fnmatchcase(name, pattern) for pattern in SINGLE):
            found.setdefault(name, set()).add(version.removeprefix("(none):"))
    return {name: " and ".join(sorted(each)) for name, each in found.items() if len(each) > 1}


def parse_policy(output: Output) -> dict[str, Offer]:
    """`apt-cache policy`: a package's versions with a repository that may be used; those that only dpkg knows of, or that a
    pin below 0 forbids (apt_preferences(5)), are not offered."""
    found: dict[str, Offer] = {}
    for block in re.split(r"(?m)^(?=\S)", output.out):
        name = block.partition(":")[0]
        candidate = re.search(r"(?m)^  Candidate: (\S+)$", block)
        versions = []
        for row in re.split(r"(?m)^ (?:\*\*\*|   ) (?=\S)", block)[1:]:
            head, *sources = row.splitlines()
            told = re.match(r"(\S+) (-?\d+)", head)
            if told and int(told.group(2)) >= 0 and any("/var/lib/dpkg/status" not in row for row in sources):
                versions.append(told.group(1))
        if name and versions:
            known = candidate.group(1) if candidate else "(none)"
            found[name] = Offer(None if known == "(none)" else known, tuple(versions))
    return found


def parse_forbidden(output: Output) -> frozenset[str]:
    """`apt-cache policy`: packages that a repository has, and of which a pin below 0 forbids every version."""
    blocks = re.split(r"(?m)^(?=\S)", output.out)
    pinned = {
        block.partition(":")[0] for block in blocks if re.search(r"(?m)^ (?:\*\*\*|   ) \S+ -\d+$", block)
    }
    return frozenset(pinned - set(parse_policy(output)))


def of_rpm(snapshot: Snapshot) -> str:
    """The manager of a host whose packages are rpm's: openSUSE has both, and zypper is what it installs with."""
    release = snapshot.once(release_fields).value or {}
    suse = "suse" in f"{release.get('ID', '')} {release.get('ID_LIKE', '')}" or "sles" in release.get(
        "ID", ""
    )
    dnf, zypper = snapshot.program("dnf").ok, snapshot.program("zypper").ok
    return "zypper" if zypper and (suse or not dnf) else "dnf"


def parse(snapshot: Snapshot) -> Packages:
    parts = (snapshot.command("dpkg").map(parse_dpkg), snapshot.command("rpm").map(parse_rpm))
    unread = [part for part in parts if not part.known]
    if unread:
        return Packages(Reading(unread[0].status, None, unread[0].source, unread[0].detail))
    found: dict[str, str] = {}
    for part in parts:
        found.update(part.value or {})
    if all(part.absent for part in parts) and snapshot.program("rpm").ok:
        return Packages(Reading.fail("rpm -qa", "rpm's database is in none of the known places"))
    if all(part.absent for part in parts):
        return Packages(Reading(Status.ABSENT, None, "dpkg, rpm", "neither is installed"))
    dpkg, rpm = parts
    offers: Reading[Mapping[str, Offer]] = snapshot.succeeded("apt-offers").map(parse_policy)
    return Packages(
        Reading.of(found, "dpkg, rpm"),
        snapshot.command("dpkg").map(parse_held).value or frozenset(),
        # Debian has an rpm, too, with an empty database
        "apt" if dpkg.value or (dpkg.ok and not rpm.value) else of_rpm(snapshot) if rpm.value else "",
        tuple(
            name
            for name, program in (("apt", "apt-get"), ("dnf", "dnf"), ("zypper", "zypper"))
            if snapshot.program(program).ok
        ),
        offers,
        "apt" in (offers.value or {}),
        snapshot.command("dpkg").map(parse_halves),
        snapshot.succeeded("compat-offers").map(parse_policy),
        snapshot.glob(ARCHIVES).value or (),
        snapshot.command("rpm").map(parse_doubles).value or {},
        snapshot.succeeded("apt-offers").map(parse_forbidden).value or frozenset(),
    )
