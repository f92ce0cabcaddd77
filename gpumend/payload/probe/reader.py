"""What others on a host could have written is read by a child, which has limits and can be ended: it alone hangs, runs out of
memory or dies of it. It is forked and not started, so that it costs milliseconds; it sends what it has read as JSON."""

import json
import mmap
import os
import resource
import select
import signal
import struct
import time
from typing import Callable, Dict, List, Optional, Sequence, Tuple

from gpumend.payload.probe.files import Json, digest_of

Source = Callable[[], Json]

MAX_READER_BYTES = 40 << 20  # of address space beyond what it is forked with
MAX_READER_SECONDS = 10  # of CPU time
MAX_RESTARTS = 20  # of readers for one list of sources
TOO_LARGE = 3  # exit status of a reader
READER = "gpumend-"  # begins the name of a reader (proc(5), comm), before eight digits of what it reads


class Place:
    """Where a reader is, in memory that it shares with its parent: to be seen also of one that is stuck or dead."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, 8192)
        self.count = 0
        self.number = 0
        self.comm: Optional[int] = None

    def say(self, number: int, path: str) -> None:
        """It begins with a part of the source of that number: a path, or an empty text."""
        self.count, self.number = self.count + 1, number
        text = os.fsencode(path)[:8000]
        struct.pack_into("=QII", self.memory, 0, self.count, number, len(text))
        self.memory[16 : 16 + len(text)] = text
        if self.comm is not None and path:
            os.write(self.comm, name_for(path))

    def seen(self) -> Tuple[int, int, str]:
        """(How often it has said where it is, number, path)"""
        count, number, size = struct.unpack_from("=QII", self.memory, 0)
        return count, number, os.fsdecode(self.memory[16 : 16 + min(size, 8000)])


HERE: List[Place] = []  # this process's, where it is a reader


def name_for(path: str) -> bytes:
    """The name of a process that reads a path."""
    return (READER + digest_of(os.fsencode(path))[: 15 - len(READER)]).encode("ascii")


def at(path: str) -> None:
    """A reader says what it reads now; anybody else says nothing."""
    if HERE:
        HERE[0].say(HERE[0].number, path)


def goes_on() -> None:
    """A reader says that it is at work: what takes long is not what hangs. Anybody else says nothing."""
    if HERE:
        HERE[0].say(HERE[0].number, "")


def confine(writing: int, seconds: float) -> None:
    """This process keeps nothing open but one end of a pipe: a reader that cannot be ended would hold the host's lock and
    its parent's output. It is not more than so many bytes larger than now, and ends after some seconds, of CPU and at all."""
    null = os.open(os.devnull, os.O_RDWR)
    for handle in (0, 1, 2):
        os.dup2(null, handle)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) != writing:
            try:
                os.close(int(name))
            except OSError:
                pass  # it was the one of the list itself
    with open("/proc/self/statm") as file:
        words = file.read().split()
    size, data = (int(words[at]) * resource.getpagesize() for at in (0, 5))
    limits = (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, MAX_READER_SECONDS),
        (resource.RLIMIT_AS, size + MAX_READER_BYTES),
        # What glibc has reserved for the threads of its parent is addresses already (malloc, arenas); Linux 4.7 counts what
        # of it is used (getrlimit(2), RLIMIT_DATA).
        (resource.RLIMIT_DATA, data + MAX_READER_BYTES),
    )
    for limit, value in limits:
        hard = resource.getrlimit(limit)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (value, value))
    signal.alarm(int(seconds) + 5)  # its parent may be gone
    try:
        HERE[0].comm = os.open("/proc/self/comm", os.O_WRONLY)
    except OSError:
        pass  # /proc is read-only, as in some containers: it has no name, so that one that hangs is not known again


def answer_of(number: int, source: Source) -> bytes:
    """What a source says, as a frame: four bytes of its length, then JSON. Raises MemoryError."""
    HERE[0].say(number, "")
    try:
        text = json.dumps([number, source()])
    except MemoryError:
        raise
    except Exception as error:  # of one source: the others are read
        text = json.dumps([number, {"status": "failed", "error": "%s: %s" % (type(error).__name__, error)}])
    return struct.pack(">I", len(text)) + text.encode("ascii")


