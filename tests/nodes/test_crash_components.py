"""Promise 3 for the components whose changes are slow: killed before every step that leaves a trace, and put back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from gpumend.rules.finding import Component
from tests.nodes import dind, images, scenarios, test_containerd, test_cuda, test_dind
from tests.nodes.base import SUITE
from tests.nodes.conftest import Boot
from tests.nodes.crashes import kill_at_every_step
from tests.nodes.drive import Target, carry_out, planned
from tests.nodes.faults import Before, fault, recovered, written
from tests.nodes.lab import Lab, Node
from tests.nodes.slot import wait_for

RUN = "20260101T000000Z-dead"


@dataclass(frozen=True)
class Case:
    """One component's change. prepare: a node into the state that calls for it; watched: directories looked at before and
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


LOADED = "/run/containerd.loaded"
NOTE_LOADED = f"[Service]\nExecStartPre=/bin/sh -c 'cat /etc/containerd/config.toml >{LOADED}'\n"


def grit_unknown_to_containerd(node: Node) -> None:
    """And the node shows what its containerd was started with, and runs a container."""
    test_containerd.equip(node, test_containerd.RIGHT)
    node.write("/etc/systemd/system/containerd.service.d/loaded.conf", NOTE_LOADED)
    node.sh("systemctl daemon-reload")
    node.restart("containerd")
    node.run(["docker", "run", "-d", "--name", "trainer", images.BASE, "sleep", "86400"])


def job_loaded(node: Node) -> None:
    """systemd keeps the service that will have the drop-in, and shows which drop-ins it has read."""
    node.write(f"{test_cuda.UNIT}.d/10-remain.conf", "[Service]\nRemainAfterExit=yes\n")
    node.sh("systemctl daemon-reload; systemctl start jobs.service")


def inner_broken(node: Node) -> None:
    """A Docker in a container that dies for want of a storage that works: its root lies on its container's overlay."""
    dind.import_dind_image(node)
    test_dind.start(node, test_dind.unit_text(test_dind.NAMED))
    wait_for("the inner dockerd dies", lambda: "not supported: overlay2" in test_dind.logs(node), 60.0)


def outer_on_vfs(node: Node) -> None:
    """Docker's own storage is vfs, and fuse-overlayfs would work."""
    node.sh("mknod -m 666 /dev/fuse c 10 229")
    scenarios.write_daemon(node, {"storage-driver": "vfs"})


CASES = {
    "grit.toml": Case(
        Component.GRIT, "plain", grit_wrong, test_containerd.WANTED, ["/etc/containerd"], "forget",
    ),
    "containerd": Case(
        Component.CONTAINERD, "plain", grit_unknown_to_containerd, test_containerd.WANTED, ["/etc/containerd"],
        "prove", [["systemctl", "is-active", "containerd.service"], ["cat", LOADED]],
    ),
    "cuda.compat": Case(
        Component.CUDA, "cuda", job_loaded, test_cuda.wants(), ["/etc/systemd/system", "/usr/local/cuda-13.0"],
        "prove_cuda", [
            ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Abbrev}\\n"],
            ["systemctl", "show", "-p", "DropInPaths", "-p", "NeedDaemonReload", "jobs.service"],
        ],
    ),
    "storage.dind": Case(
        Component.STORAGE, "bare", inner_broken, test_dind.dind_wanted(), ["/etc/systemd/system"],
        "prove_inner", kept=["/srv"], reset=[["rm", "-rf", "/srv/dind"]],
    ),
    "storage.docker_root": Case(
        Component.DOCKER_STORAGE, "overlay", outer_on_vfs,
        {"docker": {"storage_driver": "fuse-overlayfs"}, "allow_storage_switch": True}, ["/etc/docker"],
        "prove", [["docker", "info", "-f", "{{.Driver}}"]],
    ),
}  # fmt: skip


@pytest.fixture
def overlay(lab: Lab) -> Iterator[Node]:
    """A node whose Docker root lies on an overlay."""
    made = lab.boot(SUITE, overlay=True)
    yield made
    made.stop()


@pytest.fixture
def node(request: pytest.FixtureRequest, boot: Boot) -> Node:
    kind = CASES[request.param].node
    if kind == "overlay":
        found: Node = request.getfixturevalue("overlay")
        return found
    return test_cuda.ready(boot) if kind == "cuda" else boot(SUITE, None if kind == "bare" else "healthy")


@pytest.mark.parametrize(
    ("node", "name"), [(name, name) for name in CASES], ids=list(CASES), indirect=["node"]
)
def test_killed_before_every_step_that_leaves_a_trace(lab: Lab, node: Node, name: str) -> None:
    case = CASES[name]
    case.prepare(node)
    data = planned(node, case.component, RUN, case.wanted)
    before = Before.of(node, *written(data)).would_be(data)
    if case.component is Component.STORAGE:
        before = replace(before, running=None)  # its container comes and goes until it is mended

    containers = before.running is not None
    killed = kill_at_every_step(node, data, case.watched, case.asked, case.kept, case.reset, containers)
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
