"""Who holds a package manager's lock, and waiting for it: stdlib only, Python 3.6 or newer."""

import fcntl
import os
import struct
import time
from typing import Iterable

from gpumend.payload.change.managers import Unfit

APT_LOCKS = (
    "/var/lib/dpkg/lock-frontend",
    "/var/lib/dpkg/lock",
    "/var/cache/apt/archives/lock",
    "/var/lib/apt/lists/lock",  # apt itself does not wait for this one, whatever DPkg::Lock::Timeout says
)

ZYPPER_PID = "/run/zypp.pid"


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


def zypper_holder() -> str:
    """Who has zypp's lock (`process 12 (zypper)`), or an empty text: its file stays behind, with the pid of who had it last."""
    try:
        with open(ZYPPER_PID) as handle:
            pid = int(handle.read().strip() or "0")
        with open("/proc/%d/comm" % pid) as comm:
            return "process %d (%s)" % (pid, comm.read().strip())
    except (OSError, ValueError):
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
