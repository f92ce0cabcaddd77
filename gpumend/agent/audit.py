"""One audit: the probe asked, the host judged, the report, the metrics and the journal written."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

from gpumend.agent import journal
from gpumend.agent.config import Config
from gpumend.agent.files import written
from gpumend.agent.places import METRICS, REPORT, STATE
from gpumend.reports.document import document
from gpumend.reports.formats.prometheus import render
from gpumend.rules import wanted as wanted_state
from gpumend.run.budget import JUDGING, within
from gpumend.run.programs import probe_program
from gpumend.run.record import Run, judged, new_id
from gpumend.state.host_state import besides_of, parse
from gpumend.state.snapshot import MAX_ANSWER_BYTES, AnswerError, Snapshot

PROBE_TIMEOUT = 180  # seconds; the probe bounds each of its own waits


def answer(wanted: Mapping[str, Any]) -> Snapshot:
    """What the probe says of this host, asked as an operator's audit asks it. Raises AnswerError where it says nothing."""
    program = probe_program(wanted.get("ask_cuda", "auto") == "auto", besides_of(wanted))
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-B", "-"],
            input=program.encode("ascii"),
            capture_output=True,
            timeout=PROBE_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise AnswerError(f"the probe gave no answer: {error}") from None
    if len(done.stdout) > MAX_ANSWER_BYTES:
        raise AnswerError("the probe's answer is too long")
    if not done.stdout.strip():
        last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or [f"exit {done.returncode}"]
        raise AnswerError(f"the probe gave no answer: {last[0]}")
    return Snapshot.from_output(done.stdout.decode("ascii", "replace"))


def audit(config: Config) -> dict[str, Any]:
    """The report of this host, as an operator's audit has it. It is unread where the probe says nothing."""
    run = Run(new_id(), time.time())
    record = run.record(config.host)
    wanted = wanted_state.parse(config.wanted)
    try:
        snapshot = answer(config.wanted)
        with within(JUDGING):
            record.before = record.now = judged(parse(snapshot), wanted, config.host)
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
    tell(old, report, config.host)
    if config.textfile:
        try:
            written(f"{config.textfile}/{METRICS}", render(report).encode(), 0o644)
        except OSError as error:
            journal.told(f"no metrics: {config.textfile}: {error.strerror}", "warn", host=config.host)
    return int(report["exit"])
