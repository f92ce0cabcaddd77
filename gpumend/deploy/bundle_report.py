"""What `gpumend bundle` writes: one archive for whoever has to help."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gpumend.deploy import facts_report, screen, session
from gpumend.reports.document import Exit, document, envelope
from gpumend.reports.formats import text
from gpumend.run import record as run

if TYPE_CHECKING:
    from pyinfra.api.state import State

KEY = "bundle"
README = """\
What gpumend found on these hosts, for whoever has to help.
report.txt   what it says, for people
report.json  the same for programs (gpumend/schemas/report.schema.json)
facts.json   what the hosts answered, by subsystem; files by their SHA-256
Passwords, tokens and registry logins are masked. Names of hosts, users, containers and paths are as they are.
"""


def archive(told: dict[str, Any], facts: dict[str, Any]) -> bytes:
    """The archive's bytes: one directory, named after the run."""
    out = io.BytesIO()
    parts = {
        "README.txt": README,
        "report.txt": text.render(told),
        "report.json": json.dumps(told, indent=2, ensure_ascii=False) + "\n",
        "facts.json": json.dumps(facts, indent=2, ensure_ascii=False) + "\n",
    }
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, body in parts.items():
            data = body.encode("utf-8")
            info = tarfile.TarInfo(f"gpumend-{told['run']}/{name}")
            info.size, info.mode = len(data), 0o600
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def finish(state: State) -> Exit:
    """The archive is written, its owner's alone, and one line says where; the exit status is the audit's."""
    this = run.current(state.inventory)
    session.unreached(state, this)
    told = document(this, executed=False)
    status = Exit(told["exit"])
    facts = envelope(this, "facts", status, facts_report.hosts_of(this))
    path = Path(str(state.inventory.get_override_data().get(KEY, "")))
    screen.told()
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
            out.write(archive(told, facts))
    except OSError as error:
        click.echo(f"gpumend: the archive could not be written: {error}", err=True)
        return Exit.UNREAD
    count = len(told["hosts"])
    click.echo(f"{path}: report and facts of {count} host{'s' * (count != 1)}; `tar tzf` lists it")
    return session.write(state, told, status)
