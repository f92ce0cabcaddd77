"""A mend of three components with two restarts: both daemons are watched at one time, and each new way to die ends well."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from gpumend.rules.finding import Component
from gpumend.state.docker import DAEMON_JSON
from tests.nodes import scenarios
from tests.nodes.base import SUITE
from tests.nodes.conftest import Boot
from tests.nodes.drive import Ran, Running, Target, audit, carry_out, mend, planned, result_of, start
from tests.nodes.faults import Before, fault, look
from tests.nodes.lab import Lab, Node
from tests.nodes.slot import wait_for
from tests.nodes.test_containerd import CONFIG, GRIT, REPORT_001, WANTED, equip
from tests.nodes.toolkit import CONFIG as TOOLKIT_CONFIG

RUN = "20260101T000000Z-dead"
CHANGED = {Component.GRIT: "changed", Component.CONTAINERD: "changed", Component.DOCKER: "changed"}
PATHS = (DAEMON_JSON, CONFIG, GRIT)


def wanted(seconds: int) -> dict[str, Any]:
    return {**WANTED, "restarts": "allow", "restart_watch": seconds}


@pytest.fixture(scope="module")
def healthy(shared_boot: Boot) -> Node:
    return shared_boot(SUITE, "healthy")


@pytest.fixture
def host(healthy: Node) -> Iterator[Node]:
    """The module's node, whose GRIT, containerd and Docker are to be changed; as it was afterwards."""
    files = {path: healthy.read(path) for path in (DAEMON_JSON, CONFIG)}
    equip(healthy, REPORT_001)
    scenarios.write_daemon(healthy, scenarios.UNTOLD)
    yield healthy
    healthy.sh("rm -rf /var/lib/gpumend /etc/systemd/system/containerd.service.d; systemctl daemon-reload")
    for path, data in files.items():
        healthy.write(path, data)
    healthy.restart("containerd")
    healthy.restart("docker")


def journals(node: Node) -> dict[str, dict[str, Any]]:
    """The journals of the one run of which there are any, by component."""
    return {str(found["component"]): found for found in look(node).journals}


def watched(node: Node, *components: Component) -> bool:
    """Whether the daemons of these, and no others, are watched just now."""
    states = {name: found["state"] for name, found in journals(node).items() if "watch" in found}
    return states == dict.fromkeys(components, "working")


def restarted(node: Node, component: Component) -> bool:
    found = journals(node).get(component, {"log": []})
    return any(text.startswith("restart ") for text in found["log"])


def as_wanted(ran: Ran, node: Node) -> None:
    """A mend changed all three."""
    assert ran.statuses(node) == CHANGED, ran.said
    assert not {"GM003", "GM007"}.intersection(ran.codes(node)), ran.said
    assert {found["state"] for found in journals(node).values()} == {"done"}
    assert not look(node).locked


def test_the_watches_of_two_restarts_overlap_and_end_together(lab: Lab, host: Node) -> None:
    ran = mend(lab, Target(host, wanted=wanted(6)))
    as_wanted(ran, host)
    assert ran.sessions[host.name] == 4, "an audit, and one a component"
    found = journals(host)
    first, last = found[Component.CONTAINERD], found[Component.DOCKER]
    assert first["watch"]["unit"] == "containerd.service"
    assert first["started"] < last["started"] < first["ended"], "the next began before the watch was over"
    again = mend(lab, Target(host, wanted=wanted(6)))
    assert again.statuses(host) == {}, again.said


EDITS = {
    "what is changed next": (DAEMON_JSON, '1s/{/{ "shutdown-timeout": 20,/', '"shutdown-timeout": 20'),
    "what is not changed": (TOOLKIT_CONFIG, "1s/^/# of an operator\\n/", "# of an operator"),
}


def operator(node: Node, which: str) -> None:
    """Somebody edits a file in containerd's next restart."""
    path, edit, _ = EDITS[which]
    node.write("/usr/local/sbin/operator", f"#!/bin/sh\nsed -i '{edit}' {path} && rm -f $0\n", 0o755)
    node.write(
        "/etc/systemd/system/containerd.service.d/operator.conf",
        "[Service]\nExecStartPost=-/usr/local/sbin/operator\n",
    )
    node.sh("systemctl daemon-reload")


