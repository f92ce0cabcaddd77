"""`gpumend fleet FILE|DIRECTORY|PROMETHEUS-URL...`"""

from __future__ import annotations

import datetime
import os
import sys
import time
from pathlib import Path
from typing import Any

import click

from gpumend.reports import collected, compare, scraped, terminal
from gpumend.reports.document import Exit, worst
from gpumend.reports.fleet import one_line
from gpumend.reports.history import History
from gpumend.reports.outputs import replaced
from gpumend.text.mask import mask

SHOWN = 10  # files that are no report, by name


def gathered(sources: tuple[str, ...], now: datetime.datetime, whole: bool) -> collected.Collected:
    """All of them together. Raises click.BadParameter where one is not there."""
    found = collected.Collected()
    files = []
    for source in sources:
        if not source.startswith(("http://", "https://")):
            files.append(Path(source).expanduser())
            if not files[-1].exists():
                raise click.BadParameter(f"{source}: no such file or directory")
            continue
        try:
            found.take(scraped.collect(source))
        except collected.ReportError as error:
            found.unread.append((source, str(error)))
    found.take(collected.collect(files, now, whole))
    return found


def told(found: collected.Collected) -> str:
    """What was not counted, and why."""
    rows = [f"not a report: {mask(one_line(path))}: {why}" for path, why in found.unread[:SHOWN]]
    rows += [
        f"{mask(one_line(path))} tells of {one_line(name)}, of which another file has the name: not counted"
        for path, name in found.foreign[:SHOWN]
    ]
    beyond = max(len(found.unread) - SHOWN, 0) + max(len(found.foreign) - SHOWN, 0)
    rows += [f"and {beyond} files more that do not count"] if beyond else []
    rows += [f"{found.passed} older reports of the same hosts: the newest counts"] if found.passed else []
    return "".join(f"{row}\n" for row in rows)


@click.command("fleet")
@click.argument("sources", nargs=-1, required=True, metavar="FILE|DIRECTORY|PROMETHEUS-URL...")
@click.option(
    "--older",
    type=click.FloatRange(min=0, min_open=True),
    default=24.0,
    show_default=True,
    metavar="HOURS",
    help="A host whose last report is older gave no answer.",
)
@click.option(
    "--history",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Say since when findings are there and what is gone; FILE keeps that from one look to the next.",
)
@click.option(
    "--against",
    metavar="FILE|DIRECTORY",
    help="Say what has come and gone since these reports, as `gpumend diff` does.",
)
@click.option(
    "--report",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="All reports as one JSON document.",
)
@click.option("--details", is_flag=True, help="Every host's findings in full.")
def command(
    sources: tuple[str, ...],
    older: float,
    history: Path | None,
    against: str | None,
    report: Path | None,
    details: bool,
) -> None:
    """What reports say that agents have written, or `gpumend audit --report`: as one audit of all these hosts. No host is asked.

    Of a directory every *.json and *.jsonl below it counts (HOST.json, HOST/report.json); of a host with several reports the
    newest. A URL is Prometheus's, which has codes but no texts.

    Exit status: an audit's; 1, too, where a file is no report or a host's is too old; 3, too, where --against shows something
    worse; 2 there is no report at all.
    """
    began = time.time()
    now = datetime.datetime.fromtimestamp(began, datetime.timezone.utc)
    if report and any(source.startswith(("http://", "https://")) for source in sources):
        raise click.UsageError("--report: Prometheus has no whole reports")
    found = gathered(sources, now, details)
    if not found.claims:
        click.echo(told(found), nl=False, err=True)
        click.echo("gpumend: there is no report", err=True)
        sys.exit(Exit.USAGE)
    if len(found.claims) < terminal.FLEET and not details:
        found = gathered(sources, now, True)
    shown = collected.document(found, now, datetime.timedelta(hours=older))
    status = Exit(shown["exit"])
    shown["seconds"] = round(time.time() - began, 3)
    click.echo(terminal.render(shown, details=details), nl=False)
    click.echo(told(found), nl=False)
    try:
        status = worst((status, since(found, shown, history), diffed(shown, against, now)))
        if report:
            whole = collected.parts(shown, collected.whole_hosts(found, shown))
            replaced(Path(os.path.realpath(report)), whole, 0o600)
    except collected.ReportError as error:
        raise click.BadParameter(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"{error.filename or report or history}: {error.strerror}") from None
    sys.exit(status)


def since(found: collected.Collected, shown: dict[str, Any], path: Path | None) -> Exit:
    """The history is told and kept. Raises ReportError or OSError."""
    if path is None:
        return Exit.OK
    history = History.read(path)
    history.take(shown, {name: claim.started for name, claim in found.claims.items()})
    click.echo("\nHistory")
    click.echo("".join(f"{line}\n" for line in history.lines(shown)) or "nothing was found yet\n", nl=False)
    replaced(Path(os.path.realpath(path)), history.text().encode(), 0o600)
    return Exit.UNREAD if history.missing(shown) else Exit.OK


def diffed(shown: dict[str, Any], against: str | None, now: datetime.datetime) -> Exit:
    """What is different from the older reports is told. Raises click.BadParameter."""
    if against is None:
        return Exit.OK
    before = gathered((against,), now, False)
    if not before.claims:
        raise click.BadParameter(f"{against}: there is no report")
    old = collected.document(before, now, datetime.timedelta.max)
    difference = compare.compare(old, shown)
    click.echo(f"\nSince {against}")
    click.echo(compare.render(difference), nl=False)
    return Exit.DRIFT if difference.worse else Exit.OK
