"""Undo a run on every host that has it: `--data run=RUN`. The run's name is in the last lines of its report."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from deploys import undo
from operations import runs

runs.undone(named=undo.begin())
