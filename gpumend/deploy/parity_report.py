"""The report of `gpumend parity`: what has to be equal for a restore on another node, and is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from gpumend.deploy import session
from gpumend.reports import parity, parity_text, terminal
from gpumend.reports.document import Exit, envelope, worst
from gpumend.reports.fleet import one_line
from gpumend.rules.parity import Level
from gpumend.run import record as run
from gpumend.text.mask import mask, mask_all

if TYPE_CHECKING:
    from pyinfra.api.state import State

POOL_KEY = "pool"


def finish(state: State) -> Exit:
    """Print each pool. 0: equal, or risks only; 1: a host was not read, or a fact is unknown, or there is nothing to
    compare; 3: a blocker. `--data pool=` names one pool; without any pool in the inventory all hosts are one group."""
    this = run.current(state.inventory)
    session.unreached(state, this)
    records = list(this.records.values())
    named = str(state.inventory.get_override_data().get(POOL_KEY, ""))
    groups = parity.pools(records)
    if named:
        groups = {name: states for name, states in groups.items() if name == named}
    elif not groups:
        groups = {parity.EVERYBODY: parity.everybody(records)}
    told = mask_all(parity.section(groups))
    for record in sorted(records, key=lambda item: item.name):
        if record.now is None and session.target_of(state) != "-":
            click.echo(f"gpumend: {record.name}: {one_line(mask(record.error))}", err=True)
    found = parity.classes(told)
    statuses = (
        [Exit.UNREAD] if any(record.now is None for record in records) or Level.UNKNOWN in found else []
    )
    statuses += [Exit.DRIFT] if Level.BLOCKER in found else []
    if not any(len(states) > 1 for states in groups.values()):
        click.echo(
            f"gpumend: nothing to compare: {'no two hosts of pool ' + named if named else 'fewer than two hosts'}",
            err=True,
        )
        statuses.append(Exit.UNREAD)
    if session.target_of(state) != "-":
        text = "\n".join(parity_text.render(told)).lstrip("\n")
        click.echo(text, color=terminal.colored())
    status = worst(statuses)
    hosts = {record.name: {"error": record.error} for record in sorted(records, key=lambda item: item.name)}
    return session.write(state, envelope(this, "parity", status, hosts, parity=told), status)
