"""What a report format is. A format is one file in gpumend/reports/formats/ that registers its name; it is named nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

Render = Callable[[dict[str, Any]], str]
JUDGED = ("audit", "mend")
EVERY = (*JUDGED, "rollback", "acknowledge", "runs", "facts", "parity")


@dataclass(frozen=True)
class Format:
    """render: the whole document (gpumend/schemas/report.schema.json, masked) as this format's text. kinds: the documents
    that it can show. public: the file is readable for everybody, where who reads it is another user."""

    name: str
    render: Render
    kinds: tuple[str, ...]
    public: bool


FORMATS: dict[str, Format] = {}


def report_format(
    name: str, kinds: Iterable[str] = JUDGED, public: bool = False
) -> Callable[[Render], Render]:
    """Register a function as a format. Raises ValueError for a name that is taken."""

    def register(render: Render) -> Render:
        if name in FORMATS:
            raise ValueError(f"two formats have the name {name}")
        FORMATS[name] = Format(name, render, tuple(kinds), public)
        return render

    return register
