"""The report on files of a working copy: the document of an audit, with a file's project where a host's name stands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from gpumend.reports.document import WORDS, Exit, envelope, finding_of, worst
from gpumend.rules.finding import Finding, Status
from gpumend.run.record import Run

EXITS = {Status.UNKNOWN: Exit.UNREAD, Status.FAIL: Exit.DRIFT, Status.WARN: Exit.DRIFT}


def exit_of(findings: Iterable[Finding]) -> Exit:
    return worst(EXITS.get(found.status, Exit.OK) for found in findings)


def document(
    run: Run,
    judged: Mapping[str, Iterable[Finding]],
    codes: Iterable[str],
    unread: Mapping[str, str] = MappingProxyType({}),
    ending: str = "",
) -> dict[str, Any]:
    """judged: the findings on each file or project. codes: of the rules that looked at each of them. unread: why there are none.
    ending: a finding's code with which no other rule looked."""
    told = {}
    for name, findings in judged.items():
        found = tuple(findings)
        told[name] = _project(found, () if any(item.code == ending for item in found) else codes)
    told |= {name: _project((), (), error) for name, error in unread.items()}
    return envelope(run, "audit", worst(Exit(found["exit"]) for found in told.values()), told, files=True)


def _project(findings: tuple[Finding, ...], codes: Iterable[str], error: str = "") -> dict[str, Any]:
    status = Exit.UNREAD if error else exit_of(findings)
    return {
        "status": "no answer" if error else WORDS[status],
        "exit": int(status),
        "error": error,
        "wanted": None,
        "facts": {},
        "findings": [finding_of(finding) for finding in findings],
        "passed": sorted(set(codes) - {finding.code for finding in findings}),
        "skipped": [],
        "plan": [],
        "blocked": {},
    }
