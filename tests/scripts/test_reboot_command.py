"""`gpumend mend --reboot` never reboots the machine that it runs on."""

from __future__ import annotations

import json
from pathlib import Path

from tests.scripts.command import gpumend


def test_this_machine_is_refused_before_anything_is_connected_to(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    done = gpumend(tmp_path, "mend", "--yes", "--reboot", "--report", str(report))
    assert done.returncode == 2, done.stderr
    assert "--reboot: @local is the machine that gpumend runs on" in done.stderr
    told = json.loads(report.read_text())
    assert told["exit"] == 2 and "@local" in told["error"] and told["hosts"] == {}
