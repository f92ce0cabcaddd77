"""What is seen on standard error while a run goes on that `gpumend` started: our own words and how far it is; pyinfra's words
only with `-v`, or where the run ended without a report."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import gevent

from gpumend.reports.terminal import columns

OURS = "gpumend: "  # how each message of ours begins
EVERY = 10.0  # seconds between two lines where there is no terminal
BLINK = 0.2  # seconds between two states of the line on a terminal
KEPT = 1 << 20  # characters of pyinfra's words that are kept
ERASE = "\r\033[K"
TIMES = " for 1234 s, 1234 s"  # the end of a line, as long as it may be


class Out:
    """Standard output, to which nothing fails to be written: what cannot be is dropped, and `error` says why, so that the run and
    its other reports go on."""

    def __init__(self, real: TextIO) -> None:
        self.real = real
        self.error: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def write(self, text: str) -> int:
        self._tried(lambda: self.real.write(text))
        return len(text)

    def flush(self) -> None:
        self._tried(self.real.flush)

    def _tried(self, what: Callable[[], object]) -> None:
        if self.error:
            return
        try:
            what()
        except OSError as error:
            self.error = error
            nowhere(self.real)


def nowhere(stream: TextIO) -> None:
    """What the stream still holds goes to /dev/null: Python writes it as it ends, and would fail once more."""
    found = os.open(os.devnull, os.O_WRONLY)
    os.dup2(found, stream.fileno())
    os.close(found)


def fitted(line: str, room: int) -> str:
    """So many characters of a line: what is left out is of its middle, for its end says how long it takes."""
    if len(line) <= room:
        return line
    end = min(len(TIMES), room // 2)
    return line[: room - end - 3] + "..." + line[len(line) - end :]


class Screen:
    """Standard error as `gpumend` has it. A write that begins with a message of ours passes; anything else is kept."""

    encoding = "utf-8"  # click goes past a stream of ASCII, to its bytes

    def __init__(self, real: TextIO) -> None:
        self.real, self.kept, self.told, self.passed = real, "", False, False
        self.open = False  # whether everything passes
        self.line = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def write(self, text: str) -> int:
        ours = text.startswith(OURS)
        if ours or self.open:
            self.erase()
            self.passed = self.passed or ours
            return self.real.write(text)
        self.kept = (self.kept + text)[-KEPT:]
        return len(text)

    def erase(self) -> None:
        """No line of progress stands there."""
        if self.line:
            self.line = ""
            self.real.write(ERASE)
            self.real.flush()

    def columns(self) -> int:
        """Of the terminal behind standard error: standard output may be a file."""
        try:
            return os.get_terminal_size(self.real.fileno()).columns or columns()
        except (OSError, ValueError):
            return columns()

    def show(self, line: str) -> None:
        """This line stands there, as much of it as the terminal has room for."""
        line = fitted(line, self.columns() - 1)
        if line != self.line:
            self.line = line
            self.real.write(ERASE + line)
            self.real.flush()

    def left(self, status: int) -> str:
        """What was kept and has to be seen: nothing where a report was told; of a usage error not how far pyinfra came."""
        if self.told or status in (0, 3):
            return ""
        rows = self.kept.splitlines(keepends=True)
        if status == 2 and self.passed:
            rows = [row for row in rows if row.strip() and "-->" not in row]
        return "".join(rows)


def current() -> Screen | None:
    """This run's screen; None where pyinfra was started by somebody else, or with `-v`."""
    return sys.stderr if isinstance(sys.stderr, Screen) else None


def told() -> None:
    """A report has said how the run ended: what pyinfra said of it is not needed."""
    if found := current():
        found.told = True


@contextmanager
def all_seen() -> Iterator[None]:
    """Whatever is written meanwhile is seen: a question and its answer."""
    found = current()
    if found:
        found.erase()
        found.open = True
    try:
        yield
    finally:
        if found:
            found.open = False


class Progress:
    """How far the run is: on a terminal a line that stands there, else a line every ten seconds. say: what it says, without the
    time; nothing is shown of an empty one."""

    def __init__(self, say: Callable[[], str]) -> None:
        self.say, self.started = say, time.monotonic()
        self.ticking: gevent.Greenlet = gevent.spawn(self._tick)

    def _tick(self) -> None:
        while True:
            terminal = sys.stderr.isatty()
            gevent.sleep(BLINK if terminal else EVERY)
            said, found = self.say(), current()
            if not said or found is None:
                continue
            line = f"{OURS}{said}, {time.monotonic() - self.started:.0f} s"
            if terminal:
                found.show(line)
            else:
                found.write(f"{line}\n")
                found.flush()


_progress: list[Progress] = []  # the one of this run


def start(say: Callable[[], str]) -> None:
    """How far the run is stands there from now on, where this is a run that `gpumend` started."""
    if current() and not _progress:
        _progress.append(Progress(say))


def stop() -> None:
    """It stands there no more."""
    for found in _progress:
        found.ticking.kill()
    _progress.clear()
    if shown := current():
        shown.erase()
