"""What the program on a host is at, for who watches: stdlib only, Python 3.6 or newer.

A transaction is a process of its own that has no terminal and no connection (program.py). It says what it is at on a pipe to the
one that has, as far as there is one that reads it.
"""

import os
import sys
from typing import List

PROGRESS = "gpumend: at work: "  # how such a line begins, on standard error
HEARD_BY: List[int] = []  # the pipe, which never blocks


def at_work_on(text: str) -> None:
    """Whoever watches is told, where somebody does; nobody is kept from his work by it. Empty: no longer."""
    for handle in HEARD_BY:
        try:
            os.write(handle, ("%s\n" % text).encode("utf-8", "replace"))
        except OSError:
            pass


def pass_on(data: bytes) -> None:
    """Such words are told on standard error, where there is one still."""
    for line in data.decode("utf-8", "replace").splitlines():
        try:
            sys.stderr.write("%s%s\n" % (PROGRESS, line))
            sys.stderr.flush()
        except (OSError, ValueError, AttributeError):
            pass
