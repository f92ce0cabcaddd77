"""The wanted CUDA toolkit on a booted node: real apt and dpkg with packages of NVIDIA's names, and a stand-in for the runfile."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from gpumend.rules.finding import Component
from tests.nodes.apt import Deb, serve
from tests.nodes.conftest import Boot
from tests.nodes.crashes import KILL
from tests.nodes.cuda_toolkit import BUSY, FULL, GO, RUNFILE, TREE, debs, put_runfile
from tests.nodes.drive import Ran, Target, carry_out, planned, result_of, start
from tests.nodes.faults import fault
from tests.nodes.images import starts
from tests.nodes.lab import Lab, Node
from tests.nodes.slot import wait_for

LINK = "/usr/local/cuda"
WATCHED = ("/etc", "/usr/local", "/var/lib/dpkg/info", "/var/lib/dpkg/alternatives")
RUN = "20261123T000000Z-c0da"
JOURNAL = f"/var/lib/gpumend/runs/{RUN}/{Component.CUDA_TOOLKIT}/journal.json"
RECOVER = {"verb": "recover", "journals": [JOURNAL], "run": "next", "who": "test", "restarts": "idle"}


@pytest.fixture(scope="module")
def booted(shared_boot: Boot) -> Iterator[Node]:
    node = shared_boot("trixie", "healthy")
    node.write("/etc/dpkg/dpkg.cfg.d/fast", "force-unsafe-io\n")
    serve(node, *debs(), *[deb for deb in debs("12.4.0-1") if deb.version == "12.4.0-1"])
    yield node


@pytest.fixture
def node(booted: Node) -> Node:
    """The same node without any toolkit."""
    names = [deb.name for deb in debs()]
    booted.sh('apt-mark -qq unhold "$@" || true; apt-get -qq -y purge "$@" >/dev/null 2>&1 || true', *names)
    booted.sh(
        'rm -rf /usr/local/cuda* /etc/ld.so.conf.d/cuda* /var/log/cuda-installer.log /srv/*.run /var/lib/gpumend "$@"',
        *(BUSY, f"{BUSY}.seen", GO, FULL),
    )
    return booted


def cuda(lab: Lab, node: Node, dry: bool = False, **wanted: Any) -> Ran:
    """A run of deploys/cuda.py with that toolkit wanted, to its end."""
    target = Target(node, wanted={"cuda_toolkit": {"version": "12.4", **wanted}})
    return start(lab, target, deploy="cuda", dry=dry).finish()


def alone(node: Node, **wanted: Any) -> subprocess.CompletedProcess[str]:
    """The transaction by itself, without SSH."""
    data = planned(node, Component.CUDA_TOOLKIT, RUN, {"cuda_toolkit": {"version": "12.4", **wanted}})
    return carry_out(node, data)


def by_runfile(node: Node, sha256: str = "", **made: Any) -> dict[str, Any]:
    """The desired state where the stand-in lies on the node."""
    found = put_runfile(node, **made)
    return {
        "method": "runfile",
        "flavour": "toolkit",
        "runfile": {"file": RUNFILE, "sha256": sha256 or found},
    }


def installed(node: Node) -> set[str]:
    done = node.run(["dpkg-query", "-W", "-f=${db:Status-Abbrev}${Package}\n", "cuda*"], check=False)
    return {row[3:].strip() for row in done.stdout.splitlines() if row[1:2] == "i"}


@pytest.mark.parametrize(
    ("wanted", "there"),
    [
        pytest.param({}, ("cuda-libraries-12-4",), id="libraries"),
        pytest.param(
            {"flavour": "libraries-dev", "cupti": "dev"},
            ("cuda-libraries-dev-12-4", "cuda-cudart-dev-12-4", "cuda-cupti-12-4", "cuda-cupti-dev-12-4"),
            id="libraries-dev",
        ),
        pytest.param(
            {"flavour": "build", "cupti": "runtime"},
            ("cuda-minimal-build-12-4", "cuda-libraries-dev-12-4", "cuda-cupti-12-4"),
            id="build",
        ),
        pytest.param(
            {"flavour": "toolkit", "method": "apt", "pin": "12.4.0-1", "hold": True, "default": True},
            ("cuda-toolkit-12-4",),
            id="toolkit",
        ),
    ],
)
def test_each_flavour_by_apt(node: Node, lab: Lab, wanted: dict[str, Any], there: tuple[str, ...]) -> None:
    done = cuda(lab, node, **wanted)
    assert done.rc == 0 and done.statuses(node) == {Component.CUDA_TOOLKIT: "changed"}, done.said
    have = installed(node)
    assert have >= set(there) and not have & {"cuda-drivers", "cuda-runtime-12-4"}
    held = node.run(["apt-mark", "showhold"]).stdout.split()
    assert held == (["cuda-toolkit-12-4"] if wanted.get("hold") else [])
    if wanted.get("pin"):
        assert node.run(["dpkg-query", "-W", "-f=${Version}", there[0]]).stdout == wanted["pin"]
        assert node.run(["readlink", "-f", LINK]).stdout == f"{TREE}\n"


def test_an_audit_writes_nothing_and_a_second_run_changes_nothing(node: Node, lab: Lab) -> None:
    tree = node.tree(*WATCHED)
    found = cuda(lab, node, dry=True)
    assert found.rc == 3 and found.codes(node) == ["GM610"], found.said
    assert node.tree(*WATCHED) == tree and installed(node) == set()
    assert result_of(alone(node))["status"] == "changed"
    tree = node.tree(*WATCHED)
    again = cuda(lab, node)
    assert again.rc == 0 and again.statuses(node) == {} and node.tree(*WATCHED) == tree, again.said


def test_a_package_that_pulls_a_driver_is_refused(node: Node) -> None:
    serve(
        node,
        *(deb for deb in debs() if deb.name != "cuda-toolkit-12-4"),
        Deb("cuda-toolkit-12-4", "12.4.1-1", "cuda-runtime-12-4"),
    )
    try:
        change = result_of(alone(node, flavour="toolkit"))
        assert change["status"] == "refused" and installed(node) == set(), change
        assert "the driver's cuda-drivers" in change["detail"] or "which pulls a driver" in change["detail"]
    finally:
        serve(node, *debs(), *[deb for deb in debs("12.4.0-1") if deb.version == "12.4.0-1"])


def test_the_runfile_brings_the_toolkit_alone_and_is_rolled_back(node: Node, lab: Lab) -> None:
    wanted = by_runfile(node)
    tree = node.tree(*WATCHED)
    done = cuda(lab, node, **wanted)
    assert done.rc == 0 and done.statuses(node) == {Component.CUDA_TOOLKIT: "changed"}, done.said
    assert node.exists(f"{TREE}/bin/nvcc") and not node.exists("/usr/bin/nvidia-uninstall")
    assert not node.exists(LINK), "the host's default was not asked for"
    assert cuda(lab, node, **wanted).statuses(node) == {}
    both = cuda(lab, node, **{**wanted, "default": True})
    assert both.statuses(node) == {Component.CUDA_TOOLKIT: "changed"}, both.said
    assert node.run(["readlink", "-f", LINK]).stdout == f"{TREE}\n"
    for run in (both, done):
        undo = {"verb": "rollback", "run": run.report["run"], "who": "test", "restarts": "idle"}
        told = result_of(carry_out(node, undo))
        assert told["status"] == "changed", told
    after = node.tree(*WATCHED)
    assert {path for path in after if after[path] != tree.get(path)} <= {
        "/etc/ld.so.cache",
        "/usr/local",
        "/etc/ld.so.conf.d",
        "/etc",
    }
    assert set(after) == set(tree)


@pytest.mark.parametrize(
    ("made", "spoil", "words"),
    [
        pytest.param({"sha256": "0" * 64}, "", "wanted is 0000", id="another-sha256"),
        pytest.param({"size": 1 << 36}, "", "MiB free", id="no-room"),
        pytest.param({}, f"chown ops {RUNFILE}", "belongs to uid", id="a-users-file"),
        pytest.param(
            {}, "mkdir /var/log/cuda-installer.log", "NVIDIA's installer crashes", id="a-log-in-the-way"
        ),
    ],
)
def test_a_runfile_that_cannot_end_well_is_not_run(
    node: Node, made: dict[str, Any], spoil: str, words: str
) -> None:
    wanted = by_runfile(node, **made)
    node.sh(spoil)
    tree = node.tree(*WATCHED)
    with fault("a runfile that cannot end well"):
        change = result_of(alone(node, **wanted))
        assert change["status"] == "refused" and words in change["detail"], change
        assert node.tree(*WATCHED) == tree and starts(node)


@pytest.mark.parametrize(
    ("spoil", "made", "words"),
    [
        pytest.param(f"touch {FULL}", {}, "ended with status 134", id="134"),
        pytest.param("", {"version": "12.6.0"}, "says that it is CUDA 12.6", id="another-release"),
    ],
)
def test_half_a_tree_does_not_stay(
    node: Node, lab: Lab, spoil: str, made: dict[str, Any], words: str
) -> None:
    wanted = by_runfile(node, **made)
    node.sh(spoil)
    with fault("a runfile that ends halfway"):
        change = result_of(alone(node, **wanted))
        assert change["status"] == "put_back" and words in change["detail"], change
        assert starts(node)
    assert (
        not node.exists(TREE)
        and not node.exists(LINK)
        and not node.exists("/etc/ld.so.conf.d/cuda-12-4.conf")
    )


def test_an_installer_that_outlives_the_run_is_waited_for(node: Node) -> None:
    wanted = {"cuda_toolkit": {"version": "12.4", **by_runfile(node)}}
    node.sh(f"touch {BUSY}")
    data = planned(node, Component.CUDA_TOOLKIT, RUN, wanted)
    with fault("kill -9"):
        sent = threading.Thread(target=carry_out, args=(node, data))
        sent.start()
        wait_for("the installer runs", lambda: node.exists(f"{BUSY}.seen"), 60.0)
        node.sh("kill -9 $(sed 's/.*pid //' /run/gpumend.lock)")
        sent.join(60)
        answers: list[dict[str, Any]] = []
        recovering = threading.Thread(target=lambda: answers.append(result_of(carry_out(node, RECOVER))))
        recovering.start()
        wait_for("recovery holds the lock", lambda: b"run next" in node.read("/run/gpumend.lock"), 60.0)
        assert node.exists(TREE), "it is at work still"
        node.sh(f"touch {GO}")
        recovering.join(60)
        assert [answer["status"] for answer in answers] == ["changed"], answers
        assert not node.exists(TREE)
        node.sh(f"rm {BUSY}")
        assert result_of(carry_out(node, {**data, "run": "again"}))["status"] == "changed", "begun anew"


WAYS: dict[str, dict[str, Any]] = {
    "apt": {"flavour": "toolkit", "hold": True, "default": True},
    "runfile": {"method": "runfile", "flavour": "toolkit", "default": True},
}


def killed(node: Node, way: str, nth: int) -> bool:
    """Whether the transaction was still at work when it was killed after the journal's nth entry; the next one puts it back, and
    the one after that ends as if nothing had been."""
    node.sh("rm -rf /var/lib/gpumend")
    wanted = {**WAYS[way], **(by_runfile(node) if way == "runfile" else {})}
    before = node.tree("/usr/local", "/etc/ld.so.conf.d")
    data = planned(node, Component.CUDA_TOOLKIT, RUN, {"cuda_toolkit": {"version": "12.4", **wanted}})
    with fault("kill -9"):
        if carry_out(node, data, KILL.format(nth=nth)).returncode == 0:
            return False
        if json.loads(node.read(JOURNAL))["state"] == "done":  # nothing was left to do, and it stays
            return False
        assert result_of(carry_out(node, RECOVER))["status"] in ("changed", "unchanged")
        after = node.tree("/usr/local", "/etc/ld.so.conf.d")
        assert set(after) == set(before), nth
        assert not installed(node) and not node.run(["apt-mark", "showhold"]).stdout.split()
    return True


@pytest.mark.parametrize(("way", "nth"), [("apt", 4), ("runfile", 3)])
def test_killed_and_put_back(node: Node, way: str, nth: int) -> None:
    assert killed(node, way, nth)


@pytest.mark.exhaustive
@pytest.mark.parametrize("way", WAYS)
def test_killed_at_every_step(node: Node, way: str) -> None:
    nth = 1
    while killed(node, way, nth):
        nth += 1
    print(f"{way}: killed at {nth - 1} steps")
    assert nth > 3
