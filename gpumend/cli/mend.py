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
@click.option(
    "--reboot",
    is_flag=True,
    help="Reboot hosts whose report says that one is required, one by one, once they are changed; behind the same look at what runs "
    "there as a restart. Never the machine that gpumend runs on.",
)
@click.option(
    "--batch", type=click.IntRange(1), metavar="N", help="With --reboot: N hosts at a time. The default: 1."
)
@click.option(
    "--reboot-wait",
    type=click.IntRange(10),
    metavar="SECONDS",
    help="With --reboot: how long a host may take to be back. The default: 900.",
)
@start.options
def command(call: start.Call, yes: bool, plan: str | None, **how: Any) -> None:
    """Put right what can be put right, prove it, and put back what cannot be proven.

    On a terminal it shows its hosts and what it would change, and asks once.
    """
    if not yes and not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise click.UsageError("mend changes hosts, and there is no terminal to ask on: add --yes")
    if not how["reboot"] and (how["batch"] or how["reboot_wait"]):
        raise click.UsageError("--batch and --reboot-wait go with --reboot")
    rollout = {key: value for key, value in how.items() if value}
    if plan:
        rollout["plan"] = approval.read(plan)
        if not call.targets and not call.limit:
            call = replace(call, targets=tuple(rollout["plan"]))
        if not rollout["plan"]:
            click.echo(f"gpumend: {plan} has nothing to change", err=True)
            return
    call.become("gpu_host", "-y", ask=not yes, rollout=rollout)
