"""Nothing running is stopped unasked: not by a restart that is put back, not under a client at work, not by a rollback."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gpumend.rules.finding import Component
from tests.nodes import scenarios
from tests.nodes.conftest import Boot
from tests.nodes.drive import audit, carry_out, mend, planned, result_of
from tests.nodes.lab import Lab, Node
from tests.nodes.slot import wait_for

RUN = "20261128T230000Z-abcd"


def runs(node: Node, name: str) -> bool:
    return node.run(["docker", "ps", "-q", "--filter", f"name={name}"], check=False).stdout.strip() != ""


def test_a_container_that_began_during_the_proof_outlives_the_put_back(boot: Boot) -> None:
    """On 34eba2b it was stopped, and a `--rm` one was gone: the put-back restarted with leave to stop everything."""
    node = boot("trixie", scenario="report_002")
    data: dict[str, Any] = planned(node, Component.DOCKER, RUN, {"restarts": "idle"})
    data["proofs"] = [{"path": ["NoSuchKey"], "needs": "restart", "value": "", "engine": "docker"}]
    before, pid = node.read(scenarios.DAEMON), node.main_pid("docker.service")
    results: list[dict[str, Any]] = []
    sent = threading.Thread(target=lambda: results.append(result_of(carry_out(node, data))))
    sent.start()
    try:
        wait_for("dockerd was restarted", lambda: node.main_pid("docker.service") not in (0, pid), 90)
        node.wait_active("docker.service")
        node.run(["docker", "run", "-d", "--rm", "--name", "late", "base:1", "sleep", "600"])
        pid = node.main_pid("docker.service")
    finally:
        sent.join(180)
    (result,) = results
    assert result["status"] == "put_back", result
    assert "late" in result["detail"] and "new configuration" in result["detail"], result
    assert runs(node, "late") and node.main_pid("docker.service") == pid
    assert node.read(scenarios.DAEMON) == before
    node.run(["docker", "rm", "-f", "late"])


IMPORT = """
mkfifo /root/endless
setsid sh -c 'echo $$ >/root/pid; exec 3<>/root/endless; exec docker import /root/endless endless:1' >/dev/null 2>&1 </dev/null &
"""


@contextmanager
def importing(node: Node) -> Iterator[None]:
    """`docker import` is in the middle of its work, and stays there."""
    node.sh(IMPORT)
    at_work = "tr '\\0' ' ' <\"/proc/$(cat /root/pid)/cmdline\" | grep -q '^docker import'"
    wait_for("docker import is at work", lambda: node.sh(at_work, check=False).returncode == 0)
    try:
        yield
    finally:
        node.sh('kill "$(cat /root/pid)"; rm -f /root/endless /root/pid')


def test_a_client_at_work_is_waited_for(boot: Boot) -> None:
    node = boot("trixie", scenario="report_002")
    data = planned(node, Component.DOCKER, RUN, {"restarts": "idle"})
    pid = node.main_pid("docker.service")
    with importing(node):
        result = result_of(carry_out(node, data))
    assert result["status"] == "pending" and "docker import" in result["detail"], result
    assert node.main_pid("docker.service") == pid


def test_a_docker_that_was_stopped_stays_stopped_by_a_rollback(boot: Boot, lab: Lab) -> None:
    node = boot("trixie", scenario="report_002")
    done = mend(lab, node)
    assert done.rc == 0, done.said
    node.run(["systemctl", "stop", "docker.service", "docker.socket"])
    data = {
        "verb": "rollback",
        "run": done.report["run"],
        "who": "ops@test",
        "restarts": "allow",
        "component": "",
    }
    result = result_of(carry_out(node, data))
    assert result["status"] == "changed", result
    assert not node.is_active("docker.service")
    node.run(["systemctl", "start", "docker.service"])
    assert "GM204" in audit(lab, node).codes(node) or audit(lab, node).rc == 3