@pytest.mark.parametrize("which", EDITS)
def test_an_operator_who_edits_a_file_between_two_components_is_planned_with(
    lab: Lab, host: Node, which: str
) -> None:
    """The host is not looked at after containerd's change, and the operator is at work in its restart."""
    path, _, mark = EDITS[which]
    kept = host.read(path)
    operator(host, which)
    with fault("operator between two components"):
        ran = mend(lab, Target(host, wanted=wanted(0)))
        as_wanted(ran, host)
        assert ran.sessions[host.name] == 5, "Docker's was refused, and planned anew"
        assert mark in host.read(path).decode()
        assert '"cdi": true' in host.read(DAEMON_JSON).decode()
        assert mend(lab, Target(host, wanted=wanted(0))).statuses(host) == {}
    host.write(path, kept)


def test_two_hosts_are_mended_each_as_it_calls_for(lab: Lab, host: Node, boot: Boot) -> None:
    other = boot(SUITE, scenario="healthy")
    equip(other, REPORT_001)
    scenarios.write_daemon(other, scenarios.UNTOLD)
    operator(other, "what is changed next")
    ran = mend(lab, Target(host, wanted=wanted(6)), Target(other, wanted=wanted(6)))
    for node in (host, other):
        as_wanted(ran, node)
    assert (ran.sessions[host.name], ran.sessions[other.name]) == (4, 5), "the operator's was planned anew"


def test_a_daemon_that_is_restarted_with_another_is_no_crash(lab: Lab, host: Node) -> None:
    """PartOf=docker.service: a restart of dockerd restarts containerd, which is being watched, with it."""
    host.write("/etc/systemd/system/containerd.service.d/part.conf", "[Unit]\nPartOf=docker.service\n")
    host.sh("systemctl daemon-reload")
    as_wanted(mend(lab, Target(host, wanted=wanted(6))), host)
    log = journals(host)[Component.CONTAINERD]["log"]
    assert log[-1] == "containerd.service was restarted with docker.service"


def test_a_daemon_that_dies_while_the_next_is_watched_takes_both_back(lab: Lab, host: Node) -> None:
    with fault("daemon that dies in an overlapped watch"):
        before = Before.of(host, *PATHS)
        running = start(lab, Target(host, wanted=wanted(20)))
        wait_for("both are restarted", lambda: restarted(host, Component.DOCKER), 90.0)
        host.sh("systemctl kill --signal=KILL --kill-whom=main containerd.service")
        ran = running.finish()
        assert ran.rc == 4, ran.said
        assert ran.statuses(host) == {**dict.fromkeys(CHANGED, "put_back"), Component.GRIT: "changed"}, (
            ran.said
        )
        assert "containerd did not live 20 s" in ran.change(host, Component.CONTAINERD)["detail"]
        seen = look(host, *PATHS)
        assert seen.files[DAEMON_JSON] == before.old[DAEMON_JSON]
        assert seen.files[CONFIG] == before.old[CONFIG]
        assert sorted(seen.states()) == ["done", "put_back", "put_back"] and not seen.locked
        after = mend(lab, Target(host, wanted=wanted(6)))
        assert after.statuses(host) == {Component.CONTAINERD: "changed", Component.DOCKER: "changed"}, (
            after.said
        )


def test_a_controller_that_is_killed_leaves_the_watch_to_the_host(lab: Lab, host: Node) -> None:
    with fault("controller lost in a watch"):
        running = start(lab, Target(host, wanted=wanted(8)))
        ends(running, host, signal.SIGKILL)
        wait_for("the host has ended the watches", lambda: ended(host), 60.0)
        assert set(look(host).states()) == {"done"}
        ran = mend(lab, Target(host, wanted=wanted(0)))
        assert "GM003" not in ran.codes(host) and Component.RECOVER not in ran.statuses(host), ran.said
        assert Component.CONTAINERD not in ran.statuses(host), "it stayed"


def test_a_controller_that_is_killed_and_a_daemon_that_dies_then(lab: Lab, host: Node) -> None:
    with fault("controller lost in a watch"):
        before = Before.of(host, *PATHS)
        running = start(lab, Target(host, wanted=wanted(40)))
        ends(running, host, signal.SIGKILL)
        wait_for(  # for as long as the host has the lock for Docker's transaction, containerd is watched, too
            "nothing is at work but watches",
            lambda: not look(host).locked or restarted(host, Component.DOCKER),
            60.0,
        )
        host.sh("systemctl kill --signal=KILL --kill-whom=main containerd.service")
        wait_for("the host has ended the watches", lambda: ended(host), 90.0)
        seen = look(host, *PATHS)
        assert seen.files[CONFIG] == before.old[CONFIG] and seen.files[DAEMON_JSON] == before.old[DAEMON_JSON]
        assert host.show("containerd", "ActiveState") == "active"
        assert mend(lab, Target(host, wanted=wanted(0))).statuses(host)[Component.CONTAINERD] == "changed"


