"""`gpumend agent install|status|uninstall [HOST]...`"""

from __future__ import annotations

import sys
from dataclasses import replace

import click

from gpumend.cli import start

VERBS = ("install", "status", "uninstall")


@click.command("agent", options_metavar="install|status|uninstall [OPTIONS]")
@start.options
def command(call: start.Call) -> None:
    """The agent on the hosts: each judges itself by a timer, and tells the journal and node_exporter (docs/agent.md)."""
    verb, targets = call.targets[:1], call.targets[1:]
    if not verb or verb[0] not in VERBS:
        raise click.UsageError(f"agent: one of {', '.join(VERBS)} is needed")
    flags = ("--dry",) if verb[0] == "status" else ("-y",)
    sys.exit(replace(call, targets=targets).run("agent", *flags, data=(f"agent_verb={verb[0]}",)))
