"""`gpumend rollback RUN`"""

from __future__ import annotations

import re
import sys

import click

from gpumend.cli import start as pyinfra


def _run_id(ctx: click.Context, param: click.Parameter, value: str) -> str:
    if not re.fullmatch(r"\d{8}T\d{6}Z-[0-9a-f]{4}", value):
        raise click.BadParameter(f"{value!r} is no run; `mend` names its run in its last lines.")
    return value


@click.command("rollback")
@click.argument("run", callback=_run_id)
@pyinfra.options
def command(
    run: str,
    inventory: str | None,
    limit: tuple[str, ...],
    report: str | None,
    data: tuple[str, ...],
    verbose: bool,
) -> None:
    """Undo a run on every host that has it. Files that somebody changed since are left, and named."""
    arguments = pyinfra.arguments(inventory, "rollback.py", limit, report, (*data, f"run={run}"))
    sys.exit(pyinfra.run([*arguments, "-y"], verbose))
