"""`gpumend mend`"""

from __future__ import annotations

import sys

import click

from gpumend.cli import start as pyinfra


@click.command("mend")
@pyinfra.options
def command(
    inventory: str | None, limit: tuple[str, ...], report: str | None, data: tuple[str, ...], verbose: bool
) -> None:
    """Put right what can be put right, prove it, and put back what cannot be proven. Asks nothing."""
    sys.exit(pyinfra.run([*pyinfra.arguments(inventory, "gpu_host.py", limit, report, data), "-y"], verbose))
