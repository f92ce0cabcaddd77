"""A runtime that Docker starts containers with is never without its program and its configuration (nct#2023): power fails at each
step of the toolkit's packages, and a run is rolled back while containers run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from gpumend.rules.finding import Component
from gpumend.state.packages import TOOLKIT
from tests.nodes import gpu, images, scenarios, toolkit
from tests.nodes.apt import Deb, serve
from tests.nodes.conftest import Boot
from tests.nodes.crashes import KILL
from tests.nodes.drive import Target, carry_out, planned, result_of, start
from tests.nodes.faults import fault
from tests.nodes.images import starts
from tests.nodes.lab import Lab, Node
from tests.nodes.toolkit import CONFIG

OLD, NEW = "1.19.1", "1.20.0"
RUN = "20261129T000000Z-2023"
JOURNAL = f"/var/lib/gpumend/runs/{RUN}/{Component.PACKAGES}/journal.json"
RECOVER = {"verb": "recover", "journals": [JOURNAL], "run": "next", "who": "test", "restarts": "idle"}
RUNTIME = ("--runtime=nvidia", "-e", "NVIDIA_VISIBLE_DEVICES=all")
# As when the power goes: the package manager, its scripts and the run that waits for them end at once.
POWER = """#!/bin/sh
if [ "$(cat /run/power 2>/dev/null)" = "{at}" ]; then
  kill -9 $(sed "s/.*pid //" /run/gpumend.lock) $(pgrep -x apt-get) $(pgrep -x dpkg); kill -9 $$
