"""`gpumend check`"""

from __future__ import annotations

import click

from gpumend.cli import start


@click.command("check")
@start.options
def command(call: start.Call) -> None:
    """What can be known to be wrong before a host is connected to: hosts file, group_data, desired state, waivers, keys.

    Exit status: 0 nothing; 2 something, and what.
    """
    call.become("gpu_host", "--dry", check=True)
