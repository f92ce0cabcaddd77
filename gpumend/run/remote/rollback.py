"""Undoing a run on a host."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyinfra import logger

from gpumend.run import record as run
from gpumend.run.outcome import Outcome
from gpumend.run.remote import assessment
from gpumend.run.remote.component import rollback_data
from gpumend.run.remote.connection import AuditOnly, RemoteError
from gpumend.run.remote.exchange import send
from gpumend.state.snapshot import AnswerError
from gpumend.text.mask import mask

if TYPE_CHECKING:
    from pyinfra.api.host import Host
    from pyinfra.api.state import State

NO_RUN = "there is no run"  # how gpumend/payload/change/undo.py begins to say that a host has no such run


def undo(state: State, host: Host, named: str) -> bool:
    record = run.current(host.inventory).record(host.name)
    restarts = assessment.wanted_of(host).restarts
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
