"""The report of `gpumend runs`: what gpumend did on each host, the newest first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from gpumend.deploy import session
from gpumend.reports.document import Exit, envelope, worst
from gpumend.reports.formats import text
from gpumend.run import record as run
from gpumend.state.reading import Unread
from gpumend.state.runs import Runs
from gpumend.text.mask import mask_all

if TYPE_CHECKING:
    from pyinfra.api.state import State


def host_runs(known: Runs) -> dict[str, Any]:
    """A host's part of the document; its `error` where the runs could not be read."""
    try:
        listed = known.listed()
    except Unread as error:
        return {"error": f"the runs could not be read: {error}", "runs": []}
    return {
        "error": "",
        "runs": [
            {
                "run": found.name,
                "state": found.state,
                "acknowledged": found.acknowledged,
                "components": [
                    {
                        "component": each.component,
                        "state": each.state,
                        "files": None if each.files is None else list(each.files),
                    }
                    for each in found.journals
                ],
            }
            for found in listed
        ],
    }


def finish(state: State) -> Exit:
    """Print a line a run. 0: every host was read; 1: one was not."""
    this = run.current(state.inventory)
    session.unreached(state, this)
    hosts = mask_all(
        {
            name: host_runs(record.now.context.state.runs)
            if record.now
            else {"error": record.error, "runs": []}
            for name, record in sorted(this.records.items())
        }
    )
    status = worst(Exit.UNREAD if host["error"] else Exit.OK for host in hosts.values())
    told = envelope(this, "runs", status, hosts)
    if session.target_of(state) != "-":
        click.echo(text.runs(told), nl=False)
    return session.write(state, told, status)
