"""What the deploys about one run need besides their operation: the run's name, and the report of how it went."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import click
from pyinfra.context import host as context_host
from pyinfra.context import state as context_state

from gpumend.deploy import session
from gpumend.reports.document import STATUS_EXIT, Exit, envelope, worst
from gpumend.run import record as run
from gpumend.run.remote.rollback import LAST, NO_RUN
from gpumend.text.mask import mask_all

if TYPE_CHECKING:
    from pyinfra.api.state import State

RUN_ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{4}")


def begin() -> str:
    """The name of the run to undo, or `last`: then every host is read, so that it is known which that is. Ends with exit
    status 2 where `--data run=` names none."""
    named = _named(finish, "undo", LAST)
    if named == LAST:
        session.begin(finish=finish, shown=False)
    return named


def begin_acknowledging() -> str:
    """The name of the run to take note of; ends with exit status 2 where `--data run=` names none."""
    return _named(acknowledged, "acknowledge")


def _named(tell: Callable[[State], Exit], what: str, *others: str) -> str:
    told = session.reporter(context_state, tell)
    named = str(context_host.data.get("run", ""))
    if named not in others and not RUN_ID.fullmatch(named):
        told.usage_error = "run"
        click.echo(f"gpumend: --data run={named}: name the run to {what}, as `mend` printed it", err=True)
        raise SystemExit(int(Exit.USAGE))
    return named


def finish(state: State) -> Exit:
    """Print a line a host. 0: undone wherever the run was; 1: no host has it, or one gave no answer; 4, 5: not undone."""
    return _told(state, "rollback", "undone")


def acknowledged(state: State) -> Exit:
    """Print a line a host. 0: acknowledged wherever the run was; 1: no host has it, or one gave no answer; 4, 5: not done."""
    return _told(state, "acknowledge", "acknowledged")


def _told(state: State, kind: str, changed: str) -> Exit:
    this = run.current(state.inventory)
    rows, statuses, done = [], [], 0
    for found in sorted(state.inventory, key=lambda host: host.name):
        if not state.is_host_in_limit(found):
            continue
        record = this.record(found.name)
        outcome = record.undone
        if outcome is None:
            rows.append((found.name, "no answer", record.error))
            statuses.append(Exit.UNREAD)
            continue
        there = outcome.status != "refused" or NO_RUN not in outcome.detail
        done += there
        word = changed if outcome.status == "changed" else outcome.status
        word = word if there else "no such run"
        rows.append((found.name, word, outcome.detail))
        statuses.append(STATUS_EXIT.get(outcome.status, Exit.OK) if there else Exit.OK)
    status = worst((*statuses, *(() if done else (Exit.UNREAD,))))
    width = max((len(name) for name, _, _ in rows), default=0)
    for name, word, detail in (
        mask_all([list(row) for row in rows]) if session.target_of(state) != "-" else ()
    ):
        click.echo(f"{name.ljust(width)}  {word:<12}  {' '.join(detail.split())}".rstrip())
    hosts = {
        name: {
            "status": word,
            "error": detail if word == "no answer" else "",
            "detail": "" if word == "no answer" else detail,
        }
        for name, word, detail in rows
    }
    return session.write(state, envelope(this, kind, status, hosts), status)
