"""`gpumend parity`"""

from __future__ import annotations

import sys

import click

from gpumend.cli import start as pyinfra


@click.command("parity")
@pyinfra.options
@click.option("--pool", metavar="POOL", help="Only the hosts whose `grit.pool` is this one.")
def command(
    inventory: str | None,
    limit: tuple[str, ...],
    report: str | None,
    data: tuple[str, ...],
    verbose: bool,
    pool: str | None,
) -> None:
    """In what nodes differ that have to restore each other's checkpoints: blockers, risks, and what is not known.

    Pools are those of the wanted state (`grit.pool`); without any, all hosts are one group. Changes nothing.
    """
    if pool:
        data = (*data, f"pool={pool}")
    sys.exit(pyinfra.run([*pyinfra.arguments(inventory, "parity.py", limit, report, data), "--dry"], verbose))
