"""`gpumend mend`"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import click

from gpumend.cli import approval, start


@click.command("mend")
@click.option("-y", "--yes", is_flag=True, help="Do not ask. Needed where there is no terminal.")
@click.option("--plan", metavar="FILE", help="Change what `gpumend plan --out FILE` has, and nothing else.")
@click.option("--serial", is_flag=True, help="One host at a time.")
@click.option(
    "--canary", type=click.IntRange(1), metavar="N", help="N hosts first; the others if none failed."
)
@click.option(
    "--max-failures",
    type=click.IntRange(1),
    metavar="N",
    help="No more than N hosts fail: as many are changed at a time as may still fail.",
)
@click.option(
    "--before",
    metavar="COMMAND",
    help="Run here before a host is changed; where it fails, the host is left. It has $GPUMEND_HOST and $GPUMEND_ADDRESS.",
)
@click.option(
    "--after",
    metavar="COMMAND",
    help="Run here after it, with $GPUMEND_EXIT and $GPUMEND_STATUS; not where a change could not be put back.",
)
@start.options
def command(call: start.Call, yes: bool, plan: str | None, **how: Any) -> None:
    """Put right what can be put right, prove it, and put back what cannot be proven.

    On a terminal it shows its hosts and what it would change, and asks once.
    """
    if not yes and not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise click.UsageError("mend changes hosts, and there is no terminal to ask on: add --yes")
    rollout = {key: value for key, value in how.items() if value}
    if plan:
        rollout["plan"] = approval.read(plan)
        if not call.targets and not call.limit:
            call = replace(call, targets=tuple(rollout["plan"]))
        if not rollout["plan"]:
            click.echo(f"gpumend: {plan} has nothing to change", err=True)
            return
    sys.exit(call.run("gpu_host", "-y", ask=not yes, rollout=rollout))
