"""A fleet as Prometheus has it: the agents' metrics as one audit's document. Codes and counts, and no text of a host."""

from __future__ import annotations

import datetime
import json
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from gpumend.reports.collected import CODE, Claim, Collected, ReportError, status_word, unknown
from gpumend.reports.fleet import SEVERITY
from gpumend.rules.rule import RULES
from gpumend.text.mask import mask, printable

MOST = 256 << 20
TIMEOUT = 60  # seconds
HOSTS = "max by (host, instance) (gpumend_host_exit_status)"
ANSWERED = "min by (host, instance) (gpumend_host_answered)"
FINDINGS = "max by (host, instance, code, status) (gpumend_finding)"
STARTED = "max by (instance) (gpumend_run_timestamp_seconds)"


def asked(url: str, query: str) -> list[tuple[dict[str, str], float]]:
    """An instant query's answer: labels and value. Raises ReportError."""
    text = f"{url.rstrip('/')}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    try:
        with urllib.request.urlopen(text, timeout=TIMEOUT) as answer:
            data = answer.read(MOST + 1)
    except urllib.error.HTTPError as error:
        raise ReportError(f"{mask(url)}: HTTP {error.code}") from None
    except (OSError, ValueError) as error:
        raise ReportError(f"{mask(url)}: {mask(str(getattr(error, 'reason', error)))}") from None
    if len(data) > MOST:
        raise ReportError(f"{mask(url)}: more than {MOST >> 20} MiB")
    try:
        found = json.loads(data)
        return [
            ({key: printable(str(value)) for key, value in row["metric"].items()}, float(row["value"][1]))
            for row in found["data"]["result"]
        ]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        raise ReportError(f"{mask(url)}: not an answer of Prometheus's") from None


def collect(url: str) -> Collected:
    """Every host that Prometheus has metrics of now. Of a host that two exporters tell of, the newest counts. Raises ReportError."""
    found = Collected()
    times = {labels.get("instance", ""): value for labels, value in asked(url, STARTED)}
    silent = {
        (labels.get("host"), labels.get("instance")) for labels, value in asked(url, ANSWERED) if not value
    }
    findings: dict[tuple[str | None, str | None], list[dict[str, Any]]] = {}
    for labels, _ in asked(url, FINDINGS):
        code, status = labels.get("code", ""), labels.get("status", "")
        if CODE.match(code) and status in SEVERITY:
            made = {"code": code, "status": status, "refused": "", "evidence": [], "mends": "not told"}
            made.update(cause="", remedy="")
            made["summary"] = (
                RULES[code].title if code in RULES else "a finding that this gpumend does not know"
            )
            findings.setdefault((labels.get("host"), labels.get("instance")), []).append(made)
    for labels, value in asked(url, HOSTS):
        name, key = labels.get("host", ""), (labels.get("host"), labels.get("instance"))
        if value not in (0, 1, 3, 4, 5):
            found.unread.append((f"{name} at {key[1]}", "no exit status of ours"))
            continue
        host = unknown("the last audit got no answer")
        if key not in silent:
            host = {**host, "error": "", "exit": int(value), "status": status_word(int(value))}
            host["findings"] = sorted(findings.get(key, ()), key=lambda item: (item["code"], item["status"]))
        began = datetime.datetime.fromtimestamp(times.get(key[1] or "", 0.0), datetime.timezone.utc)
        found.add(name, Claim(host, began, str(key[1]), 0))
    return found
