"""`gpumend`: the verbs, loaded when they are called, so that an answer that needs no host comes at once."""

from __future__ import annotations

import difflib
import os
import sys
from importlib import import_module
from typing import Any

import click

VERBS = {
    "audit": "What is wrong on the hosts, and what mend would change. Changes nothing.",
    "mend": "Put right what can be put right, prove it, and put back what cannot be proven.",
    "plan": "What mend would change, kept in a file: `mend --plan FILE` changes that and nothing else.",
    "check": "What can be known to be wrong before a host is connected to.",
    "reconcile": "Free GPU allocations of containers that are not there; twice seen, and only by opt-in.",
    "explain": "What a finding or an error text means, how it is known, and what to do by hand.",
    "rollback": "Undo a run: its files are as they were before it.",
    "runs": "What gpumend did on the hosts; `runs ack RUN`: somebody has taken note of a run that ended broken.",
    "facts": "What is known of the hosts, as JSON.",
    "compose": "Compose files: how their services ask for GPUs, and whether that works; `compose fix` rewrites it.",
    "fleet": "Many reports as one audit: agents' files, or Prometheus. No host is asked.",
    "diff": "What has come, gone and changed between two JSON reports.",
    "bundle": "Report and facts in one archive, for a support ticket.",
    "completion": "What makes a shell complete gpumend's words.",
    "agent": "An agent on the hosts: install, status, uninstall.",
    "parity": "In what nodes differ that have to restore each other's checkpoints.",
    "dockerfile": "What is wrong with Dockerfiles of a working copy; no host is asked.",
}


def opened() -> None:
    """Standard input, output and error are there: else the next file or socket that is opened would be taken for one of them."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            found = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            os.set_inheritable(found, True)


class Verbs(click.Group):
    """A group whose commands are modules of this package."""

    def main(self, *args: Any, **more: Any) -> Any:
        """As click's; a file that cannot be written, standard output among them, is told in a line."""
        opened()
        try:
            return super().main(*args, **more)
        except OSError as error:
            click.echo(f"gpumend: {error}", err=True)
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, 1)  # Python writes what is left as it ends, and would fail once more
            sys.exit(1)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command: click.Command = import_module(f"gpumend.cli.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        near = difflib.get_close_matches(args[0], VERBS, n=1) if args[0] not in VERBS else []
        if near:
            ctx.fail(f"No such command {args[0]!r}. Did you mean {near[0]!r}?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


@click.command(cls=Verbs)
@click.version_option(package_name="gpumend", prog_name="gpumend")
def main() -> None:
    """Find out why containers cannot use the GPU, and put it right.

    Hosts are those of hosts.toml, or the ones of it that are named (names, groups, patterns); USER@HOST; or those of
    an inventory of pyinfra's. Without any, this machine.

    \b
    Exit status: 0 every host is as wanted; 1 a host could not be reached or read, or something stayed unknown;
    2 usage or configuration; 3 drift; 4 a change failed and was put back; 5 and could not be put back.
    """


if __name__ == "__main__":
    main()
