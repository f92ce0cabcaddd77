"""Somebody has taken note of a run that ended broken: `--data run=RUN`, on every host that has it. GM007 is settled."""

from gpumend.deploy import undo

from operations import runs

runs.acknowledged(named=undo.begin_acknowledging())
