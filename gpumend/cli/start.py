"""Running pyinfra's own command line, as an operator would."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import click

from gpumend.cli import report_options, targets
from gpumend.deploy.early import SIGNALS
from gpumend.places import PROJECT
from gpumend.schemas.wanted import WantedError, check, not_json

OURS = "gpumend: "  # how what is ours begins on pyinfra's standard error


@dataclass(frozen=True)
class Call:
    """What audit, mend, rollback, facts and parity have in common: the hosts, and how the report is told."""

    targets: tuple[str, ...] = ()
    hosts: str | None = None
    limit: tuple[str, ...] = ()
    report: str | None = None
    data: tuple[str, ...] = ()
    verbose: bool = False

    def become(self, deploy: str, *flags: str, data: tuple[str, ...] = (), **more: Any) -> NoReturn:
        """This process is that deploy's pyinfra from now on, and ends with its exit status. `more` is what inventory.py is told
        (hosts.CALL). Ends with 2 before anything is connected to where no host is meant.

        pyinfra's own words are on standard error with `verbose`, or where the run ends without a report.
        """
        program = self._program(deploy, flags, data, more)
        if program is None:
            sys.exit(2)
        os.chdir(program.directory)
        if not more.get("ask"):
            nothing = os.open(os.devnull, os.O_RDONLY)
            os.dup2(nothing, 0)
            os.close(nothing)
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:  # closed where we were started
                stream.flush()
        # One that comes before the program can say how it ends (gpumend/deploy/process.py) waits until it can.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        os.execve(program.argv[0], program.argv, program.environment)

    def run(self, deploy: str, *flags: str, data: tuple[str, ...] = (), **more: Any) -> int:
        """The exit status of such a deploy, where something is left to be done after it."""
        program = self._program(deploy, flags, data, more)
        if program is None:
            return 2
        how: dict[str, Any] = {"env": program.environment, "cwd": program.directory, "close_fds": False}
        return waited(program.argv, stdin=subprocess.DEVNULL, **how)

    def _program(
        self, deploy: str, flags: tuple[str, ...], data: tuple[str, ...], more: dict[str, Any]
    ) -> Program | None:
        """What is to be run; None, once that is told, where no host is meant."""
        try:
            found = targets.read(self.targets, self.limit, self.hosts)
        except targets.NoHostError as error:
            click.echo(f"{OURS}{error}", err=True)
            if self.report or report_options.has_output():
                # only here: it brings all the rules, and an answer that needs no host comes at once
                from gpumend.reports import refused

                told = refused.document(deploy, str(error), mend="--dry" not in flags)
                report_options.write(told, self.report)
            return None
        click.echo(f"{OURS}{found.said}", err=True)
        arguments = [found.inventory, str(PROJECT / "deploys" / f"{deploy}.py"), *flags]
        for item in found.limit:
            arguments += ["--limit", item]
        for item in (*self.data, *data, *report_options.data()):
            arguments += ["--data", item]
        if self.report:
            arguments += ["--data", f"report={self.report}"]
        # -P: nothing is imported from a directory because it is the current one.
        argv = [sys.executable, "-P", "-m", "gpumend.deploy.process", *arguments]
        environment = {"PYINFRA_PROGRESS": "off", **found.environment(verbose=self.verbose, **more)}
        return Program(argv, {**os.environ, **environment}, found.directory)


@dataclass(frozen=True)
class Program:
    """pyinfra's own command line with a deploy of ours, and the directory that it is run in."""

    argv: list[str]
    environment: dict[str, str]
    directory: Path


def waited(command: list[str], **how: Any) -> int:
    """The exit status of a program, which is told of an interrupt and ends in its own time; 1 where a signal ended it. Whoever
    presses Ctrl-C once more as it ends does not take that exit status away."""
    child = subprocess.Popen(command, **how)
    came: set[int] = set()

    def passed(number: int, frame: object) -> None:
        came.add(number)
        with suppress(ProcessLookupError):
            child.send_signal(number)

    kept = {number: signal.signal(number, passed) for number in SIGNALS}
    try:
        status = child.wait()
    finally:
        for number, handler in kept.items():
            signal.signal(number, signal.SIG_IGN if number in came else handler)
    return status if status >= 0 else 1


def report_path(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """The report's absolute path, or `-`; it can be written there."""
    if value is None or value == "-":
        return value
    path = Path(value).expanduser().absolute()
    if path.is_dir():
        raise click.BadParameter(f"{value} is a directory")
    if not path.parent.is_dir():
        raise click.BadParameter(f"the report could not be written: there is no directory {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise click.BadParameter(f"the report could not be written: {path.parent} is not yours to write to")
    return str(path)


def _data(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    """KEY=VALUE each, and a valid wanted state."""
    for item in value:
        key, separator, text = item.partition("=")
        if not separator or not key:
            raise click.UsageError(f"--data {item}: KEY=VALUE is needed")
        if key != "gpumend":
            continue
        try:
            check(json.loads(text))
        except json.JSONDecodeError:
            raise click.UsageError(f"--data {item}: {not_json(text)}") from None
        except WantedError as error:
            raise click.UsageError(f"the wanted state is not valid:\n{error}") from None
    return value


def _known(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """The hosts and groups of the hosts file, for a shell that completes."""
    return [name for name in targets.known(ctx.params.get("hosts")) if name.startswith(incomplete)]


def options(command: Callable[..., None]) -> Callable[..., None]:
    """The arguments and options of a Call, which the command is given as its first argument."""

    @functools.wraps(command)
    def with_call(
        targets: tuple[str, ...],
        hosts: str | None,
        limit: tuple[str, ...],
        report: str | None,
        data: tuple[str, ...],
        verbose: bool,
        **more: object,
    ) -> None:
        command(Call(targets, hosts, limit, report, data, verbose), **more)

    found: Callable[..., None] = with_call
    for option in reversed(
        (
            click.argument(
                "targets", nargs=-1, metavar="[HOST|GROUP|USER@HOST|INVENTORY]...", shell_complete=_known
            ),
            click.option(
                "--hosts",
                metavar="[FORMAT:]FILE",
                help="The hosts file (else GPUMEND_HOSTS, ./hosts.toml, the user's own); FORMAT, for JSON of theirs: kubectl, "
                "slurm, ansible, terraform.",
            ),
            click.option(
                "--limit", multiple=True, metavar="HOST|GROUP", help="Only these hosts of the inventory."
            ),
            click.option(
                "--report",
                type=click.Path(),
                callback=report_path,
                metavar="FILE",
                help="Write the report as JSON; - is standard output.",
            ),
            click.option(
                "--data",
                multiple=True,
                callback=_data,
                metavar="KEY=VALUE",
                help="Host data, as pyinfra takes it.",
            ),
            *report_options.OPTIONS,
            click.option("-v", "--verbose", is_flag=True, help="Show all that pyinfra says."),
        )
    ):
        found = option(found)
    return found
