"""GM8xx on a booted node with real Docker: report 003's two stale entries are named and freed, and nothing live ever is."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gpumend.payload.allocations import line_of_log
from gpumend.rules.finding import Component
from gpumend.run.attempt import rollback_data
from tests.nodes import gpu, images
from tests.nodes.conftest import Boot
from tests.nodes.crashes import kill_at_every_step
from tests.nodes.drive import Target, audit, carry_out, planned, result_of, start
from tests.nodes.lab import Lab, Node
from tests.nodes.slot import wait_for

STATE, METADATA = "/var/lib/ds01/gpu-state.json", "/var/lib/ds01/container-metadata"
LOG, LOCK = "/var/log/ds01/gpu-allocations.log", "/var/log/ds01/gpu-allocator.lock"
ALLOCATOR = "/opt/ds01-infra/scripts/docker/gpu_allocator.py"
NOTES = "/var/lib/gpumend/allocations.json"
LIVE, STOPPED = "test-final._.1001", "stopped-exp._.1002"
DEBUG, VALIDATION = "test-debug2._.1001", "test-validation._.1001"
CAPTURES = Path(__file__).resolve().parents[1] / "fixtures" / "ds01"
RUN = "20261129T010203Z-a110"
BOOKS: dict[str, Any] = {
    "state": STATE,
    "metadata": METADATA,
    "log": LOG,
    "lock": LOCK,
    "grace": 5,
    "reconcile": "release",
    "monitors": [],
}
WANTED: dict[str, Any] = {"allocations": BOOKS}
BY_ALLOCATOR: dict[str, Any] = {
    "allocations": {**BOOKS, "allocator": ["/usr/bin/python3", ALLOCATOR, "release", "{container}"]}
}
SMI = f"""GPU 0: {gpu.NAME} (UUID: {gpu.UUID})
GPU 1: {gpu.NAME} (UUID: GPU-11111111-1111-1111-1111-111111111111)
  MIG 1g.10gb     Device  0: (UUID: MIG-00000000-0000-0000-0000-000000000010)
  MIG 1g.10gb     Device  1: (UUID: MIG-00000000-0000-0000-0000-000000000011)
  MIG 1g.10gb     Device  2: (UUID: MIG-00000000-0000-0000-0000-000000000012)
"""
# The stand-in has one GPU: this one has MIG devices, and tells what computes.
SMI_SCRIPT = """#!/bin/sh
case "$1" in
-L) cat /var/lib/gpumend-standin/smi.txt ;;
--query-compute-apps=*) cat /var/lib/gpumend-standin/apps.txt ;;
*) exec /usr/bin/nvidia-smi.one "$@" ;;
esac
"""


def slot(*names: str, user: str = "alice") -> dict[str, Any]:
    users = {user: len(names)} if names else {}
    return {
        "type": "mig_instance",
        "containers": list(names),
        "users": users,
        "reserved_until": None,
        "site": "é",
    }


BEFORE = json.dumps(
    {
        "gpus": {
            "0": slot(LIVE),
            "1.0": slot(VALIDATION),
            "1.1": slot(DEBUG),
            "1.2": slot(STOPPED, user="bob"),
        },
        "mig_enabled": True,
        "allocation_strategy": "least_allocated",
    },
    indent=2,
)
AFTER = BEFORE
for _name in (VALIDATION, DEBUG):
    AFTER = AFTER.replace(
        f'[\n        "{_name}"\n      ],\n      "users": {{\n        "alice": 1\n      }}',
        '[],\n      "users": {}',
    )


@pytest.fixture(scope="module")
def equipped(shared_boot: Boot) -> Node:
    """A node with Docker, a GPU, a site's allocator and its books, one running container and one that was stopped."""
    node = shared_boot("trixie", "healthy")
    node.sh("mv /usr/bin/nvidia-smi /usr/bin/nvidia-smi.one")
    node.write("/usr/bin/nvidia-smi", SMI_SCRIPT, 0o755)
    standin = Path(__file__).with_name("standins") / "gpu_allocator.py"
    node.write(ALLOCATOR, standin.read_text(), 0o755)
    node.write(LOCK, "")
    labels = ["--label", "ds01.name=al|ice\nx|RELEASED", "--label", "aime.mlc.NAME=test-final"]
    node.run(
        [
            "docker",
            "run",
            "-d",
            "--name",
            LIVE,
            *labels,
            "--runtime=nvidia",
            "--gpus",
            f"device={gpu.UUID}",
            images.BASE,
            "sleep",
            "86400",
        ]
    )
    granted = ["--runtime=nvidia", "--gpus", "device=MIG-00000000-0000-0000-0000-000000000012"]
    node.run(["docker", "create", "--name", STOPPED, *granted, images.BASE, "true"])
    # Nothing is freed under a dockerd that has run for less than `grace`.
    pid = str(node.main_pid("docker.service"))
    age = ["ps", "-o", "etimes=", "-p", pid]
    wait_for("dockerd is old enough", lambda: int(node.run(age).stdout) > BOOKS["grace"] + 1, 60.0)
    return node


