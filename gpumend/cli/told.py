"""What `--for` names: a report of hosts, or a host, which is asked."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from gpumend.cli import start

LARGEST = 256 << 20  # bytes of a report that is read


def document(value: str) -> Any:
    """A file's report, or the facts of hosts of this name. Raises OSError or ValueError; RecursionError for JSON that nobody reads."""
    if Path(value).exists() or "/" in value or value.endswith(".json"):
        with Path(value).open("rb") as file:
            data = file.read(LARGEST)
        try:
            return json.loads(data)
        except ValueError as error:
            raise ValueError(f"{value} is no JSON: {error}") from None
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "facts.json"
        start.Call((value,), report=str(path)).run("facts", "--dry")
        if not path.exists():
            raise ValueError("neither a report nor a host that answers")
        return json.loads(path.read_text("utf-8"))
