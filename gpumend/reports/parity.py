"""Pair parity in the report: each pool of GRIT nodes, and in what its nodes differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from gpumend.rules.parity import Level, compare
from gpumend.run.record import Record
from gpumend.state.host_state import HostState

EVERYBODY = "all hosts"


def pools(records: Iterable[Record]) -> dict[str, dict[str, HostState]]:
    """The hosts that were read, by the pool that their wanted state names; hosts of no pool are in none."""
    found: dict[str, dict[str, HostState]] = {}
    for record in records:
        if record.now is not None and record.now.wanted.grit_pool:
            found.setdefault(record.now.wanted.grit_pool, {})[record.name] = record.now.context.state
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
