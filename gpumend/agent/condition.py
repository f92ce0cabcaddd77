"""What the last audit says of this host in one line, for a plugin of node-problem-detector: docs/kubernetes/npd/condition.sh."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MOST = 80  # bytes of a plugin's output (node-problem-detector's max_output_length)
FINE, PROBLEM, UNKNOWN = 0, 1, 2
SLACK = 600  # seconds


def line(report: Mapping[str, Any], now: float, interval: int) -> str:
    """Status, until when it holds in seconds since the epoch, and why: `1 1795000900 GM304 GM404`. A finding that warns is no
    problem of the node's; what is not known is not fine. interval: minutes; three audits may be missed."""
    [host] = report["hosts"].values()
    codes = {
        status: sorted({found["code"] for found in host["findings"] if found["status"] == status})
        for status in ("fail", "unknown")
    }
    if codes["fail"]:
        status, text = PROBLEM, _few(codes["fail"])
    elif host["error"]:
        status, text = UNKNOWN, "the last audit got no answer"
    elif codes["unknown"]:
        status, text = UNKNOWN, f"not known: {_few(codes['unknown'])}"
    else:
        status, text = FINE, "containers can use the GPU as wanted"
    return f"{status} {int(now) + 3 * interval * 60 + SLACK} {text}\n"


def _few(codes: list[str]) -> str:
    """As many as 60 bytes hold, and how many more there are."""
    shown = codes[:10]
    more = len(codes) - len(shown)
    return " ".join(shown) + (f" +{more}" if more else "")
