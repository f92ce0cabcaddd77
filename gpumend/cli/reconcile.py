"""`gpumend reconcile`"""

from __future__ import annotations

import sys

import click

from gpumend.cli import start


@click.command("reconcile")
@click.option("-y", "--yes", is_flag=True, help="Do not ask. Needed where there is no terminal.")
@click.option("--dry", is_flag=True, help="Only tell; change nothing.")
@start.options
def command(call: start.Call, yes: bool, dry: bool) -> None:
    """Free GPU allocations of containers that are not there, where the desired state has `allocations.reconcile = "release"`.

    What is seen stale for the first time is noted on the host; a run at least `allocations.grace` seconds later frees it.
    """
    if dry:
        call.become("allocations", "--dry")
    if not yes and not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise click.UsageError(
            "reconcile changes hosts, and there is no terminal to ask on: add --yes, or --dry"
        )
    call.become("allocations", "-y", ask=not yes)
