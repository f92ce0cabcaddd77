"""`gpumend rollback RUN`"""

from __future__ import annotations

import re
import sys

import click

from gpumend.cli import start


def _run_id(ctx: click.Context, param: click.Parameter, value: str) -> str:
    if not re.fullmatch(r"\d{8}T\d{6}Z-[0-9a-f]{4}", value):
        raise click.BadParameter(f"{value!r} is no run; `mend` names its run in its last lines.")
    return value


@click.command("rollback")
@click.argument("run", callback=_run_id)
@start.options
def command(call: start.Call, run: str) -> None:
    """Undo a run on every host that has it. Files that somebody changed since are left, and named."""
    sys.exit(call.run("rollback", "-y", data=(f"run={run}",)))
