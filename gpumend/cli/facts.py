"""`gpumend facts`"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import click

from gpumend.cli import report_options
from gpumend.cli import start as pyinfra


@click.command("facts")
@pyinfra.options
def command(
    inventory: str | None, limit: tuple[str, ...], report: str | None, data: tuple[str, ...], verbose: bool
) -> None:
    """What is known of the hosts, as JSON on standard output (or in --report FILE), host by host."""
    if report_options.has_output():
        sys.exit(
            pyinfra.run([*pyinfra.arguments(inventory, "facts.py", limit, report, data), "--dry"], verbose)
        )
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "facts.json"
        arguments = pyinfra.arguments(inventory, "facts.py", limit, str(file), data)
        status = pyinfra.run([*arguments, "--dry"], verbose)
        if not file.exists():
            sys.exit(status or 1)
        text = json.dumps(json.loads(file.read_text("utf-8")), indent=2, ensure_ascii=False) + "\n"
    if report and report != "-":
        Path(report).write_text(text, "utf-8")
    else:
        click.echo(text, nl=False)
    sys.exit(status)
