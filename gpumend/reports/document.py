"""A run as one JSON document (gpumend/schemas/report.schema.json): what every other format is made from."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import pkgutil
import time
from collections.abc import Iterable, Mapping
from enum import IntEnum
from functools import cache
from typing import Any

from gpumend.plan.transaction import Transaction
from gpumend.plan.wire import digest as digest_of
from gpumend.reports import parity
from gpumend.reports.diff import diff
from gpumend.rules.finding import Finding
from gpumend.rules.parity import Level
from gpumend.rules.rule import RULES
from gpumend.rules.wanted import Wanted
from gpumend.run.audit_program import AUDIT_ONLY
from gpumend.run.record import Record, Run
from gpumend.state.allocations import Books
from gpumend.state.glance import Glance
from gpumend.text.mask import mask_all, printable

VERSION = 2  # of the format: gpumend/schemas/report.schema.json; CHANGELOG.md has what changed


class Exit(IntEnum):
    """Exit statuses of the deploys and of `gpumend`. `worst` orders them: 5, 4, 1, 3, 0."""

    OK = 0
    UNREAD = 1
    USAGE = 2
    DRIFT = 3
    PUT_BACK = 4
    BROKEN = 5


ORDER = (Exit.BROKEN, Exit.PUT_BACK, Exit.UNREAD, Exit.DRIFT)
OPEN = ("running", "watching")  # the host ends it by itself, and nobody here has seen how
STATUS_EXIT = {
    "broken": Exit.BROKEN,
    "lost": Exit.BROKEN,
    "put_back": Exit.PUT_BACK,
    "refused": Exit.PUT_BACK,
    "conflict": Exit.PUT_BACK,
    **dict.fromkeys(OPEN, Exit.UNREAD),
}


def worst(statuses: Iterable[Exit]) -> Exit:
    found = set(statuses)
    return next((status for status in ORDER if status in found), Exit.OK)


def exit_of(record: Record) -> Exit:
    """One host's exit status."""
    found = [STATUS_EXIT.get(outcome.status, Exit.OK) for _, outcome in record.done]
    if any(outcome.not_restarted for _, outcome in record.done):
        found.append(Exit.DRIFT)  # a container that did not come back is somebody's to look at
    if record.after:
        found.append(Exit.DRIFT)  # whoever took the host out of use has to put it back
    if record.proof is not None:
        unproven = {"pending": Exit.UNREAD}  # somebody wanted a proof, and there was no image for it
        found.append({**STATUS_EXIT, **unproven}.get(record.proof.status, Exit.OK))
    if record.rebooted is not None:
        found.append(STATUS_EXIT.get(record.rebooted.status, Exit.OK))
    if record.error or record.now is None or record.unseen:
        found.append(Exit.UNREAD)
    else:
        if record.now.verdict.unknown:
            found.append(Exit.UNREAD)
        if record.now.verdict.drift:
            found.append(Exit.DRIFT)
    return worst(found)


WORDS = {
    Exit.OK: "as wanted",
    Exit.UNREAD: "not known",
    Exit.DRIFT: "drift",
    Exit.PUT_BACK: "change failed, put back",
    Exit.BROKEN: "change failed, NOT put back",
}


def word_of(record: Record) -> str:
    """One host's state in a few words."""
    if record.error:
        return "no answer"
    if any(outcome.detail.startswith(AUDIT_ONLY) for _, outcome in record.done):
        return "refused: audit-only sudo"  # nothing was attempted, so nothing was put back
    status = exit_of(record)
    if status is Exit.UNREAD and any(outcome.status in OPEN for _, outcome in record.done):
        return "still at work"
    if status is Exit.PUT_BACK:
        ended = {outcome.status for _, outcome in record.done if not outcome.good}
        for each in (record.proof, record.rebooted):
            if each is not None and not each.good:
                ended.add(each.status)
        for alone in ("refused", "conflict"):  # nothing was attempted, so nothing failed
            if ended == {alone}:
                return alone
    if status is Exit.OK and any(outcome.status == "changed" for _, outcome in record.done):
        return "mended"
    return WORDS[status]


def finding_of(finding: Finding) -> dict[str, Any]:
    return {
        "code": finding.code,
        "title": RULES[finding.code].title if finding.code in RULES else "",
        "status": str(finding.status),
        "summary": finding.summary,
        "evidence": [{"source": item.source, "text": item.text} for item in finding.evidence],
        "cause": finding.cause,
        "remedy": finding.remedy,
        "risk": str(finding.risk),
        "symptoms": list(finding.symptoms),
        "mends": str(finding.change.component) if finding.change else None,
        "refused": finding.refused,
        "source": RULES[finding.code].source if finding.code in RULES else "",
        "page": f"docs/findings/{finding.code}.md",
    }


