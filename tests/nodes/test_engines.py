"""Engines as they are run, on booted nodes: containers that failed to start, and a default runtime without its table."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from gpumend.rules.finding import Component
from gpumend.state.docker import DAEMON_JSON
from tests.nodes import images, scenarios
from tests.nodes.conftest import Boot
from tests.nodes.drive import Ran, audit, mend
from tests.nodes.lab import Lab, Node


@pytest.fixture(scope="module")
def healthy(shared_boot: Boot) -> Node:
    return shared_boot("trixie", "healthy")


@pytest.fixture
def host(healthy: Node) -> Iterator[Node]:
    """The module's node, healthy, and made so again afterwards."""
    before = healthy.read(DAEMON_JSON)
    yield healthy
    healthy.sh("docker rm -f lost; systemctl reset-failed docker.service; true", check=False)
    healthy.write(DAEMON_JSON, before)
    healthy.restart("docker")


def told(ran: Ran, host: Node, code: str) -> list[dict[str, Any]]:
    return [found for found in ran.host(host)["findings"] if found["code"] == code]


def test_a_container_that_did_not_start_is_told_in_dockerds_words(lab: Lab, host: Node) -> None:
    host.run(["docker", "create", "--name", "lost", "--device", "nvidia.com/gpu=7", images.BASE, "true"])
    assert host.run(["docker", "start", "lost"], check=False).returncode
    ran = audit(lab, host)
    assert ran.rc == 3, ran.said
    (found,) = told(ran, host, "GM416")
    assert (found["status"], found["mends"]) == ("fail", None)
    assert "unresolvable CDI devices nvidia.com/gpu=7" in found["summary"]
    assert "GM417" in found["cause"]
    assert told(ran, host, "GM417")
    host.run(["docker", "rm", "lost"])
    again = audit(lab, host)
    assert told(again, host, "GM416") == told(again, host, "GM417") == []


def test_a_container_in_error_is_told_until_somebody_starts_it(lab: Lab, host: Node) -> None:
    """What it failed of is mended, by the finding that its text leads to; the container itself is its owner's."""
    host.sh('rm "$1"', scenarios.SPEC)
    run = ("docker", "create", "--name", "lost", "--stop-signal=KILL", "--device", "nvidia.com/gpu=all")
    host.run([*run, images.BASE, "sleep", "86400"])
    assert host.run(["docker", "start", "lost"], check=False).returncode
    broken = audit(lab, host)
    assert (broken.rc, broken.codes(host)) == (3, ["GM301", "GM416"]), broken.said
    (found,) = told(broken, host, "GM416")
    assert "unresolvable CDI devices nvidia.com/gpu=all" in found["summary"] and "GM301" in found["cause"]
    assert found["mends"] is None and told(broken, host, "GM301")[0]["mends"]

    done = mend(lab, host)
    assert done.statuses(host) == {Component.CDI: "changed"}, done.said
    again = mend(lab, host)
    for ran in (done, again):
        assert (ran.rc, ran.codes(host)) == (3, ["GM416"]), ran.said
        assert ran.host(host)["status"] != "as wanted"
    assert again.statuses(host) == {}

    host.run(["docker", "start", "lost"])
    assert host.run(["docker", "exec", "lost", "ls", "/dev/nvidia0"]).stdout == "/dev/nvidia0\n"
    fine = audit(lab, host)
    assert (fine.rc, fine.codes(host)) == (0, []), fine.said
    last = mend(lab, host)
    assert (last.rc, last.statuses(host)) == (0, {}), last.said


def test_a_default_runtime_without_its_table_is_named_and_left(lab: Lab, host: Node) -> None:
    broken = json.dumps({"default-runtime": "nvidia", "log-driver": "local"})
    host.write(DAEMON_JSON, broken)
    host.sh("systemctl restart docker.service", check=False)
    for ran in (audit(lab, host), mend(lab, host)):
        (found,) = told(ran, host, "GM419")
        assert found["status"] == "fail", ran.said
        assert "GM407" not in json.dumps(told(ran, host, "GM403")), ran.said
    assert host.read(DAEMON_JSON).decode() == broken
    scenarios.write_daemon(host, scenarios.daemon_settings(host, **{"default-runtime": "nvidia"}))
    assert told(audit(lab, host), host, "GM419") == []
