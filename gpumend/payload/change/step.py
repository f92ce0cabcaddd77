"""What a kind of step on a host is, and commands, the plainest kind: stdlib only, Python 3.6 or newer."""

import fcntl
import os
import re
import sys
from typing import Any, Dict, List

from gpumend.payload.change.files import Failed, Refused
from gpumend.payload.change.journal import Entry, Journal
from gpumend.payload.change.services import COMMAND_TIMEOUT
from gpumend.payload.probe.files import mount_points, whose_hand
from gpumend.payload.probe.running import run

SPARE_BYTES = 1 << 20


class Step:
    """One step of a transaction: checked with all others before anything is written, staged with all others before any is
    made, made, and undone by what the journal says of it. kind: its name in a transaction and in a journal."""

    kind: str = ""
    # Whether it changes the host without an entry in the journal that says so.
    silent: bool = False

    def __init__(self, wanted: Dict[str, Any]) -> None:
        self.wanted = wanted

    def describe(self) -> str:
        """What is about to be done, for the journal's log."""
        raise NotImplementedError

    def check(self) -> None:
        """Nothing is written yet: refuse what cannot end well. Raises Refused."""

    def foresee(self, wait: int, notes: List[str]) -> None:
        """After all checks: ask programs what they would do. wait: seconds for a package manager's lock; notes: for the
        report. Raises Refused or Unfit."""

    def stage(self, journal: Journal) -> None:
        """What is needed lies beside its target, where it counts for nobody. Raises Failed or OSError."""

    def unstage(self) -> None:
        """What was staged and not used is gone, as far as that can be done."""

    def waits(self) -> str:
        """What of it waits for a later run, in words; an empty text where nothing does."""
        return ""

    def do(self, journal: Journal, notes: List[str]) -> None:
        """It is made; the journal said so before. Raises Failed, Unmet, Unfit or OSError."""
        raise NotImplementedError

    @staticmethod
    def undo(journal: Journal, entry: Entry) -> List[str]:
        """What its entry says is as it was before; returns what could not be put back. Raises Failed, Refused or OSError."""
        return []


class RunCommand(Step):
    """A command runs, with exit status 0."""

    kind = "run"
    silent = True

    def describe(self) -> str:
        return "run %s" % " ".join(self.wanted["argv"])

    def do(self, journal: Journal, notes: List[str]) -> None:
        journal.log(self.describe())
        command(self.wanted["argv"])


def absolute(path: str) -> str:
    """The path. Raises Refused for a relative or an empty one: where root stands by chance says nothing."""
    if not path.startswith("/"):
        raise Refused("%r is not an absolute path" % path)
    return path


def nearest_directory(path: str) -> str:
    """The innermost directory on the way to a path that is there."""
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def roots_place(path: str) -> None:
    """Nobody but root decides which directory that is: a user who could turn it elsewhere, while root writes, would have a file of
    root's put anywhere. Raises Refused."""
    if os.geteuid() != 0:
        return
    for directory in {os.path.dirname(path), os.path.dirname(os.path.realpath(path))}:
        try:
            why = whose_hand(nearest_directory(directory))
        except OSError as error:
            why = str(error)
        if why:
            raise Refused("%s is not written: its path leads through %s" % (path, why))


def writable(directory: str, size: int) -> None:
    """There is room for so many bytes twice, and the right to write. Raises Refused."""
    found = os.statvfs(directory)
    if found.f_flag & 1:  # ST_RDONLY
        raise Refused("%s is mounted read-only" % directory)
    if found.f_bavail * found.f_frsize < size * 2 + SPARE_BYTES:
        raise Refused("no space left in %s" % directory)
    if not os.access(directory, os.W_OK):
        raise Refused("%s cannot be written by uid %d" % (directory, os.geteuid()))


# ioctl_iflags(2), linux/fs.h: _IOR('f', 1, long) of a 64-bit Linux, FS_IMMUTABLE_FL, FS_APPEND_FL
GET_FLAGS, IMMUTABLE, APPEND = 0x80086601, 0x10, 0x20


def attributes(path: str) -> int:
    """The flags that chattr(1) sets on a regular file or directory; 0 where its file system has none."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return 0
    try:
        answer: bytes = fcntl.ioctl(handle, GET_FLAGS, b"\0" * 8)
    except OSError:
        return 0
    finally:
        os.close(handle)
    return int.from_bytes(answer[:4], sys.byteorder)


def replaceable(path: str) -> None:
    """Another file can be renamed over this one, and it can be taken away. Raises Refused for one that chattr holds, and for one
    that is a mount of its own: the kernel calls these `Operation not permitted` and `Invalid cross-device link`."""
    for each in (path, os.path.dirname(path)):
        held = attributes(each) & (IMMUTABLE | APPEND) if os.path.exists(each) else 0
        if held:
            word, letter = ("immutable", "i") if held & IMMUTABLE else ("append-only", "a")
            raise Refused(
                "%s is %s (lsattr -d shows it): somebody has set that on purpose; `chattr -%s %s` takes it off"
                % (each, word, letter, each)
            )
    with open("/proc/self/mountinfo", errors="replace") as handle:
        if path in dict(mount_points(handle.read())):
            raise Refused(
                "%s is a bind mount: another file is mounted over it, which has to be changed where it comes from "
                "(findmnt %s)" % (path, path)
            )


def command(argv: List[str]) -> None:
    """A command has run, with exit status 0. Raises Failed with its last words."""
    if argv[:2] == ["systemctl", "restart"]:
        run(["systemctl", "reset-failed"] + argv[2:], 20)  # the limit of starts counts others', too
    found = run(argv, COMMAND_TIMEOUT)
    if found["status"] != "ok" or found["rc"] != 0:
        raise Failed("%s: %s" % (" ".join(argv), last_error(found)))


def last_error(found: Dict[str, Any]) -> str:
    """The last line of what a command said, or that it said nothing."""
    lines = (found.get("err", "").strip() or found.get("error", "")).splitlines()
    # Compose quotes an env_file there (compose-go dotenv/parser.go).
    lines = [re.sub(r"\bnear \".*", "near ...", line) for line in lines[-1:]]
    return str(lines[-1] if lines else "exit status %s" % found.get("rc", found["status"]))
