"""The line for node-problem-detector's plugin, and the plugin: its exit statuses, 80 bytes, and nothing but that line read."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from gpumend.agent.condition import MOST, line
from gpumend.rules.rule import RULES
from tests.unit import farm
from tests.unit.build import healthy

PLUGIN = Path(__file__).resolve().parents[2] / "docs/kubernetes/npd/condition.sh"
NOW = 1_795_000_000.0


def report(host: Any) -> dict[str, Any]:
    return farm.audit([farm.record("gpu1", host)])


@pytest.mark.parametrize(
    ("host", "status", "text"),
    [
        (healthy(), 0, "containers can use the GPU as wanted"),
        (farm.no_cdi(1), 1, "GM404"),
        (None, 2, "the last audit got no answer"),
        (farm.no_docker_answer(1), 2, "not known: GM"),
    ],
)
def test_what_an_audit_is_for_a_node(host: Any, status: int, text: str) -> None:
    told = line(report(host), NOW, 15).split(" ", 2)
    assert told[:2] == [str(status), str(int(NOW) + 3 * 900 + 600)]
    assert told[2].startswith(text)


def test_a_warning_is_no_problem_of_the_nodes() -> None:
    found = report(farm.no_cdi(1))
    for finding in found["hosts"]["gpu1"]["findings"]:
        finding["status"] = "warn"
    assert line(found, NOW, 15).startswith("0 ")


@pytest.mark.parametrize("status", ["fail", "unknown"])
def test_every_code_at_once_fits(status: str) -> None:
    found = report(healthy())
    found["hosts"]["gpu1"]["findings"] = [{"code": code, "status": status} for code in RULES]
    text = line(found, NOW, 1440).split(" ", 2)[2].strip()
    assert len(text.encode()) <= MOST and text.endswith(f"+{len(RULES) - 10}")


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        ("0 9999999999 fine\n", 0, "fine"),
        ("1 9999999999 GM304 GM404\n", 1, "GM304 GM404"),
        ("2 9999999999 not known: GM110\n", 2, "not known: GM110"),
        ("0 1 fine\n", 2, "gpumend: the last audit is too old"),
        ("", 2, "no audit by gpumend's agent yet"),
        ("0\n", 2, "gpumend: the line of the last audit is not one of ours"),
        ("x y z\n", 2, "gpumend: the line of the last audit is not one of ours"),
        ("0 9999999999; z\n", 2, "gpumend: the line of the last audit is not one of ours"),
        (None, 2, "no audit by gpumend's agent yet"),
    ],
)
def test_the_plugin(text: str | None, status: int, said: str, tmp_path: Path) -> None:
    file = tmp_path / "condition"
    if text is not None:
        file.write_text(text)
    done = subprocess.run([PLUGIN, file], capture_output=True, text=True, check=False, timeout=5)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (status, said, "")
    assert len(done.stdout.encode()) <= MOST + 1
