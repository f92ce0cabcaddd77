"""Undo a run on every host that has it: `--data run=RUN`, or `run=last`. A run's name is in the last lines of its report."""

from gpumend.deploy import undo

from operations import runs

runs.undone(named=undo.begin())
