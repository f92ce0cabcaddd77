"""A limit of memory for all that a look executes."""

import contextlib
import os
import re
import signal
import struct
import subprocess
import threading
import time
from typing import Any, Callable, Dict, Iterator, List, Optional, Set

from gpumend.payload.probe.bus import Bus, limited_scope
from gpumend.payload.probe.execution import executable, surroundings

MAX_MEMORY = (
    2 << 30
)  # bytes of all that a look executes, together: nvidia-smi, docker and dpkg-query need a tenth
FENCED = 2  # seconds for systemd to make a scope: that takes 30 ms


class Fence:
    """A limit of memory for all that a look executes: a scope of systemd's, which ends with the process that holds it, and
    that with us. It is no RLIMIT_AS: Go and CUDA reserve more addresses than a machine has memory."""

    def __init__(self) -> None:
        self.holder: Any = None
        self.members: Optional[str] = None  # the file that takes processes in
        self.handle: Optional[int] = None  # on it
        self.inside: Set[int] = set()
        self.lock = threading.Lock()

    def raise_up(self) -> None:
        """Where systemd is and can (systemd 232, MemorySwapMax=), it is asked for the scope; nobody waits for it."""
        if os.geteuid() != 0 or not os.path.isdir("/run/systemd/system"):
            return
        limits = {"MemoryMax": MAX_MEMORY, "MemorySwapMax": 0}
        self.hold(["cat"])
        if self.holder and not scoped(self.holder.pid, limits):
            self.let_go()
            words = [word for limit in limits.items() for word in ("-p", "%s=%d" % limit)]
            self.hold(["systemd-run", "--scope", "--quiet"] + words + ["cat"])

    def hold(self, argv: List[str]) -> None:
        """Somebody waits in the scope for us to end, as far as root may execute that."""
        path, refused = executable(argv[0])
        if not refused:
            self.holder = subprocess.Popen(
                argv,
                executable=path,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=surroundings(),
                start_new_session=True,
            )

    def let_go(self) -> None:
        self.holder.kill()
        self.holder.communicate()
        self.holder = None

    def stands(self, seconds: float) -> None:
        """It is there, or is not going to be: within some seconds."""
        end = time.monotonic() + seconds
        while self.holder and not self.members and self.holder.poll() is None and time.monotonic() < end:
            try:
                with open("/proc/%d/cgroup" % self.holder.pid) as handle:
                    self.members = members_of(handle.read().splitlines())
                if self.members:
                    self.handle = os.open(self.members, os.O_WRONLY | os.O_CLOEXEC)
            except OSError:
                return
            if not self.members:
                time.sleep(0.005)

    def enter(self) -> None:
        """This process, which is about to be a command, and all that it starts are within the limit. It is but one call of
        the kernel's: threads of its parent may have held any lock (subprocess, preexec_fn)."""
        if self.handle is not None:
            os.write(self.handle, b"0")

    @contextlib.contextmanager
    def around(self) -> Iterator[Optional[Callable[[], None]]]:
        """What is started meanwhile is within the limit from its first moment: we are there ourselves for that long, so that
        nothing is to be done between fork and exec, which spares each command a copy of our memory's tables (vfork(2)). Where
        we could not come back from there, each command goes by itself: by the function that this gives."""
        if self.handle is None:
            yield None
            return
        with self.lock:
            try:
                home = own_members()
            except OSError:
                home = None
            if home is None:
                yield self.enter
                return
            try:
                os.write(self.handle, b"0")
                yield None
            finally:
                os.write(home, b"0")
                os.close(home)

    def take_down(self) -> None:
        """Nobody is in it any more, nor is it there: what has left its process group to outlive us is killed, too."""
        if not self.holder:
            return
        try:
            with open(self.members or os.devnull) as handle:
                for pid in handle.read().split():
                    if int(pid) != os.getpid():
                        os.kill(int(pid), signal.SIGKILL)
        except (OSError, ValueError):
            pass
        if self.handle is not None:
            os.close(self.handle)
        self.let_go()
        self.members = self.handle = None
        self.inside.clear()


def scoped(pid: int, limits: Dict[str, int]) -> bool:
    """Whether systemd puts a process into a scope with these limits, asked over its own socket."""
    try:
        bus = Bus(FENCED)
    except (OSError, ValueError):
        return False
    try:
        name = "run-gpumend-%d.scope" % pid
        return bus.ask([limited_scope(pid, name, limits)]) != [None]
    except (OSError, ValueError, struct.error):
        return False
    finally:
        bus.close()


def members_of(rows: List[str]) -> Optional[str]:
    """The file by which others get into the memory cgroup that systemd has made for a process of which these are the rows
    of /proc/PID/cgroup, or None while there is none: of cgroup v2, or of v1's hierarchy of memory (cgroups(7))."""
    for top, name in (("/sys/fs/cgroup/memory", "memory"), ("/sys/fs/cgroup", "")):
        for row in rows:
            _, controllers, path = row.split(":", 2)
            if controllers == name and re.search(r"/run-[^/]+\.scope$", path):
                return top + path + "/cgroup.procs"
    return None


def own_members() -> Optional[int]:
    """A handle on the file by which we get back to where we are, in the hierarchy that limits memory; None where that lies
    outside of what we see (cgroup_namespaces(7)). Raises OSError."""
    with open("/proc/self/cgroup") as handle:
        rows = handle.read().splitlines()
    for top, name in (("/sys/fs/cgroup/memory", "memory"), ("/sys/fs/cgroup", "")):
        for row in rows:
            _, controllers, path = row.split(":", 2)
            if controllers == name and ".." not in path.split("/") and os.path.isdir(top + path):
                return os.open(top + path + "/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
    return None


FENCE = Fence()
