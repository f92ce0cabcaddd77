"""`gpumend` as whoever works in a directory calls it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def gpumend(cwd: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """The command has ended; it had no terminal, and a width that breaks no line."""
    return subprocess.run(
        (sys.executable, "-m", "gpumend.cli.main", *argv),
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "160"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
