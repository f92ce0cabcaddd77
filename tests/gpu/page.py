"""docs/real-gpu.md from what a run of the suite saw."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from typing import Any

HEAD = """# What a real GPU said

Made by `make gpu PAGE=docs/real-gpu.md` (tests/gpu). Each row is a claim that gpumend makes of containers, and what a container
then really did: cuInit, and a vector addition on every device that it saw. A claim that a run contradicts is a fault of gpumend.
"""


def cell(text: str) -> str:
    """Text as a cell of a table has it, without what names one machine's GPU."""
    text = re.sub(r"GPU-[0-9a-f]{8}-[0-9a-f-]{27}", "GPU-UUID", text)
    return text.replace("|", "\\|").replace("\n", " ").strip()


def written(told: Mapping[str, Any], today: datetime.date | None = None) -> str:
    """The page. `told` is what tests/gpu/scenarios.py writes: versions, rows, absent, cost, ever."""
    day = today or datetime.datetime.now(datetime.UTC).date()
    lines = [HEAD, f"Seen on {day.isoformat()} with:\n"]
    lines += [f"- {name}: {cell(value)}" for name, value in told["versions"].items()]
    if told["ever"]:
        lines.append(f"- found on this machine by itself, and mended by nobody: {', '.join(told['ever'])}")
    held = sum(row["holds"] for row in told["rows"])
    lines += ["", f"## Claims: {len(told['rows'])}, of which {held} hold", ""]
    lines += [
        "| broken | finding | what gpumend says | containers by | claimed | happened | in its own words |"
    ]
    lines += ["| --- | --- | --- | --- | --- | --- | --- |"]
    for row in told["rows"]:
        happened = ("works" if row["happened"] else "fails") + ("" if row["holds"] else " (contradicted)")
        cells = [
            row["scenario"],
            row["code"],
            row["claim"],
            row["way"],
            "works" if row["claimed"] else "fails",
            happened,
        ]
        said = "" if row["happened"] else row["said"][:300]
        lines.append("| " + " | ".join(cell(text) for text in [*cells, said]) + " |")
    lines += ["", "## Cost", "", "| | |", "| --- | --- |"]
    lines += [f"| {name} | {value} |" for name, value in told["cost"].items()]
    if told["absent"]:
        lines += ["", "## Not tried", "", *[f"- {cell(line)}" for line in told["absent"]]]
    return "\n".join(lines) + "\n"
