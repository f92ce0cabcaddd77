"""A host is read and judged: what is wanted of it, from pyinfra's layers of data, against what the probe found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gpumend.rules import wanted as wanted_state
from gpumend.rules.wanted import Wanted
from gpumend.run.record import Assessment, Record, current, judged
from gpumend.run.remote.asking import complete, host_state, remember
from gpumend.schemas.wanted import check
from gpumend.state.host_state import parse
from gpumend.state.snapshot import Snapshot

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
        record.before = record.now = judged(host_state(host), wanted, host.name)
    return record


def take(host: Host, record: Record, snapshot: Snapshot) -> Assessment:
    """The host was looked at again: judge what is there now."""
    assert record.now is not None
    state = complete(host, parse(snapshot))
    remember(host, state)
    record.now = judged(state, record.now.context.wanted, host.name)
    return record.now
