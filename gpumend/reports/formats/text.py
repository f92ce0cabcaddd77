"""For people: what the terminal shows, without colours."""

from __future__ import annotations

from typing import Any

import click

from gpumend.reports import parity_text, terminal
from gpumend.reports.fleet import one_line
from gpumend.reports.format import EVERY, report_format

STATES = {
    "working": "interrupted",
    "watching": "watch not over",
    "put_back": "put back",
}  # a journal's words, for people


def rollback(document: dict[str, Any]) -> str:
    """A line a host."""
    hosts = document["hosts"]
    width = max(map(len, hosts), default=0)
    rows = [
        f"{one_line(name).ljust(width)}  {host['status']:<11}  {one_line(host['error'] or host['detail'])}"
        for name, host in hosts.items()
    ]
    return "".join(row.rstrip() + "\n" for row in rows)


def runs(document: dict[str, Any]) -> str:
    """A line a run: its host, its name, how it ended, what it was about."""
    rows = []
    for name, host in document["hosts"].items():
        if host["error"] or not host["runs"]:
            rows.append((one_line(name), one_line(host["error"]) or "no run", "", ""))
        for found in host["runs"]:
            state = STATES.get(found["state"], found["state"]) + ", acknowledged" * found["acknowledged"]
            parts = [one_line(part["component"]) for part in found["components"]]
            rows.append((one_line(name), one_line(found["run"]), one_line(state), ", ".join(parts)))
    widths = [max((len(row[number]) for row in rows if row[2]), default=0) for number in range(3)]
    widths[0] = max((len(row[0]) for row in rows), default=0)
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, (*widths, 0))).rstrip() + "\n" for row in rows
    )


@report_format("text", kinds=(kind for kind in EVERY if kind != "facts"))
def render(document: dict[str, Any]) -> str:
    if document["kind"] in ("rollback", "acknowledge"):
        return rollback(document)
    if document["kind"] == "runs":
        return runs(document)
    if document["kind"] == "parity":
        rows = [
            f"{one_line(name)}: {one_line(host['error'])}"
            for name, host in document["hosts"].items()
            if host["error"]
        ]
        return click.unstyle("\n".join((*rows, *parity_text.render(document["parity"]))).lstrip("\n") + "\n")
    return click.unstyle(terminal.render(document, width=terminal.WIDTH))
