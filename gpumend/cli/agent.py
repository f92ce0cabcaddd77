"""`gpumend agent install|status|uninstall [HOST]...`, `gpumend agent file PATH`"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from gpumend.agent.bundle import bundle
from gpumend.cli import report_options, start
from gpumend.reports.outputs import replaced

VERBS = ("install", "status", "uninstall", "file")


@click.command("agent", options_metavar="install|status|uninstall|file [OPTIONS]")
@start.options
def command(call: start.Call) -> None:
    """The agent on the hosts: each judges itself by a timer, and tells the journal and node_exporter (docs/agent.md).

    `agent file PATH` writes the agent's program to a file, for an image of a container.
    """
    verb, targets = call.targets[:1], call.targets[1:]
    if not verb or verb[0] not in VERBS:
        raise click.UsageError(f"agent: one of {', '.join(VERBS)} is needed")
    if verb[0] == "file":
        if len(targets) != 1:
            raise click.UsageError("agent file: one path is needed")
        try:
            replaced(Path(targets[0]), bundle(), 0o755)
        except OSError as error:
            raise click.UsageError(f"agent file: {targets[0]}: {error.strerror}") from None
        return
    if call.report or report_options.has_output():
        raise click.UsageError("agent: there is no report of it; a line a host says how it went")
    flags = ("--dry",) if verb[0] == "status" else ("-y",)
    replace(call, targets=targets).become("agent", *flags, data=(f"agent_verb={verb[0]}",))
