"""`gpumend completion SHELL`"""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")


@click.command("completion")
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """What makes a shell complete gpumend's verbs, options and hosts.

    \b
    bash: eval "$(gpumend completion bash)"
    zsh:  eval "$(gpumend completion zsh)"
    fish: gpumend completion fish | source
    """
    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(ctx.find_root().command, {}, "gpumend", "_GPUMEND_COMPLETE").source())
