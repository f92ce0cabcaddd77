"""What the agent makes of Slurm's word on its node."""

from __future__ import annotations

from typing import Any

import pytest

from gpumend.agent.slurm import Node, SlurmError, drains, parse
from tests.unit import farm
from tests.unit.build import healthy

# scontrol -o show node, Slurm 24.11.5 (Debian trixie), cut in the middle.
LINE = "NodeName=gm0-1 Arch=x86_64 CoresPerSocket=1 CPUAlloc=0 CPUTot=1 State={state} ThreadsPerCore=1 Weight=1 Owner=N/A Partitions=all"


@pytest.mark.parametrize(
    ("state", "tail", "node", "draining"),
    [
        ("IDLE", "", Node("IDLE", ""), False),
        ("DOWN*", " Reason=Not responding [slurm@2026-11-29T05:48:12]", Node("DOWN*", "Not responding"), False),
        (
            "IDLE+DRAIN", " Reason=gpumend: GM304 GM501 [root@2026-11-29T05:48:12]",
            Node("IDLE+DRAIN", "gpumend: GM304 GM501"), True,
        ),
        ("MIXED+DRAIN*", " Reason=disk [a] b [bob@2026-11-29T05:48:12]", Node("MIXED+DRAIN*", "disk [a] b"), True),
        ("DRAINED", "", Node("DRAINED", ""), True),
        ("FAILING", "", Node("FAILING", ""), True),
    ],
)  # fmt: skip
def test_a_node_as_scontrol_shows_it(state: str, tail: str, node: Node, draining: bool) -> None:
    found = parse(LINE.format(state=state) + tail + "\n")
    assert (found, found.draining) == (node, draining)


@pytest.mark.parametrize("text", ["", "Node gm0-1 not found", "a State=IDLE\nb State=IDLE"])
def test_what_is_no_node(text: str) -> None:
    with pytest.raises(SlurmError):
        parse(text)


def report(host: Any) -> dict[str, Any]:
    return farm.audit([farm.record("gpu1", host)])


def test_only_what_was_asked_for_drains() -> None:
    sick = report(farm.no_cdi(1))
    assert drains(sick, []) == []
    assert "GM404" in drains(sick, ["fail"])
    assert drains(sick, ["GM404", "GM999"]) == ["GM404"]
    assert drains(report(healthy()), ["fail", "GM404"]) == []
    assert drains(report(farm.no_docker_answer(1)), ["fail"]) == [], "what is not known drains nothing"
    assert drains(report(None), ["fail"]) == []
