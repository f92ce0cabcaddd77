"""gpumend's own runs on a host."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from pyinfra import logger
from pyinfra.api.command import FunctionCommand
from pyinfra.api.operation import operation

from facts.remote import AuditOnly, RemoteError
from facts.snapshot import AnswerError
from operations import run
from operations.component import component, rollback_data
from operations.exchange import Outcome, send
from reports.mask import mask
from rules.finding import Component

if TYPE_CHECKING:
    from pyinfra.api.host import Host
    from pyinfra.api.state import State

NO_RUN = "there is no run"  # how operations/undo.py begins to say that a host has no such run


@operation()
def recovered() -> Generator[FunctionCommand, None, None]:
    """No run is left half done: the files of an interrupted one are as they were before it."""
    yield from component(Component.RECOVER)


@operation()
def undone(named: str) -> Generator[FunctionCommand, None, None]:
    """The files of a run are as they were before it, and their daemons have been told.

    Daemons are restarted as the host's wanted state allows. Raises nothing: what could not be undone is in the report.
    """
    yield FunctionCommand(_undo, (named,), {})


def _undo(state: State, host: Host, named: str) -> bool:
    record = run.current(host.inventory).record(host.name)
    restarts = run.wanted_of(host).restarts
    try:
        record.undone, _ = send(host, rollback_data(named, restarts))
    except AuditOnly as error:
        record.undone = Outcome("refused", str(error))
    except (RemoteError, AnswerError) as error:
        record.undone = Outcome("lost", str(error))
    good = record.undone.good or NO_RUN in record.undone.detail
    log = logger.info if good else logger.error
    log(f"{host.print_prefix}rollback of {named}: {record.undone.status}: {mask(record.undone.detail)}")
    return good