def test_an_interrupt_in_a_watch_begins_nothing_more_and_ends_it(lab: Lab, host: Node) -> None:
    with fault("Ctrl-C in a watch"):
        running = start(lab, Target(host, wanted=wanted(8)))
        wait_for(
            "containerd is watched", lambda: "watch" in journals(host).get(Component.CONTAINERD, {}), 90.0
        )
        running.process.send_signal(signal.SIGINT)
        ran = running.finish()
        assert ran.statuses(host)[Component.CONTAINERD] == "changed", ran.said
        assert set(ran.statuses(host).values()) == {"changed"}
        assert ended(host) and set(look(host).states()) == {"done"}
        assert ran.rc in (1, 3), ran.said


def test_a_watcher_that_is_killed_is_told_and_made_again(lab: Lab, host: Node) -> None:
    target = Target(host, wanted=wanted(2))
    data = planned(host, Component.CONTAINERD, RUN, wanted(30))
    with fault("kill -9 in a watch"):
        answer = result_of(carry_out(host, {**data, "overlaps": True, "later": True}))
        assert answer["status"] == "watching", answer
        alive = audit(lab, target)
        assert "GM003" not in alive.codes(host), "it is being watched"
        host.sh("kill -KILL $(sed 's/.* pid //' /run/gpumend.watch)")
        found = audit(lab, target)
        assert "while it watched the daemon of containerd.config" in found.finding(host, "GM003")["summary"]
        ran = mend(lab, target)
        assert "stays: its daemon lives" in ran.change(host, Component.RECOVER)["detail"], ran.said
        assert Component.CONTAINERD not in ran.statuses(host)
        assert "GM003" not in ran.codes(host)
        assert set(look(host).states()) == {"done"}


def test_another_controller_waits_for_the_watch(lab: Lab, host: Node) -> None:
    data = planned(host, Component.CONTAINERD, RUN, wanted(8))
    with fault("two controllers"):
        answer = result_of(carry_out(host, {**data, "overlaps": True, "later": True}))
        assert answer["status"] == "watching", answer
        ran = mend(lab, Target(host, wanted=wanted(0)))
        assert Component.RECOVER not in ran.statuses(host), ran.said
        assert set(ran.statuses(host).values()) == {"changed"}, ran.said
        found = [each for each in look(host).journals if each["run"] == RUN]
        others = [each for each in look(host).journals if each["run"] != RUN]
        assert [each["state"] for each in found] == ["done"]
        assert min(each["started"] for each in others) >= found[0]["ended"]


def ends(running: Running, node: Node, number: int) -> None:
    """The controller ends by this signal while containerd is watched."""
    wait_for("containerd is watched", lambda: "watch" in journals(node).get(Component.CONTAINERD, {}), 90.0)
    os.killpg(running.process.pid, number)
    running.process.wait()
    running._directory.cleanup()


def ended(node: Node) -> bool:
    seen = look(node)
    return not seen.locked and "working" not in seen.states()


def test_a_host_that_goes_down_in_a_watch(lab: Lab, host: Node) -> None:
    """Nobody saw that the daemon lived: after the boot it is watched from that start on."""
    target = Target(host, wanted=wanted(2))
    before = Before.of(host, *PATHS)
    data = planned(host, Component.CONTAINERD, RUN, wanted(30))
    with fault("host reboot"):
        answer = result_of(carry_out(host, {**data, "overlaps": True, "later": True}))
        assert answer["status"] == "watching", answer
        host.reboot(orderly=False)
        ran = mend(lab, target)
        assert "stays: its daemon lives" in ran.change(host, Component.RECOVER)["detail"], ran.said
        seen = look(host, CONFIG)
        assert seen.states()[0] == "done" and seen.files[CONFIG] != before.old[CONFIG]


def test_a_host_that_vanishes_in_a_watch_ends_it_by_itself(lab: Lab, host: Node) -> None:
    with fault("lost connection"):
        running = start(lab, Target(host, wanted=wanted(20)))
        wait_for("both are restarted", lambda: restarted(host, Component.DOCKER), 90.0)
        host.sh("iptables -I INPUT -i host0 -j DROP; iptables -I OUTPUT -o host0 -j DROP")
        ran = running.finish()
        host.sh("iptables -F INPUT; iptables -F OUTPUT")
        assert ran.rc == 5, ran.said
        assert ran.statuses(host) == {**CHANGED, Component.CONTAINERD: "watching", Component.DOCKER: "lost"}
        assert "the host watches it" in ran.change(host, Component.CONTAINERD)["detail"]
        wait_for("the host has ended the watches", lambda: ended(host), 60.0)
        assert set(look(host).states()) == {"done"}
