"""`gpumend audit`"""

from __future__ import annotations

import sys

import click

from gpumend.cli import start as pyinfra


@click.command("audit")
@pyinfra.options
def command(
    inventory: str | None, limit: tuple[str, ...], report: str | None, data: tuple[str, ...], verbose: bool
) -> None:
    """What is wrong on the hosts, and what mend would change. Writes nothing on any host."""
    sys.exit(
        pyinfra.run([*pyinfra.arguments(inventory, "gpu_host.py", limit, report, data), "--dry"], verbose)
    )
