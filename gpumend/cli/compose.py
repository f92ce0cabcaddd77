"""`gpumend compose audit [PATH]...`, `gpumend compose fix [PATH]...`"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from gpumend.cli import compose_files, report_options
from gpumend.reports import working_copy
from gpumend.rules.compose.judge import CHECKS, judge_project
from gpumend.rules.compose.where import NOWHERE, Where, from_report
from gpumend.run.record import Run, new_id
from gpumend.state.compose_files import Project, project
from gpumend.text.version import parse_version

LARGEST_REPORT = 64 << 20


def _version(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    try:
        return parse_version(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _hosts(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[Where, ...]:
    """Each host of a report: of `gpumend audit` or, with more in it, of `gpumend facts`."""
    if value is None:
        return ()
    try:
        with Path(value).open("rb") as file:
            found = json.loads(file.read(LARGEST_REPORT))
        hosts = from_report(found)
    except (OSError, ValueError, RecursionError) as error:
        raise click.BadParameter(f"{value}: {error}") from None
    if not hosts:
        raise click.BadParameter(f"{value}: no host in it gave an answer")
    return hosts


OPTIONS = (
    click.argument("paths", nargs=-1, metavar="[PATH]..."),
    click.option(
        "-f",
        "--file",
        "together",
        multiple=True,
        metavar="FILE",
        help="Files of one project, as `docker compose -f`.",
    ),
    click.option(
        "--for",
        "hosts",
        callback=_hosts,
        metavar="REPORT",
        help="Judge for the hosts of this JSON report (audit or facts).",
    ),
    click.option(
        "--docker", callback=_version, metavar="VERSION", help="Docker's version, where no report says it."
    ),
    click.option("--compose", "compose_", callback=_version, metavar="VERSION", help="Compose's version."),
    click.option(
        "--mode", metavar="MODE", help="The mode of nvidia-container-runtime that is wanted, as cdi."
    ),
)


def options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def places(hosts: tuple[Where, ...], docker: Any, compose_: Any, mode: str | None) -> list[Where]:
    """What the files are judged for: each host of the report, or what the options say."""
    found = []
    for where in hosts or (NOWHERE,):
        if docker:
            where = replace(where, docker=docker, host=where.host or "the named host")
        found.append(replace(where, compose=compose_ or where.compose, wanted=mode or where.wanted))
    return found


def read(paths: tuple[str, ...], together: tuple[str, ...]) -> list[Project]:
    return [project(files, compose_files.opened) for files in compose_files.projects(paths, together)]


@click.group("compose")
def command() -> None:
    """How the services of compose files ask for GPUs, and whether that works.

    PATH is a compose file or a directory with one; without any, the present directory. No host is asked.
    """


@command.command("audit")
@options
@click.option("--report", metavar="FILE", help="Write the report as JSON; - is standard output.")
@report_options.apply
def audit(paths: tuple[str, ...], together: tuple[str, ...], report: str | None, **more: Any) -> None:
    """What is wrong with the requests for GPUs. Changes nothing.

    Exit status: 0 nothing; 1 something is not known; 2 usage; 3 something is wrong.
    """
    run = Run(new_id(), time.time())
    judged = {}
    places_ = places(**more)
    for found in read(paths, together):
        for where in places_:
            name = found.given[0] + (f" for {where.host}" if where.host and len(places_) > 1 else "")
            judged[name] = judge_project(found, where)
    document = working_copy.document(run, judged, CHECKS)
    try:
        report_options.tell(document, report)
    except OSError as error:
        click.echo(f"gpumend: the report could not be written: {error}", err=True)
        sys.exit(1)
    sys.exit(document["exit"])
