"""`gpumend compose audit [PATH]...`, `gpumend compose fix [PATH]...`"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable
from typing import Any

import click

from gpumend.cli import compose_files, report_options, telling, told
from gpumend.reports import working_copy
from gpumend.reports.diff import diff_of
from gpumend.rules.compose.judge import CHECKS, judge_project
from gpumend.rules.compose.rewrite import FORMS, form_for, rewrite
from gpumend.rules.compose.where import NOWHERE, Where, from_report
from gpumend.run.local import builds
from gpumend.run.record import Run, new_id
from gpumend.state.compose_files import Project, project
from gpumend.text.mask import mask
from gpumend.text.version import parse_version


def _version(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    try:
        return parse_version(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _hosts(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[Where, ...]:
    """Each host of a report: of `gpumend audit` or, with more in it, of `gpumend facts`; or hosts themselves, which are asked."""
    if value is None:
        return ()
    try:
        hosts = from_report(told.document(value), value)
    except (OSError, ValueError, RecursionError) as error:
        raise click.BadParameter(f"{value}: {error}") from None
    if not hosts:
        raise click.BadParameter(f"{value}: no host in it gave an answer")
    return hosts


FORM_OPTIONS = (
    click.option(
        "--to",
        "form",
        type=click.Choice(FORMS),
        help="The form; else what the host of --for or --docker serves best.",
    ),
    click.option("--dry", is_flag=True, help="Show the diff, and write nothing."),
    click.option("--uncommitted", is_flag=True, help="Write to files, too, that git could not give back."),
)
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
        metavar="REPORT|HOST",
        help="Judge for the hosts of this JSON report (audit or facts), or for a host, which is asked.",
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
            where = where._replace(docker=docker, host=where.host or "the named host")
        found.append(where._replace(compose=compose_ or where.compose, wanted=mode or where.wanted))
    return found


def read(paths: tuple[str, ...], together: tuple[str, ...]) -> list[Project]:
    return [project(files, compose_files.opened) for files in compose_files.projects(paths, together)]


@click.group("compose")
def command() -> None:
    """How the services of compose files ask for GPUs, and whether that works.

    PATH is a compose file or a directory with one; without any, the present directory. No host is asked but that of --for.
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
            images = builds.of_project(found, compose_files.opened, [where.target] if where.target else ())
            name = found.given[0] + (f" for {where.host}" if where.host and len(places_) > 1 else "")
            judged[name] = (*judge_project(found, where), *images)
    document = working_copy.document(run, judged, CHECKS)
    try:
        telling.tell(document, report)
    except OSError as error:
        click.echo(f"gpumend: the report could not be written: {error}", err=True)
        sys.exit(1)
    sys.exit(document["exit"])


@command.command("fix")
@options
@FORM_OPTIONS[2]
@FORM_OPTIONS[1]
@FORM_OPTIONS[0]
def fix(
    paths: tuple[str, ...],
    together: tuple[str, ...],
    form: str | None,
    dry: bool,
    uncommitted: bool,
    **more: Any,
) -> None:
    """Rewrite requests for GPUs into a form that works: the same GPUs, and no other byte of the files.

    The forms: devices (`devices: [nvidia.com/gpu=0]`), runtime (`runtime: nvidia` with NVIDIA_VISIBLE_DEVICES), reservation.
    The diff is shown. What cannot be rewritten without another grant stays as it is, and is named.

    Exit status: 0 every request has this form; 2 usage; 3 something stays as it is (or, with --dry, would be rewritten);
    4 a file could not be written.
    """
    found = places(**more)
    if len(found) > 1:
        raise click.UsageError(
            "--for: a report of one host is needed: one file cannot have the forms of several"
        )
    where = found[0]
    if form is None and where.docker is None:
        raise click.UsageError(
            "--to says the form; or --for or --docker (with --compose) for which host it is to work"
        )
    form = form or form_for(where)
    status, changed = 0, False
    for each in read(paths, together):
        done, written = rewrite(each, compose_files.opened, form, where), False
        for refusal in done.refused:
            click.echo(f"stays  {refusal.service or each.given[0]} ({refusal.place}): {mask(refusal.why)}")
            status = max(status, 3)
        for place, services in done.shared:
            click.echo(f"shared {place}: {', '.join(services)}")
        for path, data in sorted(done.texts.items()):
            before = each.files[path].encode(each.files[path].text)
            click.echo(diff_of(path, before, data))
            changed = True
            why = "" if dry or uncommitted else compose_files.uncommitted(path)
            if why:
                click.echo(f"stays  {path}: {why}; commit it, or say --uncommitted")
            elif not dry:
                try:
                    compose_files.write(path, before, data)
                    written = True
                    continue
                except OSError as error:
                    click.echo(f"stays  {path}: {error.strerror or error}")
                    status = 4
            status = max(status, 3)
        if written:
            click.echo(f"pending: {up(each, done.changed)}")
    if not changed and not status:
        click.echo(f"nothing to rewrite: every request has the form {form}")
    sys.exit(status)


def up(found: Project, services: tuple[str, ...]) -> str:
    """What recreates the containers, to be copied."""
    files = " ".join(f"-f {shlex.quote(path)}" for path in found.given)
    return f"docker compose {files} up -d {' '.join(map(shlex.quote, services))}"
