"""Pair parity in the report: each pool of GRIT nodes, and in what its nodes differ."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import click

from gpumend.reports.fleet import hosts_text, one_line
from gpumend.rules.parity import Level, compare
from gpumend.run.record import Record
from gpumend.state.host_state import HostState

COLORS = {Level.BLOCKER: "red", Level.RISK: "yellow", Level.UNKNOWN: "magenta"}
EVERYBODY = "all hosts"


def pools(records: Iterable[Record]) -> dict[str, dict[str, HostState]]:
    """The hosts that were read, by the pool that their wanted state names; hosts of no pool are in none."""
    found: dict[str, dict[str, HostState]] = {}
    for record in records:
        if record.now is not None and record.now.context.wanted.grit_pool:
            found.setdefault(record.now.context.wanted.grit_pool, {})[record.name] = record.now.context.state
    return found


def everybody(records: Iterable[Record]) -> dict[str, HostState]:
    """All hosts that were read, as one group."""
    return {record.name: record.now.context.state for record in records if record.now is not None}


def section(groups: Mapping[str, Mapping[str, HostState]]) -> list[dict[str, Any]]:
    """Each group's differences as JSON."""
    return [
        {
            "pool": pool,
            "hosts": sorted(states),
            "differences": [
                {
                    "subject": item.subject.name,
                    "title": item.subject.title,
                    "class": str(item.level),
                    "values": dict(item.values),
                    "differ": list(item.differ),
                    "details": list(item.details),
                    "error": item.subject.error if item.level is not Level.UNKNOWN else "",
                    "source": item.subject.source,
                }
                for item in compare(states)
            ],
        }
        for pool, states in sorted(groups.items())
    ]


def classes(sections: Iterable[Mapping[str, Any]]) -> set[str]:
    """The classes of all differences."""
    return {item["class"] for found in sections for item in found["differences"]}


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
