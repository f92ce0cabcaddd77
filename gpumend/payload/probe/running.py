"""What is executed on a host, with an end to its time and its output."""

import os
import select
import signal
import subprocess
import threading
import time
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence, Set, Tuple, Union

from gpumend.payload.probe.execution import executable, program, surroundings
from gpumend.payload.probe.fence import FENCE, MAX_MEMORY
from gpumend.payload.probe.files import NETWORK, Json, failure, matches, meta, mount_points, of_process
from gpumend.payload.probe.reader import READER

Job = Tuple[Json, str, Callable[..., Any], Tuple[Any, ...]]  # where, key, function, arguments

MAX_OUTPUT_BYTES = 1 << 20
CHILDREN: Set[Any] = set()  # processes that are waited for
OLD = 120  # seconds: no command of a look may take as long
NAMED: Dict[bytes, List[int]] = {}  # processes by name, as of the beginning of this look


def by_name() -> Dict[bytes, List[int]]:
    """All processes, by the name that the kernel has for each: the first 15 bytes of its program's (proc(5), comm). To read that waits
    for no process, whatever it does."""
    found: Dict[bytes, List[int]] = {}
    for pid in os.listdir("/proc"):
        if pid.isdigit():
            try:
                found.setdefault(of_process(pid, "comm")[:-1], []).append(int(pid))
            except OSError:
                continue  # it ended
    return found


def asleep(pid: int, seconds: float = 0) -> bool:
    """Whether a process is in uninterruptible sleep (proc(5), state D), and was started so many seconds ago."""
    try:
        fields = of_process(pid, "stat").rpartition(b")")[2].split()
        if fields[0] != b"D":
            return False
        with open("/proc/uptime") as handle:
            up = float(handle.read().split()[0])
        return int(fields[19]) <= (up - seconds) * os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError):
        return False  # it has ended


def stuck(path: str, argv: List[str]) -> Optional[int]:
    """A process that is what would be started, in uninterruptible sleep and older than any of a look that is at work, as a broken
    GPU leaves nvidia-smi: one more would stay there, too. Or None."""
    line = b"".join(os.fsencode(word) + b"\0" for word in argv)
    for pid in NAMED.get(os.fsencode(os.path.basename(path))[:15], ()):
        try:
            if not asleep(pid, OLD):
                continue
            same = of_process(pid, "cmdline", len(line) + 1) == line
            if same and os.path.samestat(os.stat("/proc/%d/exe" % pid), os.stat(path)):
                return pid
        except OSError:
            continue  # it ended, or may not be looked at
    return None


def hung() -> Dict[bytes, int]:
    """Readers of ours that could not be ended, by name: what they read is not read while they last."""
    found = {}
    for name, pids in NAMED.items():
        for pid in pids if name.startswith(READER.encode("ascii")) else ():
            try:
                if asleep(pid, OLD) and os.stat("/proc/%d" % pid).st_uid == os.geteuid():
                    found[name] = pid
            except OSError:
                continue  # it ended
    return found


def far_away() -> List[str]:
    """The mount points of file systems of a network or a user's, which may not answer."""
    try:
        with open("/proc/self/mountinfo", errors="replace") as handle:
            points = mount_points(handle.read())
            return [path for path, kind in points if NETWORK.match(kind)]
    except OSError:
        return ["/"]


def on_any(path: str, points: Iterable[str]) -> bool:
    """Whether a path leads below one of some mount points."""
    real = os.path.realpath(path)
    return any(real.startswith(point.rstrip("/") + "/") for point in points)


def by_fork() -> None:
    """Where there is something to do between fork and exec, Python forks. After vfork(2) we would stand still until the program is
    found (all of us: Python's lock is held meanwhile), which on a file system that does not answer is never."""


