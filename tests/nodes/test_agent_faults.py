"""What happens to an agent on a host: it is killed, the host goes down in the middle of its mend. Nothing is lost, and the next run
is right."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.nodes import gpu, scenarios
from tests.nodes.conftest import Boot
from tests.nodes.drive import Target, audit
from tests.nodes.faults import PATHS, Before, fault, look
from tests.nodes.lab import Lab, Node
from tests.nodes.slot import wait_for
from tests.nodes.test_agent import REPORT, TEXTFILE, agent, audited, found

OTHER = "560.35.03"
WANTED = {"agent": {"interval": 60, "textfile": TEXTFILE, "mend": ["cdi.spec_current"]}}
# nvidia-ctk that waits at `cdi generate` for as long as a file is there.
CTK = """#!/bin/sh
case "$*" in *generate*)
    if [ -e /run/hold ]; then : >/run/at-step; while [ -e /run/hold ]; do sleep 0.05; done; fi ;;
esac
exec /usr/lib/real/nvidia-ctk "$@"
"""


@pytest.fixture(scope="module")
def node(lab: Lab, shared_boot: Boot) -> Node:
    """A host with the agent, which may mend the CDI spec, and is started by nothing but these tests."""
    made = shared_boot("trixie", "healthy")
    made.sh(f"mkdir -p {TEXTFILE} /usr/lib/real && mv /usr/bin/nvidia-ctk /usr/lib/real")
    made.write("/usr/bin/nvidia-ctk", CTK, 0o755)
    made.sh("mkdir -p /lib/modules/$(uname -r); touch /lib/modules/$(uname -r)/modules.dep")
    agent(lab, made, "install", WANTED)
    quiet(made)
    return made


def quiet(node: Node) -> None:
    units = [f"gpumend-{name}.{kind}" for name in ("audit", "mend") for kind in ("timer", "path")]
    node.run(["systemctl", "disable", "--now", *units])
    node.run(["systemctl", "stop", "gpumend-audit.service", "gpumend-mend.service"])


@pytest.fixture
def stale(node: Node) -> Iterator[Node]:
    """The spec is of another driver than the host's; afterwards the host is well again."""
    gpu.set_driver(node, OTHER)
    yield node
    node.sh("rm -f /run/hold /run/at-step; rm -rf /var/lib/gpumend/runs")
    gpu.set_driver(node, gpu.DEFAULT_DRIVER)
    right(node, gpu.DEFAULT_DRIVER)
    node.sh("rm -rf /var/lib/gpumend/runs")


def mend(node: Node, *flags: str) -> int:
    """The exit status of `systemctl start` of the mend's unit."""
    node.run(["systemctl", "reset-failed", "gpumend-mend.service"], check=False)
    return node.run(["systemctl", "start", *flags, "gpumend-mend.service"], check=False).returncode


def right(node: Node, driver: str = OTHER) -> None:
    """The agent's next run puts everything right: the spec is this driver's, nothing is interrupted, and the report says so."""
    assert mend(node) == 0, node.run(["journalctl", "-u", "gpumend-mend.service", "-n", "20"]).stdout
    assert driver.encode() in node.read(scenarios.SPEC)
    seen = look(node, *PATHS)
    assert (seen.beside, seen.locked) == ((), False) and "working" not in seen.states()
    assert not {code for code, status, _ in found(json.loads(node.read(REPORT))) if status == "fail"}


@contextmanager
def held(node: Node) -> Iterator[None]:
    """The agent's mend is at its step, and waits there."""
    node.sh(": >/run/hold")
    assert mend(node, "--no-block") == 0
    wait_for("the mend is at its step", lambda: node.exists("/run/at-step"), 60.0)
    yield


def test_a_mend_that_is_killed(stale: Node) -> None:
    with fault("agent killed"):
        before = Before.of(stale, *PATHS)
        with held(stale):
            stale.run(["systemctl", "kill", "--kill-whom=all", "--signal=KILL", "gpumend-mend.service"])
        wait_for("it is gone", lambda: not stale.is_active("gpumend-mend.service"), 30.0)
        assert before.check().states() == ["working"]
        stale.sh("rm -f /run/hold /run/at-step")
        right(stale)


def test_an_audit_that_is_killed(stale: Node) -> None:
    with fault("agent killed"):
        report = audited(stale)
        dockerd = stale.main_pid("docker")
        stale.run(["kill", "-STOP", str(dockerd)])  # so that the audit is there to be killed
        stale.run(["systemctl", "start", "--no-block", "gpumend-audit.service"])
        wait_for("it is at work", lambda: stale.show("gpumend-audit.service", "MainPID") != "0", 30.0)
        stale.run(["systemctl", "kill", "--kill-whom=all", "--signal=KILL", "gpumend-audit.service"])
        wait_for("it is gone", lambda: stale.show("gpumend-audit.service", "MainPID") == "0", 30.0)
        stale.run(["kill", "-CONT", str(dockerd)])
        assert json.loads(stale.read(REPORT)) == report, "the last report is whole"
        stale.run(["systemctl", "reset-failed", "gpumend-audit.service"])
        assert found(audited(stale)) == found(report)


def test_a_host_that_goes_down_in_the_middle_of_its_mend(lab: Lab, stale: Node) -> None:
    with fault("host reboot"):
        before = Before.of(stale, *PATHS)
        with held(stale):
            stale.reboot(orderly=False)
        assert before.check().states() == ["working"]
        right(stale)
        assert found(json.loads(stale.read(REPORT))) == found(audit(lab, Target(stale, wanted=WANTED)).report)
