"""The builder tells the truth: its answers have the shape of what the probe prints on a machine."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from gpumend.rules.rule import RULES
from gpumend.run.programs import probe_program
from gpumend.state.snapshot import unpacked
from tests.unit.build import Host, h100, healthy, verdict

Shape = tuple[str, str, str]

OPTIONAL = {"selinux", "link", "real", "rdev"}


def real_answer() -> dict[str, Any]:
    """The probe's answer here and now, whatever this machine is."""
    found = subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-"],
        input=probe_program(),
        capture_output=True,
        text=True,
        check=True,
    )
    answer: dict[str, Any] = json.loads(unpacked(found.stdout))
    return answer


def shapes(answer: dict[str, Any]) -> dict[Shape, frozenset[str]]:
    """Keys of every kind of item: (section, status, file type) -> keys. A timeout's and a denial's are one shape."""
    found: dict[Shape, frozenset[str]] = {}
    for section in ("files", "stats", "globs", "commands", "programs"):
        for item in answer[section].values():
            shape = (section, str(item["status"]), str(item.get("kind", "")))
            found[shape] = frozenset(item) - OPTIONAL
    for name in ("system", "processes", "docker", "units"):
        found[name, str(answer[name]["status"]), ""] = frozenset(answer[name])
    for entry in answer["processes"].get("processes", ()):
        found["process", "ok", ""] = frozenset(entry) - {"error"}
    return found


def test_answers_have_the_keys_of_a_real_run() -> None:
    real, built = real_answer(), [host.answer() for host in (h100(), healthy())]
    for answer in built:
        assert set(answer) == set(real)
        assert set(answer["system"]) == set(real["system"])
        for section in ("commands", "programs"):
            assert set(answer[section]) == set(real[section]), section
        assert set(answer["globs"]) == set(real["globs"])
    known: dict[Shape, frozenset[str]] = {}
    for answer in built:
        known.update(shapes(answer))
    both = {shape: keys for shape, keys in shapes(real).items() if shape in known}
    assert {shape: known[shape] for shape in both} == both
    # What every Linux machine has; so the comparison above compared something.
    assert both.keys() >= {
        ("files", "ok", "file"),
        ("files", "absent", ""),
        ("stats", "absent", ""),
        ("globs", "ok", ""),
        ("globs", "absent", ""),
        ("commands", "absent", ""),
        ("programs", "absent", ""),
        ("system", "ok", ""),
        ("processes", "ok", ""),
    }


@pytest.mark.parametrize(
    "host",
    [
        pytest.param(
            healthy(docker, toolkit, mode, layout), id=f"docker-{docker}-toolkit-{toolkit}-{mode}-{layout}"
        )
        for docker, toolkit, mode, layout in [
            ("20.10.24", "1.14.6", "cdi", "ubuntu"),
            ("26.1.5", "1.17.8", "cdi", "ubuntu"),
            ("26.1.5", "1.17.8", "cdi", "debian"),
            ("28.1.1", "1.18.1", "cdi", "ubuntu"),
            ("28.5.2", "1.18.1", "cdi", "ubuntu"),
            ("28.5.2", "1.20.0", "cdi", "debian"),
            ("29.2.1", "1.20.0", "cdi", "ubuntu"),
        ]
    ],
)
def test_nothing_is_found_on_a_healthy_host(host: Host) -> None:
    """No false positive, over the generations of Docker and toolkit: the ground of every other table."""
    judged = verdict(host)
    # GM221: that a release has a known advisory is a note
    assert [(found.code, found.summary) for found in judged.findings if found.code != "GM221"] == []
    assert {str(found.status) for found in judged.findings} <= {"note"}
    # GM601 to GM604, GM610: no CUDA is wanted, no cuda-compat is there; GM5xx but GM509: nothing but Docker uses containerd;
    # GM011 and GM012: nobody else keeps the toolkit; GM223 is WSL2's, GM424 of a rootless Docker alone; GM8xx: no books of
    # allocations are named; GM9xx: no compose project, no Dockerfile; GM230 to GM233: neither repositories nor an engine
    # is wanted, GM126 and GM127: nor a driver
    assert judged.ok > 35 and judged.skipped == 14 + sum(
        code.startswith(("GM5", "GM8", "GM9")) for code in RULES
    )
