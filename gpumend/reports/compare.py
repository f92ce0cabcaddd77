"""Two reports of the same hosts: what has come, what is gone, what is another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gpumend.reports.fleet import SEVERITY, counted, one_line

WORSE = ("fail", "warn", "unknown")
Hosts = dict[tuple[str, ...], list[str]]  # what is said -> of whom


@dataclass
class Difference:
    """Each table: what is said, and the hosts of which it is."""

    silent: Hosts = field(default_factory=dict)  # no answer any more, and why
    answering: Hosts = field(default_factory=dict)
    new: Hosts = field(default_factory=dict)  # (status, code)
    gone: Hosts = field(default_factory=dict)
    facts: Hosts = field(default_factory=dict)  # (fact, old, new)
    wanted: Hosts = field(default_factory=dict)
    added: Hosts = field(default_factory=dict)
    removed: Hosts = field(default_factory=dict)
    words: dict[tuple[str, ...], str] = field(
        default_factory=dict
    )  # a finding's, of the first host that has it

    @property
    def worse(self) -> bool:
        return bool(self.silent) or any(said[0] in WORSE for said in self.new)


def _findings(host: Mapping[str, Any], words: dict[tuple[str, ...], str]) -> set[tuple[str, ...]]:
    for found in host["findings"]:
        words.setdefault((found["status"], found["code"]), one_line(found["summary"]))
    return {(found["status"], found["code"]) for found in host["findings"]}


def _shown(value: Any) -> str:
    return one_line(", ".join(map(str, value)) if isinstance(value, list) else str(value or "-")) or "-"


def compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> Difference:
    """What is different from the old document to the new one; a finding whose status is another is both gone and new."""
    found = Difference()
    before, after = old["hosts"], new["hosts"]
    for name in sorted({*before, *after}):
        if name not in after:
            found.removed.setdefault(("is not in the new report",), []).append(name)
            continue
        here = after[name]
        if name not in before:
            found.added.setdefault(("was not in the old report",), []).append(name)
            for said in _findings(here, found.words):
                found.new.setdefault(said, []).append(name)
            continue
        there = before[name]
        if here["error"]:
            if not there["error"]:
                found.silent.setdefault((one_line(here["error"]),), []).append(name)
            continue
        if there["error"]:
            found.answering.setdefault(("answers again",), []).append(name)
        now, was = _findings(here, found.words), _findings(there, found.words)
        for said in now - was:
            found.new.setdefault(said, []).append(name)
        for said in was - now:
            found.gone.setdefault(said, []).append(name)
        if there["error"]:
            continue
        for key in sorted({*there["facts"], *here["facts"]}):
            old_value, new_value = _shown(there["facts"].get(key)), _shown(here["facts"].get(key))
            if old_value != new_value:
                found.facts.setdefault((one_line(key), old_value, new_value), []).append(name)
        if there.get("wanted") != here.get("wanted"):
            found.wanted.setdefault(("another desired state",), []).append(name)
    return found


def render(found: Difference) -> str:
    """A line for each thing that is different, the gravest first."""
    rank = {status: number for number, status in enumerate(SEVERITY)}

    def findings(sign: str, table: Hosts) -> list[str]:
        ranked = sorted(table.items(), key=lambda item: (rank.get(item[0][0], len(rank)), item[0]))
        return [
            f"{sign} {said[0]:<7} {said[1]}  {counted(names)}: {found.words[said]}" for said, names in ranked
        ]

    rows = [f"no answer any more  {counted(names)}: {why}" for (why,), names in sorted(found.silent.items())]
    rows += findings("new ", found.new) + findings("gone", found.gone)
    rows += [
        f"{key}: {was} -> {now}  {counted(names)}" for (key, was, now), names in sorted(found.facts.items())
    ]
    for table in (found.answering, found.wanted, found.added, found.removed):
        rows += [f"{counted(names)}: {said}" for (said,), names in table.items()]
    return "".join(f"{row}\n" for row in rows) or "nothing is different\n"
