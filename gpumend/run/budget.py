"""How long one host may keep the controller busy: what a host holds must not delay the others."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

JUDGING = 20.0  # seconds; a host takes some 5 ms


class OverBudget(BaseException):
    """It took too long. No Exception: a rule's own fault is told as that rule's, and this is not."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """What is done inside ends after so many seconds, with OverBudget. Pure computation in the main thread, as all of
    pyinfra's greenlets are (gevent); in another thread nothing is bounded."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def over(number: int, frame: FrameType | None) -> None:
        raise OverBudget(f"took more than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
