"""The report of a verb that asks no host: on the terminal, and where its options want it."""

from __future__ import annotations

from typing import Any

import click

from gpumend.cli import report_options
from gpumend.reports import outputs, terminal


def tell(document: dict[str, Any], report: str | None) -> None:
    """The document on the terminal, unless standard output is another format's, and everywhere that one is asked for."""
    kept = click.get_current_context().meta.get(report_options.KEY, {})
    taken = report == outputs.STDOUT or any(
        output.path == outputs.STDOUT for output in outputs.parse_all(kept.get("output") or ())
    )
    if not taken:
        text = (
            terminal.summary(document) + "\n"
            if kept.get("quiet")
            else terminal.render(document, details=bool(kept.get("details")))
        )
        click.echo(text, nl=False, color=terminal.colored())
    report_options.write(document, report)
