"""One transaction on one host: sent, answered, and judged again by the state that came with the answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from gpumend.plan.transaction import Transaction
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


def attempt(run_id: str, record: Record, transaction: Transaction, send: Send, take: Take) -> Outcome:
    """The transaction was carried out, or the outcome says why not; `record.done` has it, but for a conflict. What it was to
    put right and did not is undone."""
    assert record.now is not None
    wanted, before = record.now.context.wanted, record.now.context.state
    try:
        outcome, snapshot = send(as_data(transaction, run_id, wanted.restarts, who(), wanted.restart_watch))
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
    if left and undoable and outcome.status in ("changed", "unchanged"):
        outcome = _take_back(run_id, record, transaction, left, send, take)
    if transaction.component is Component.CDI and outcome.status == "changed":
        changed = told_of_specs(before.cdi, after.context.state.cdi)
        outcome = replace(outcome, detail="; ".join(filter(None, (outcome.detail, changed))))
    if outcome.status != "conflict":
        record.done.append((transaction, outcome))
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


def rollback_data(run_id: str, restarts: str, component: str = "", inner: str = "") -> dict[str, Any]:
    """The program's JSON that undoes a run, or one component of it. inner: what of `restarts` counts for Dockers in
    containers, where it is not the same."""
    named = {"verb": "rollback", "run": run_id, "who": who(), "component": component}
    return {**named, "restarts": restarts, "inner": inner}
