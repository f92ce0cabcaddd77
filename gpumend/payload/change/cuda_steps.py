"""The kinds of step on a host that a CUDA toolkit needs beyond its packages: NVIDIA's runfile, the link /usr/local/cuda, holds,
and the proof. Stdlib only, Python 3.6 or newer."""

import glob
import json
import os
import re
import shutil
import stat
from typing import Any, Dict, Iterable, List, Optional, Tuple

from gpumend.payload.change.files import Failed, Refused, sha256_of
from gpumend.payload.change.journal import ROOT, Entry, Journal
from gpumend.payload.change.managers import Unfit, last_line
from gpumend.payload.change.packaging import installed
from gpumend.payload.change.services import LOCK_WAIT, wait_for
from gpumend.payload.change.step import Step, absolute, command, nearest_directory
from gpumend.payload.probe.execution import resolved
from gpumend.payload.probe.files import open_file
from gpumend.payload.probe.running import run

LINK = "/usr/local/cuda"
LINKER = "/etc/ld.so.conf.d"
# One that cannot be replaced makes NVIDIA's installer end by a signal (field report: SIGSEGV).
INSTALLER_LOGS = ("/var/log/cuda-installer.log", "/tmp/cuda-installer.log")
# What update-alternatives keeps: Debian's, chkconfig's. The first line says `auto` or `manual`.
ALTERNATIVES = ("/var/lib/dpkg/alternatives/cuda", "/var/lib/alternatives/cuda")
HEAD = 1 << 16  # bytes; makeself's script stands there
SIZE = re.compile(rb"\becho OLDUSIZE=(\d{1,15})\n")  # makeself-header.sh, --dumpconf: KiB, unpacked


def unpacked(path: str) -> int:
    """Bytes that a runfile has inside; twice its own where it does not say."""
    with open_file(path) as handle:
        said = SIZE.search(handle.read(HEAD))
    return int(said.group(1)) * 1024 if said else 2 * os.stat(path).st_size


def enough_room(needs: Iterable[Tuple[str, int]]) -> None:
    """The file systems of these directories have so many bytes free, those that are one together. Raises Refused."""
    wanted: Dict[int, int] = {}
    places: Dict[int, str] = {}
    for directory, size in needs:
        device = os.stat(directory).st_dev
        wanted[device] = wanted.get(device, 0) + size
        places.setdefault(device, directory)
    for device, size in wanted.items():
        found = os.statvfs(places[device])
        free = found.f_bavail * found.f_frsize
        if free < size:
            told = "%s has %d MiB free, and the runfile needs %d"
            raise Refused(
                (told + ": with less it ends with status 134 and leaves half a tree")
                % (places[device], free >> 20, (size >> 20) + 1)
            )


def link_of(path: str) -> Optional[str]:
    """Where a link leads, or None where there is nothing. Raises Refused for anything else."""
    if not os.path.lexists(path):
        return None
    if not os.path.islink(path):
        raise Refused("%s is there and is no link: it would have to be moved away first" % path)
    return os.readlink(path)


def set_link(path: str, target: Optional[str]) -> None:
    """The link leads there, at once; None: there is none."""
    if link_of(path) == target:
        return
    if target is None:
        os.unlink(path)
        return
    staged = "%s.gpumend" % path
    if os.path.lexists(staged):
        os.unlink(staged)
    os.symlink(target, staged)
    os.rename(staged, path)


def installers(word: str) -> List[int]:
    """Processes of root's that have this word on their command line."""
    found = []
    for name in os.listdir("/proc"):
        try:
            if not name.isdigit() or os.stat("/proc/%s" % name).st_uid != 0:
                continue
            with open_file("/proc/%s/cmdline" % name) as handle:
                words = handle.read(1 << 16).split(b"\0")
        except OSError:
            continue  # it ended
        if word.encode("ascii") in words:
            found.append(int(name))
    return found


