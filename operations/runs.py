"""gpumend's own runs on a host."""

from __future__ import annotations

from collections.abc import Generator

from pyinfra.api.command import FunctionCommand
from pyinfra.api.operation import operation

from gpumend.rules.finding import Component
from gpumend.run.remote.component import component
from gpumend.run.remote.rollback import acknowledge, undo


@operation()
def recovered() -> Generator[FunctionCommand, None, None]:
    """No run is left half done: the files of an interrupted one are as they were before it."""
    yield from component(Component.RECOVER)


@operation()
def undone(named: str) -> Generator[FunctionCommand, None, None]:
    """The files of a run are as they were before it, and their daemons have been told.

    Daemons are restarted as the host's wanted state allows. Raises nothing: what could not be undone is in the report.
    """
    yield FunctionCommand(undo, (named,), {})


@operation()
def acknowledged(named: str) -> Generator[FunctionCommand, None, None]:
    """Somebody has taken note of how this run ended: GM007 is settled. Raises nothing: the report has how it went."""
    yield FunctionCommand(acknowledge, (named,), {})
