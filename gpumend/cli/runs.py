"""`gpumend runs [HOST]...`, `gpumend runs ack RUN [HOST]...`"""

from __future__ import annotations

from dataclasses import replace

import click

from gpumend.cli import rollback, start

ACKNOWLEDGE = "ack"


@click.command("runs", options_metavar="[ack RUN] [OPTIONS]")
@start.options
def command(call: start.Call) -> None:
    """What gpumend did on the hosts, run by run, the newest first.

    With `ack RUN` somebody has taken note of how that run ended: GM007 is settled on every host that has it.
    """
    if call.targets[:1] != (ACKNOWLEDGE,):
        call.become("runs", "--dry")
    named, targets = call.targets[1:2], call.targets[2:]
    if not named or not rollback.RUN.fullmatch(named[0]):
        raise click.UsageError("runs ack RUN: name the run; `gpumend runs` lists them")
    replace(call, targets=targets).become("acknowledge", "-y", data=(f"run={named[0]}",))
