"""Who holds a package manager's lock, and waiting for it: stdlib only, Python 3.6 or newer."""

import fcntl
import os
import struct
import time
from typing import IO, Iterable, List

from gpumend.payload.change.managers import Unfit
from gpumend.payload.change.progress import at_work_on

APT_LOCKS = (
    "/var/lib/dpkg/lock-frontend",
    "/var/lib/dpkg/lock",
    "/var/cache/apt/archives/lock",
    "/var/lib/apt/lists/lock",  # apt itself does not wait for this one, whatever DPkg::Lock::Timeout says
)
# rpm's own, by its places; who installs has it whole, who asks has no more than a part (measured with rpm 6.1: dnf 4.24 and zypper).
RPM_LOCKS = ("/var/lib/rpm/.rpm.lock", "/usr/lib/sysimage/rpm/.rpm.lock")
# Holds the number of who has zypp's lock, and is emptied by him. zypp takes any process of that number for him (measured with
# zypper 1.14.101: exit status 7), so that one that was killed locks it for good once its number is another's.
ZYPPER_PID = "/run/zypp.pid"
LIBZYPP = b"/libzypp.so"  # whoever has that lock has it by this library: zypper, PackageKit, YaST


def process_named(pid: int) -> str:
    """`process 123 (apt-get)`, as far as it says who it is."""
    try:
        with open("/proc/%d/comm" % pid, errors="replace") as comm:
            return "process %d (%s)" % (pid, comm.read().strip())
    except OSError:
        return "process %d" % pid


def lock_holder(paths: Iterable[str] = APT_LOCKS, against: int = fcntl.F_WRLCK) -> str:
    """Who holds apt's or dpkg's lock (`process 123 (apt-get)`), or an empty text. Asks the kernel and takes no lock. against: the
    lock that would have to wait; F_RDLCK waits for those alone that have it whole."""
    for path in paths:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            question = struct.pack("hhqqi", against, 0, 0, 0, 0)
            kind, _, _, _, pid = struct.unpack("hhqqi", fcntl.fcntl(handle, fcntl.F_GETLK, question))
        except (OSError, struct.error):
            continue
        finally:
            os.close(handle)
        if kind != fcntl.F_UNLCK:
            return process_named(pid)
    return ""


def rpm_holder(paths: Iterable[str] = RPM_LOCKS) -> str:
    """Who installs or removes packages of rpm's, by whatever manager, or an empty text."""
    return lock_holder(paths, fcntl.F_RDLCK)


def has_zypp(pid: int) -> bool:
    """Whether a process has zypp's library in it, or that cannot be told."""
    try:
        with open("/proc/%d/maps" % pid, "rb") as maps:
            return LIBZYPP in maps.read()
    except (FileNotFoundError, ProcessLookupError):
        return False
    except OSError:
        return True


def zypper_named(handle: IO[str]) -> int:
    """The process that zypp's lock file names, 0 for none that runs. A zombie has no command line, and counts for zypp as none."""
    try:
        pid = int(handle.read(20).strip() or "0")
        with open("/proc/%d/cmdline" % pid, "rb") as words:
            return pid if words.read(1) else 0
    except (OSError, ValueError):
        return 0


def zypper_holder(path: str = ZYPPER_PID) -> str:
    """Who has zypp's lock (`process 12 (zypper)`), or an empty text."""
    try:
        with open(path) as handle:
            pid = zypper_named(handle)
    except OSError:
        return ""
    return process_named(pid) if pid and has_zypp(pid) else ""


def free_of_dead_zypper(path: str = ZYPPER_PID) -> str:
    """The lock file of a zypper that was killed, whose number another process has now, is empty, as zypper would have left it. Returns
    what to tell of it; an empty text where nothing was to be done. zypp reads and writes it under the same lock of the file."""
    try:
        with open(path, "r+") as handle:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            pid = zypper_named(handle)
            if not pid or has_zypp(pid):
                return ""
            handle.truncate(0)
    except OSError:
        return ""
    return "emptied %s: the zypper that wrote it has ended, its number has %s" % (path, process_named(pid))


def holder_of(manager: str) -> str:
    """Who keeps a package manager from its work, or an empty text."""
    if manager == "apt":
        return lock_holder()
    return (zypper_holder() if manager == "zypper" else "") or rpm_holder()


def packages_changed_by() -> str:
    """Who is changing packages of this host by any manager, or an empty text."""
    return lock_holder() or zypper_holder() or rpm_holder()


def wait_and_note(manager: str, seconds: float, notes: List[str]) -> None:
    """The package manager is free, and the notes say where it was waited for. Raises Unfit where that took too long."""
    waited = wait_for_lock(manager, seconds)
    notes.extend([waited] if waited else [])


def wait_for_lock(manager: str, seconds: float) -> str:
    """The package manager is free. Returns what to tell where it was waited for; raises Unfit where that took too long.
    Where somebody was faster then, each waits by itself."""
    left = free_of_dead_zypper() if manager == "zypper" else ""
    holder = holder_of(manager)
    if not holder:
        return left
    first, began, told = holder, time.monotonic(), ""
    while holder:
        if holder != told:
            at_work_on("waits for %s, which has %s's lock," % (holder, manager))
            told = holder
        if time.monotonic() - began > seconds:
            raise Unfit("%s's lock is held by %s; waited %d s for it" % (manager, holder, seconds))
        time.sleep(0.2)
        holder = holder_of(manager)
    at_work_on("")
    return "waited %d s for %s's lock, which %s held" % (round(time.monotonic() - began), manager, first)
