"""`gpumend facts`"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import click

from gpumend.cli import report_options, start


@click.command("facts")
@start.options
def command(call: start.Call) -> None:
    """What is known of the hosts, as JSON on standard output (or in --report FILE), host by host."""
    if report_options.has_output():
        call.become("facts", "--dry")
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "facts.json"
        status = replace(call, report=str(file)).run("facts", "--dry")
        if not file.exists():
            sys.exit(status or 1)
        text = json.dumps(json.loads(file.read_text("utf-8")), indent=2, ensure_ascii=False) + "\n"
    if call.report and call.report != "-":
        Path(call.report).write_text(text, "utf-8")
    else:
        click.echo(text, nl=False)
    sys.exit(status)
