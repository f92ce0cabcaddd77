"""Undoing a run on a host, and taking note of one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyinfra import logger

from gpumend.run import record as run
from gpumend.run.attempt import rollback_data
from gpumend.run.outcome import Outcome
from gpumend.run.programs import who
from gpumend.run.remote import assessment
from gpumend.run.remote.connection import AuditOnly, RemoteError
from gpumend.run.remote.exchange import send
from gpumend.state.reading import Unread
from gpumend.state.snapshot import AnswerError
from gpumend.text.mask import mask

if TYPE_CHECKING:
    from pyinfra.api.host import Host
    from pyinfra.api.state import State

NO_RUN = "there is no run"  # how gpumend/payload/change/undo.py begins to say that a host has no such run


LAST = "last"  # instead of a run's name: the newest that ended done on any of the hosts


class NoLastRun(Exception):
    """Which run is the last one is not known, or there is none."""


def last(this: run.Run) -> str:
    """The newest run that ended done on any of the hosts. Raises NoLastRun, also where one host's runs are not known: an
    older run would be undone than the one that is meant."""
    names = []
    for name, record in sorted(this.records.items()):
        if record.now is None:
            raise NoLastRun(f"which run is the last is not known: {name} was not read")
        try:
            listed = record.now.context.state.runs.listed()
        except Unread as error:
            raise NoLastRun(f"which run is the last is not known: {name}: {error}") from None
        names += [found.name for found in listed if any(each.state == "done" for each in found.journals)]
    if not names:
        raise NoLastRun(f"{NO_RUN} that ended done")
    return max(names)


def undo(state: State, host: Host, named: str) -> bool:
    """A run's changes on this host are undone, as far as nobody changed them since."""
    this = run.current(host.inventory)
    try:
        name = last(this) if named == LAST else named
    except NoLastRun as error:
        return _ended(host, f"rollback of {named}", Outcome("refused", str(error)))
    return _sent(host, f"rollback of {name}", rollback_data(name, assessment.wanted_of(host).restarts))


def acknowledge(state: State, host: Host, named: str) -> bool:
    """Somebody has taken note of how this run ended here."""
    return _sent(host, f"acknowledging {named}", {"verb": "acknowledge", "run": named, "who": who()})


def _sent(host: Host, what: str, wanted: dict[str, Any]) -> bool:
    this = run.current(host.inventory)
    record = this.record(host.name)
    if this.stopped:
        return _ended(host, what, Outcome("refused", f"{this.stopped}: it was not begun"))
    record.busy = what
    try:
        outcome, _ = send(host, wanted)
    except AuditOnly as error:
        outcome = Outcome("refused", str(error))
    except (RemoteError, AnswerError) as error:
        outcome = Outcome("lost", str(error))
    finally:
        record.busy = ""
    return _ended(host, what, outcome)


def _ended(host: Host, what: str, outcome: Outcome) -> bool:
    run.current(host.inventory).record(host.name).undone = outcome
    good = outcome.good or NO_RUN in outcome.detail
    log = logger.info if good else logger.error
    log(f"{host.print_prefix}{what}: {outcome.status}: {mask(outcome.detail)}")
    return good