class InstallRunfile(Step):
    """NVIDIA's runfile has installed the toolkit, and nothing else of what it has."""

    kind = "runfile"
    silent = True

    def describe(self) -> str:
        return "runfile %s" % self.wanted["file"]

    def check(self) -> None:
        source, path = self.wanted["file"], self.wanted["tree"]
        for each in (source, path):
            absolute(each)
        try:
            real, others = resolved(source)
        except OSError as error:
            raise Refused("%s: %s" % (source, error.strerror))
        if real is None:
            raise Refused("%s is not executed: %s" % (source, others))
        if not stat.S_ISREG(os.stat(real).st_mode):
            raise Refused("%s is no regular file" % source)
        if os.path.lexists(path):
            raise Refused(
                "%s is there already: two ways of installation in one directory break each other" % path
            )
        link_of(LINK)
        for log in INSTALLER_LOGS:
            if os.path.lexists(log) and (
                os.path.islink(log) or not os.path.isfile(log) or os.stat(log).st_uid
            ):
                raise Refused(
                    "%s is there and is not root's own file: NVIDIA's installer crashes over it; remove it"
                    % log
                )
        size = unpacked(real)
        enough_room((nearest_directory(each), size) for each in (os.path.dirname(path), ROOT))
        found = sha256_of(real)
        if found != self.wanted["sha256"]:
            raise Refused(
                "%s has SHA-256 %s, wanted is %s: it is not executed" % (source, found, self.wanted["sha256"])
            )

    def do(self, journal: Journal, notes: List[str]) -> None:
        path, scratch = self.wanted["tree"], os.path.join(journal.directory, "runfile")
        entry: Entry = {"path": path, "scratch": scratch, "link": link_of(LINK), "made": []}
        entry["linker"] = sorted(glob.glob(LINKER + "/*"))
        journal.begin_step(self.kind, entry)
        journal.log(self.describe())
        os.mkdir(scratch, 0o700)
        argv = ["sh", self.wanted["file"], "--silent", "--toolkit", "--toolkitpath=" + path]
        argv += ["--tmpdir=" + scratch, "--no-man-page", "--no-drm", "--no-opengl-libs"]
        found = run(argv, None)
        shutil.rmtree(scratch, ignore_errors=True)
        if found["status"] != "ok" or found["rc"] != 0:
            raise Unfit("the runfile ended with status %s: %s" % (found.get("rc", "none"), last_line(found)))
        set_link(LINK, entry["link"])  # which it leads to itself, asked or not
        notes.append("%s came from a runfile of SHA-256 %s" % (path, self.wanted["sha256"]))

    @staticmethod
    def undo(journal: Journal, entry: Entry) -> List[str]:
        """The tree is gone, once nothing of the installer is at work any more; it was not there before."""
        word = "--tmpdir=" + entry["scratch"]
        if not wait_for(lambda: not installers(word), LOCK_WAIT):
            raise Failed("the runfile's installer is at work still: process %d" % installers(word)[0])
        for each in (entry["path"], entry["scratch"]):
            if os.path.isdir(each) and not os.path.islink(each):
                shutil.rmtree(each)
        for each in sorted(set(glob.glob(LINKER + "/*")) - set(entry["linker"])):
            with open_file(each) as handle:
                text = handle.read(HEAD).decode("utf-8", "replace")
            if (entry["path"] + "/") in text:
                os.unlink(each)
        set_link(LINK, entry["link"])
        return []


