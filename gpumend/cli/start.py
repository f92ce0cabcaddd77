"""Running pyinfra's own command line, as an operator would."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click

from gpumend.cli import report_options
from gpumend.places import PROJECT

QUIET = (0, 3)  # as wanted, and drift: the report says it all


def default_inventory() -> str:
    """inventory.py of the checkout, or the copy of it that an installed package carries."""
    return str(PROJECT / "inventory.py")


def target(inventory: str | None) -> str:
    """The inventory as pyinfra takes it: a file's absolute path, or host names as they stand."""
    if inventory is None:
        return default_inventory()
    return str(Path(inventory).resolve()) if Path(inventory).exists() else inventory


def run(arguments: list[str], verbose: bool = False) -> int:
    """pyinfra's exit status; ours where a deploy of ours set it.

    pyinfra's own commentary is on standard error: as it comes on a terminal or with `verbose`, else only where
    something failed. Runs in this directory, so that the user's relative paths and group_data hold.
    """
    command = [sys.executable, "-m", "pyinfra", *arguments]
    environment = {**os.environ, "PYINFRA_PROGRESS": "off"}
    captured = None if verbose or sys.stderr.isatty() else subprocess.PIPE
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stderr=captured, text=True)
    if done.stderr and done.returncode not in QUIET:
        click.echo(done.stderr, err=True, nl=False)
    return done.returncode


def options(command: Callable[..., None]) -> Callable[..., None]:
    """What audit, mend, rollback and facts have in common."""
    for option in reversed(
        (
            click.argument("inventory", required=False),
            click.option(
                "--limit", multiple=True, metavar="HOST|GROUP", help="Only these hosts of the inventory."
            ),
            click.option(
                "--report",
                type=click.Path(),
                metavar="FILE",
                help="Write the report as JSON; - is standard output.",
            ),
            click.option(
                "--data", multiple=True, metavar="KEY=VALUE", help="Host data, as pyinfra takes it."
            ),
            *report_options.OPTIONS,
            click.option("-v", "--verbose", is_flag=True, help="Show all that pyinfra says."),
        )
    ):
        command = option(command)
    return command


def arguments(
    inventory: str | None, deploy: str, limit: tuple[str, ...], report: str | None, data: tuple[str, ...]
) -> list[str]:
    """pyinfra's arguments for a deploy of ours."""
    found = [target(inventory), str(PROJECT / "deploys" / deploy)]
    for item in limit:
        found += ["--limit", item]
    for item in (*data, *report_options.data()):
        found += ["--data", item]
    if report:
        found += ["--data", f"report={report if report == '-' else Path(report).resolve()}"]
    return found
