"""For looking through and passing on: one HTML file that needs nothing else, and without scripts shows everything.

Every text is escaped by jinja2, and the page's own policy allows its one style and its one script by their hashes: a host's
text that got through would still not run, and nothing is loaded from anywhere.
"""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from gpumend.reports import fleet, terminal
from gpumend.reports.format import report_format

PART = files("gpumend.reports.formats").joinpath("page")


@cache
def _part(name: str) -> str:
    return PART.joinpath(name).read_text("utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _environment() -> Environment:
    return Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _alike(group: fleet.Group, document: dict[str, Any]) -> list[dict[str, Any]]:
    """A group's findings, equal ones once with their hosts."""
    found: dict[str, dict[str, Any]] = {}
    for name, host in fleet.in_order(document):
        for finding in host["findings"]:
            if finding["status"] != group.status or finding not in group.findings:
                continue
            key = json.dumps(finding, sort_keys=True)
            found.setdefault(key, {"finding": finding, "hosts": []})["hosts"].append(name)
    return list(found.values())


@report_format("html")
def render(document: dict[str, Any]) -> str:
    style, script = _part("page.css"), _part("page.js")
    found = fleet.groups(document)
    groups = [
        {"group": group, "said": fleet.said(group), "alike": _alike(group, document)} for group in found
    ]
    return (
        _environment()
        .from_string(_part("page.html"))
        .render(
            document=document,
            hosts=fleet.in_order(document),
            groups=groups,
            totals=fleet.totals(document),
            states=fleet.states(document),
            statuses=[status for status in fleet.SEVERITY if any(group.status == status for group in found)],
            hosts_text=fleet.hosts_text,
            planned=terminal.planned,
            done=terminal.done,
            style=Markup(style),
            script=Markup(script),
            style_hash=_hash(style),
            script_hash=_hash(script),
        )
    )
