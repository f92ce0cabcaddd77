"""Ctrl-C. It ends waiting for the hosts that are waited for: answers that are there count, no change is begun any more, and one
at work ends as it would have. Where nothing is left to be waited for but that, the next one leaves at once. There is a report
either way, and it says which hosts are missing."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
import gevent

from gpumend.deploy.early import SIGNALS
from gpumend.reports.document import Exit, worst
from gpumend.reports.names import some
from gpumend.run import record as run

if TYPE_CHECKING:
    from pyinfra.api.state import State

WHY = "interrupted"
AGAIN = 0.7  # seconds: the terminal's signal and the one that `gpumend facts` passes on are one

# By host name: who waits for it, and what to raise there.
_waiting: dict[str, tuple[Any, type[Exception]]] = {}


@contextmanager
def answered() -> Iterator[None]:
    """A question: an interrupt meanwhile is KeyboardInterrupt, once; nothing that gevent could do comes before the answer."""

    def no(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)  # what a parent passes on is the same one
        raise KeyboardInterrupt

    kept = signal.signal(signal.SIGINT, no)
    yield
    signal.signal(signal.SIGINT, kept)  # not after one: it is the way out


@contextmanager
def waits(name: str, error: type[Exception]) -> Iterator[None]:
    """An interrupt while this block waits for the host raises `error` in it."""
    _waiting[name] = (gevent.getcurrent(), error)
    try:
        yield
    finally:
        _waiting.pop(name, None)


class Interrupts:
    """finish: tells the report, and gives the exit status."""

    def __init__(self, state: State, finish: Callable[[State], Exit] | None) -> None:
        self.state, self.finish, self.last = state, finish, 0.0
        self.ended: list[Any] = []  # greenlets that have been told to wait no more

    def listen(self) -> None:
        # Not gevent.signal_handler: pyinfra has one of its own and then takes the signal from it (pyinfra_cli/main.py), and
        # libev installs its handler for the first of a signal alone.
        for number in SIGNALS:
            signal.signal(number, lambda number, frame: gevent.spawn(self))

    def __call__(self) -> None:
        now = time.monotonic()
        if now - self.last < AGAIN:
            return
        self.last = now
        this = run.current(self.state.inventory)
        waiting = {name: found for name, found in _waiting.items() if found[0] not in self.ended}
        if this.stopped and not waiting:
            self.leave(this)
            return
        this.stopped = this.stopped or WHY
        busy = sorted(name for name, record in this.records.items() if record.busy)
        if busy:
            click.echo(
                f"gpumend: {WHY}: nothing more is begun; {some(busy)}: waiting for the change at work there; once more leaves "
                "the host to end it by itself",
                err=True,
            )
        elif waiting:
            click.echo(f"gpumend: {WHY}: no answer yet from {some(waiting)}", err=True)
        else:
            click.echo(f"gpumend: {WHY}: nothing more is begun", err=True)
        for greenlet, error in waiting.values():
            self.ended.append(greenlet)
            gevent.kill(greenlet, error(f"{WHY}: it had not answered"))

    def leave(self, this: run.Run) -> None:
        """The report, and the end, without a word more to any host."""
        for host in self.state.inventory:
            if not self.state.is_host_in_limit(host):
                continue
            record = this.record(host.name)
            if record.busy:
                record.error = f"{WHY} while {record.busy} was at work: the host finishes or puts back by itself; audit it again"
            elif record.now is None and not record.error:
                record.error = f"{WHY}: it had not answered"
        status = self.finish(self.state) if self.finish else Exit.UNREAD
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(worst((status, Exit.UNREAD))))
