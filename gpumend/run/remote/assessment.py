"""A host is read and judged: what is wanted of it, from pyinfra's layers of data, against what the probe found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gpumend.rules import wanted as wanted_state
from gpumend.rules.wanted import Wanted
from gpumend.run.budget import JUDGING, OverBudget, within
from gpumend.run.record import Assessment, Record, current, judged
from gpumend.run.remote.asking import complete, host_state, remember
from gpumend.run.remote.connection import RemoteError
from gpumend.schemas.wanted import check
from gpumend.state.host_state import parse
from gpumend.state.snapshot import AnswerError, Snapshot

if TYPE_CHECKING:
    from pyinfra.api.host import Host

KEY = "gpumend"


def layers(host: Host) -> list[Mapping[str, Any]]:
    """The wanted state's layers for a host, most general first: the deploy's own, all.py, its groups, itself, --data.

    pyinfra itself would take the nearest whole value; ours merges, so that a group can set one key.
    """
    inventory = host.inventory
    found = [inventory.get_data()]
    found.extend(inventory.get_group_data(group) for group in host.groups)
    found.extend((inventory.get_host_data(host.name), inventory.get_override_data()))
    parts = (layer[key] for layer in found for key in (KEY, wanted_state.HOSTS_KEY) if key in layer)
    return [current(inventory).wanted, *parts]


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
    record.now = found
    return found
