"""For monitoring: metrics for the textfile collector of node_exporter, in the text exposition format 0.0.4.

The file is readable for everybody: the exporter is another user. It names hosts, codes and counts, and no text of a host.
"""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from gpumend.reports.format import report_format

Sample = tuple[Mapping[str, str], float]


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _family(name: str, text: str, samples: Iterable[Sample]) -> str:
    rows = [f"# HELP gpumend_{name} {text}", f"# TYPE gpumend_{name} gauge"]
    for labels, value in samples:
        inner = ",".join(f'{key}="{_escaped(label)}"' for key, label in labels.items())
        rows.append(f"gpumend_{name}{'{' + inner + '}' if inner else ''} {value:.17g}")
    return "\n".join(rows) + "\n"


@report_format("prometheus", public=True)
def render(document: dict[str, Any]) -> str:
    hosts = document["hosts"]
    started = datetime.datetime.fromisoformat(document["started"]).timestamp()
    statuses: list[Sample] = []
    found: list[Sample] = []
    for name, host in hosts.items():
        counts = Counter(finding["status"] for finding in host["findings"])
        statuses += [
            ({"host": name, "status": status}, counts[status])
            for status in ("fail", "warn", "unknown", "note", "waived")
        ]
        codes = Counter((finding["code"], finding["status"]) for finding in host["findings"])
        found += [
            ({"host": name, "code": code, "status": status}, count)
            for (code, status), count in sorted(codes.items())
        ]
    families: tuple[tuple[str, str, list[Sample]], ...] = (
        (
            "info",
            "The run; its value is 1.",
            [({"version": document["version"], "kind": document["kind"]}, 1)],
        ),
        ("run_timestamp_seconds", "When the run began, in seconds since the epoch.", [({}, started)]),
        ("run_duration_seconds", "How long the run took.", [({}, document["seconds"])]),
        ("run_exit_status", "The run's exit status: the worst of its hosts.", [({}, document["exit"])]),
        (
            "host_exit_status",
            "0 as wanted, 1 not known, 3 drift, 4 a change failed and was put back, 5 and could not be.",
            [({"host": name}, host["exit"]) for name, host in hosts.items()],
        ),
        (
            "host_answered",
            "Whether the host gave an answer.",
            [({"host": name}, int(not host["error"])) for name, host in hosts.items()],
        ),
        ("host_findings", "Findings of a host by status.", statuses),
        ("finding", "Findings of a host by code and status.", found),
        (
            "host_planned_changes",
            "Transactions that a mend would carry out.",
            [({"host": name}, len(host["plan"])) for name, host in hosts.items()],
        ),
        (
            "host_blocked_components",
            "Components that a mend leaves alone, for a reason that the report tells.",
            [({"host": name}, len(host["blocked"])) for name, host in hosts.items()],
        ),
    )
    return "".join(_family(*family) for family in families)
