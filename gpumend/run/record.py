"""One run of gpumend over an inventory: what was found on each host, what was planned, what came of it."""

from __future__ import annotations

import datetime
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from copy import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from gpumend.plan.plan import plan
from gpumend.plan.transaction import Plan, Transaction
from gpumend.rules.driver.reboot import required
from gpumend.rules.finding import Component, Finding
from gpumend.rules.judge import Verdict, judge
from gpumend.rules.rule import Context
from gpumend.rules.wanted import Wanted
from gpumend.run.budget import JUDGING, OverBudget, within
from gpumend.run.concern import Concern
from gpumend.run.outcome import Outcome
from gpumend.state.glance import Glance, glance
from gpumend.state.host_state import HostState, parse
from gpumend.state.snapshot import AnswerError, Snapshot
from gpumend.text.mask import mask

if TYPE_CHECKING:
    from gpumend.run.foresight import Kept


@dataclass(frozen=True)
class Told:
    """What is told of a host besides its findings and its plan. reboot: why it is required."""

    wanted: Wanted
    facts: Glance
    reboot: tuple[str, ...]


@dataclass
class Assessment:
    """What is known and planned of one host at one moment, as far as the run is about it. whole: all of it, where the run is
    not about everything. context: gone once it was let go. kept: the answer of which it was made, or the one that is foreseen
    (run/foresight.py), where what is planned may make use of it."""

    context: Context
    verdict: Verdict
    plan: Plan
    whole: Assessment | None = None
    kept: Kept | None = field(default=None, repr=False, compare=False)
    _told: Told | None = field(default=None, repr=False, compare=False)

    @property
    def told(self) -> Told:
        return self._told or Told(self.context.wanted, glance(self.context.state), required(self.context))

    @property
    def wanted(self) -> Wanted:
        return self._told.wanted if self._told else self.context.wanted

    @property
    def reboot(self) -> tuple[str, ...]:
        """Why the host has to be rebooted, in words; nothing where it has not."""
        return self.told.reboot

    def let_go(self) -> None:
        """Of the host's state, 80 KB and more, what the report says of it is left. Whoever asks for `context` after this fails."""
        if self._told is None:
            self._told = self.told
            del self.context
        self.kept = None
        if self.whole is not None:
            self.whole.let_go()

    def part(self, findings: tuple[Finding, ...], plan: Plan) -> Assessment:
        """As far as a run is about it that is about these findings, and this plan."""
        found = copy(self)
        found.verdict, found.plan, found.whole = self.verdict._replace(findings=findings), plan, self
        return found

    def done(self, transaction: Transaction, ahead: Kept) -> Assessment:
        """After a transaction of which it was known what it would do: what else is planned is as it was."""
        found = copy(self)
        left = tuple(each for each in self.plan.transactions if each.component is not transaction.component)
        found.plan, found.kept = Plan(left, self.plan.blocked), ahead
        return found

    @property
    def rest(self) -> tuple[Finding, ...]:
        """The drift and the unknowns that the run is not about."""
        if self.whole is None:
            return ()
        whole = self.whole.verdict
        return tuple(found for found in (*whole.drift, *whole.unknown) if found not in self.verdict.findings)


@dataclass
class Record:
    """One host's part in the run. before: as found; now: after the last transaction; error: why it has neither. done: every
    transaction sent, in order. unseen: those of them that went well and after which the host was not looked at yet. held: what was planned and not tried after those. proof: of the container, where one was
    asked for. rebooted: how its reboot went, where one was asked for. undone: how a rollback went, or taking note of a run. busy: what is being done there at this moment; doing: what of it
    takes long, in words, and since when by time.monotonic().
    approved: the components that a plan allows; None is all. after: why what the operator runs after a host did not end well."""

    name: str
    before: Assessment | None = None
    now: Assessment | None = None
    error: str = ""
    outcomes: dict[Component, Outcome] = field(default_factory=dict)
    done: list[tuple[Transaction, Outcome]] = field(default_factory=list)
    unseen: list[Transaction] = field(default_factory=list)
    held: dict[Component, str] = field(default_factory=dict)
    proof: Outcome | None = None
    rebooted: Outcome | None = None
    undone: Outcome | None = None
    busy: str = ""
    doing: str = ""
    since: float = 0.0
    approved: frozenset[str] | None = None
    after: str = ""

    @property
    def blocked(self) -> dict[Component, str]:
        """The components that are not tried, and why: they cannot be planned, or build on one that failed."""
        found = {**(self.now.plan.blocked if self.now else {}), **self.held}
        return {component: found[component] for component in Component if component in found}


