"""`gpumend parity`"""

from __future__ import annotations

import click

from gpumend.cli import start


@click.command("parity")
@click.option("--pool", metavar="POOL", help="Only the hosts whose `grit.pool` is this one.")
@start.options
def command(call: start.Call, pool: str | None) -> None:
    """In what nodes differ that have to restore each other's checkpoints: blockers, risks, and what is not known.

    Pools are those of the wanted state (`grit.pool`); without any, all hosts are one group. Changes nothing.
    """
    call.become("parity", "--dry", data=(f"pool={pool}",) if pool else ())
