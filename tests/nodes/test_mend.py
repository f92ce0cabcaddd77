"""The main job, end to end: incident report 002 on three generations of Docker, over SSH."""

from __future__ import annotations

import pytest

from gpumend.rules.finding import Component
from tests.nodes import scenarios
from tests.nodes.conftest import Boot
from tests.nodes.drive import Ran, Target, audit, mend
from tests.nodes.faults import healed
from tests.nodes.images import import_python_image
from tests.nodes.lab import Lab, Node
from tests.nodes.toolkit import CONFIG

DEVICE = ("--device", "nvidia.com/gpu=0")
RUNTIME = ("--runtime=nvidia", "-e", "NVIDIA_VISIBLE_DEVICES=all")
# What each generation needs, by its own means: (suite, codes that the audit finds in Docker, paths that then work)
GENERATIONS = [
    pytest.param("bookworm", {"GM403"}, [RUNTIME], "reload", id="docker-20.10-no-cdi-in-the-engine"),
    pytest.param("trixie", {"GM403", "GM404"}, [RUNTIME, DEVICE], "restart", id="docker-26.1-features.cdi"),
    pytest.param("sid", {"GM403"}, [RUNTIME, DEVICE], "reload", id="docker-28.5-cdi-by-itself"),
]


def sees_gpu(node: Node, options: tuple[str, ...]) -> bool:
    """Whether a container started with these options has the device node."""
    done = node.run(["docker", "run", "--rm", *options, "base:1", "ls", "/dev/nvidia0"], check=False)
    return done.returncode == 0 and done.stdout == "/dev/nvidia0\n"


def within_budget(ran: Ran, node: Node) -> bool:
    """One exec for the audit, and at most two more a changed component."""
    changed = [status for status in ran.statuses(node).values() if status != "unchanged"]
    return ran.sessions[node.name] <= 1 + 2 * len(changed)


@pytest.mark.parametrize(("suite", "docker_codes", "paths", "told"), GENERATIONS)
def test_report_002_is_found_mended_proven_and_stays(
    boot: Boot, lab: Lab, suite: str, docker_codes: set[str], paths: list[tuple[str, ...]], told: str
) -> None:
    node = boot(suite, scenario="report_002")
    assert not any(sees_gpu(node, path) for path in paths), "the breakage must be seen first"

    etc = node.tree("/etc")
    found = audit(lab, node)
    assert found.rc == 3, found.said
    assert set(found.codes(node)) == {"GM201", "GM204", "GM301"} | docker_codes
    assert node.tree("/etc") == etc, "an audit writes nothing"
    assert found.sessions[node.name] == 1

    before_config, before_daemon = node.read(CONFIG).decode(), node.read(scenarios.DAEMON).decode()
    pid = node.main_pid("docker.service")
    done = mend(lab, node)
    assert done.rc == 0, done.said
    assert done.codes(node) == []
    assert within_budget(done, node)
    assert done.change(node, Component.DOCKER)["notified"] == told
    assert (node.main_pid("docker.service") != pid) == (told == "restart")
    for path in paths:
        assert sees_gpu(node, path), path

    # Every foreign byte is there: only the lines that name our values differ.
    config = node.read(CONFIG).decode()
    assert config == before_config.replace('"@/sbin/ldconfig.real"', '"@/sbin/ldconfig"').replace(
        'mode = "auto"', 'mode = "cdi"'
    )
    daemon = node.read(scenarios.DAEMON).decode()
    for line in before_daemon.splitlines():
        kept = line.rstrip(",}") if "features" in line or "other" in line else line
        assert kept in daemon, line
    assert ('"cdi": true' in daemon) == (suite == "trixie"), "no key that this Docker does not need"

    etc, pid = node.tree("/etc", "/var/lib/gpumend"), node.main_pid("docker.service")
    again = mend(lab, node)
    assert again.rc == 0, again.said
    assert again.statuses(node) == {}
    assert again.sessions[node.name] == 1
    assert node.tree("/etc", "/var/lib/gpumend") == etc, "a second run changes nothing"
    assert node.main_pid("docker.service") == pid
    assert audit(lab, node).rc == 0


@pytest.mark.parametrize("toolkit", ["1.14.6", "1.17.8", "1.18.2"])
def test_report_002_with_every_toolkit(boot: Boot, lab: Lab, toolkit: str) -> None:
    node = boot("trixie", scenario="report_002", toolkit=toolkit)
    assert mend(lab, node).rc == 0
    assert sees_gpu(node, RUNTIME)
    assert sees_gpu(node, DEVICE)
    assert audit(lab, node).rc == 0


def test_sudo_user_mends_as_root_does(boot: Boot, lab: Lab) -> None:
    node = boot("trixie", scenario="report_002")
    assert mend(lab, Target(node, user="ops")).rc == 0
    assert sees_gpu(node, DEVICE)


def test_rollback_gives_back_every_byte(boot: Boot, lab: Lab) -> None:
    node = boot("trixie", scenario="report_002")
    before = {path: node.read(path) for path in (CONFIG, scenarios.DAEMON)}
    done = mend(lab, node)
    assert done.rc == 0
    import subprocess
    import sys

    from tests.nodes.drive import ROOT, Running

    running = Running(lab, (node,), ("deploys/rollback.py", "-y", "--data", f"run={done.report['run']}"))
    undone = running.finish()
    assert undone.rc == 0, undone.said
    assert {path: node.read(path) for path in before} == before
    assert not node.exists(scenarios.SPEC)
    assert node.is_active("docker.service")
    assert audit(lab, node).rc == 3
    assert subprocess.run([sys.executable, "-m", "gpumend.cli.main", "--version"], cwd=ROOT).returncode == 0


