"""The report for programs in a file: what `--report FILE` asks for."""

from __future__ import annotations

from typing import Any

from gpumend.reports import outputs


def write(document: dict[str, Any], target: str) -> None:
    """The file holds the whole document as JSON; `-` is standard output. Raises OSError."""
    outputs.write(document, outputs.Output("json", target))