@pytest.fixture
def node(equipped: Node) -> Node:
    """The books are as in the report again, and nothing was seen or done."""
    lay(equipped)
    equipped.sh(f"rm -rf /var/lib/gpumend; mkdir -p {METADATA}; rm -f {METADATA}/*")
    for path in (CAPTURES / "container-metadata").iterdir():
        if path.name.startswith((LIVE, DEBUG, VALIDATION)):
            text = (
                path.read_text().replace('"1.2"', '"0"') if path.name.startswith(LIVE) else path.read_text()
            )
            equipped.write(f"{METADATA}/{path.name}", text)
    return equipped


def lay(node: Node) -> None:
    node.write(STATE, BEFORE)
    node.write(LOG, (CAPTURES / "gpu-allocations.log.txt").read_text())
    node.write("/var/lib/gpumend-standin/smi.txt", SMI)
    node.write("/var/lib/gpumend-standin/apps.txt", "")


def pid(node: Node) -> str:
    return node.run(["docker", "inspect", "-f", "{{.State.Pid}} {{.State.StartedAt}}", LIVE]).stdout


def lines_since(node: Node) -> list[dict[str, str]]:
    """What was written to the site's log, as it parses back."""
    old = (CAPTURES / "gpu-allocations.log.txt").read_text()
    text = node.read(LOG).decode()
    assert text.startswith(old)
    found = [line_of_log(line) for line in text[len(old) :].splitlines()]
    assert all(each is not None for each in found)
    return [each for each in found if each is not None]


AGE = f"""
import json
with open({NOTES!r}) as handle: notes = json.load(handle)
for seen in notes["seen"].values(): seen["clock"] -= SECONDS
with open({NOTES!r}, "w") as handle: json.dump(notes, handle)
"""


def age(node: Node, seconds: int = 600) -> None:
    """What was noted was noted so much earlier."""
    node.run(["python3", "-c", AGE.replace("SECONDS", str(seconds))])


def plan(node: Node, wanted: dict[str, Any] | None = None) -> dict[str, Any]:
    return planned(node, Component.ALLOCATIONS, RUN, wanted or WANTED)


def seen(node: Node, wanted: dict[str, Any] | None = None) -> dict[str, Any]:
    """The plan, of which all was seen once, long enough ago."""
    data = plan(node, wanted)
    first = result_of(carry_out(node, data))
    assert first["status"] == "pending" and "for the first time" in first["detail"], first
    assert node.read(STATE) == BEFORE.encode()
    age(node)
    return data


def test_the_two_of_the_report_are_named_and_freed_and_nothing_else(lab: Lab, node: Node) -> None:
    live = pid(node)
    target = Target(node, wanted=WANTED)
    told = audit(lab, target)
    stale = [f["summary"] for f in told.host(node)["findings"] if f["code"] == "GM802"]
    assert [VALIDATION in stale[0], DEBUG in stale[1]] == [True, True] and len(stale) == 2, told.said
    assert not node.exists(NOTES), "an audit writes nothing"
    once = start(lab, target, deploy="allocations").finish()
    assert once.change(node, Component.ALLOCATIONS)["status"] == "pending", once.said
    assert node.read(STATE) == BEFORE.encode()
    age(node)
    twice = start(lab, target, deploy="allocations").finish()
    assert twice.change(node, Component.ALLOCATIONS)["status"] == "changed", twice.said
    freed(node, twice.report["run"])
    assert node.read(STATE) == BEFORE.encode()
    assert pid(node) == live


def test_the_sites_allocator_frees_them(node: Node) -> None:
    live = pid(node)
    result = result_of(carry_out(node, seen(node, BY_ALLOCATOR)))
    assert result["status"] == "changed" and "by the site's allocator" in result["detail"], result
    freed(node, RUN)
    assert pid(node) == live


