"""Promise 3 for the components whose changes are slow: killed before every step that leaves a trace, and put back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from rules.finding import Component
from tests.nodes import dind, scenarios, test_containerd, test_cuda, test_dind
from tests.nodes.conftest import Boot
from tests.nodes.crashes import kill_at_every_step
from tests.nodes.drive import Target, carry_out, planned
from tests.nodes.faults import INJECTED, SURVIVED, Before, fault, recovered
from tests.nodes.lab import Lab, Node
from tests.nodes.slot import wait_for

RUN = "20260101T000000Z-dead"


@dataclass(frozen=True)
class Case:
    """One component's change. prepare: a node into the state that calls for it; watched: folders looked at before and
    after; held: the function of the program at which one more run is killed, for the next mend to find; asked: commands
    whose answer has to be the same after a recovery; least: steps that there are at the least."""

    component: Component
    node: str
    prepare: Callable[[Node], None]
    wanted: Mapping[str, Any]
    watched: Sequence[str]
    held: str
    asked: Sequence[Sequence[str]] = ()
    kept: Sequence[str] = ()
    reset: Sequence[Sequence[str]] = ()
    least: int = 8


def grit_wrong(node: Node) -> None:
    test_containerd.equip(node, test_containerd.REPORT_001)


def grit_unknown_to_containerd(node: Node) -> None:
    test_containerd.equip(node, test_containerd.RIGHT)


def nothing(node: Node) -> None:
    """The node's own fixture has prepared it."""


def inner_broken(node: Node) -> None:
    """A Docker in a container that dies for want of a storage that works."""
    scenarios.write_daemon(node, {"storage-driver": "vfs"})
    dind.import_dind_image(node)
    test_dind.start(node, test_dind.unit_text(test_dind.NAMED))
    wait_for("the inner dockerd dies", lambda: "not supported: overlay2" in test_dind.logs(node), 60.0)


def outer_on_vfs(node: Node) -> None:
    """Docker's own storage is vfs, and fuse-overlayfs would work. No inner Docker is left of another case."""
    node.sh(
        "systemctl stop edge.service; rm -rf /etc/systemd/system/edge.service*; systemctl daemon-reload;"
        " docker rm -f edge; mknod -m 666 /dev/fuse c 10 229; true",
        check=False,
    )
    scenarios.write_daemon(node, {"storage-driver": "vfs"})


CASES = {
    "grit.toml": Case(
        Component.GRIT, "plain", grit_wrong, test_containerd.WANTED, ["/etc/containerd"], "forget",
    ),
    "containerd": Case(
        Component.CONTAINERD, "plain", grit_unknown_to_containerd, test_containerd.WANTED, ["/etc/containerd"],
        "prove", [["systemctl", "is-active", "containerd.service"], ["docker", "info", "-f", "{{.Driver}}"]],
    ),
    "cuda.compat": Case(
        Component.CUDA, "cuda", nothing, test_cuda.wants(), ["/etc/systemd/system", "/usr/local/cuda-13.0"],
        "prove_cuda", [["dpkg-query", "-W", "-f", "${Package} ${db:Status-Abbrev}\\n"]],
    ),
    "storage.dind": Case(
        Component.STORAGE, "overlay", inner_broken, test_dind.dind_wanted(), ["/etc/systemd/system"],
        "prove_inner", kept=["/srv"], reset=[["rm", "-rf", "/srv/dind"]],
    ),
    "storage.docker_root": Case(
        Component.DOCKER_STORAGE, "overlay", outer_on_vfs,
        {"docker": {"storage_driver": "fuse-overlayfs"}, "allow_storage_switch": True}, ["/etc/docker"],
        "prove", [["docker", "info", "-f", "{{.Driver}}"]],
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def overlay(lab: Lab) -> Iterator[Node]:
    """A node whose Docker root lies on an overlay, for both kinds of storage."""
    made = lab.boot("trixie", overlay=True)
    yield made
    made.stop()


@pytest.fixture
def node(request: pytest.FixtureRequest, boot: Boot) -> Node:
    kind = CASES[request.param].node
    if kind == "overlay":
        found: Node = request.getfixturevalue("overlay")
        return found
    return test_cuda.ready(boot) if kind == "cuda" else boot("trixie", "healthy")


@pytest.mark.parametrize(
    ("node", "name"), [(name, name) for name in CASES], ids=list(CASES), indirect=["node"]
)
def test_killed_before_every_step_that_leaves_a_trace(lab: Lab, node: Node, name: str) -> None:
    case = CASES[name]
    case.prepare(node)
    data = planned(node, case.component, RUN, case.wanted)
    before = Before.of(node)
    if case.component is Component.STORAGE:
        before = replace(before, running=None)  # its container comes and goes until it is mended

    killed = kill_at_every_step(node, data, case.watched, case.asked, case.kept, case.reset)
    INJECTED["kill -9"] += len(killed)
    SURVIVED["kill -9"] += len(killed)
    assert len(killed) >= case.least, killed
    assert [log for _, log in killed if log is None], "none was killed before its journal was there"
    assert len({str(log) for _, log in killed}) >= 3, killed

    with fault("kill -9"):
        die = f"def {case.held}(*_, **__):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        assert carry_out(node, data, die).returncode in (-9, 137)
        target = Target(node, wanted=case.wanted)
        before.check(case.held)
        ran = before.check_next(lab, target, case.held)
        assert recovered(ran, node), ran.said
        assert ran.statuses(node).get(str(case.component)) == "changed", ran.said
