"""For GitHub Actions: workflow commands that show findings as annotations, equal ones of many hosts as one.

GitHub shows ten of each kind a step: the gravest come first. Escapes: actions/toolkit packages/core/src/command.ts.
"""

from __future__ import annotations

import re
from typing import Any

from gpumend.reports import fleet
from gpumend.reports.format import report_format

PLACE = re.compile(r".+:\d{1,7}")  # a file of a working copy, with its line
COMMANDS = {"fail": "error", "warn": "warning", "unknown": "error", "note": "notice", "waived": "notice"}


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def _command(command: str, title: str, text: str, place: str = "") -> str:
    path, _, line = place.rpartition(":") if PLACE.fullmatch(place) else (place, "", "")
    where = f"file={_property(fleet.one_line(path))}," if path else ""
    where += f"line={line}," if line else ""
    return f"::{command} {where}title={_property(fleet.one_line(title))}::{_data(fleet.one_line(text))}"


def _files(document: dict[str, Any]) -> list[str]:
    """Each finding at its file and line."""
    rows = []
    for name, host in fleet.in_order(document):
        if host["error"]:
            rows.append(_command("error", "gpumend", f"{name}: {host['error']}", name))
        for found in host["findings"]:
            sources = (item["source"] for item in found["evidence"])
            place = next((source for source in sources if PLACE.fullmatch(source)), name)
            text = " ".join(filter(None, (found["summary"], found["remedy"])))
            rows.append(_command(COMMANDS[found["status"]], found["code"], text, place))
    return rows


@report_format("github")
def render(document: dict[str, Any]) -> str:
    if document.get("files"):
        last = _command("notice", f"gpumend {document['kind']}", fleet.totals(document))
        return "\n".join((*_files(document), last)) + "\n"
    rows = [
        _command("error", "gpumend: no answer", f"{fleet.counted(names)}: {error}")
        for error, names in fleet.errors(document).items()
    ]
    for name, host in fleet.in_order(document):
        rows += [
            _command("error", f"{change['component']} {change['status']}", f"{name}: {change['detail']}")
            for change in host.get("changes", ())
            if change["status"] not in ("changed", "unchanged", "pending")
        ]
        rows += [
            _command("notice", f"{component} is left alone", f"{name}: {why}")
            for component, why in host["blocked"].items()
        ]
    for group in fleet.groups(document):
        mend = f"; {group.mend}" if group.mend else ""
        title = (
            f"{group.codes[0] if len(group.codes) == 1 else f'{len(group.codes)} findings'} {group.status}"
        )
        rows.append(
            _command(
                COMMANDS[group.status], title, f"{fleet.counted(group.hosts)}: {fleet.said(group)}{mend}"
            )
        )
    rows.append(_command("notice", f"gpumend {document['kind']}", fleet.totals(document)))
    return "\n".join(rows) + "\n"
