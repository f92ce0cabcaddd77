"""Pair parity for people: the report's section as lines of a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import click

from gpumend.reports.fleet import hosts_text, one_line
from gpumend.rules.parity import Level

COLORS = {Level.BLOCKER: "red", Level.RISK: "yellow", Level.UNKNOWN: "magenta"}


def render(sections: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """The lines of each group: who has what, who differs from the majority, and the error that it leads to."""
    for found in sections:
        counts = [sum(item["class"] == level for item in found["differences"]) for level in Level]
        alike = "equal" if len(found["hosts"]) > 1 else "nothing to compare"
        said = ", ".join(f"{count} {level}" for count, level in zip(counts, Level) if count)
        yield ""
        yield (
            click.style(f"parity of {one_line(found['pool'])}", bold=True)
            + f": {len(found['hosts'])} host{'s' * (len(found['hosts']) != 1)}: {said or alike}"
        )
        for item in found["differences"]:
            label = click.style(f"{item['class']:<7}", fg=COLORS[Level(item["class"])], bold=True)
            yield f"  {label} {item['title']}"
            groups: dict[str, list[str]] = {}
            for host, value in item["values"].items():
                groups.setdefault(value, []).append(host)
            for value, hosts in sorted(groups.items(), key=lambda pair: (len(pair[1]), pair[0])):
                mark = (
                    " (differs)"
                    if item["class"] != Level.UNKNOWN and set(hosts) <= set(item["differ"])
                    else ""
                )
                yield f"           - {hosts_text(hosts)}{mark}: {one_line(value)}"
            for detail in item["details"]:
                yield f"             {one_line(detail)}"
            if item["error"]:
                yield f"           leads to: {item['error']}"
