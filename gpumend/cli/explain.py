"""`gpumend explain CODE`"""

from __future__ import annotations

import sys

import click

from gpumend.places import PAGES


@click.command("explain")
@click.argument("code", required=False)
def command(code: str | None) -> None:
    """What a finding means, how it is known, and what to do by hand. Without CODE: a list of all."""
    if code is None:
        for page in sorted(PAGES.glob("GM*.md")):
            click.echo(page.read_text("utf-8").splitlines()[0].removeprefix("# "))
        return
    page = PAGES / f"{code.upper()}.md"
    if not page.is_file() or page.parent != PAGES:
        click.echo(f"gpumend: there is no finding {code!r}; `gpumend explain` lists all.", err=True)
        sys.exit(2)
    click.echo(page.read_text("utf-8"), nl=False)
