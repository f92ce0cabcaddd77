"""`gpumend audit`"""

from __future__ import annotations

import click

from gpumend.cli import start


@click.command("audit")
@start.options
def command(call: start.Call) -> None:
    """What is wrong on the hosts, and what mend would change. Writes nothing on any host."""
    call.become("gpu_host", "--dry")
