"""The report for people: a table of hosts, then what is wrong on each, alike hosts together."""

from __future__ import annotations

import datetime
import textwrap
from collections.abc import Iterator
from typing import Any

import click

from gpumend.reports import parity
from gpumend.reports.document import counts
from gpumend.rules import data

WIDTH = 110
COLORS = {
    "fail": "red",
    "warn": "yellow",
    "unknown": "magenta",
    "note": "cyan",
    "waived": "blue",
    "ok": "green",
}
STATES = {0: "green", 1: "magenta", 3: "yellow", 4: "red", 5: "red"}


def _wrap(text: str, indent: str, first: str | None = None) -> str:
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=indent if first is None else first,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,  # names of packages and options stay whole
    )


def _table(hosts: dict[str, dict[str, Any]]) -> Iterator[str]:
    rows = [("HOST", "STATE", "DRIVER", "TOOLKIT", "MODE", "DOCKER", "FINDINGS")]
    states = [-1]
    for name, host in sorted(hosts.items(), key=lambda item: (-item[1]["exit"], item[0])):
        facts = host["facts"]
        codes = sorted({f["code"] for f in host["findings"] if f["status"] in ("fail", "warn", "unknown")})
        cells = [facts.get(key) or "-" for key in ("driver", "toolkit", "mode", "docker")]
        rows.append((name, host["status"], *cells, " ".join(codes) or "-"))
        states.append(host["exit"])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    for row, state in zip(rows, states, strict=True):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        if state >= 0:
            cells[1] = click.style(cells[1], fg=STATES.get(state))
        yield "  ".join((*cells, row[-1])).rstrip()


def _finding(finding: dict[str, Any]) -> Iterator[str]:
    label = click.style(f"{finding['status']:<7}", fg=COLORS.get(finding["status"]), bold=True)
    yield f"  {label} {click.style(finding['code'], bold=True)}  {finding['summary']}"
    for item in finding["evidence"][:6]:
        yield _wrap(f"{item['source']}: {item['text']}", "             ", "           - ")
    if len(finding["evidence"]) > 6:
        yield f"           - and {len(finding['evidence']) - 6} more"
    if finding["cause"]:
        yield _wrap(f"why:  {finding['cause']}", "                 ", "           ")
    if finding["remedy"]:
        text, *lines = finding["remedy"].split("\n")
        yield _wrap(f"do:   {text}", "                 ", "           ")
        yield from (f"             {line}" for line in lines)  # to be copied: not wrapped
    if finding["refused"]:
        yield _wrap(f"held: {finding['refused']}", "                 ", "           ")


def _plan(host: dict[str, Any]) -> Iterator[str]:
    for transaction in host["plan"]:
        service = transaction["service"]
        then = f", then {service['action']} {service['unit']}" if service else ", nothing is restarted"
        yield f"  would change  {transaction['component']} ({', '.join(transaction['codes'])}){then}"
        if service and service["waits"]:
            yield _wrap(f"the restart waits: {service['waits']}", "                ", "                ")
        for file in transaction["files"]:
            yield from _colored(file["diff"])
    for component, why in host["blocked"].items():
        yield f"  cannot plan   {component}: {why}"


def _colored(diff: str) -> Iterator[str]:
    for row in diff.splitlines():
        color = {"+": "green", "-": "red", "@": "cyan"}.get(row[:1])
        yield "      " + (click.style(row, fg=color) if color else row)


def _changes(host: dict[str, Any], diffs: bool) -> Iterator[str]:
    for change in host["changes"]:
        good = change["status"] in ("changed", "unchanged", "pending")
        label = click.style(f"{change['status']:<9}", fg="green" if good else "red", bold=True)
        told = (
            f" ({change['told']} {change['service']['unit']})" if change["told"] and change["service"] else ""
        )
        files = ", ".join(file["path"] or file["diff"] for file in change["files"])
        yield f"  {label} {change['component']}: {', '.join(change['codes'])}: {files or 'no file'}{told}"
        for file in change["files"] if diffs else ():
            yield from _colored(file["diff"])
        if change["detail"]:
            word = "the restart waits" if change["status"] == "pending" else "why"
            yield _wrap(f"{word}: {change['detail']}", "            ", "            ")
        for name in change["lost"]:
            yield f"            container {name} did not come back"
    if host["proof"]:
        yield f"  proof     {host['proof']['status']}: {host['proof']['detail']}"


def _body(host: dict[str, Any], mended: bool, diffs: bool) -> str:
    rows: list[str] = []
    if host["error"]:
        rows.append(_wrap(host["error"], "  ", "  "))
    if mended:
        rows.extend(_changes(host, diffs))
    for finding in host["findings"]:
        rows.extend(_finding(finding))
    if not mended or host["plan"]:
        rows.extend(_plan(host))
    return "\n".join(rows)


def render(document: dict[str, Any], mended: bool, diffs: bool = True) -> str:
    """The report as text. mended: tell what was changed (with its diffs, where they were not shown before); else what
    would be."""
    hosts = document["hosts"]
    groups: dict[str, list[str]] = {}
    for name, host in hosts.items():
        groups.setdefault(_body(host, mended, diffs), []).append(name)
    rows = ["", *_table(hosts)]
    for body, names in sorted(groups.items(), key=lambda item: item[1]):
        if body:
            shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
            rows.extend(("", click.style(shown, bold=True), body))
    rows.extend(parity.render(document.get("parity", ())))
    totals = counts(finding for host in hosts.values() for finding in host["findings"])
    states: dict[str, int] = {}
    for host in hosts.values():
        states[host["status"]] = states.get(host["status"], 0) + 1
    said = ", ".join(f"{count} {word}" for word, count in sorted(states.items()))
    found = ", ".join(
        f"{totals[key]} {key}" for key in ("fail", "warn", "unknown", "note", "waived") if totals[key]
    )
    rows.extend(
        (
            "",
            f"{document['kind']} {document['run']}: {len(hosts)} host{'s' * (len(hosts) != 1)}: {said}"
            f"; findings: {found or 'none'}; {document['seconds']:.1f} s",
        )
    )
    if aged := data.old(datetime.date.fromisoformat(document["started"][:10])):
        rows.append(aged)
    if found:
        rows.append("`gpumend explain CODE` says more about a finding.")
    in_effect = ("changed", "pending")
    if mended and any(change["status"] in in_effect for host in hosts.values() for change in host["changes"]):
        rows.append(f"`gpumend rollback {document['run']}` undoes this run.")
    return "\n".join(rows) + "\n"
