"""`gpumend diff OLD.json NEW.json`"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from gpumend.reports import collected, compare
from gpumend.text.mask import printable


def _report(ctx: click.Context, param: click.Parameter, value: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(Path(value).expanduser().read_text("utf-8"))
        short = collected.Shortener(whole=True)
        if found["kind"] not in ("audit", "mend"):
            raise click.BadParameter(
                f"{value}: a report of {found['kind']}; those of audit and mend can be compared"
            )
        # A host's agent may have written it: what it says is believed of that host, and harms nobody.
        found["hosts"] = {
            printable(name): collected.host_of(host, short, True) for name, host in found["hosts"].items()
        }
    except OSError as error:
        raise click.BadParameter(f"{value}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise click.BadParameter(
            f"{value}: no report of gpumend's; `gpumend audit --report FILE` writes one"
        ) from None
    return found


@click.command("diff")
@click.argument("old", callback=_report, metavar="OLD.json")
@click.argument("new", callback=_report, metavar="NEW.json")
def command(old: dict[str, Any], new: dict[str, Any]) -> None:
    """What has come, gone and changed between two reports.

    Exit status: 0 nothing is worse; 3 a finding is new, or a host gives no answer any more; 2 a file is no report.
    """
    found = compare.compare(old, new)
    click.echo(compare.render(found), nl=False)
    sys.exit(3 if found.worse else 0)
