"""One run of gpumend over an inventory: what was found on each host, what was planned, what came of it."""

from __future__ import annotations

import datetime
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from facts.host_state import HostState, complete, host_state, parse, remember
from facts.snapshot import Snapshot
from operations.exchange import Outcome
from rules import wanted as wanted_state
from rules.finding import Component
from rules.judge import Verdict, judge
from rules.plan import Plan, Transaction, plan
from rules.rule import Context
from rules.wanted import Wanted

if TYPE_CHECKING:
    from pyinfra.api.host import Host

KEY = "gpumend"


@dataclass
class Assessment:
    """What is known and planned of one host at one moment."""

    context: Context
    verdict: Verdict
    plan: Plan


@dataclass
class Record:
    """One host's part in the run. before: as found; now: after the last transaction; error: why it has neither. done: every transaction sent, in order. proof: of the container, where one
    was asked for. undone: how a rollback went."""

    name: str
    before: Assessment | None = None
    now: Assessment | None = None
    error: str = ""
    outcomes: dict[Component, Outcome] = field(default_factory=dict)
    done: list[tuple[Transaction, Outcome]] = field(default_factory=list)
    proof: Outcome | None = None
    undone: Outcome | None = None


@dataclass
class Run:
    """id: names the run's journals on the hosts. records: by host name. wanted: the most general layer of each host's
    wanted state, from the deploy itself."""

    id: str
    started: float
    records: dict[str, Record] = field(default_factory=dict)
    shown: bool = False
    wanted: Mapping[str, Any] = field(default_factory=dict)

    def record(self, name: str) -> Record:
        return self.records.setdefault(name, Record(name))


def new_id() -> str:
    """A run's name: its start in UTC, and four random digits against a second controller."""
    now = datetime.datetime.now(datetime.UTC)
    return f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"


_runs: WeakKeyDictionary[Any, Run] = WeakKeyDictionary()


def current(inventory: Any) -> Run:
    """The run over this inventory; there is one a pyinfra process."""
    if inventory not in _runs:
        _runs[inventory] = Run(new_id(), time.time())
    return _runs[inventory]


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
        wanted_state.check(part)
    return wanted_state.parse(wanted_state.merge(parts))


def judged(state: HostState, wanted: Wanted, name: str) -> Assessment:
    today = datetime.date.today()
    context = Context(state, wanted, name, today)
    verdict = judge(state, wanted, name, today, lenient=True)
    return Assessment(context, verdict, plan(context, verdict.findings))


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
