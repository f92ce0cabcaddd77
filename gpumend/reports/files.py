"""The report of an audit of files in a working copy: an audit's document, with files where else hosts are."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpumend.reports.document import WORDS, Exit, envelope, finding_document, worst
from gpumend.rules.finding import Finding, Status
from gpumend.run.record import Run, new_id


@dataclass(frozen=True)
class File:
    """One file's audit. error: why it could not be read; empty where it was."""

    name: str
    findings: Sequence[Finding] = ()
    passed: Sequence[str] = ()
    error: str = ""

    @property
    def exit(self) -> Exit:
        statuses = {finding.status for finding in self.findings}
        found = [Exit.UNREAD] if self.error or Status.UNKNOWN in statuses else []
        return worst([*found, *([Exit.DRIFT] if statuses & {Status.FAIL, Status.WARN} else [])])


def _file(found: File) -> dict[str, Any]:
    return {
        "status": "no answer" if found.error else WORDS[found.exit],
        "exit": int(found.exit),
        "error": found.error,
        "wanted": None,
        "facts": {},
        "findings": [finding_document(finding) for finding in found.findings],
        "passed": list(found.passed),
        "skipped": [],
        "plan": [],
        "blocked": {},
    }


def document(files: Sequence[File], started: float | None = None) -> Mapping[str, Any]:
    """The document of an audit of files, masked; `files` in it says that its hosts are such."""
    run = Run(new_id(), time.time() if started is None else started)
    status = worst(found.exit for found in files)
    return envelope(run, "audit", status, {found.name: _file(found) for found in files}, files=True)
