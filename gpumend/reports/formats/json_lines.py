"""For logs: a line a host, each a whole document (gpumend/schemas/report.schema.json) of that host alone, with its exit
status; parity has a line a pool."""

from __future__ import annotations

import json
from typing import Any

from gpumend.reports.format import EVERY, report_format


@report_format("jsonl", kinds=EVERY)
def render(document: dict[str, Any]) -> str:
    lines = []
    envelope = {key: value for key, value in document.items() if key != "parity"}
    if document["kind"] != "parity":
        for name, host in document["hosts"].items():
            status = host.get("exit", document["exit"]) if isinstance(host, dict) else document["exit"]
            lines.append({**envelope, "exit": status, "hosts": {name: host}})
    for pool in document.get("parity", ()):
        hosts = {name: host for name, host in document["hosts"].items() if name in pool["hosts"]}
        hosts = hosts if document["kind"] == "parity" else {}
        lines.append({**envelope, "hosts": hosts, "parity": [pool]})
    lines = lines or [document]  # a run that was not begun has one, too
    # ASCII: U+2028 and its kind end a line for some readers.
    return "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
