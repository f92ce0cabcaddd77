"""What verbs over files of a working copy have in common: how their report is told."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from gpumend.cli import report_options
from gpumend.reports import outputs, terminal
from gpumend.reports.document import Exit, worst


def shown(path: Path) -> str:
    """A file as reports name it: from the current directory where it lies below it, else by its whole path."""
    name = os.path.relpath(path)
    return str(path.absolute()) if name.startswith("..") else name


def tell(document: Mapping[str, Any], report: str | None) -> int:
    """The report on standard output, and wherever else one is asked for: the exit status. One that cannot be written is told,
    the others are written all the same, and it is at least exit 1."""
    kept = click.get_current_context().meta.get(report_options.KEY, {})
    wanted = outputs.parse_all([*([f"json={report}"] if report else []), *(kept.get("output") or ())])
    told, status = dict(document), Exit(document["exit"])
    if not any(output.path == outputs.STDOUT and output.format != "text" for output in wanted):
        text = terminal.summary(told) + "\n" if kept.get("quiet") else terminal.render(told)
        click.echo(text, nl=False, color=terminal.colored())
    for output in wanted:
        if output == outputs.Output("text", outputs.STDOUT):
            continue  # it was shown
        try:
            outputs.write(told, output)
        except OSError as error:
            click.echo(f"gpumend: the report could not be written: {error}", err=True)
            status = worst((Exit.UNREAD, status))
    return int(status)


def usage(text: str) -> None:
    """Ends the run with exit status 2 and a line that says why."""
    click.echo(f"gpumend: {text}", err=True)
    sys.exit(int(Exit.USAGE))


def report_option(command: Callable[..., None]) -> Callable[..., None]:
    """`--report`, `--output`, `--details` and `-q`, as every verb that judges has them."""
    for option in reversed(
        (
            click.option("--report", metavar="FILE", help="Write the report as JSON; - is standard output."),
            *report_options.OPTIONS,
        )
    ):
        command = option(command)
    return command