def _transaction(transaction: Transaction) -> dict[str, Any]:
    service = transaction.service
    return {
        "component": str(transaction.component),
        "codes": list(transaction.codes),
        "digest": digest_of(transaction),
        "files": [{"path": step.where, "do": step.do, "diff": diff(step)} for step in transaction.steps],
        "service": {"unit": service[0], "action": service[1], "waits": transaction.gate} if service else None,
    }


@cache
def tool_version() -> str:
    """The version of gpumend that is installed; empty where it runs from files alone."""
    with contextlib.suppress(OSError):  # the agent's one file has no package's metadata
        return (pkgutil.get_data("gpumend", "VERSION") or b"").decode("ascii")
    from importlib import metadata  # costs what a third of all the rules do

    try:
        return metadata.version("gpumend")
    except metadata.PackageNotFoundError:
        return ""


def digest(wanted: Wanted) -> str:
    """SHA-256 of what is wanted of a host beyond the defaults: equal for two hosts, or two runs, of which the same is wanted."""
    usual = Wanted()._asdict()
    said = {
        name: value._asdict() if isinstance(value, Books) else value
        for name, value in wanted._asdict().items()
        if value != usual[name]
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()


def _facts(found: Glance) -> dict[str, Any]:
    """What the host is, at a glance; null where not known."""
    return {**found._asdict(), "cards": [card._asdict() for card in found.cards]}


def _host(record: Record, executed: bool) -> dict[str, Any]:
    now, before = record.now, record.before
    told = now.told if now else None
    document: dict[str, Any] = {
        "status": word_of(record),
        "exit": int(exit_of(record)),
        "error": record.error,
        "wanted": digest(told.wanted) if told else None,
        "facts": _facts(told.facts) if told else {},
        "findings": [finding_of(finding) for finding in now.verdict.findings] if now else [],
        "passed": list(now.verdict.passed) if now else [],
        "skipped": list(now.verdict.inapplicable) if now else [],
        "plan": [_transaction(transaction) for transaction in now.plan.transactions] if now else [],
        "blocked": {str(component): why for component, why in record.blocked.items()},
    }
    if told and told.reboot:
        document["reboot"] = list(told.reboot)
    if executed:
        document["found"] = [finding.code for finding in before.verdict.findings] if before else []
        document["changes"] = [
            {
                **_transaction(transaction),
                "status": outcome.status,
                "detail": outcome.detail,
                "notified": outcome.notified,
                "not_restarted": list(outcome.not_restarted),
            }
            for transaction, outcome in record.done
        ]
        if record.after:
            document["after"] = record.after
        if record.rebooted is not None:
            document["rebooted"] = {"status": record.rebooted.status, "detail": record.rebooted.detail}
        document["proof"] = (
            {"status": record.proof.status, "detail": record.proof.detail}
            if record.proof is not None
            else None
        )
    return document


def envelope(
    run: Run, kind: str, status: Exit, hosts: Mapping[str, Any] | Iterable[tuple[str, Any]], **more: Any
) -> dict[str, Any]:
    """What every document has, around what its kind adds; masked, host by host, so that not all are there twice at a time."""
    told = {
        "gpumend": VERSION,
        "version": tool_version(),
        "run": run.id,
        "kind": kind,
        "started": _iso(run.started),
        "seconds": round(time.time() - run.started, 3),
        "exit": int(status),
        "hosts": {},
        **more,
    }
    document: dict[str, Any] = mask_all(told)
    pairs = hosts.items() if isinstance(hosts, Mapping) else hosts
    document["hosts"] = {printable(str(name)): mask_all(host, top=False) for name, host in pairs}
    return document


def document(run: Run, executed: bool) -> dict[str, Any]:
    """The whole run, masked. executed: whether it was a mend; an audit otherwise."""
    records = sorted(run.records.values(), key=lambda record: record.name)
    compared = not run.concern or any(concern.name == "grit" for concern in run.concern)
    pools = parity.section(parity.pools(records)) if compared else []
    beyond = [Exit.DRIFT] if Level.BLOCKER in parity.classes(pools) else []
    beyond += [Exit.UNREAD] if Level.UNKNOWN in parity.classes(pools) else []
    return envelope(
        run,
        "mend" if executed else "audit",
        worst((*map(exit_of, records), *beyond)),
        ((record.name, _host(record, executed)) for record in records),
        **({"parity": pools} if pools else {}),
        **({"stopped": {"why": run.stopped, "left": run.left(executed)}} if run.stopped else {}),
    )


def _iso(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).isoformat(timespec="seconds")
