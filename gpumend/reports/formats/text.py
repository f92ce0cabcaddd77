"""For people: what the terminal shows, without colours."""

from __future__ import annotations

from typing import Any

import click

from gpumend.reports import parity, terminal
from gpumend.reports.fleet import one_line
from gpumend.reports.format import EVERY, report_format


def rollback(document: dict[str, Any]) -> str:
    """A line a host."""
    hosts = document["hosts"]
    width = max(map(len, hosts), default=0)
    rows = [
        f"{one_line(name).ljust(width)}  {host['status']:<11}  {one_line(host['error'] or host['detail'])}"
        for name, host in hosts.items()
    ]
    return "".join(row.rstrip() + "\n" for row in rows)


@report_format("text", kinds=(kind for kind in EVERY if kind != "facts"))
def render(document: dict[str, Any]) -> str:
    if document["kind"] == "rollback":
        return rollback(document)
    if document["kind"] == "parity":
        rows = [
            f"{one_line(name)}: {one_line(host['error'])}"
            for name, host in document["hosts"].items()
            if host["error"]
        ]
        return click.unstyle("\n".join((*rows, *parity.render(document["parity"]))).lstrip("\n") + "\n")
    return click.unstyle(terminal.render(document, width=terminal.WIDTH))
