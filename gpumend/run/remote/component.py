"""What every operation is: one component's transaction, sent, answered, and judged again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from pyinfra import logger
from pyinfra.api.command import FunctionCommand
from pyinfra.context import host as context_host

from gpumend.plan.needs import held
from gpumend.plan.step import InstallRunfile, PackageStep
from gpumend.plan.transaction import Transaction
from gpumend.rules.finding import Component
from gpumend.run import record as run
from gpumend.run.attempt import attempt, end_watches
from gpumend.run.outcome import Outcome
from gpumend.run.remote import assessment
from gpumend.run.remote.exchange import send
from gpumend.run.remote.output import heard
from gpumend.text.mask import mask

if TYPE_CHECKING:
    from pyinfra.api.host import Host
    from pyinfra.api.state import State

ENDED_WELL = ("changed", "unchanged")  # the latter: there was no watch, and the host was looked at
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
    why = waits(record, which)
    if why:
        context_host.noop(why)
        return
    yield FunctionCommand(_carry_out, (which,), {})


def waits(record: run.Record, which: Component) -> str:
    """Why a component is not tried, noted in the record; an empty text where it is."""
    why = held(which, {component: outcome.status for component, outcome in record.outcomes.items()})
    if why:
        record.held[which] = why
    return why


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
        record.busy, record.doing, record.since = str(which), takes_long(transaction), time.monotonic()
        try:
            with heard(at_work(record, record.doing)):
                outcome = _attempt(host, record, transaction)
        finally:
            record.busy = ""
        if outcome.status != "conflict":
            break
        transaction = record.now.plan.get(which)
        if transaction is not None and (why := waits(record, which)):  # put back when the host was looked at
            logger.info(f"{host.print_prefix}{which}: left as it is: {why}")
            return True
    else:
        record.done.append((sent, outcome))  # changed twice meanwhile: somebody else is at work there
    record.outcomes[which] = outcome
    log = logger.info if outcome.good else logger.error
    detail = f": {mask(outcome.detail)}" if outcome.detail else ""
    log(f"{host.print_prefix}{which}: {outcome.status}{detail}")
    return outcome.good


def at_work(record: run.Record, otherwise: str) -> Callable[[str], None]:
    """What takes the host's own words of what it is at; otherwise: what is told where it says nothing."""

    def tell(text: str) -> None:
        record.doing = text or otherwise

    return tell


def takes_long(transaction: Transaction) -> str:
    """What of a transaction may take minutes, in words: packages and runfiles."""
    steps = [step for step in transaction.steps if isinstance(step, (PackageStep, InstallRunfile))]
    return ", ".join(step.describe() for step in steps)


def _attempt(host: Host, record: run.Record, transaction: Transaction) -> Outcome:
    """One exec; a second one where what it changed did not help."""
    return attempt(
        run.current(host.inventory).id,
        record,
        transaction,
        lambda data: send(host, data),
        lambda snapshot: assessment.take(host, record, snapshot),
        together=run.current(host.inventory).watches,
        # What somebody approved is sent once: where the host moved on, nothing may be planned anew.
        ahead=None
        if record.approved is not None
        else lambda snapshot: assessment.ahead(host, record, snapshot),
    )


def watched(host: Host) -> bool:
    """Every watch on this host is over, it was looked at after its last change, and its record says how it ended. A run that was stopped does so, too: it is the end of
    what was begun."""
    this = run.current(host.inventory)
    record = this.record(host.name)
    record.busy, record.doing, record.since = "the watch", "watches what was restarted", time.monotonic()
    try:
        ended = end_watches(
            this.id,
            record,
            lambda data: send(host, data),
            lambda snapshot: assessment.take(host, record, snapshot),
        )
    finally:
        record.busy = ""
    if ended is None:
        return True
    log = logger.info if ended.status in ENDED_WELL else logger.error
    log(f"{host.print_prefix}watched: {ended.status}{f': {mask(ended.detail)}' if ended.detail else ''}")
    return ended.status in ENDED_WELL
