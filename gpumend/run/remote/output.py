"""How much of a host's output is taken: pyinfra itself reads whatever comes, as fast as it comes. And what is told of a program
here that ended before it had read its input."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import Queue
from typing import Any

import gevent
from pyinfra.api.output import echo
from pyinfra.connectors import util

from gpumend.payload.change.progress import PROGRESS
from gpumend.text.mask import printable

# An answer is some 100 KB, packed 20; with 500 containers and their images 2 MB.
LIMIT = 64 << 20
LINES = 200_000  # an answer is one line; what each costs here is a hundred times what it costs the host
MOST = 200  # characters of what a host says that it is at
LINE = 1 << 20  # bytes that are read at a time of a line that does not end


class TooMuch(OSError):
    """A host printed more than LIMIT. The connection is closed: what it does further reaches nobody."""


def read_buffer(
    name: str, io: Any, output_queue: Queue[Any], print_output: bool = False, print_func: Any = None
) -> None:
    """As pyinfra's own (connectors/util.py), up to LIMIT bytes: then the channel is closed, and the last line says so."""
    total, lines, parts = 0, 0, []
    while True:
        try:
            chunk = io.readline(LINE)
        except ValueError:  # paramiko decodes it, strictly; what we send for prints ASCII alone
            close(io)
            output_queue.put(util.OutputLine("stderr", NO_TEXT))
            return
        text = chunk if isinstance(chunk, str) else chunk.decode("utf-8", "replace")
        total += len(chunk)
        lines += text.endswith("\n")
        if total > LIMIT or lines > LINES:
            close(io)
            output_queue.put(util.OutputLine("stderr", TOO_MUCH))
            return
        if text:
            parts.append(text)
        if parts and (not text or text.endswith("\n")):
            line, parts = "".join(parts).rstrip("\n"), []
            if name == "stderr" and line.startswith(PROGRESS):
                told(line.removeprefix(PROGRESS))
                continue
            output_queue.put(util.OutputLine(name, line))
            if print_output:
                shown = printable(line)
                echo(print_func(shown) if print_func else shown, err=True)
        if not text:
            return


# Who is told what a program is at, by the greenlet that waits for it; pyinfra's connectors start one more to read what it says.
_heard: dict[Any, Callable[[str], None]] = {}


@contextmanager
def heard(tell: Callable[[str], None]) -> Iterator[None]:
    """In this block a program's own words of what it is at are told."""
    here = gevent.getcurrent()
    _heard[here] = tell
    try:
        yield
    finally:
        _heard.pop(here, None)


def told(text: str) -> None:
    """Whoever waits for the program that this greenlet reads is told, where he asked for it."""
    starter = getattr(gevent.getcurrent(), "spawning_greenlet", None)
    tell = _heard.get(starter()) if starter is not None else None
    if tell is not None:
        tell(text[:MOST])


NO_TEXT = "gpumend: this host printed what is no text"
TOO_MUCH = (
    f"gpumend: this host printed more than {LIMIT >> 20} MiB or {LINES} lines: the connection was closed"
)


def close(io: Any) -> None:
    """Nothing more comes out of it, and nobody waits for its end."""
    channel = getattr(io, "channel", None)
    if channel is not None:
        channel.close()
    else:
        io.close()


write_all: Callable[[Any, Any], None] = util.write_stdin


def write_stdin(stdin: Any, buffer: Any) -> None:
    """As pyinfra's own, for @local; where the program has ended (sudo that refuses, or is not there), its status and its words
    are the answer, and not the broken pipe."""
    with suppress(BrokenPipeError):
        write_all(stdin, buffer)
    with suppress(BrokenPipeError):
        buffer.close()


def bounded() -> None:
    """pyinfra's connectors read outputs by `read_buffer`, and its local one writes by `write_stdin`; there is no public place for it
    (pyinfra 3.10)."""
    util.read_buffer = read_buffer
    util.write_stdin = write_stdin
