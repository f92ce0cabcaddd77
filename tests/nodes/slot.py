"""A slot: one running lab's private share of the machine (directory, addresses, cgroups, interface names).

A lab holds its slot by a file lock that the kernel drops when the process ends, however it ends. So a slot
whose lock can be taken belongs to nobody, and whatever still lies or runs there was left by a lab that was
killed: it is stopped and removed before the slot is used again. Two labs at once never touch each other's
nodes.
"""

from __future__ import annotations

import fcntl
import ipaddress
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

LOCKS = Path("/run/gpumend-lab")
ROOTS = Path("/var/tmp/gpumend-lab")  # on the outer disk: overlay2 in a node needs a real file system below
NETWORK = ipaddress.ip_network("198.18.0.0/15")  # set aside for test benches; a slot has a /24, a node a /30
SLOTS = 64
NODES_A_SLOT = 64

# All of a node's processes are in one cgroup2 directory, so that none can be missed. The outer machine may have
# cgroup v1 mounts; a mount namespace of its own with only cgroup2 in it is what lab and node both work in.
ONLY_CGROUP2 = "{ umount -R -l /sys/fs/cgroup 2>/dev/null || true; } && mount -t cgroup2 none /sys/fs/cgroup"
KILL_CGROUP = """
set -eu
for group in /sys/fs/cgroup/"$1"*; do
  [ -d "$group" ] || continue
  echo 1 >"$group/cgroup.kill"
done
"""
REMOVE_CGROUP = """
set -eu
for group in /sys/fs/cgroup/"$1"*; do
  [ -d "$group" ] || continue
  find "$group" -depth -type d -exec rmdir {} +
done
"""


class LabError(RuntimeError):
    """The lab could not do what was asked of it; no test result is meant by this."""


def wait_for(what: str, ready: Callable[[], bool], seconds: float = 30.0, every: float = 0.03) -> None:
    """`ready()` was true before the deadline; raises `LabError` naming `what` otherwise."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise LabError(f"not within {seconds:g} s: {what}")
        time.sleep(every)


def in_cgroup2(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a shell script where /sys/fs/cgroup is the machine's cgroup2 tree and nothing else."""
    return subprocess.run(
        ["unshare", "-m", "sh", "-c", f"{ONLY_CGROUP2} && {script}", "sh", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def kill_cgroups(prefix: str) -> None:
    """No process is left in any cgroup whose name starts with `prefix`, and the cgroups are gone."""
    if not prefix:
        raise ValueError("an empty prefix would mean the whole machine")
    done = in_cgroup2(KILL_CGROUP, prefix)
    if done.returncode != 0:
        raise LabError(f"could not stop what runs in {prefix}*: {done.stderr.strip()}")
    # A killed process leaves its cgroup only when it has been torn down; until then rmdir says "busy".
    wait_for(
        f"cgroups {prefix}* empty", lambda: in_cgroup2(REMOVE_CGROUP, prefix).returncode == 0, 20.0, 0.05
    )


def mounts_below(directory: Path) -> list[str]:
    """The mount points at or below `directory`, deepest first."""
    points = []
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        point = line.split()[4].encode().decode("unicode_escape")
        if point == str(directory) or point.startswith(f"{directory}/"):
            points.append(point)
    return sorted(points, key=len, reverse=True)


def remove_tree(directory: Path) -> None:
    """`directory` is gone, and nothing that was mounted below it has been emptied on the way."""
    for point in mounts_below(directory):
        subprocess.run(["umount", "-l", point], check=True, capture_output=True)
    if mounts_below(directory):
        raise LabError(f"still mounted below {directory}: {', '.join(mounts_below(directory))}")
    shutil.rmtree(directory, ignore_errors=True)
    if directory.exists():
        raise LabError(f"could not remove {directory}")


class Slot:
    """One numbered share of the machine, held from construction until `release`."""

    def __init__(self) -> None:
        self._lock, self.number = self._acquire()
        self.directory = ROOTS / f"slot-{self.number}"
        self.prefix = f"gm{self.number}-"  # of node names, their cgroups and (behind "ve-") interfaces
        self.clean()
        ROOTS.mkdir(mode=0o755, exist_ok=True)
        self.directory.mkdir(mode=0o700)

    @staticmethod
    def _acquire() -> tuple[IO[bytes], int]:
        LOCKS.mkdir(mode=0o755, exist_ok=True)
        for number in range(SLOTS):
            handle = open(LOCKS / f"slot-{number}", "ab")
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                handle.close()
                continue
            handle.truncate(0)
            handle.write(f"{os.getpid()}\n".encode())  # for people who look; the lock is what counts
            handle.flush()
            return handle, number
        raise LabError(f"all {SLOTS} slots of {LOCKS} are in use")

    def clean(self) -> None:
        """Nothing of this slot runs, is mounted or lies on the disk."""
        kill_cgroups(self.prefix)
        wait_for(
            "network interfaces of stopped nodes gone",
            lambda: not any(name.startswith(f"ve-{self.prefix}") for name in os.listdir("/sys/class/net")),
            60.0,  # the bench's node has a thousand addresses
        )
        if self.directory.exists():
            remove_tree(self.directory)

    def addresses(self, index: int) -> tuple[str, str]:
        """(outer end, node's end) of the /30 of the slot's node number `index`."""
        first = NETWORK[self.number * 256 + (index % NODES_A_SLOT) * 4]
        return str(first + 1), str(first + 2)

    def release(self) -> None:
        """The slot is clean and free for another lab; a second call does nothing."""
        if self._lock.closed:
            return
        try:
            self.clean()
        finally:
            self._lock.close()