def test_the_agent_frees_them_by_its_timer_where_it_may(lab: Lab, node: Node) -> None:
    """Without a terminal and without anybody asking; the first time it only takes note."""
    live = pid(node)
    allowed = {**WANTED, "agent": {"interval": 60, "mend": [str(Component.ALLOCATIONS)]}}

    def agent(verb: str) -> None:
        ran = start(
            lab, Target(node, wanted=allowed), deploy="agent", more=("-y", "--data", f"agent_verb={verb}")
        ).finish()
        assert ran.rc == 0, ran.said

    agent("install")
    assert node.is_active("gpumend-mend.timer")
    node.run(["systemctl", "start", "gpumend-mend.service"])
    assert node.read(STATE) == BEFORE.encode()
    age(node)
    node.run(["systemctl", "start", "gpumend-mend.service"])
    assert json.loads(node.read(STATE)) == json.loads(AFTER)
    assert [each["name"] for each in lines_since(node)] == [VALIDATION, DEBUG]
    assert pid(node) == live
    agent("uninstall")


def freed(node: Node, run: str) -> None:
    """Those two and nothing else are freed, the log says so, a second run has nothing to do, and it can be rolled back."""
    assert json.loads(node.read(STATE)) == json.loads(AFTER)
    assert [(each["act"], each["name"]) for each in lines_since(node)] == [
        ("RELEASED", VALIDATION),
        ("RELEASED", DEBUG),
    ]
    assert node.run(["ls", METADATA]).stdout.split() == [f"{LIVE}.json"]
    with pytest.raises(LookupError, match="nothing is planned"):
        plan(node)
    back = result_of(carry_out(node, rollback_data(run, "never")))
    assert back["status"] == "changed", back
    assert json.loads(node.read(STATE)) == json.loads(BEFORE)
    assert len(node.run(["ls", METADATA]).stdout.split()) == 3


def test_rollback_leaves_a_slot_that_somebody_holds_anew(node: Node) -> None:
    result = result_of(carry_out(node, seen(node)))
    assert result["status"] == "changed", result
    assert node.read(STATE) == AFTER.encode()
    now = json.loads(AFTER)
    now["gpus"]["1.0"].update(containers=["new._.1003"], users={"carol": 1})
    node.write(STATE, json.dumps(now))
    back = result_of(carry_out(node, rollback_data(RUN, "never")))
    assert back["status"] == "broken" and "held anew by new._.1003" in back["detail"], back
    found = json.loads(node.read(STATE))["gpus"]
    assert [found[each]["containers"] for each in ("1.0", "1.1")] == [["new._.1003"], [DEBUG]]


def freed_nothing(node: Node, data: dict[str, Any], *statuses: str, extra: str = "") -> dict[str, Any]:
    state, log = node.read(STATE), node.read(LOG)
    result = result_of(carry_out(node, data, extra))
    assert result["status"] in statuses, result
    assert (node.read(STATE), node.read(LOG)) == (state, log)
    return result


@contextmanager
def container(node: Node, name: str, *more: str) -> Iterator[None]:
    node.run(["docker", "run", "-d", "--name", name, *more, images.BASE, "sleep", "600"])
    try:
        yield
    finally:
        node.run(["docker", "rm", "-f", name])


GHOST = "ab" * 32


