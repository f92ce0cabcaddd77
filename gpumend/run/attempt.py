"""One transaction on one host: sent, answered, and judged again by the state that came with the answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from gpumend.plan.transaction import Plan, Transaction
from gpumend.plan.wire import as_data
from gpumend.rules.cdi.difference import told as told_of_specs
from gpumend.rules.finding import Component, Finding
from gpumend.run.outcome import Outcome
from gpumend.run.programs import who
from gpumend.run.record import Assessment, Record
from gpumend.state.snapshot import AnswerError, Snapshot


class HostError(Exception):
    """The host gave no answer. The text is its own last word, or the connection's."""


class NotAllowed(HostError):
    """Nothing was sent: the host does not let us."""


# How the program's data gets to the host, and how the host's state afterwards becomes the record's.
Send = Callable[[dict[str, Any]], "tuple[Outcome, Snapshot]"]
Take = Callable[[Snapshot], Assessment]


def attempt(
    run_id: str, record: Record, transaction: Transaction, send: Send, take: Take, together: bool = False
) -> Outcome:
    """The transaction was carried out, or the outcome says why not; `record.done` has it, but for a conflict. What it was to
    put right and did not is undone. together: whether the daemons of several transactions are watched at one time; one that
    ended `watching` is then ended by a later one, or by `end_watches`."""
    assert record.now is not None
    wanted, before = record.now.context.wanted, record.now.context.state
    data = as_data(transaction, run_id, wanted.restarts, who(), wanted.restart_watch)
    if together:
        later = followed(transaction.component, record.now.plan)
        data |= {"overlaps": transaction.component in OVERLAPPING, "later": later}
    try:
        outcome, snapshot = send(data)
        settle(record, outcome.watched, transaction.component)
        after = take(snapshot)
    except NotAllowed as error:
        outcome = Outcome("refused", str(error))
        record.done.append((transaction, outcome))
        return outcome
    except Exception as error:  # something was sent: whatever its answer does to us is this host's alone
        outcome = Outcome("lost", f"{told(error)}; the host finishes or puts back by itself: audit it again")
        record.done.append((transaction, outcome))
        return outcome
    left = [
        finding
        for finding in after.verdict.findings
        if finding.change
        and finding.change.component is transaction.component
        and finding.code in transaction.codes
    ]
    # The putting back of an interrupted run is not itself undone: another run may have begun meanwhile. Nor is what was
    # freed: what is stale by now became so meanwhile, and another container may hold the slot already.
    undoable = transaction.component not in (Component.RECOVER, Component.ALLOCATIONS)
    if left and undoable and outcome.status in ("changed", "unchanged", "watching"):
        outcome = _take_back(run_id, record, transaction, left, send, take)
    elif outcome.status == "watching":
        outcome = replace(outcome, detail=unwatched(outcome.detail))
    if transaction.component is Component.CDI and outcome.status == "changed":
        changed = told_of_specs(before.cdi, after.context.state.cdi)
        outcome = replace(outcome, detail="; ".join(filter(None, (outcome.detail, changed))))
    if outcome.status != "conflict":
        record.done.append((transaction, outcome))
    return outcome


def followed(which: Component, plan: Plan) -> bool:
    """Whether what comes next on this host may be done while the daemon of this one is watched."""
    order = list(Component)
    left = [each.component for each in plan.transactions if order.index(each.component) > order.index(which)]
    return bool(left) and left[0] in OVERLAPPING


def unwatched(detail: str) -> str:
    """What is said of a change until its watch is over."""
    return "; ".join(filter(None, (detail, UNWATCHED)))


def settle(record: Record, watched: Mapping[str, tuple[str, str]], but: Component | None = None) -> None:
    """Of transactions before, the record says how their watches ended. A change that was taken back for one before it is told as
    put back, too."""
    for place, (transaction, outcome) in enumerate(record.done):
        status, why = watched.get(str(transaction.component), ("", ""))
        if not status or transaction.component is but or status == outcome.status or not outcome.good:
            continue
        detail = outcome.detail.replace(unwatched(""), "").rstrip("; ")
        ended = replace(outcome, status=status, detail=why or detail)
        record.done[place] = (transaction, ended)
        record.outcomes[transaction.component] = ended


def end_watches(run_id: str, record: Record, send: Send, take: Take) -> Outcome | None:
    """The watches of this host are over, and the record says how they ended; None where there was none. Where the host gave no
    answer, they stay told as `watching`: the host ends them by itself."""
    statuses = {outcome.status for _, outcome in record.done}
    if record.now is None or "watching" not in statuses:
        return None
    if statuses & {"lost", "running"}:  # it does not answer, or not before that is at its end
        return Outcome("watching", "the host ends its watches by itself")
    data = {"verb": "watch", "run": run_id, "who": who(), "restarts": record.now.context.wanted.restarts}
    try:
        outcome, snapshot = send(data)
        settle(record, outcome.watched)
        take(snapshot)
    except Exception as error:
        return Outcome("watching", told(error))
    return outcome


def told(error: Exception) -> str:
    """What went wrong, for the report: one of ours in its words, any other with its kind."""
    expected = isinstance(error, (HostError, AnswerError))
    return str(error) if expected else f"internal error: {type(error).__name__}: {error}"


def _take_back(
    run_id: str, record: Record, transaction: Transaction, left: list[Finding], send: Send, take: Take
) -> Outcome:
    """What was to be put right is still wrong: the change is undone. The second and last exec of a component."""
    codes = ", ".join(dict.fromkeys(finding.code for finding in left))
    reason = f"{codes} is still found after the change: {left[0].summary}"
    assert record.now is not None
    restarts = record.now.context.wanted.restarts
    try:
        # What runs in a container whose daemon we have started a moment ago is ours to stop; the host's daemon may have new work.
        outcome, snapshot = send(rollback_data(run_id, restarts, str(transaction.component), "allow"))
        take(snapshot)
    except Exception as error:
        return Outcome("broken", f"{reason}; it could not be undone: {told(error)}")
    if outcome.status == "broken":
        return Outcome("broken", f"{reason}; then: {outcome.detail}")
    waits = f"; then: {outcome.detail}" if outcome.status == "pending" else ""
    return Outcome("put_back", reason + waits, outcome.files)


# What neither installs nor restarts anything but its own daemon, and so may be done while those before it are watched.
OVERLAPPING = frozenset(
    (Component.GRIT, Component.CONTAINERD, Component.CRIO, Component.PODMAN, Component.DOCKER)
)
UNWATCHED = (
    "its daemon has not lived for long enough yet: the host watches it, and keeps the change or puts it back by itself; "
    "audit it again"
)


def rollback_data(run_id: str, restarts: str, component: str = "", inner: str = "") -> dict[str, Any]:
    """The program's JSON that undoes a run, or one component of it. inner: what of `restarts` counts for Dockers in
    containers, where it is not the same."""
    named = {"verb": "rollback", "run": run_id, "who": who(), "component": component}
    return {**named, "restarts": restarts, "inner": inner}
