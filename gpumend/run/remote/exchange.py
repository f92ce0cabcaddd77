"""Sending a transaction to a host and taking its answer: one exec each way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gpumend.payload.source import change_source
from gpumend.run.outcome import Outcome, parse_answer
from gpumend.run.programs import change_call
from gpumend.run.remote.connection import must_be_whole, packed, run_program
from gpumend.run.remote.layers import asked
from gpumend.state.snapshot import Snapshot

if TYPE_CHECKING:
    from pyinfra.api.host import Host

TIMEOUT = 1200  # seconds; the host answers within 900, whatever it is in the middle of: this bounds a dead connection


def make_ready() -> None:
    """What every change begins with is packed, once for all hosts. It takes 30 ms, which a mend has while its first host is asked."""
    packed(change_source())


def send(host: Host, wanted: dict[str, Any]) -> tuple[Outcome, Snapshot]:
    """Run the program on a host in one exec. Raises RemoteError or AnswerError where it did not answer, AuditOnly where
    it may not be sent."""
    must_be_whole(host)
    call = change_call(wanted, *asked(host))
    said = run_program(host, call, timeout=TIMEOUT, begins=change_source())
    return parse_answer(said, wanted.get("look", True))
