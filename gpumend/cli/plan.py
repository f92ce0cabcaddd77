"""`gpumend plan --out FILE`"""

from __future__ import annotations

from dataclasses import replace

import click

from gpumend.cli import start


@click.command("plan")
@click.option(
    "--out", required=True, metavar="FILE", callback=start.report_path, help="Where the plan goes, as JSON."
)
@start.options
def command(call: start.Call, out: str) -> None:
    """What mend would change, kept in a file: `gpumend mend --plan FILE` changes that, and nothing else.

    It is the JSON report of an audit. A host that has changed since is refused. Writes nothing on any host.
    """
    if call.report:
        raise click.UsageError("--out and --report: give one of them")
    replace(call, report=out).become("gpu_host", "--dry")
