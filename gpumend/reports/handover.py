"""The document that goes with a node to whoever runs it: the run's report of that host alone, as HTML and as JSON."""

from __future__ import annotations

import errno
import re
from dataclasses import replace
from pathlib import Path

from gpumend.reports import outputs
from gpumend.reports.document import document
from gpumend.run.record import Run

FORMATS = ("json", "html")


def written(this: Run, executed: bool, directory: str) -> list[str]:
    """The paths of the files: NODE.json and NODE.html of each host, in that directory, which is made where it is missing. Each is
    whole or as it was. Raises OSError."""
    Path(directory).mkdir(mode=0o700, parents=True, exist_ok=True)
    if outputs.planted(Path(directory)):
        raise PermissionError(
            errno.EACCES, "it is another user's, in a directory where anybody may write", directory
        )
    found = []
    taken: set[str] = set()
    for name, record in sorted(this.records.items()):
        mine = file_name(name)
        while mine in taken:  # `a/b` beside `a_b`
            mine += "_"
        taken.add(mine)
        told = document(replace(this, records={name: record}), executed)
        for each in FORMATS:
            path = Path(directory, f"{mine}.{each}")
            outputs.write(told, outputs.Output(each, str(path)))
            found.append(str(path))
    return found


def file_name(host: str) -> str:
    """A host's name as one of a file: `@docker/a b` becomes `_docker_a_b`."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", host).lstrip(".") or "_"
