"""`python -m gpumend.deploy.process ARGUMENTS`: pyinfra's own command line, as `gpumend` starts it."""

from gpumend.deploy import early  # isort: skip

if __name__ == "__main__":
    early.listen()
    early.little_garbage()

# First: it puts gevent in the place of threads and sockets.
from gpumend.deploy.pyinfra_main import main  # isort: skip

import sys
from collections.abc import Callable

import click

from gpumend.deploy import screen
from gpumend.deploy.guard import without_debug_log
from gpumend.deploy.hosts import call
from gpumend.reports.document import Exit, worst


def status_of(end: SystemExit) -> int:
    """The exit status of a program that ends so (sys.exit's documentation)."""
    return end.code if isinstance(end.code, int) else int(end.code is not None)


def quietly() -> None:
    """pyinfra's words are seen only where the run ends without a report, and that is never exit status 0."""
    held = screen.Screen(sys.stderr)
    sys.stderr = held
    status = 1
    try:
        main()
    except SystemExit as end:
        status = status_of(end)
    finally:
        screen.stop()
        sys.stderr = held.real
        sys.stderr.write(held.left(status or (0 if held.told else 1)))
    if not status and not held.told:
        click.echo(f"{screen.OURS}the run ended before it had read a host", err=True)
        status = 1
    sys.exit(status)


def main_with(run: Callable[[], None]) -> int:
    """Its exit status; where standard output could not be written, that is told, and it is at least 1. A reader who has seen
    enough (`| head`) is no error."""
    out = screen.Out(sys.stdout)
    sys.stdout = out
    status = 0
    try:
        run()
    except SystemExit as end:
        status = status_of(end)
    out.flush()
    if out.error and not isinstance(out.error, BrokenPipeError):
        click.echo(f"{screen.OURS}standard output could not be written: {out.error.strerror}", err=True)
        status = int(worst((Exit.UNREAD, Exit(status)))) if status in list(Exit) else status
    return status


if __name__ == "__main__":
    without_debug_log()
    sys.exit(main_with(main if call().get("verbose") else quietly))
