"""What happens to an agent on a host: it is killed, the host goes down in the middle of its mend, the disk is full, the clock jumps, an
operator's run is there at the same time. Nothing is lost, and the next run is right."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.nodes import gpu, scenarios
from tests.nodes.conftest import Boot
from tests.nodes.drive import Target, audit, start
from tests.nodes.faults import PATHS, Before, fault, look
from tests.nodes.lab import Lab, Node
from tests.nodes.slot import wait_for
from tests.nodes.test_agent import MENDED, PROGRAM, REPORT, TEXTFILE, agent, audited, entries, found

OTHER = "560.35.03"
WANTED = {"agent": {"interval": 60, "textfile": TEXTFILE, "mend": ["cdi.spec_current"]}}
# nvidia-ctk that waits at `cdi generate` for as long as a file is there.
CTK = """#!/bin/sh
case "$*" in *generate*)
    if [ -e /run/hold ]; then : >/run/at-step; while [ -e /run/hold ]; do sleep 0.05; done; fi ;;
esac
exec /usr/lib/real/nvidia-ctk "$@"
"""
# The agent with another clock.
CLOCK = """
import runpy, sys, time
years, sys.argv = float(sys.argv[1]), sys.argv[2:]
real = time.time
time.time = lambda: real() + years * 31557600
runpy.run_path(sys.argv[0], run_name="__main__")
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


@pytest.mark.parametrize("directory", ["/var/lib/gpumend", TEXTFILE])
def test_a_full_disk(stale: Node, directory: str) -> None:
    with fault("full disk"):
        report, before = audited(stale), Before.of(stale, *PATHS)
        stale.sh(
            'mkdir -p /root/kept; cp -a "$1/." /root/kept; mount -t tmpfs -o size=4M,mode=0700 tmpfs "$1"',
            directory,
        )
        try:
            stale.sh(
                'cp -a /root/kept/. "$1"; dd if=/dev/zero of="$1/filler" bs=4k 2>/dev/null || true', directory
            )
            mine = directory != TEXTFILE
            assert bool(mend(stale)) == mine, (
                "what it cannot write is a failure; what the exporter reads is not the agent's"
            )
            said = [
                row["MESSAGE"]
                for row in entries(stale, "GPUMEND_STATUS=fail" if mine else "GPUMEND_STATUS=warn")
            ]
            assert any("No space left on device" in text for text in said), said
            if mine:
                before.check()
                assert json.loads(stale.read(REPORT)) == report, "the last report is whole"
        finally:
            stale.sh('umount "$1"; rm -rf /root/kept', directory)
        right(stale)


@pytest.mark.parametrize("years", ["-56", "74"])
def test_a_clock_that_jumps(stale: Node, years: str) -> None:
    with fault("clock jump"):
        done = stale.run(["python3", "-I", "-S", "-B", "-", years, PROGRAM, "mend"], input=CLOCK, check=False)
        assert done.returncode == 0, done.stderr
        began = json.loads(stale.read(REPORT))["started"]
        assert began[:4] in ("1970", "2100", "1969", "1971", "2099", "2101"), began
        assert OTHER.encode() in stale.read(scenarios.SPEC)
        right(stale)
        assert json.loads(stale.read(REPORT))["started"][:4] not in (began[:4], "1970")


def test_an_operators_run_at_the_same_time(lab: Lab, stale: Node) -> None:
    """The operator's mend holds the host's lock: the agent's does nothing meanwhile, and nothing twice."""
    with fault("operator at the same time"):
        stale.sh(": >/run/hold")
        operator = start(lab, Target(stale, wanted=WANTED))
        wait_for("the operator's mend is at its step", lambda: stale.exists("/run/at-step"), 60.0)
        old = stale.read(scenarios.SPEC)
        assert mend(stale, "--no-block") == 0
        wait_for("the agent is there", lambda: stale.show("gpumend-mend.service", "MainPID") != "0", 60.0)
        assert stale.read(scenarios.SPEC) == old
        stale.sh("rm -f /run/hold")
        ran = operator.finish()
        assert ran.rc == 0 and ran.statuses(stale)["cdi.spec_current"] == "changed", ran.said
        wait_for(
            "the agent's run has ended", lambda: stale.show("gpumend-mend.service", "MainPID") == "0", 60.0
        )
        new = stale.read(scenarios.SPEC)
        right(stale)
        assert stale.read(scenarios.SPEC) == new


def test_the_timer_finds_a_stale_spec_and_mends_it_within_its_period(stale: Node) -> None:
    """No trigger: the path units are off. The period is shortened by drop-ins, so that this takes seconds and not an hour."""
    stale.sh(f"rm -f {MENDED}")
    for name in ("audit", "mend"):
        stale.write(
            f"/etc/systemd/system/gpumend-{name}.timer.d/short.conf",
            "[Timer]\nOnUnitInactiveSec=\nOnActiveSec=1s\nOnUnitInactiveSec=3s\nRandomizedDelaySec=1s\n",
        )
    stale.run(["systemctl", "daemon-reload"])
    stale.run(["systemctl", "start", "gpumend-audit.timer", "gpumend-mend.timer"])
    try:
        wait_for("the timer's mend", lambda: stale.exists(MENDED), 60.0)
    finally:
        stale.sh("rm -r /etc/systemd/system/gpumend-*.timer.d")
        quiet(stale)
        stale.run(["systemctl", "daemon-reload"])
    assert OTHER.encode() in stale.read(scenarios.SPEC)
    run = json.loads(stale.read(MENDED))["run"]
    [row] = entries(stale, "GPUMEND_COMPONENT=cdi.spec_current", f"GPUMEND_RUN={run}")
    assert row["MESSAGE"].startswith("cdi.spec_current: changed")
    metrics = {
        (sample.name, sample.labels.get("code"))
        for family in text_string_to_metric_families(stale.read(f"{TEXTFILE}/gpumend.prom").decode())
        for sample in family.samples
    }
    assert ("gpumend_run_timestamp_seconds", None) in metrics and ("gpumend_finding", "GM304") not in metrics
