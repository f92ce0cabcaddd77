"""`gpumend dockerfile audit`"""

from __future__ import annotations

import json
import shlex
import sys
import time
from pathlib import Path

import click

from gpumend.cli import files
from gpumend.reports.files import File, document
from gpumend.rules.dockerfile import target as targets
from gpumend.rules.dockerfile.audit import audit
from gpumend.rules.dockerfile.rules import Service
from gpumend.run.local import working_copy
from gpumend.run.local.working_copy import WorkingCopyError

LARGEST = 256 * 1024 * 1024  # bytes of a report that is read


@click.group("dockerfile")
def command() -> None:
    """What is wrong with Dockerfiles of a working copy; no host is asked."""


@command.command("audit")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option(
    "--for",
    "reports",
    multiple=True,
    metavar="REPORT",
    help="Judge against the hosts of a report (`gpumend audit --report FILE`, or facts').",
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
@files.report_option
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
    started = time.time()
    hosts = _hosts(reports, host)
    service = Service(command=tuple(shlex.split(run)), said="--command") if run else Service()
    arguments = dict(_argument(item) for item in build_args)
    root = Path(context) if context else None
    if root is not None and not root.is_dir():
        files.usage(f"there is no directory {context}")
    found: list[File] = []
    try:
        dockerfiles = [path for item in paths for path in working_copy.dockerfiles(Path(item))]
    except WorkingCopyError as error:
        files.usage(str(error))
    for path in dict.fromkeys(dockerfiles):
        name = files.shown(path)
        try:
            base = root or working_copy.root_of(path)
            prefix = files.shown(base)
            judged = audit(
                working_copy.text_of(path),
                working_copy.context(base, path),
                name,
                "" if prefix == "." else f"{prefix}/",
                service,
                target,
                arguments,
                hosts,
            )
        except (OSError, WorkingCopyError) as error:
            found.append(File(name, error=str(error)))
            continue
        found.append(File(name, judged.findings, judged.passed))
    sys.exit(files.tell(document(found, started), report))


def _argument(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        files.usage(f"--build-arg {text}: NAME=VALUE is needed")
    return name, value


def _hosts(reports: tuple[str, ...], host: str) -> list[targets.Target]:
    found: list[targets.Target] = []
    for report in reports:
        try:
            with Path(report).open("rb") as opened:
                told = json.loads(opened.read(LARGEST))
            found += targets.hosts(told, report, host)
        except OSError as error:
            files.usage(f"{report} could not be read: {error.strerror}")
        except RecursionError:
            files.usage(f"{report} is no JSON that anybody reads")
        except ValueError as error:
            files.usage(str(error) if report in str(error) else f"{report} is no JSON: {error}")
    return found
