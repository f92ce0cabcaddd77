"""How a run of `deploys/agent.py` is told: a line a host. There is no other report of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from gpumend.deploy import screen, session
from gpumend.reports.document import Exit
from gpumend.reports.fleet import one_line
from gpumend.run import record as run
from gpumend.text.mask import mask

if TYPE_CHECKING:
    from pyinfra.api.state import State


def finish(state: State) -> Exit:
    """The hosts that went well have said so; a line for each other one. 1: there is one."""
    this = run.current(state.inventory)
    session.unreached(state, this)
    screen.told()
    bad = {name: record.error for name, record in this.records.items() if record.error}
    for name, error in sorted(bad.items()):
        click.echo(f"{name}: {one_line(mask(error))}")
    return Exit.UNREAD if bad else Exit.OK
