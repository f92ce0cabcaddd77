"""A mend by the agent: of the components that it was allowed, as an operator's mend of this host would carry them out."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from gpumend.agent import journal
from gpumend.agent.audit import looked, published
from gpumend.agent.config import Config
from gpumend.agent.files import written
from gpumend.agent.places import MENDED, STATE
from gpumend.plan.needs import held
from gpumend.reports.document import Exit, document
from gpumend.rules.finding import Component
from gpumend.run.attempt import attempt
from gpumend.run.local.here import ran
from gpumend.run.outcome import Outcome, parse_answer
from gpumend.run.programs import change_program
from gpumend.run.record import Assessment, Record, Run, judged_answer, new_id
from gpumend.state.host_state import asked_of
from gpumend.state.snapshot import AnswerError, Snapshot


def send(config: Config, data: dict[str, Any]) -> tuple[Outcome, Snapshot]:
    """The transaction's program on this host. It bounds each of its own waits, and is not ended from here. Raises HostError
    or AnswerError."""
    return parse_answer(ran(change_program(data, *asked_of(config.wanted))))


def recovers(config: Config, now: Assessment) -> bool:
    """Whether an interrupted run is the agent's to put back: of what it may change, all of it."""
    listed = now.context.state.runs.listed()
    open_ = {
        each.component for found in listed for each in found.journals if each.state in ("working", "watching")
    }
    return open_ <= {*config.mend, str(Component.RECOVER)}


def ended(component: Component, outcome: Outcome) -> str:
    """How a change ended, in a line."""
    return f"{component}: {outcome.status}{f': {outcome.detail}' if outcome.detail else ''}"


def carried_out(config: Config, run: Run, record: Record) -> None:
    """What is planned of the allowed components is done, in the order of all; what builds on one that failed waits."""

    def take(snapshot: Snapshot) -> Assessment:
        assert record.now is not None
        record.now = judged_answer(snapshot, record.now.context.wanted, record.name)
        return record.now

    for component in Component:
        assert record.now is not None
        transaction = record.now.plan.get(component)
        if transaction is None:
            continue
        if component is Component.RECOVER and not recovers(config, record.now):
            record.held[component] = "an interrupted run is not the agent's to put back"
            return
        if component is not Component.RECOVER and str(component) not in config.mend:
            continue
        why = held(component, {done: outcome.status for done, outcome in record.outcomes.items()})
        if why:
            record.held[component] = why
            continue
        outcome = attempt(run.id, record, transaction, lambda data: send(config, data), take)
        record.outcomes[component] = outcome
        status = {"pending": "note", "running": "note"}.get(outcome.status, "ok" if outcome.good else "fail")
        journal.told(
            ended(component, outcome),
            status,
            host=config.host,
            run=run.id,
            component=str(component),
        )


def run(config: Config) -> int:
    """The exit status, as of an operator's mend, but that what is not allowed is no drift of it. The report of what was done
    is in MENDED, the last audit's is the one of the state afterwards. Raises OSError where they cannot be written."""
    run = Run(new_id(), time.time())
    record = run.record(config.host)
    try:
        record.before = record.now = looked(config)
        carried_out(config, run, record)
    except AnswerError as error:
        record.error = str(error)
    report = document(run, executed=True)
    if record.done:
        os.makedirs(STATE, 0o700, exist_ok=True)
        written(MENDED, json.dumps(report, indent=1).encode(), 0o600)
    if record.now is not None:
        after = Run(run.id, run.started)
        after.records[config.host] = Record(config.host, record.now, record.now)
        published(config, document(after, executed=False))
    status = Exit(int(report["exit"]))
    return int(Exit.OK if status is Exit.DRIFT else status)
