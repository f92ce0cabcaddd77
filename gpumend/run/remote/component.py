"""What every operation is: one component's transaction, sent, answered, and judged again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pyinfra import logger
from pyinfra.api.command import FunctionCommand
from pyinfra.context import host as context_host

from gpumend.plan.needs import held
from gpumend.plan.transaction import Transaction
from gpumend.plan.wire import as_data
from gpumend.rules.finding import Component
from gpumend.run import record as run
from gpumend.run.outcome import Outcome
from gpumend.run.programs import who
from gpumend.run.remote import assessment
from gpumend.run.remote.connection import AuditOnly, RemoteError
from gpumend.run.remote.exchange import send
from gpumend.state.snapshot import AnswerError
from gpumend.text.mask import mask

if TYPE_CHECKING:
    from pyinfra.api.host import Host
    from pyinfra.api.state import State

ATTEMPTS = 2  # the second when the host changed between plan and change: it is planned anew on what is there


def component(which: Component) -> Iterator[FunctionCommand]:
    """The body of an operation: nothing where nothing is to be changed, or where that builds on what failed before; else
    one command that does all of it.

    Judged on the newest state known: an earlier operation's answer brought it along, so no host is asked again.
    """
    record = run.current(context_host.inventory).records.get(context_host.name)
    if record is None or record.now is None:
        return
    transaction = record.now.plan.get(which)
    if transaction is None:
        context_host.noop(record.now.plan.blocked.get(which, "as wanted"))
        return
    why = held(which, {component: outcome.status for component, outcome in record.outcomes.items()})
    if why:
        record.held[which] = why
        context_host.noop(why)
        return
    yield FunctionCommand(_carry_out, (which,), {})


def _carry_out(state: State, host: Host, which: Component) -> bool:
    """Send the transaction; True where it ended well. pyinfra takes False for a failure of this host alone.

    Its parameters are named as pyinfra asks: functions with `state` and `host` return their own status.
    """
    this = run.current(host.inventory)
    record = this.record(host.name)
    assert record.now is not None
    if this.stopped:
        logger.info(f"{host.print_prefix}{which}: left as it is: {this.stopped}")
        return True
    outcome = Outcome("unchanged")
    transaction = record.now.plan.get(which)
    if record.approved is not None and transaction is not None and which not in record.approved:
        record.done.append((transaction, Outcome("refused", "it is not in the plan")))
        return False
    for _ in range(ATTEMPTS if record.approved is None else 1):
        if transaction is None:
            outcome = Outcome("unchanged", "another run did it meanwhile")
            break
        sent = transaction
        record.busy = str(which)
        try:
            outcome = _attempt(host, record, transaction)
        finally:
            record.busy = ""
        if outcome.status != "conflict":
            break
        transaction = record.now.plan.get(which)
    else:
        record.done.append((sent, outcome))  # changed twice meanwhile: somebody else is at work there
    record.outcomes[which] = outcome
    log = logger.info if outcome.good else logger.error
    detail = f": {mask(outcome.detail)}" if outcome.detail else ""
    log(f"{host.print_prefix}{which}: {outcome.status}{detail}")
    return outcome.good


def _attempt(host: Host, record: run.Record, transaction: Transaction) -> Outcome:
    """One exec: the transaction's answer, judged by the state of the host that came with it."""
    assert record.now is not None
    this = run.current(host.inventory)
    try:
        wanted = record.now.context.wanted
        outcome, snapshot = send(
            host, as_data(transaction, this.id, wanted.restarts, who(), wanted.restart_watch)
        )
        after = assessment.take(host, record, snapshot)
    except AuditOnly as error:
        outcome = Outcome("refused", str(error))
        record.done.append((transaction, outcome))
        return outcome
    except Exception as error:  # something was sent: whatever its answer does to us is this host's alone
        outcome = Outcome("lost", f"{told(error)}; the host finishes or puts back by itself: audit it again")
        record.done.append((transaction, outcome))
        return outcome
    left = [
        finding.code
        for finding in after.verdict.findings
        if finding.change
        and finding.change.component is transaction.component
        and finding.code in transaction.codes
    ]
    # The putting back of an interrupted run is not itself undone: another run may have begun meanwhile. Nor is what was
    # freed: what is stale by now became so meanwhile, and another container may hold the slot already.
    undoable = transaction.component not in (Component.RECOVER, Component.ALLOCATIONS)
    if left and undoable and outcome.status in ("changed", "unchanged"):
        outcome = _take_back(host, record, transaction, left)
    if outcome.status != "conflict":
        record.done.append((transaction, outcome))
    return outcome


def told(error: Exception) -> str:
    """What went wrong, for the report: one of ours in its words, any other with its kind."""
    expected = isinstance(error, RemoteError | AnswerError)
    return str(error) if expected else f"internal error: {type(error).__name__}: {error}"


def _take_back(host: Host, record: run.Record, transaction: Transaction, left: list[str]) -> Outcome:
    """What was to be put right is still wrong: the change is undone. The second and last exec of a component."""
    reason = f"{', '.join(left)} is still found after the change"
    this = run.current(host.inventory)
    assert record.now is not None
    restarts = record.now.context.wanted.restarts
    try:
        # What runs in a container whose daemon we have started a moment ago is ours to stop; the host's daemon may have new work.
        outcome, snapshot = send(host, rollback_data(this.id, restarts, str(transaction.component), "allow"))
        assessment.take(host, record, snapshot)
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