class CudaDefault(Step):
    """/usr/local/cuda leads to a toolkit: by update-alternatives where that knows it, else as a plain link."""

    kind = "cuda_default"
    silent = True

    def describe(self) -> str:
        return "lead %s to %s" % (LINK, self.wanted["tree"])

    def check(self) -> None:
        absolute(self.wanted["tree"])
        link_of(LINK)

    def do(self, journal: Journal, notes: List[str]) -> None:
        path = self.wanted["tree"]
        mode, rows = alternatives()
        entry: Entry = {"link": link_of(LINK), "mode": mode if path in rows else "", "made": []}
        entry["choice"] = os.path.realpath(LINK)
        journal.begin_step(self.kind, entry)
        journal.log(self.describe())
        if path in rows:
            command(["update-alternatives", "--set", "cuda", path])
        else:
            set_link(LINK, path)

    @staticmethod
    def undo(journal: Journal, entry: Entry) -> List[str]:
        if entry["mode"] == "manual":
            command(["update-alternatives", "--set", "cuda", entry["choice"]])
        elif entry["mode"]:
            command(["update-alternatives", "--auto", "cuda"])
        else:
            set_link(LINK, entry["link"])
        return []


def alternatives() -> Any:
    """(`auto` | `manual` | ``, the lines) of what update-alternatives knows of /usr/local/cuda."""
    for path in ALTERNATIVES:
        try:
            with open_file(path) as handle:
                rows = handle.read(HEAD).decode("utf-8", "replace").splitlines()
        except OSError:
            continue
        return (rows[0] if rows else ""), rows
    return "", []


class HoldPackages(Step):
    """apt leaves these packages as they are, whoever upgrades."""

    kind = "hold"
    silent = True

    def describe(self) -> str:
        return "hold %s" % " ".join(self.wanted["names"])

    def do(self, journal: Journal, notes: List[str]) -> None:
        found = run(["apt-mark", "showhold"], 60)
        if found["status"] != "ok" or found["rc"] != 0:
            raise Unfit("apt-mark showhold: %s" % last_line(found))
        names = [name for name in self.wanted["names"] if name not in found["out"].split()]
        if not names:
            return
        journal.begin_step(self.kind, {"names": names, "made": []})
        journal.log(self.describe())
        command(["apt-mark", "hold"] + names)

    @staticmethod
    def undo(journal: Journal, entry: Entry) -> List[str]:
        names = [name for name in entry["names"] if installed("apt", name)]
        if names:
            command(["apt-mark", "unhold"] + names)
        return []


class CudaToolkitProof(Step):
    """A toolkit's packages or its tree are there, and what is in it says that it is of the release."""

    kind = "cuda_toolkit"

    def describe(self) -> str:
        return "cuda_toolkit %s" % self.wanted["tree"]

    def check(self) -> None:
        absolute(self.wanted["tree"])

    def do(self, journal: Journal, notes: List[str]) -> None:
        path, release = self.wanted["tree"], self.wanted["release"]
        told = []
        for name in self.wanted["names"]:
            version = installed(self.wanted["manager"], name)
            if version is None:
                raise Unfit("%s is not installed" % name)
            told.append("%s %s" % (name, version))
        if not os.path.isdir(path):
            raise Unfit("%s is not there" % path)
        said = release_of(path)
        if said not in ("", release):
            raise Unfit("%s says that it is CUDA %s, not %s" % (path, said, release))
        if not said and not told:
            raise Unfit("%s/version.json does not say which CUDA it is" % path)
        if self.wanted["compiler"] and not os.access(path + "/bin/nvcc", os.X_OK):
            raise Unfit("there is no %s/bin/nvcc" % path)
        if self.wanted["default"] and os.path.realpath(LINK) != os.path.realpath(path):
            raise Unfit("%s leads to %s" % (LINK, os.path.realpath(LINK)))
        notes.append("CUDA %s is in %s%s" % (release, path, ": " + ", ".join(told) if told else ""))


def release_of(path: str) -> str:
    """What version.json says, in two parts: it can be 12.1.20230222; empty where it says nothing."""
    try:
        with open_file(path + "/version.json") as handle:
            version = str(json.loads(handle.read(HEAD).decode("utf-8"))["cuda"]["version"])
    except (OSError, ValueError, LookupError, TypeError):
        return ""
    return ".".join(version.split(".")[:2])
