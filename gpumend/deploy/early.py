"""Ctrl-C while the program is loaded: nothing was begun, and that is said in a line."""

import os
import signal

SIGNALS = (signal.SIGINT, signal.SIGTERM)  # what an interrupt is, to all of gpumend


def listen() -> None:
    """An interrupt ends this process with exit status 1, until somebody else listens; `gpumend` held back those that came as it
    became this program (gpumend/cli/start.py)."""

    def end(number: int, frame: object) -> None:
        os.write(2, b"gpumend: interrupted before a host was connected to\n")
        os._exit(1)

    for number in SIGNALS:
        signal.signal(number, end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
