"""`gpumend bundle`"""

from __future__ import annotations

import click

from gpumend.cli import start


@click.command("bundle")
@click.option(
    "--out", required=True, metavar="FILE.tar.gz", callback=start.report_path, help="Where the archive goes."
)
@start.options
def command(call: start.Call, out: str) -> None:
    """What a support ticket needs, in one archive: the report as text and JSON, and the facts that it was made of.

    Secrets are masked, files are there by their SHA-256; names of hosts, users and containers are in it. Changes nothing.
    """
    call.become("bundle", "--dry", data=(f"bundle={out}",))
