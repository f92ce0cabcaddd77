"""How the report is told: options that every verb has which asks hosts. They are kept in click's context, and no verb hands
them on itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from gpumend.reports import outputs

KEY = "gpumend.report"


def _keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    ctx.meta.setdefault(KEY, {})[param.name] = value


def _outputs(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> None:
    """Each `FORMAT=PATH` with its path made absolute: the run may be in another directory."""
    try:
        found = outputs.parse_all(value) if value else ()
        if ctx.info_name:
            kind = (
                ctx.info_name if ctx.info_name in ("mend", "rollback", "runs", "facts", "parity") else "audit"
            )
            outputs.fits(found, kind)
    except outputs.OutputError as error:
        raise click.BadParameter(str(error)) from None
    for output in found:
        if output.path != outputs.STDOUT and not Path(output.path).expanduser().absolute().parent.is_dir():
            raise click.BadParameter(f"there is no directory for {output.path}")
    texts = [
        f"{output.format}="
        + (output.path if output.path == outputs.STDOUT else str(Path(output.path).expanduser().absolute()))
        for output in found
    ]
    _keep(ctx, param, texts)


OPTIONS = (
    click.option(
        "--output",
        multiple=True,
        metavar="FORMAT=PATH",
        callback=_outputs,
        expose_value=False,
        help="Write the report in a format (text, json, html, junit, ...), too; - is standard output. Several at once.",
    ),
    click.option(
        "--details",
        is_flag=True,
        callback=_keep,
        expose_value=False,
        help="Every host's findings in full, however many hosts there are.",
    ),
    click.option(
        "-q",
        "--quiet",
        is_flag=True,
        callback=_keep,
        expose_value=False,
        help="Print the run's one line, and no more.",
    ),
)


def apply(command: Callable[..., None]) -> Callable[..., None]:
    """The options on a verb that asks no host."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def data() -> list[str]:
    """The options as pyinfra's host data, KEY=VALUE each."""
    kept = click.get_current_context().meta.get(KEY, {})
    found = [f"{name}=true" for name in ("details", "quiet") if kept.get(name)]
    return [*found, *([f"output={json.dumps(kept['output'])}"] if kept.get("output") else [])]


def write(document: dict[str, Any], report: str | None) -> None:
    """A document that no deploy writes, everywhere that one is asked for. Raises OSError."""
    texts = click.get_current_context().meta.get(KEY, {}).get("output") or []
    for output in outputs.parse_all([*([f"json={report}"] if report else []), *texts]):
        outputs.write(document, output)


def has_output() -> bool:
    return bool(click.get_current_context().meta.get(KEY, {}).get("output"))
