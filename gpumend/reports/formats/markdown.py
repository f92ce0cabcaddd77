"""For tickets, pull requests and job summaries: Markdown (CommonMark with GitHub's tables).

What hosts say stands in code spans and fenced blocks, or is escaped: no markup, link or mention of anybody comes out of it.
"""

from __future__ import annotations

import re
from typing import Any

from gpumend.reports import fleet, terminal
from gpumend.reports.format import report_format

# What is markup anywhere, mathematics on GitHub ($), or the beginning of a link; and what is so at the start of a line only.
MARKUP = re.compile(r"([\\`*_\[\]<>|&~#$]|:(?=//)|(?<=www)\.)")
START = re.compile(r"^(\d{0,9})([-+=!.):])")
MENTION = re.compile(r"@(?=\w)")
WORD_JOINER = "\u2060"  # between @ and a name: GitHub looks for mentions after the escapes are gone


def prose(text: str) -> str:
    escaped = START.sub(r"\1\\\2", MARKUP.sub(r"\\\1", fleet.one_line(text)))
    return MENTION.sub(f"@{WORD_JOINER}", escaped)


def span(text: str) -> str:
    """The text as code, whatever backticks are in it."""
    found = fleet.one_line(text)
    runs = [len(run) for run in re.findall(r"`+", found)]
    ticks = "`" * next(count for count in range(1, len(runs) + 2) if count not in runs)
    pad = " " if not found or found.startswith("`") or found.endswith("`") else ""
    return f"{ticks}{pad}{found}{pad}{ticks}"


def block(lines: list[str], indent: str) -> list[str]:
    """The lines as they stand, in a fence longer than any in them."""
    longest = max((len(run) for line in lines for run in re.findall(r"`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    shown = [row for line in lines for row in line.split("\n")]
    return [f"{indent}{fence}text", *(f"{indent}{row}" for row in shown), f"{indent}{fence}"]


def _who(names: list[str]) -> str:
    count = len(set(names))
    return f"{count} host{'s' * (count != 1)}: {span(fleet.hosts_text(names))}"


def _group(group: fleet.Group) -> list[str]:
    mend = f"; {prose(group.mend)}" if group.mend else ""
    rows = [
        f"- **{group.status} {', '.join(group.codes)}**, {_who(group.hosts)}{mend}  ",
        f"  {prose(fleet.said(group))}",
    ]
    first = group.findings[0]
    evidence = [f"{item['source']}: {item['text']}" for item in first["evidence"][:6]]
    if evidence:
        rows += ["", *block(evidence, "  ")]
    for word, key in (("why", "cause"), ("held", "refused")):
        if first[key]:
            rows += ["", f"  {word}: {prose(first[key])}"]
    if first["remedy"]:
        rows += ["", "  do:", "", *block(first["remedy"].split("\n"), "  ")]
    return [*rows, ""]


@report_format("markdown")
def render(document: dict[str, Any]) -> str:
    rows = [f"# gpumend {document['kind']} {document['run']}", "", prose(fleet.totals(document)), ""]
    rows += ["| state | hosts | |", "| --- | ---: | --- |"]
    for word, names in fleet.states(document).items():
        shown = span(fleet.hosts_text(names)).replace("|", "\\|")
        rows.append(f"| {word} | {len(names)} | {shown} |")
    rows.append("")
    for error, names in fleet.errors(document).items():
        rows.append(f"- **no answer**, {_who(names)}: {prose(error)}")
    changes: dict[tuple[str, str], list[str]] = {}
    plans: dict[str, list[str]] = {}
    blocked: dict[tuple[str, str], list[str]] = {}
    for name, host in fleet.in_order(document):
        for change in host.get("changes", ()):
            detail = f"{change['status']}{': ' if change['detail'] else ''}{change['detail']}"
            changes.setdefault((terminal.done(change), detail), []).append(name)
        for transaction in host["plan"]:
            plans.setdefault(terminal.planned(transaction), []).append(name)
        for component, why in host["blocked"].items():
            blocked.setdefault((component, why), []).append(name)
    sections = {
        "Changes": [
            f"- {prose(what)}: {prose(end)}; {_who(names)}" for (what, end), names in changes.items()
        ],
        "Findings": [row for group in fleet.groups(document) for row in _group(group)],
        "A mend would change": [f"- {prose(what)}; {_who(names)}" for what, names in plans.items()],
        "Left alone": [
            f"- {prose(what)}: {prose(why)}; {_who(names)}" for (what, why), names in blocked.items()
        ],
    }
    for title, lines in sections.items():
        if lines:
            rows += ["", f"## {title}", "", *lines]
    return "\n".join(rows).rstrip() + "\n"