fi
"""
POINTS = [f"{when} {name}" for name in TOOLKIT for when in ("preinst", "postinst", "after")]


def fails_at_each_step(deb: Deb) -> Deb:
    """The package with a place to cut the power before it is unpacked, before it is configured, and after."""
    before, after = POWER.format(at=f"postinst {deb.name}"), POWER.format(at=f"after {deb.name}")
    theirs = deb.scripts.get("postinst", "")
    scripts = {"preinst": POWER.format(at=f"preinst {deb.name}"), "postinst": f"{before}{theirs}\n{after}"}
    return replace(deb, scripts={**deb.scripts, **scripts})


@pytest.fixture(scope="module")
def booted(shared_boot: Boot) -> Iterator[Node]:
    node = shared_boot("trixie", None)
    node.write("/etc/dpkg/dpkg.cfg.d/fast", "force-unsafe-io\n")
    gpu.install(node)
    images.import_image(node)
    serve(node, *toolkit.debs(OLD), *map(fails_at_each_step, toolkit.debs(NEW)), Deb("apt", "0.1"))
    yield node


def install(node: Node, version: str) -> None:
    node.run(
        [
            "apt-get",
            "install",
            "-qq",
            "-y",
            "--allow-downgrades",
            *(f"{name}={version}-1" for name in TOOLKIT),
        ]
    )


@pytest.fixture
def by_default(booted: Node) -> Node:
    """Docker starts each container with nvidia-container-runtime; the toolkit is the older one."""
    booted.sh("systemctl reset-failed; rm -rf /run/power /var/lib/gpumend; dpkg --configure -a")
    install(booted, OLD)
    scenarios.write_daemon(
        booted, {"default-runtime": "nvidia", "runtimes": {"nvidia": {"path": "nvidia-container-runtime"}}}
    )
    return booted


def keeps_starting(node: Node, at: str) -> None:
    """A plain container starts, now and after the next start of dockerd; no runtime that dockerd has is without its program and
    its configuration."""
    for _ in range(2):
        assert starts(node), f"no container starts after {at}"
        info = json.loads(node.run(["docker", "info", "-f", "{{json .Runtimes}}"]).stdout)
        if "nvidia" in info:
            assert node.exists("/usr/bin/nvidia-container-runtime") and node.exists(CONFIG), at
        node.restart("docker")


def versions(node: Node) -> set[str]:
    done = node.run(["dpkg-query", "-W", "-f=${db:Status-Abbrev}${Version}\n", *TOOLKIT], check=False)
    return {row[3:].strip() for row in done.stdout.splitlines() if row[1:2] == "i"}


def packages(node: Node) -> list[str]:
    """dpkg's whole word on those of the toolkit's packages of which anything is there."""
    said = node.run(
        ["dpkg-query", "-W", "-f=${db:Status-Abbrev} ${Package} ${Version}\n", *TOOLKIT], check=False
    )
    return [row for row in said.stdout.splitlines() if row[1:2] != "n"]


def cut(node: Node, at: str, extra: str = "") -> bool:
    """Whether the power was cut there; the node goes on starting containers then, is put back, and a run after that ends as one that
    nobody cut."""
    node.write("/run/power", at)
    wanted = {"toolkit": {"install": True, "version": NEW}}
    data = planned(node, Component.PACKAGES, RUN, wanted)
    before = packages(node)
    with fault("power cut"):
        if carry_out(node, data, extra).returncode == 0:
            return False
        node.sh("rm /run/power; systemctl reset-failed")  # a boot forgets how often units were started
        keeps_starting(node, at)
        if node.exists(JOURNAL):
            if json.loads(node.read(JOURNAL))["state"] == "done":  # nothing was left to do, and it stays
                assert versions(node) == {f"{NEW}-1"}, at
                return False
            node.sh("systemctl reset-failed")
            assert result_of(carry_out(node, RECOVER))["status"] in ("changed", "unchanged"), at
            keeps_starting(node, f"the recovery after {at}")
        assert packages(node) == before, at
        node.sh("systemctl reset-failed")
        assert result_of(carry_out(node, {**data, "run": f"{RUN}b"}))["status"] == "changed", at
        assert versions(node) == {f"{NEW}-1"} and starts(node)
    return True


@pytest.fixture
def new(booted: Node) -> Node:
    """There is no toolkit, and nothing of it in Docker."""
    booted.sh("systemctl reset-failed; rm -rf /run/power; dpkg --configure -a")
    booted.sh('DEBIAN_FRONTEND=noninteractive apt-get -qq -y purge "$@" >/dev/null 2>&1 || true', *TOOLKIT)
    booted.sh(
        "rm -rf /etc/nvidia-container-runtime /etc/cdi /var/run/cdi /var/lib/gpumend /etc/docker/daemon.json"
    )
    booted.restart("docker")
    return booted


# Before the first package is unpacked dpkg has its database in parts; after it the programs are new and the configuration is old.
@pytest.mark.parametrize("at", [f"preinst {TOOLKIT[3]}", f"postinst {TOOLKIT[1]}"])
def test_power_fails_in_an_upgrade(by_default: Node, at: str) -> None:
    assert cut(by_default, at)


@pytest.mark.exhaustive
@pytest.mark.parametrize("at", POINTS)
def test_power_fails_at_each_step_of_an_upgrade(by_default: Node, at: str) -> None:
    assert cut(by_default, at)


def test_power_fails_before_a_new_package_is_unpacked(new: Node) -> None:
    assert cut(new, f"preinst {TOOLKIT[0]}")


@pytest.mark.exhaustive
@pytest.mark.parametrize("at", POINTS)
def test_power_fails_at_each_step_of_new_packages(new: Node, at: str) -> None:
    assert cut(new, at)


@pytest.mark.exhaustive
def test_power_fails_at_each_step_of_ours(by_default: Node) -> None:
    nth = 1
    while cut(by_default, f"entry {nth} of the journal", KILL.format(nth=nth)):
        by_default.sh("rm -rf /var/lib/gpumend; systemctl reset-failed")
        install(by_default, OLD)
        nth += 1
    assert nth >= 3


def test_a_rollback_leaves_the_program_that_running_containers_call(new: Node, lab: Lab) -> None:
    node = new
    done = start(lab, Target(node), deploy="provision").finish()
    assert done.rc == 0 and done.codes(node) == [], done.said
    undo: dict[str, Any] = {"verb": "rollback", "run": done.report["run"], "who": "test", "restarts": "idle"}
    node.run(["docker", "run", "-d", "--name", "job", *RUNTIME, images.BASE, "sleep", "86400"])
    held = result_of(carry_out(node, undo))
    assert held["status"] == "refused" and "its runtime runs job" in held["detail"], held
    assert versions(node) == {f"{NEW}-1"} and starts(node) and starts(node, *RUNTIME)
    node.run(["docker", "rm", "-f", "job"])
    # Another's container keeps dockerd from its restart: what it has loaded names the runtime still.
    node.run(["docker", "run", "-d", "--name", "plain", images.BASE, "sleep", "86400"])
    waits = result_of(carry_out(node, undo))
    assert waits["status"] == "pending" and "stays until then" in waits["detail"], waits
    again = result_of(carry_out(node, undo))
    assert again["status"] == "refused" and "still runs with the configuration" in again["detail"], again
    assert versions(node) == {f"{NEW}-1"} and starts(node)
    node.run(["docker", "rm", "-f", "plain"])
    node.restart("docker")
    assert result_of(carry_out(node, undo))["status"] == "changed"
    assert versions(node) == set() and starts(node)