class Running:
    """A command at work, and what it has printed so far."""

    def __init__(
        self,
        argv: List[str],
        timeout: float,
        path: Optional[str],
        env: Dict[str, str],
        enter: Optional[Callable[[], None]],
    ) -> None:
        self.timeout = timeout
        self.child: Any = subprocess.Popen(
            argv,
            executable=path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
            start_new_session=True,
            close_fds=True,
            preexec_fn=enter,
        )
        CHILDREN.add(self.child)
        if FENCE.handle is not None:
            FENCE.inside.add(self.child.pid)
        self.pipes: List[Any] = [self.child.stdout, self.child.stderr]
        self.chunks: Dict[Any, List[bytes]] = {pipe: [] for pipe in self.pipes}
        self.sizes: Dict[Any, int] = {pipe: 0 for pipe in self.pipes}
        self.deadline = time.monotonic() + timeout

    def take(self, pipe: Any) -> None:
        """What has come through a pipe is kept, as far as there is room."""
        data = os.read(pipe.fileno(), 65536)
        if not data:
            self.pipes.remove(pipe)
            return
        if self.sizes[pipe] < MAX_OUTPUT_BYTES:
            self.chunks[pipe].append(data)
        self.sizes[pipe] += len(data)

    def over(self) -> bool:
        """It has ended, or its time is over."""
        ended = not self.pipes and self.child.poll() is not None
        return bool(ended or time.monotonic() >= self.deadline)

    def answer(self) -> Json:
        """What it has printed, or why that is no answer; it is ended where it has not by itself."""
        child, (out, err) = self.child, self.chunks.values()
        item: Json = {
            "out": b"".join(out).decode("utf-8", "replace"),
            "err": b"".join(err).decode("utf-8", "replace")[-8192:],
        }
        if child.poll() is None:
            try:
                os.killpg(child.pid, signal.SIGKILL)
            except OSError:
                pass
            item.update(status="timeout", error="no answer within %g s" % self.timeout)
            try:
                child.wait(0.2)
            except subprocess.TimeoutExpired:
                if asleep(child.pid):  # else it is about to end: to give back memory takes its time
                    item["error"] += "; process %d cannot be ended and is left behind" % child.pid
        elif child.returncode == -signal.SIGKILL and child.pid in FENCE.inside:
            why = "it was killed, as what needs more than %d MiB of memory is" % (MAX_MEMORY >> 20)
            item.update(status="failed", error=why)
        else:
            item.update(status="ok", rc=child.returncode)
        CHILDREN.discard(child)
        child.stdout.close()
        child.stderr.close()
        if self.sizes[child.stdout] > sum(map(len, out)):
            item["cut"] = True
        return item


def started(
    argv: List[str],
    timeout: float,
    env: Dict[str, str],
    enter: Optional[Callable[[], None]],
    far: Sequence[str] = ("/",),
) -> Union[Running, Json]:
    """A command at work, as far as root may (`executable`), or why it is not, as a tagged answer. far: as of `far_away`."""
    try:
        path, refused = executable(argv[0])
        if refused:
            return refused
        before = stuck(path, argv) if path else None
        if before:
            why = "not started: process %d, which is the same, cannot be ended" % before
            return {"status": "failed", "error": why}
        if enter is None and far and on_any(path or "/", far):
            enter = by_fork
        return Running(argv, timeout, path, env, enter)
    except OSError as error:
        return failure(error)
    except Exception as error:  # of one command: the others run
        return {"status": "failed", "error": "%s: %s" % (type(error).__name__, error)}


def side_by_side(commands: Dict[str, Tuple[List[str], float]], done: Callable[[str, Json], None]) -> None:
    """Each command with no input and the C locale; `done` has the answer of each, by its name, as soon as it is there.
    `cut`: it printed more than is kept. One thread waits for all: they only wait themselves, nvidia-smi for half a second.

    A command ends after its seconds whatever it does: a process in uninterruptible sleep (a broken GPU does that to
    nvidia-smi) survives SIGKILL, so it is left behind rather than waited for."""
    running: Dict[str, Running] = {}
    env, far = surroundings(), far_away()
    with FENCE.around() as enter:
        for name, (argv, timeout) in commands.items():
            found = started(argv, timeout, env, enter, far)
            if isinstance(found, Running):
                running[name] = found
            else:
                done(name, found)
    while running:
        pipes = {pipe: each for each in running.values() for pipe in each.pipes}
        left = min(each.deadline for each in running.values()) - time.monotonic()
        if not all(each.pipes for each in running.values()):  # one has printed all and is about to end
            left = min(left, 0.002)
        for pipe in select.select(list(pipes), [], [], max(0, left))[0]:
            pipes[pipe].take(pipe)
        for name, each in list(running.items()):
            if each.over():
                del running[name]
                done(name, each.answer())


def run(argv: List[str], timeout: Optional[float]) -> Json:
    """One command as `side_by_side` has it. A timeout of None: it comes to its end, however long that takes."""
    if timeout is None:
        path, refused = executable(argv[0])
        return refused or to_its_end(argv, path)
    found: Dict[str, Json] = {}
    side_by_side({"": (argv, timeout)}, found.__setitem__)
    return found[""]


