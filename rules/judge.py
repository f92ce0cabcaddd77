"""Every rule over one host. The one place where a reading that failed becomes an `unknown` finding."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from dataclasses import dataclass, replace

from facts.host_state import HostState
from facts.reading import Status as ReadStatus
from facts.reading import Unread
from rules import (  # noqa: F401  (each registers its rules)
    apt,
    cdi,
    containerd,
    crio,
    criu,
    cuda,
    cuda_compat,
    cuda_images,
    cuda_toolkits,
    docker,
    drift,
    driver,
    grit,
    host,
    injection,
    k3s,
    packages,
    podman,
    runtime,
    storage,
    toolkit,
)
from rules.finding import Evidence, Finding, Status
from rules.rule import RULES, Context
from rules.wanted import Wanted


@dataclass(frozen=True)
class Verdict:
    """All findings on one host, and how many rules were fine or did not apply."""

    findings: tuple[Finding, ...]
    ok: int
    skipped: int

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
            finding = replace(
                finding,
                status=Status.WAIVED,
                change=None,
                refused=f"waived until {waiver.until} by {waiver.owner}: {waiver.reason}",
            )
        judged.append(finding)
    return judged


def judge(state: HostState, wanted: Wanted, name: str, today: datetime.date) -> Verdict:
    """All findings on a host. Total: whatever a host holds, every rule ends in ok, skipped or findings."""
    context = Context(state, wanted, name, today)
    findings: list[Finding] = []
    ok = skipped = 0
    for code, rule in sorted(RULES.items()):
        found: list[Finding] = []
        try:
            if not rule.applies(context):
                skipped += 1
                continue
            for finding in rule.check(context):
                found.append(finding)
        except Unread as unread:
            found.append(_unknown(code, rule.title, unread))
        findings.extend(found)
        ok += not found
    return Verdict(tuple(_waive(drift.hold(findings, context), context)), ok, skipped)
