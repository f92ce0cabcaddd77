"""A host is read and judged: what is wanted of it, from pyinfra's layers of data, against what the probe found."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import gevent

from gpumend.plan.transaction import Plan
from gpumend.rules import wanted as wanted_state
from gpumend.rules.wanted import Wanted
from gpumend.run.budget import JUDGING, OverBudget, within
from gpumend.run.foresight import Kept, several
from gpumend.run.record import Assessment, Record, current, judged, judged_answer
from gpumend.run.remote.asking import complete, forget, host_answer, remember
from gpumend.run.remote.connection import RemoteError
from gpumend.run.remote.exchange import make_ready
from gpumend.run.remote.layers import Wants, layers
from gpumend.schemas.wanted import check
from gpumend.state.snapshot import Snapshot

if TYPE_CHECKING:
    from pyinfra.api.host import Host


def _merged(parts: list[Mapping[str, Any]]) -> dict[str, Any]:
    for part in parts:
        check(part)
    found = wanted_state.merge(parts)
    check(found)
    return found


def merged(host: Host) -> dict[str, Any]:
    """The wanted state of a host as its layers come together, each of them and the whole checked. Raises WantedError."""
    return _merged(layers(host))


_wanted = Wants(lambda parts: wanted_state.parse(_merged(parts)))


def wanted_of(host: Host) -> Wanted:
    """The wanted state of a host, the same object where another host's is the same; raises WantedError."""
    return _wanted.of(host)


def assess(host: Host, mends: bool = True) -> Record:
    """The host's record, read and judged once. mends: whether what is planned is to be done. Raises WantedError or RemoteError."""
    record = current(host.inventory).record(host.name)
    if record.now is None:
        wanted = wanted_of(host)
        if mends:
            gevent.spawn(make_ready)
        state, snapshot = host_answer(host)
        try:
            with within(JUDGING):
                found = judged(state, wanted, host.name)
        except OverBudget as over:
            raise RemoteError(f"judging this host {over}") from None
        if mends and snapshot is not None and several(found.plan):
            found.kept = Kept(snapshot)
        record.before = record.now = found
    if not record.done:
        record.before = record.now = current(host.inventory).seen(record.now)
    return record


def let_go(host: Host) -> None:
    """Nothing is asked or changed on the host any more: of its state what the report says is left."""
    record = current(host.inventory).record(host.name)
    for found in (record.before, record.now):
        if found is not None and not found.wanted.grit_pool:  # the nodes of a pool are compared at the end
            found.let_go()
            forget(host)


def take(host: Host, record: Record, snapshot: Snapshot) -> Assessment:
    """The host was looked at again: judge what is there now. Raises AnswerError."""
    assert record.now is not None
    found = judged_answer(snapshot, record.now.context.wanted, host.name, partial(complete, host))
    if several(found.plan):
        found.kept = Kept(snapshot)
    remember(host, found.context.state)
    record.now = current(host.inventory).seen(found)
    return record.now


def ahead(host: Host, record: Record, snapshot: Snapshot) -> Plan:
    """What would be planned of the host if this were its answer. Raises AnswerError."""
    assert record.now is not None
    found = judged_answer(snapshot, record.now.context.wanted, host.name, partial(complete, host))
    return current(host.inventory).seen(found).plan