def to_its_end(argv: List[str], path: Optional[str]) -> Json:
    """What a command says that nobody ends: a package manager that is killed leaves packages half-installed. It prints
    into files that have no name, so that it can go on where this process is killed."""
    import tempfile  # 6 ms, for a mend alone

    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            child = subprocess.Popen(
                argv,
                executable=path,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=surroundings(),
                start_new_session=True,
                close_fds=True,
            )
        except OSError as error:
            return failure(error)
        child.wait()
        said = []
        for handle in (out, err):
            size = os.fstat(handle.fileno()).st_size
            handle.seek(max(size - MAX_OUTPUT_BYTES, 0))  # why it failed stands at the end
            said.append(handle.read().decode("utf-8", "replace"))
    return {"status": "ok", "rc": child.returncode, "out": said[0], "err": said[1][-8192:]}


def obstacle(command: Json, root: str) -> Optional[Json]:
    """Why a command is not run, or None: a path that it needs does not exist (the guard that keeps an audit from writing),
    its program does not, or whether they do is not known; or a path that spares it exists."""

    def absent(why: str) -> Json:
        return {"status": "absent", "error": why}

    for path in command.get("spares", ()):
        if os.path.exists(root + path):
            return absent("not asked: %s is here" % path)
    found = program(command["argv"][0])
    if found["status"] == "absent":
        return absent("%s is not here" % command["argv"][0])
    needed = [found]
    for path in command.get("needs", ()):
        needed.append(meta(root + path))
        if needed[-1]["status"] == "absent":
            return absent("not asked: %s is not here" % path)
    one = [meta(root + path) for path in command.get("needs_one", ())]
    if one and all(item["status"] == "absent" for item in one):
        return absent("not asked: neither %s is here" % " nor ".join(command["needs_one"][:3]))
    if one and not any(item["status"] == "ok" for item in one):
        needed.extend(one)
    unread = [item for item in needed if item["status"] not in ("ok", "absent")]
    return {"status": unread[0]["status"], "error": unread[0]["error"]} if unread else None


def told(command: Json, found: Json) -> Json:
    """What of a command's answer leaves the host. Half an output is no answer."""
    if found.pop("cut", False) and found["status"] == "ok":
        found.update(status="failed", error="printed more than %d bytes" % MAX_OUTPUT_BYTES)
    if command.get("keep") and "out" in found:
        found["out"] = "\n".join(matches(command["keep"], found["out"])) + "\n"
    return found


def execute(command: Json, root: str, timeout: float) -> Json:
    """One command of a request: its output, or why it was not run."""
    found = obstacle(command, root)
    return found or told(command, run(command["argv"], command.get("timeout", timeout)))


def run_all(commands: Json, names: Iterable[str], timeout: float, answers: Json) -> None:
    """Some of a request's commands are run, which nothing keeps from it; each one's answer is put under its name."""

    def done(name: str, found: Json) -> None:
        answers[name] = told(commands[name], found)

    side_by_side(
        {name: (commands[name]["argv"], commands[name].get("timeout", timeout)) for name in names}, done
    )


def at_once(jobs: Iterable[Job], end: Optional[float] = None) -> None:
    """Each job's answer under its key: (where, key, function, arguments). They run side by side, since they only wait:
    for nvidia-smi half a second. One that fails in a way nobody thought of is `failed` by itself; one that has no answer
    at `end` (of time.monotonic) is `timeout`, and left behind: a read of a dead file system cannot be ended."""

    def work(where: Json, key: str, function: Callable[..., Any], arguments: Tuple[Any, ...]) -> None:
        try:
            where[key] = function(*arguments)
        except Exception as error:
            where[key] = {"status": "failed", "error": "%s: %s" % (type(error).__name__, error)}

    began = time.monotonic()
    threads = [(job, threading.Thread(target=work, args=job, daemon=True)) for job in jobs]
    for _, thread in threads:
        thread.start()
    for (where, key, _, _), thread in threads:
        thread.join(None if end is None else max(0, end - time.monotonic()))
        if thread.is_alive():
            where[key] = {
                "status": "timeout",
                "error": "no answer within %.3g s" % (time.monotonic() - began),
            }


def end_children() -> None:
    """What `run` has started and still waits for is killed: a thread that was left behind would leave it behind."""
    for child in list(CHILDREN):
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except OSError:
            pass