class Reader:
    """A child that reads some of the sources, in their order."""

    def __init__(self, sources: Sequence[Source], todo: List[int], seconds: float) -> None:
        self.todo = todo
        self.place = Place()
        self.data = b""
        self.moved, self.count = time.monotonic(), 0
        self.pipe, writing = os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(writing)
            return
        try:
            HERE[:] = [self.place]
            confine(writing, seconds)
            self.serve(sources, writing)
            os._exit(0)
        except MemoryError:
            os._exit(TOO_LARGE)
        finally:
            os._exit(1)

    def serve(self, sources: Sequence[Source], writing: int) -> None:
        """In the child: few writes, for each wakes the parent."""
        frames, size, since = [], 0, time.monotonic()
        for number in self.todo:
            frames.append(answer_of(number, sources[number]))
            size += len(frames[-1])
            if size > 65536 or time.monotonic() - since > 0.03 or number == self.todo[-1]:
                data = b"".join(frames)
                while data:
                    data = data[os.write(writing, data) :]
                frames, size, since = [], 0, time.monotonic()

    def more(self) -> Optional[List[Tuple[int, Json]]]:
        """The answers that have come whole by now, or None where no more will. Waits where there is nothing."""
        data = os.read(self.pipe, 1 << 18)
        self.data += data
        found = []
        while len(self.data) >= 4:
            (size,) = struct.unpack(">I", self.data[:4])
            if len(self.data) < 4 + size:
                break
            number, item = json.loads(self.data[4 : 4 + size].decode("ascii"))
            self.data = self.data[4 + size :]
            self.todo.remove(number)
            found.append((number, item))
        return found if data else None

    def still(self, seconds: float) -> bool:
        """Whether it has been at the same place for some seconds."""
        count = self.place.seen()[0]
        if count != self.count:
            self.count, self.moved = count, time.monotonic()
        return time.monotonic() - self.moved > seconds

    def end(self, closed: bool) -> Optional[str]:
        """It has ended, by itself where it has closed its pipe: why, as text, or None. One that cannot be ended (in
        uninterruptible sleep, state D) is left behind, and named."""
        os.close(self.pipe)
        self.place.memory.close()
        status = waited(self.pid) if closed else None
        if status is not None:
            return reason(status)
        os.kill(self.pid, signal.SIGKILL)
        return None if waited(self.pid) is not None else left_behind(self.pid)


def waited(pid: int, seconds: float = 0.5) -> Optional[int]:
    """The status of a child that has ended within some seconds, or None."""
    deadline = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found or time.monotonic() > deadline:
            return status if found else None
        time.sleep(0.001)


def left_behind(pid: int) -> str:
    """Text about a process that SIGKILL does not end."""
    return "process %d cannot be ended and is left behind" % pid


def reason(status: int) -> Optional[str]:
    """Why a reader has ended, as text, or None."""
    if os.WIFSIGNALED(status):
        killed = os.WTERMSIG(status)
        if killed in (signal.SIGXCPU, signal.SIGKILL):
            return "reading it takes more than %d s of CPU time" % MAX_READER_SECONDS
        return "reading it ended with signal %d" % killed
    if os.WEXITSTATUS(status) == TOO_LARGE:
        return "reading it takes more than %d MiB" % (MAX_READER_BYTES >> 20)
    return None


def each_answer(sources: Sequence[Source], end: float, wait: float) -> List[Json]:
    """What each source says, in their order; of one that has not answered, why, as a tagged answer."""
    found: Dict[int, Json] = {}
    read_apart(sources, found.__setitem__, end, {}, wait)
    return [found[number] for number in range(len(sources))]


def read_apart(
    sources: Sequence[Source],
    take: Callable[[int, Json], None],
    end: float,
    spoiled: Dict[str, Json],
    wait: float,
    at_a_time: int = 1,
) -> None:
    """What each source says is given to `take`, with its number: read in as many children side by side. One at which a
    child is for `wait` seconds, or of which it dies, is answered with why; what else it had to read another one reads.
    spoiled: by path why it is not read again, for the sources to look at. Those not reached at `end` are `timeout`."""
    began, restarts = time.monotonic(), 0
    readers = [
        Reader(sources, list(range(first, len(sources), at_a_time)), end - began)
        for first in range(min(at_a_time, len(sources)))
    ]
    while readers:
        left = end - time.monotonic()
        ready = select.select([reader.pipe for reader in readers], [], [], max(0, min(left, 0.2)))[0]
        for reader in list(readers):
            answers = reader.more() if reader.pipe in ready else []
            for number, item in answers or ():
                take(number, item)
            over = left <= 0 or reader.still(wait)
            if answers is not None and not over:
                continue
            readers.remove(reader)
            _, number, path = reader.place.seen()
            said = reader.end(answers is None)
            if answers is None:
                why = {"status": "failed", "error": said or "its reader has ended"}
            else:
                seconds = time.monotonic() - began if left <= 0 else wait
                why = {"status": "timeout", "error": "no answer within %.3g s" % seconds}
                why["error"] += ": " + said if said else ""
            restarts += bool(reader.todo)
            if left <= 0 or restarts > MAX_RESTARTS:
                for number in reader.todo:
                    take(number, why)
                continue
            # Where it was is not looked at again: a path, or all of a source.
            if path and path not in spoiled and number in reader.todo:
                spoiled[path] = why
            elif number in reader.todo:
                reader.todo.remove(number)
                take(number, why)
            if reader.todo:
                readers.append(Reader(sources, reader.todo, end - time.monotonic()))
