"""`gpumend rollback RUN|last`"""

from __future__ import annotations

import re

import click

from gpumend.cli import start

LAST = "last"
RUN = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{4}")


def run_id(ctx: click.Context, param: click.Parameter, value: str) -> str:
    """A run's name, or `last`."""
    if value != LAST and not RUN.fullmatch(value):
        raise click.BadParameter(
            f"{value!r} is no run; `mend` names its run in its last lines, `gpumend runs` lists all."
        )
    return value


@click.command("rollback")
@click.argument("run", callback=run_id)
@start.options
def command(call: start.Call, run: str) -> None:
    """Undo a run on every host that has it. Files that somebody changed since are left, and named.

    RUN is the name that mend printed, or `last`: the newest run that ended done on any of the hosts.
    """
    call.become("rollback", "-y", data=(f"run={run}",))
