"""`gpumend mend`"""

from __future__ import annotations

import sys

import click

from gpumend.cli import start


@click.command("mend")
@click.option("-y", "--yes", is_flag=True, help="Do not ask. Needed where there is no terminal.")
@start.options
def command(call: start.Call, yes: bool) -> None:
    """Put right what can be put right, prove it, and put back what cannot be proven.

    On a terminal it shows its hosts and what it would change, and asks once.
    """
    if not yes and not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise click.UsageError("mend changes hosts, and there is no terminal to ask on: add --yes")
    sys.exit(call.run("gpu_host", "-y", ask=not yes))
