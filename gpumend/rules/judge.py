"""Every rule over one host. The one place where a reading that failed becomes an `unknown` finding."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterable
from functools import lru_cache
from importlib import import_module
from typing import Any

from gpumend import rules
from gpumend.rules import managers
from gpumend.rules.driver import drift
from gpumend.rules.finding import Component, Evidence, Finding, Status
from gpumend.rules.rule import RULES, Context
from gpumend.rules.wanted import Wanted
from gpumend.state.host_state import HostState
from gpumend.state.reading import Status as ReadStatus
from gpumend.state.reading import Unread
from gpumend.text.record import Record

# What has no rule, and is loaded where somebody needs it: programs for whoever works on the rules, what judges Dockerfiles, what
# rewrites compose files (which loads PyYAML).
LATER = (
    "gpumend.rules.sources", "gpumend.rules.data.check", "gpumend.rules.dockerfile.", "gpumend.rules.compose.rewrite",
)  # fmt: skip


def _modules() -> list[str]:
    """The names of all modules below gpumend/rules."""
    [top] = rules.__path__
    found = [
        f"{rules.__name__}{directory[len(top) :].replace(os.sep, '.')}.{file[:-3]}"
        for directory, _, files in os.walk(top)
        for file in files
        if file.endswith(".py") and file != "__init__.py"
    ]
    if not found:  # the agent is one file
        import pkgutil  # its walk loads inspect, which costs what a tenth of the rules does

        found = [
            name
            for _, name, package in pkgutil.walk_packages(rules.__path__, f"{rules.__name__}.")
            if not package
        ]
    return sorted(found)


# Each module below gpumend/rules registers its rules as it is imported: a new one is named nowhere else.
for _name in _modules():
    if not _name.startswith(LATER):
        import_module(_name)


class Verdict(Record):
    """All findings on one host; passed: the codes of the rules that found nothing; inapplicable: of those that do
    not apply to it."""

    findings: tuple[Finding, ...]
    passed: tuple[str, ...]
    inapplicable: tuple[str, ...]

    @property
    def ok(self) -> int:
        return len(self.passed)

    @property
    def skipped(self) -> int:
        return len(self.inapplicable)

    def with_status(self, *statuses: Status) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.status in statuses)

    @property
    def drift(self) -> tuple[Finding, ...]:
        return self.with_status(Status.FAIL, Status.WARN)

    @property
    def unknown(self) -> tuple[Finding, ...]:
        return self.with_status(Status.UNKNOWN)


def _unknown(code: str, title: str, unread: Unread) -> Finding:
    reading = unread.reading
    remedy = {
        ReadStatus.DENIED: "Run as root: set `_sudo = True` for this host, or connect as root.",
        ReadStatus.TIMEOUT: f"Find out why {reading.source} hangs; nothing was judged from it.",
        ReadStatus.ABSENT: f"Nothing was judged: {reading.source} is not there.",
    }.get(reading.status, f"Make {reading.source} readable; nothing was judged from it.")
    return Finding(
        code=code,
        status=Status.UNKNOWN,
        summary=f"{title}: not known, {reading.source} could not be read ({reading.status})",
        evidence=(Evidence(reading.source, reading.detail or str(reading.status)),),
        remedy=remedy,
    )


def _waive(findings: Iterable[Finding], context: Context) -> list[Finding]:
    judged = []
    for finding in findings:
        waiver = next(
            (
                waiver
                for waiver in context.wanted.waivers
                if waiver.covers(finding.code, context.host) and waiver.until >= context.today
            ),
            None,
        )
        if waiver and finding.status in (Status.FAIL, Status.WARN, Status.UNKNOWN):
            finding = finding._replace(
                status=Status.WAIVED,
                change=None,
                refused=f"waived until {waiver.until} by {waiver.owner}: {waiver.reason}",
            )
        judged.append(finding)
    return judged


def _faulty(code: str, title: str, error: Exception) -> Finding:
    """A rule's own fault. Where it happened is told, and not the error's text, which may hold a host's secrets."""
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    place = f"{'/'.join(at.tb_frame.f_code.co_filename.split('/')[-2:])}:{at.tb_lineno}" if at else "?"
    where = f"{type(error).__name__} at {place}"
    return Finding(
        code=code,
        status=Status.UNKNOWN,
        summary=f"{title}: not known, an internal error of gpumend: {where}",
        evidence=(Evidence("gpumend", where),),
        remedy="Report this line. The other findings hold; nothing is changed on this host meanwhile.",
    )


def _without_changes(findings: Iterable[Finding], faulty: Iterable[str]) -> list[Finding]:
    """What a rule would have held back is not known where it failed: nothing is changed then, but that an interrupted
    run is put back, which no rule holds."""
    held = f"internal error of gpumend in {', '.join(faulty)}"
    return [
        found._replace(change=None, refused=held)
        if found.change and found.change.component is not Component.RECOVER
        else found
        for found in findings
    ]


@lru_cache(maxsize=256)  # of a fleet, and to the end of its run
def _same(codes: tuple[str, ...]) -> tuple[str, ...]:
    return codes


def judge(
    state: HostState, wanted: Wanted, name: str, today: datetime.date, lenient: bool = False
) -> Verdict:
    """All findings on a host. Total: whatever a host holds, every rule ends in ok, skipped or findings.

    lenient: where a rule raises what it must not, a fault of ours, the host's other findings are told all the same, that
    rule's is `unknown`, and no finding has a change. Without it the error is raised, as tests want it.
    """
    context = Context(state, wanted, name, today)
    findings: list[Finding] = []
    faulty: list[str] = []
    passed: list[str] = []
    skipped: list[str] = []
    applies: dict[Any, bool] = {}  # many rules have the same condition
    for code in sorted(RULES):
        rule = RULES[code]
        found: list[Finding] = []
        try:
            condition = rule.applies
            if condition not in applies:
                applies[condition] = condition(context)
            if not applies[condition]:
                skipped.append(code)
                continue
            for finding in rule.check(context):
                if finding.status is Status.NOTE and finding.change is not None:
                    raise ValueError(f"{finding.code}: a note carries no change")
                found.append(finding)
        except Unread as unread:
            found.append(_unknown(code, rule.title, unread))
        except Exception as error:
            if not lenient:
                raise
            faulty.append(code)
            found = [_faulty(code, rule.title, error)]
        findings.extend(found)
        if not found:
            passed.append(code)
    if faulty:
        findings = _without_changes(findings, faulty)
    judged = tuple(_waive(managers.hold(drift.hold(findings, context), context), context))
    return Verdict(judged, _same(tuple(passed)), _same(tuple(skipped)))
