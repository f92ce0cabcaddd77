"""One transaction on one host: sent, answered, and judged again by the state that came with the answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from gpumend.plan.needs import OVERLAPPING, held
from gpumend.plan.transaction import Plan, Transaction
from gpumend.plan.wire import as_data
from gpumend.rules.cdi.difference import told as told_of_specs
from gpumend.rules.finding import Component, Finding
from gpumend.run.foresight import evidence, following, foreseen
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
# What would be planned of the host if this were its answer.
Ahead = Callable[[Snapshot], Plan]


def attempt(
    run_id: str,
    record: Record,
    transaction: Transaction,
    send: Send,
    take: Take,
    together: bool = False,
    ahead: Ahead | None = None,
) -> Outcome:
    """The transaction was carried out, or the outcome says why not; `record.done` has it, but for a conflict. What it was to
    put right and did not is undone. together: whether the daemons of several transactions are watched at one time; one that
    ended `watching` is then ended by a later one, or by `end_watches`. ahead: where it is given, the host is not looked at after a
    transaction of which it is known what it does (run/foresight.py); `record.unseen` has that one until it was."""
    assert record.now is not None
    wanted, before = record.now.context.wanted, record.now.context.state
    data = as_data(transaction, run_id, wanted.restarts, who(), wanted.restart_watch)
    if together:
        later = followed(transaction.component, record.now.plan)
        data |= {"overlaps": transaction.component in OVERLAPPING, "later": later}
    if record.unseen and record.now.kept:
        data["evidence"] = evidence(record.now.kept, transaction)
    foreknown = None
    if ahead and record.now.kept and data.get("later"):
        foreknown = foreseen(record.now.kept, record.now.plan, transaction, ahead)
        data["look"] = foreknown is None
    try:
        outcome, snapshot = send(data)
        settle(record, outcome.watched, transaction.component)
        after = take(snapshot) if outcome.looked else None
    except NotAllowed as error:
        outcome = Outcome("refused", str(error))
        record.done.append((transaction, outcome))
        return outcome
    except Exception as error:  # something was sent: whatever its answer does to us is this host's alone
        outcome = Outcome("lost", f"{told(error)}; the host finishes or puts back by itself: audit it again")
        record.done.append((transaction, outcome))
        return outcome
    if outcome.status == "watching":
        outcome = replace(outcome, detail=with_word(outcome.detail, UNWATCHED))
    if after is None:
        assert foreknown is not None
        outcome = replace(outcome, detail=with_word(outcome.detail, UNSEEN))
        record.now = record.now.done(transaction, foreknown)
        record.unseen.append(transaction)
        record.done.append((transaction, outcome))
        return outcome
    # The putting back of an interrupted run is not itself undone: another run may have begun meanwhile. Nor is what was
    # freed: what is stale by now became so meanwhile, and another container may hold the slot already.
    undoable = transaction.component not in (Component.RECOVER, Component.ALLOCATIONS)
    left = left_of(transaction, after)
    if left and undoable and outcome.status in STAYS:
        outcome = _take_back(run_id, record, transaction, still(left), send, take)
    if transaction.component is Component.CDI and outcome.status == "changed":
        changed = told_of_specs(before.cdi, after.context.state.cdi)
        outcome = replace(outcome, detail="; ".join(filter(None, (outcome.detail, changed))))
    if outcome.status != "conflict":
        record.done.append((transaction, outcome))
    see(run_id, record, after, send, take)
    return outcome if outcome.status == "conflict" else record.done[-1][1]


def left_of(transaction: Transaction, after: Assessment) -> list[Finding]:
    """What a transaction was to put right, and did not."""
    return [
        finding
        for finding in after.verdict.findings
        if finding.change
        and finding.change.component is transaction.component
        and finding.code in transaction.codes
    ]


def see(run_id: str, record: Record, after: Assessment, send: Send, take: Take) -> None:
    """The host was looked at: of the transactions after which it was not, each one that has not put right what it was to is undone,
    and before it what builds on it."""
    unseen, record.unseen = record.unseen, []
    for place, (transaction, outcome) in enumerate(record.done):
        if transaction in unseen and UNSEEN in outcome.detail:
            outcome = replace(outcome, detail=without(outcome.detail, UNSEEN))
            record.done[place] = (transaction, outcome)
            record.outcomes[transaction.component] = outcome
    for transaction in unseen:
        left = left_of(transaction, after)
        if not left:
            continue
        reason = still(left)
        for place in reversed(range(len(record.done))):
            other, outcome = record.done[place]
            if outcome.status not in STAYS:
                continue
            mine = other is transaction
            if not mine and not held(other.component, {transaction.component: "put_back"}):
                continue
            why = reason if mine else f"{transaction.component}, on which it builds, was put back: {reason}"
            ended = _take_back(run_id, record, other, why, send, take)
            record.done[place] = (other, ended)
            record.outcomes[other.component] = ended


def followed(which: Component, plan: Plan) -> bool:
    """Whether what comes next on this host may be done while the daemon of this one is watched."""
    left = following(plan, which)
    return bool(left) and left[0].component in OVERLAPPING


def with_word(detail: str, word: str) -> str:
    """What is said of a change, and besides what is so until its watch is over, or until the host was looked at."""
    return "; ".join(filter(None, (detail, word)))


def without(detail: str, word: str) -> str:
    """The same without it."""
    return detail.replace(f"; {word}", "").replace(f"{word}; ", "").replace(word, "")


def settle(record: Record, watched: Mapping[str, tuple[str, str]], but: Component | None = None) -> None:
    """Of transactions before, the record says how their watches ended. A change that was taken back for one before it is told as
    put back, too."""
    for place, (transaction, outcome) in enumerate(record.done):
        status, why = watched.get(str(transaction.component), ("", ""))
        if not status or transaction.component is but or status == outcome.status or not outcome.good:
            continue
        detail = without(outcome.detail, UNWATCHED)
        ended = replace(outcome, status=status, detail=why or detail)
        record.done[place] = (transaction, ended)
        record.outcomes[transaction.component] = ended


def end_watches(run_id: str, record: Record, send: Send, take: Take) -> Outcome | None:
    """The watches of this host are over, it was looked at after its last change, and the record says how they ended; None where there
    was nothing to wait for. Where the host gave no answer, they stay told as `watching`: the host ends them by itself."""
    statuses = {outcome.status for _, outcome in record.done}
    if record.now is None or ("watching" not in statuses and not record.unseen):
        return None
    if statuses & {"lost", "running"}:  # it does not answer, or not before that is at its end
        return Outcome("watching", "the host ends its watches by itself")
    data = {"verb": "watch", "run": run_id, "who": who(), "restarts": record.now.context.wanted.restarts}
    try:
        outcome, snapshot = send(data)
        settle(record, outcome.watched)
        see(run_id, record, take(snapshot), send, take)
    except Exception as error:
        return Outcome("watching", told(error))
    return outcome


def told(error: Exception) -> str:
    """What went wrong, for the report: one of ours in its words, any other with its kind."""
    expected = isinstance(error, (HostError, AnswerError))
    return str(error) if expected else f"internal error: {type(error).__name__}: {error}"


def still(left: list[Finding]) -> str:
    """Why a change is undone that did not help."""
    codes = ", ".join(dict.fromkeys(finding.code for finding in left))
    return f"{codes} is still found after the change: {left[0].summary}"


def _take_back(
    run_id: str, record: Record, transaction: Transaction, reason: str, send: Send, take: Take
) -> Outcome:
    """A change is undone. The second and last exec of a component."""
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


# How a change ends that is there afterwards.
STAYS = ("changed", "unchanged", "watching")
UNSEEN = "the host has not been looked at since: audit it again"
UNWATCHED = (
    "its daemon has not lived for long enough yet: the host watches it, and keeps the change or puts it back by itself; "
    "audit it again"
)


def rollback_data(run_id: str, restarts: str, component: str = "", inner: str = "") -> dict[str, Any]:
    """The program's JSON that undoes a run, or one component of it. inner: what of `restarts` counts for Dockers in
    containers, where it is not the same."""
    named = {"verb": "rollback", "run": run_id, "who": who(), "component": component}
    return {**named, "restarts": restarts, "inner": inner}
