"""`gpumend dockerfile audit`"""

from __future__ import annotations

import os
import shlex
import sys
import time
from pathlib import Path
from typing import NoReturn

import click

from gpumend.cli import report_options, telling, told
from gpumend.deploy import trust
from gpumend.reports import working_copy as working_copy_report
from gpumend.reports.document import Exit
from gpumend.rules.dockerfile import target as targets
from gpumend.rules.dockerfile.audit import UNREADABLE, audit
from gpumend.rules.dockerfile.rules import CHECKS, Service
from gpumend.rules.finding import Finding
from gpumend.run.local import working_copy
from gpumend.run.local.working_copy import WorkingCopyError
from gpumend.run.record import Run, new_id


@click.group("dockerfile")
def command() -> None:
    """What is wrong with Dockerfiles of a working copy; no host is asked."""


@command.command("audit")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option(
    "--for",
    "reports",
    multiple=True,
    metavar="REPORT|HOST",
    help="Judge for the hosts of this JSON report (audit or facts), or for a host, which is asked.",
)
@click.option("--host", "host", default="", metavar="NAME", help="Only this host of the reports.")
@click.option("--context", "context", metavar="DIR", help="The build's context; else it is looked for.")
@click.option("--target", default="", metavar="STAGE", help="The stage that is built; else the last one.")
@click.option(
    "--build-arg", "build_args", multiple=True, metavar="NAME=VALUE", help="As docker build takes it."
)
@click.option(
    "--command", "run", metavar="COMMAND", help="What the container runs, where it is not the image's CMD."
)
@click.option("--report", metavar="FILE", help="Write the report as JSON; - is standard output.")
@report_options.apply
def audit_command(
    paths: tuple[str, ...],
    reports: tuple[str, ...],
    host: str,
    context: str | None,
    target: str,
    build_args: tuple[str, ...],
    run: str | None,
    report: str | None,
) -> None:
    """What is wrong with Dockerfiles: a module that the container runs and no COPY brings, a CUDA that the host's driver does not
    run, CUPTI by its headers alone, libraries that the loader does not find. Writes nothing, runs nothing, builds nothing.

    PATH is a Dockerfile, or a directory that is searched for them.

    Exit status: 0 nothing is wrong; 1 something could not be read, or stayed unknown; 2 usage; 3 something is wrong.
    """
    this = Run(new_id(), time.time())
    hosts = _hosts(reports, host)
    service = Service(command=tuple(shlex.split(run)), said="--command") if run else Service()
    arguments = dict(_argument(item) for item in build_args)
    root = Path(context) if context else None
    if root is not None and not root.is_dir():
        _usage(f"there is no directory {context}")
    try:
        dockerfiles = [path for item in paths for path in working_copy.dockerfiles(Path(item))]
    except WorkingCopyError as error:
        _usage(str(error))
    judged: dict[str, tuple[Finding, ...]] = {}
    unread: dict[str, str] = {}
    for path in dict.fromkeys(dockerfiles):
        name = _shown(path)
        try:
            trust.links(path, trust.owners())
            base = root or working_copy.root_of(path)
            prefix = "" if _shown(base) == "." else f"{_shown(base)}/"
            text, context_ = working_copy.text_of(path), working_copy.context(base, path)
        except (OSError, WorkingCopyError, trust.UntrustedError) as error:
            unread[name] = str(error)
            continue
        judged[name] = audit(text, context_, name, prefix, service, target, arguments, hosts)
    document = working_copy_report.document(this, judged, CHECKS, unread, UNREADABLE)
    try:
        telling.tell(document, report)
    except OSError as error:
        click.echo(f"gpumend: the report could not be written: {error}", err=True)
        sys.exit(int(Exit.UNREAD))
    sys.exit(document["exit"])


def _shown(path: Path) -> str:
    """A file as reports name it: from the current directory where it lies below it, else by its whole path."""
    name = os.path.relpath(path)
    return str(path.absolute()) if name.startswith("..") else name


def _usage(text: str) -> NoReturn:
    click.echo(f"gpumend: {text}", err=True)
    sys.exit(int(Exit.USAGE))


def _argument(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        _usage(f"--build-arg {text}: NAME=VALUE is needed")
    return name, value


def _hosts(reports: tuple[str, ...], host: str) -> list[targets.Target]:
    found: list[targets.Target] = []
    for report in reports:
        try:
            found += targets.hosts(told.document(report), report, host)
        except OSError as error:
            _usage(f"{report} could not be read: {error.strerror}")
        except RecursionError:
            _usage(f"{report} is no JSON that anybody reads")
        except ValueError as error:
            _usage(str(error) if report in str(error) else f"{report}: {error}")
    return found
