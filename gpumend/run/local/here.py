"""One of our programs on this very host, as it runs on any: Python's standard library, no environment, nothing left behind."""

from __future__ import annotations

import subprocess
import sys

from gpumend.payload.change.progress import PROGRESS
from gpumend.run.attempt import HostError
from gpumend.state.snapshot import MAX_ANSWER_BYTES


def ran(program: str, timeout: float | None = None) -> str:
    """What a program prints. timeout: seconds after which it is ended; None: it comes to its end. Raises HostError where it
    says nothing, with its last word."""
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-B", "-"],
            input=program.encode("ascii"),
            capture_output=True,
            timeout=timeout,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HostError(str(error)) from None
    if len(done.stdout) > MAX_ANSWER_BYTES:
        raise HostError("its answer is too long")
    if not done.stdout.strip():
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        words = [line for line in said if not line.startswith(PROGRESS)]
        raise HostError(words[-1] if words else f"exit {done.returncode}")
    return done.stdout.decode("ascii", "replace")