def test_proof_in_a_container_calls_cuinit(boot: Boot, lab: Lab) -> None:
    node = boot("trixie", scenario="report_002")
    import_python_image(node)
    done = mend(lab, Target(node, wanted={"prove": {"image": "python:1"}}))
    assert done.rc == 0, done.said
    assert done.host(node)["proof"]["status"] == "changed"


def test_a_failed_proof_in_a_container_undoes_the_whole_run(boot: Boot, lab: Lab) -> None:
    node = boot("trixie", scenario="report_002")
    wanted = {"prove": {"image": "base:1", "command": ["false"]}}
    with healed("proof that fails", lab, node):
        before = {path: node.read(path) for path in (CONFIG, scenarios.DAEMON)}
        done = mend(lab, Target(node, wanted=wanted))
        assert done.rc == 4, done.said
        assert {path: node.read(path) for path in before} == before
        assert node.is_active("docker.service")


STALE = [
    ("stale_spec", "GM304"),
    ("duplicate_spec", "GM303"),
    ("wrong_uvm_major", "GM304"),
    ("leftover_static_spec", "GM309"),
    ("runtime_missing", "GM403"),
    ("cdi_feature_off", "GM404"),
]


def add_by_hand(node: Node) -> None:
    """A person's mount and variable are in the spec."""
    text = node.read(scenarios.SPEC).decode()
    mount = "        - hostPath: /srv\n          containerPath: /models\n          options: [ro, rbind]\n"
    for key, more in (("\n    env:\n", "        - MODEL_DIR=/models\n"), ("\n    mounts:\n", mount)):
        assert text.count(key) == 1, text
        text = text.replace(key, key + more)
    node.write(scenarios.SPEC, text)
    node.write("/srv/weights", "17\n")


@pytest.mark.parametrize(("scenario", "code"), STALE)
def test_each_breakage_is_named_and_mended(boot: Boot, lab: Lab, scenario: str, code: str) -> None:
    node = boot("trixie", scenario=scenario)
    edited = scenario == "stale_spec"
    if edited:
        add_by_hand(node)
    found = audit(lab, node)
    assert found.rc == 3, found.said
    assert code in found.codes(node)
    if edited:
        texts = [item["text"] for item in found.finding(node, code)["evidence"]]
        by_hand = ["env MODEL_DIR: not nvidia-ctk's", "mount /srv: not nvidia-ctk's"]
        assert [text for text in texts if "not nvidia-ctk's" in text] == by_hand
    done = mend(lab, node)
    assert done.rc == 0, done.said
    assert sees_gpu(node, DEVICE)
    if edited:
        assert "~ driver" in done.change(node, Component.CDI)["detail"], "what it changed for containers"
        there = ["docker", "run", "--rm", *DEVICE, "base:1", "sh", "-c", "cat $MODEL_DIR/weights"]
        assert node.run(there).stdout == "17\n", "what was added is in the new spec"
    assert audit(lab, node).rc == 0


def test_a_mode_switch_waits_for_those_who_use_the_gpus_flag(boot: Boot, lab: Lab) -> None:
    node = boot("trixie", scenario="gpus_container_running")
    wanted = {"runtime": {"mode": "cdi"}}
    held = mend(lab, Target(node, wanted=wanted))
    assert held.rc == 3, held.said
    finding = held.finding(node, "GM204")
    assert finding["mends"] is None
    assert "--gpus" in finding["refused"]
    assert 'mode = "cdi"' not in node.read(CONFIG).decode()
    done = mend(lab, Target(node, wanted={**wanted, "allow_breaking_gpus_flag": True, "restarts": "allow"}))
    assert 'mode = "cdi"' in node.read(CONFIG).decode(), done.said


@pytest.mark.parametrize("suite", ["bookworm", "trixie", "sid"])
def test_a_healthy_host_is_as_wanted(shared_boot: Boot, lab: Lab, suite: str) -> None:
    node = shared_boot(suite, scenario="healthy")
    found = audit(lab, node)
    assert found.rc == 0, found.said
    assert found.codes(node) == []


def test_what_cannot_succeed_leaves_the_independent_ones_their_turn(boot: Boot, lab: Lab) -> None:
    """One refused component ended the host's run without a word: Docker was never tried."""
    node = boot("trixie", scenario="report_002")
    node.run(["mv", "/usr/bin/nvidia-ctk", "/usr/bin/nvidia-ctk.real"])
    fails = '[ "$1 $2" = "cdi generate" ] && exit 1'
    node.write("/usr/bin/nvidia-ctk", f'#!/bin/sh\n{fails}\nexec /usr/bin/nvidia-ctk.real "$@"\n', 0o755)
    done = mend(lab, node)
    assert done.rc == 4, done.said
    host = done.host(node)
    assert done.statuses(node) == {Component.CDI: "refused", Component.DOCKER: "changed"}, done.said
    assert Component.CDI in host["blocked"][Component.TOOLKIT]
    assert f"left alone    {Component.TOOLKIT}: it builds on {Component.CDI}" in done.stdout, done.said
    assert sees_gpu(node, RUNTIME), "one of the two ways is open"
