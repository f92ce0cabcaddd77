"""While the program is loaded: nothing was begun, and Ctrl-C says that in a line."""

import gc
import os
import signal

NEW_OBJECTS = 20_000
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


def little_garbage() -> None:
    """Python searches for garbage after NEW_OBJECTS, and not after 700 (gc.set_threshold's documentation): to load the program and to
    judge a fleet make objects that stay, and looking through them again and again was an eighth of an audit's CPU time."""
    gc.set_threshold(NEW_OBJECTS)