@dataclass
class Run:
    """id: names the run's journals on the hosts. records: by host name. wanted: the most general layer of each host's
    wanted state, from the deploy itself. concerns: what its deploys are about; None is everything. stopped: why nothing more
    is begun; empty while it goes on. hands_over: whether nodes get their own documents where the desired state names a directory.
    reboots: hosts are rebooted where that is required. watches: somebody waits for the end of the watches of each host, once its
    changes are made."""

    id: str
    started: float
    records: dict[str, Record] = field(default_factory=dict)
    shown: bool = False
    wanted: Mapping[str, Any] = field(default_factory=dict)
    concerns: list[Concern | None] = field(default_factory=list)
    stopped: str = ""
    hands_over: bool = False
    reboots: bool = False
    watches: bool = False

    @property
    def concern(self) -> tuple[Concern, ...]:
        """What the run is about; empty: everything."""
        found = tuple(concern for concern in self.concerns if concern is not None)
        return found if len(found) == len(self.concerns) else ()

    def seen(self, found: Assessment) -> Assessment:
        """An assessment as far as this run is about it."""
        whole = found.whole or found
        if not self.concern:
            return whole
        findings = tuple(f for f in whole.verdict.findings if any(c.has(f) for c in self.concern))
        components = frozenset(component for concern in self.concern for component in concern.components)
        return whole.part(
            findings,
            Plan(
                tuple(t for t in whole.plan.transactions if t.component in components),
                {component: why for component, why in whole.plan.blocked.items() if component in components},
            ),
        )

    def left(self, executed: bool) -> list[str]:
        """The hosts that gave no answer; of a mend, too, those on which something is planned and nothing was begun."""
        return sorted(
            name
            for name, record in self.records.items()
            if record.now is None
            or (executed and record.now.plan.transactions and not record.done)
            or (self.reboots and record.now.reboot and record.rebooted is None)
        )

    def record(self, name: str) -> Record:
        return self.records.setdefault(name, Record(name))


def new_id() -> str:
    """A run's name: its start in UTC, and four random digits against a second controller."""
    now = datetime.datetime.now(datetime.timezone.utc)
    return f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"


_runs: WeakKeyDictionary[Any, Run] = WeakKeyDictionary()


def current(inventory: Any) -> Run:
    """The run over this inventory; there is one a pyinfra process."""
    if inventory not in _runs:
        _runs[inventory] = Run(new_id(), time.time())
    return _runs[inventory]


def longest(records: Iterable[Record], now: float) -> str:
    """What the host that is at it for longest is doing, and for how long; empty where nobody says since when."""
    slowest = min((found for found in records if found.since), key=lambda found: found.since, default=None)
    if slowest is None:
        return ""
    return f": {mask(slowest.doing or slowest.busy)} for {now - slowest.since:.0f} s"


def judged_answer(
    snapshot: Snapshot,
    wanted: Wanted,
    name: str,
    complete: Callable[[HostState], HostState] = lambda state: state,
) -> Assessment:
    """An answer taken apart and judged, within the time that one host may take. complete: what is known of the host besides.
    Raises AnswerError."""
    try:
        with within(JUDGING):
            return judged(complete(parse(snapshot)), wanted, name)
    except OverBudget as over:
        raise AnswerError(f"judging this host {over}") from None


def judged(state: HostState, wanted: Wanted, name: str) -> Assessment:
    today = datetime.date.today()
    context = Context(state, wanted, name, today)
    verdict = judge(state, wanted, name, today, lenient=True)
    return Assessment(context, verdict, plan(context, verdict.findings))
