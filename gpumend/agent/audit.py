"""One audit: the probe asked, the host judged, the report, the metrics and the journal written."""

from __future__ import annotations

import contextlib
import json
import os
import time
from typing import Any

from gpumend.agent import condition, journal
from gpumend.agent.config import Config
from gpumend.agent.files import written
from gpumend.agent.places import CONDITION, METRICS, REPORT, STATE
from gpumend.reports.document import document
from gpumend.reports.formats.prometheus import render
from gpumend.rules import wanted as wanted_state
from gpumend.run.attempt import HostError
from gpumend.run.local.here import ran
from gpumend.run.programs import probe_program
from gpumend.run.record import Assessment, Run, judged_answer, new_id
from gpumend.state.host_state import asked_of
from gpumend.state.snapshot import AnswerError, Snapshot

PROBE_TIMEOUT = 180  # seconds; the probe bounds each of its own waits


def looked(config: Config, seconds: float = PROBE_TIMEOUT) -> Assessment:
    """This host, asked and judged as an operator's audit does it. Raises AnswerError where that does not come about in time."""
    try:
        answer = ran(probe_program(*asked_of(config.wanted)), seconds)
    except HostError as error:
        raise AnswerError(f"the probe gave no answer: {error}") from None
    return judged_answer(Snapshot.from_output(answer), wanted_state.parse(config.wanted), config.host)


def audit(config: Config, seconds: float = PROBE_TIMEOUT) -> dict[str, Any]:
    """The report of this host, as an operator's audit has it. It is unread where the probe says nothing."""
    run = Run(new_id(), time.time())
    record = run.record(config.host)
    try:
        record.before = record.now = looked(config, seconds)
    except AnswerError as error:
        record.error = str(error)
    return document(run, executed=False)


def before() -> dict[str, Any]:
    """The last report; empty where there is none."""
    with contextlib.suppress(OSError, ValueError), open(REPORT, encoding="utf-8") as file:
        found = json.load(file)
        return found if isinstance(found, dict) else {}
    return {}


def findings(report: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """A report's findings by code and summary."""
    hosts = report.get("hosts") or {}
    return {
        (finding["code"], finding["summary"]): finding
        for host in hosts.values()
        for finding in host.get("findings", ())
        if finding["status"] in journal.PRIORITY
    }


def tell(old: dict[str, Any], new: dict[str, Any], host: str) -> None:
    """The journal has what is found and was not before, what is gone, and how the audit ended."""
    was, now = findings(old), findings(new)
    for (code, summary), finding in now.items():
        if (code, summary) not in was:
            journal.told(
                f"{code} {finding['status']}: {summary}", finding["status"], code, host=host, run=new["run"]
            )
    for code, summary in was:
        if (code, summary) not in now:
            journal.told(f"{code} is gone: {summary}", "gone", code, host=host, run=new["run"])
    status = new["hosts"][host]["status"]
    error = new["hosts"][host]["error"]
    journal.told(
        f"audit: {status}{f': {error}' if error else ''}",
        "ok" if not new["exit"] else "unknown" if error else "warn",
        host=host,
        run=new["run"],
        exit=str(new["exit"]),
    )


def run(config: Config) -> int:
    """The exit status of the audit, which is the report's: 0 as wanted, 1 not known, 3 drift. Raises OSError where the
    report cannot be written."""
    return published(config, audit(config))


def published(config: Config, report: dict[str, Any]) -> int:
    """The report is the last one, the journal has what is new in it, the metrics are its; returns its exit status. Raises
    OSError; the metrics' directory is somebody else's, and whatever is wrong there is in the journal."""
    old = before()
    os.makedirs(STATE, 0o700, exist_ok=True)
    written(REPORT, json.dumps(report, indent=1).encode(), 0o600)
    told = condition.line(report, time.time(), config.interval)
    written(CONDITION, told.encode("ascii"), 0o600)
    tell(old, report, config.host)
    if config.textfile:
        try:
            written(f"{config.textfile}/{METRICS}", render(report).encode(), 0o644)
        except OSError as error:
            journal.told(f"no metrics: {config.textfile}: {error.strerror}", "warn", host=config.host)
    return int(report["exit"])