def test_whatever_is_not_known_frees_nothing(node: Node) -> None:
    data = seen(node)
    with container(node, DEBUG):  # between the two looks
        assert "not stale any more" in freed_nothing(node, data, "moved")["detail"]
    age(node)
    with container(node, "renamed", "--runtime=nvidia", "--gpus", "all"):
        freed_nothing(node, data, "moved")
    for name, text in (("unread", "{"), ("named", json.dumps({"Name": f"/{DEBUG}"}))):
        at = f"/var/lib/docker/containers/{GHOST}"
        node.write(f"{at}/config.v2.json", text)
        found = freed_nothing(node, data, "refused", "moved")
        assert name != "unread" or "names cannot be read" in found["detail"]
        node.run(["rm", "-r", at])
    node.write("/var/lib/gpumend-standin/smi.txt", "Unable to determine the device handle for GPU1\n")
    assert "device handle" in freed_nothing(node, data, "refused")["detail"]
    node.write("/var/lib/gpumend-standin/smi.txt", SMI)
    node.write("/var/lib/gpumend-standin/apps.txt", "1, GPU-11111111-1111-1111-1111-111111111111\n")
    freed_nothing(node, data, "moved")
    node.write("/var/lib/gpumend-standin/apps.txt", "")
    node.write(STATE, BEFORE[: len(BEFORE) // 2])
    assert "line" in freed_nothing(node, data, "refused")["detail"]
    node.write(STATE, BEFORE)


HIDE = f"""
set -eu
at=/sys/fs/cgroup/system.slice/docker-{GHOST}.scope
mkdir "$at"; sleep 600 >/dev/null 2>&1 </dev/null & echo $! >"$at/cgroup.procs"; echo $!
"""


def test_a_container_that_runs_and_is_not_listed_frees_nothing(node: Node) -> None:
    data = seen(node)
    ghost = node.sh(f"{HIDE} >/root/ghost; cat /root/ghost").stdout.strip()
    try:
        assert GHOST[:12] in freed_nothing(node, data, "refused")["detail"]
    finally:
        node.sh(f"kill {ghost}; rmdir /sys/fs/cgroup/system.slice/docker-{GHOST}.scope || true")


PROXY = """
import socket, time
at = socket.socket(socket.AF_UNIX); at.bind("/run/docker-proxy.sock"); at.listen(5)
time.sleep(600)
"""


def test_a_proxy_is_no_dockerd(node: Node) -> None:
    data = seen(node)
    node.write("/root/proxy.py", PROXY)
    node.sh(
        "rm -f /run/docker-proxy.sock; setsid python3 /root/proxy.py >/dev/null 2>&1 </dev/null & echo $! >/root/proxy.pid; until [ -S /run/docker-proxy.sock ]; do :; done"
    )
    try:
        step = dict(data["steps"][0], spec={**data["steps"][0]["spec"], "socket": "/run/docker-proxy.sock"})
        assert (
            "no dockerd of this host's" in freed_nothing(node, {**data, "steps": [step]}, "refused")["detail"]
        )
    finally:
        node.sh('kill "$(cat /root/proxy.pid)"')


def test_a_clock_that_jumps_counts_for_nothing(node: Node) -> None:
    data = seen(node)
    age(node, -100000000)  # noted in the future
    assert "for the first time" in freed_nothing(node, data, "pending")["detail"]
    node.sh(f'sed -i \'s/"boot": "[^"]*"/"boot": "another"/\' {NOTES}')
    age(node)
    freed_nothing(node, data, "pending")


def test_the_allocators_lock_is_waited_for_and_not_broken(node: Node) -> None:
    data = seen(node)
    held = node.sh(f"setsid flock {LOCK} sleep 600 >/dev/null 2>&1 </dev/null & echo $!").stdout.strip()
    node.sh(f"until ! flock -n {LOCK} true; do :; done")
    try:
        result = freed_nothing(node, data, "refused", extra="ALLOCATOR_LOCK_WAIT = 0.2\n")
        assert "is held" in result["detail"]
    finally:
        node.sh(f"kill -- -{held}", check=False)


def test_two_at_once_free_it_once(node: Node) -> None:
    data = seen(node)
    results: list[dict[str, Any]] = []

    def one(number: int) -> None:
        results.append(result_of(carry_out(node, {**data, "run": f"{RUN[:-1]}{number}"})))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert sorted(each["status"] for each in results) == ["changed", "moved"], results
    assert node.read(STATE) == AFTER.encode()
    assert len(lines_since(node)) == 2


def test_killed_before_every_step_the_state_file_parses_and_the_next_run_ends_well(node: Node) -> None:
    data = seen(node)
    # What was written of them since would make them seen for the first time.
    node.sh(f"cp {NOTES} /root/allocations.json; cp {LOG} /root/log")
    reset = [["install", "-D", "-m", "600", "/root/allocations.json", NOTES], ["cp", "/root/log", LOG]]
    killed = kill_at_every_step(node, data, ["/var/lib/ds01"], reset=reset)
    assert len(killed) >= 6, killed
    json.loads(node.read(STATE))


def test_docker_that_hangs_is_stopped_or_has_just_begun_frees_nothing(node: Node) -> None:
    data = seen(node)
    dockerd = node.main_pid("docker.service")
    node.run(["kill", "-STOP", str(dockerd)])
    try:
        freed_nothing(node, data, "refused", extra="LOOK_TIMEOUT = 1\n")
    finally:
        node.run(["kill", "-CONT", str(dockerd)])
    node.run(["systemctl", "stop", "docker.service", "docker.socket"])
    freed_nothing(node, data, "refused")
    node.run(["systemctl", "start", "docker.service"])
    step = dict(data["steps"][0], grace=60)
    assert "has run for" in freed_nothing(node, {**data, "steps": [step]}, "refused")["detail"]
    # what was noted under another dockerd counts for nothing
    node.run(["docker", "start", LIVE])
    step = dict(step, grace=0)
    assert "for the first time" in freed_nothing(node, {**data, "steps": [step]}, "pending")["detail"]
