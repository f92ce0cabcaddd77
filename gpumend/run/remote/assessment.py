"""A host is read and judged: what is wanted of it, from pyinfra's layers of data, against what the probe found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpumend.rules import wanted as wanted_state
from gpumend.rules.wanted import Wanted
from gpumend.run.budget import JUDGING, OverBudget, within
from gpumend.run.record import Assessment, Record, current, judged
from gpumend.run.remote.asking import complete, host_state, remember
from gpumend.run.remote.connection import RemoteError
from gpumend.run.remote.layers import layers
from gpumend.schemas.wanted import check
from gpumend.state.host_state import parse
from gpumend.state.snapshot import AnswerError, Snapshot

if TYPE_CHECKING:
    from pyinfra.api.host import Host


def wanted_of(host: Host) -> Wanted:
    """The wanted state of a host; raises WantedError."""
    parts = layers(host)
    for part in parts:
        check(part)
    merged = wanted_state.merge(parts)
    check(merged)
    return wanted_state.parse(merged)


def assess(host: Host) -> Record:
    """The host's record, read and judged once. Raises WantedError or RemoteError."""
    record = current(host.inventory).record(host.name)
    if record.now is None:
        wanted = wanted_of(host)
        state = host_state(host)
        try:
            with within(JUDGING):
                record.before = record.now = judged(state, wanted, host.name)
        except OverBudget as over:
            raise RemoteError(f"judging this host {over}") from None
    if not record.done:
        record.before = record.now = current(host.inventory).seen(record.now)
    return record


def take(host: Host, record: Record, snapshot: Snapshot) -> Assessment:
    """The host was looked at again: judge what is there now. Raises AnswerError."""
    assert record.now is not None
    try:
        with within(JUDGING):
            state = complete(host, parse(snapshot))
            found = judged(state, record.now.context.wanted, host.name)
    except OverBudget as over:
        raise AnswerError(f"judging this host {over}") from None
    remember(host, state)
    record.now = current(host.inventory).seen(found)
    return record.now
