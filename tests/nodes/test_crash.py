"""Promise 3: a crash or a lost connection at any step leaves each file old or new, never a mix, and dockerd running;
the next mend puts the interrupted run back, and ends well."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from rules.finding import Component
from tests.nodes import images, scenarios, toolkit
from tests.nodes.conftest import Boot
from tests.nodes.drive import Target, audit, carry_out, mend, planned, result_of, start
from tests.nodes.faults import INJECTED, SURVIVED, counted
from tests.nodes.lab import Lab, Node
from tests.nodes.slot import wait_for

RUN = "20260101T000000Z-dead"
LOCK = "/run/gpumend.lock"
# Not part of the shipped program: it ends itself, as kill -9 does, before its N-th step that leaves a trace on the host.
KILL = """
_steps = [0]

def _step(name, arguments):
    _steps[0] += 1
    if _steps[0] == int(sys.argv[1]):
        sys.stderr.write("%s %s" % (name, arguments[:2]))
        sys.stderr.flush()
        os.kill(os.getpid(), signal.SIGKILL)

def _wrap(place, name):
    real = getattr(place, name)
    def wrapped(*arguments, **named):
        _step(name, arguments)
        return real(*arguments, **named)
    setattr(place, name, wrapped)

for _name in ("mkdir", "rmdir", "chmod", "fchmod", "fsync", "link", "rename", "unlink", "utime"):
    _wrap(os, _name)
_wrap(tempfile, "mkstemp")
_wrap(sys.modules["__main__"], "run")
"""
STATE = """
import glob, hashlib, json, os, sys
found = {"journals": [], "target": None, "beside": []}
for path in sorted(glob.glob("/var/lib/gpumend/runs/*/*/journal.json")):
    found["journals"].append(json.load(open(path)))
target = sys.argv[1]
if os.path.exists(target):
    found["target"] = hashlib.sha256(open(target, "rb").read()).hexdigest()
if os.path.isdir(os.path.dirname(target)):
    found["beside"] = sorted(name for name in os.listdir(os.path.dirname(target)) if ".gpumend" in name)
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Case:
    """One component's change. prepare: a healthy node into the state that calls for it; serves: dockerd is told."""

    component: Component
    target: str
    prepare: Callable[[Node], None]
    version: str = "1.17.8"
    serves: bool = False


def docker_untold(node: Node) -> None:
    """daemon.json has neither the runtime nor CDI, and other keys that must stay."""
    scenarios.write_daemon(node, '{\n  "log-driver": "json-file"\n}\n')


def spec_gone(node: Node) -> None:
    node.sh("rm -rf /etc/cdi")


def spec_stale(node: Node) -> None:
    """nvidia-cdi-refresh's spec names a library that is not there; everything else is as wanted."""
    toolkit.write_config(node, mode="cdi")
    path = "/var/run/cdi/nvidia.yaml"
    node.write(path, node.read(path).replace(b"libcuda.so.550.163.01", b"libcuda.so.535.183.01"))


def config_wrong(node: Node) -> None:
    text = node.read(toolkit.CONFIG).decode()
    node.write(toolkit.CONFIG, "# keep this\n" + text.replace('mode = "cdi"', 'mode = "auto"'))


CASES = {
    "docker": Case(Component.DOCKER, scenarios.DAEMON, docker_untold, serves=True),
    "spec that was not there": Case(Component.CDI, scenarios.SPEC, spec_gone),
    "spec of nvidia-cdi-refresh": Case(Component.CDI, "/var/run/cdi/nvidia.yaml", spec_stale, "1.18.2"),
    "config.toml": Case(Component.TOOLKIT, toolkit.CONFIG, config_wrong),
}


class Bench:
    """One node that is brought back to the same state before every kill."""

    def __init__(self, node: Node, case: Case) -> None:
        self.node, self.case = node, case
        case.prepare(node)
        self.old = self.content()
        self.data = planned(node, case.component, RUN)
        result = result_of(carry_out(node, self.data))
        assert result["status"] == "changed", result
        self.new = self.content()
        assert self.new != self.old
        self.reset()

    def content(self) -> bytes | None:
        return self.node.read(self.case.target) if self.node.exists(self.case.target) else None

    def reset(self) -> None:
        """The host is as it was before its change, and has no run's traces."""
        self.node.sh("rm -rf /var/lib/gpumend")
        if self.old is None:
            self.case.prepare(self.node)
        else:
            self.node.write(self.case.target, self.old)
        if self.case.serves:
            self.node.restart("docker")

    def kill_at(self, step: int, data: dict[str, Any] | None = None) -> str:
        """The program was killed before that step, whose name is returned; an empty text where it came to its end."""
        done = carry_out(self.node, data or self.data, KILL, (str(step),))
        if done.returncode == 0:
            assert result_of(done)["status"] == "changed", done.stdout
            return ""
        assert done.returncode in (-9, 137), done.stderr
        return done.stderr

    def state(self) -> dict[str, Any]:
        """What a later run can see; raises where a journal is not JSON."""
        found: dict[str, Any] = json.loads(self.node.run(["python3", "-c", STATE, self.case.target]).stdout)
        return found

    def check(self, at: str) -> None:
        """What has to hold right after a kill."""
        assert self.content() in (self.old, self.new), f"neither old nor new after {at}"
        if self.case.serves:
            self.node.wait_active("docker")
            self.node.run(["docker", "info"])
        free = self.node.run(["flock", "-n", LOCK, "true"], check=False)
        assert free.returncode == 0, f"locked after {at}"

    def recover(self) -> None:
        """The next run's first transaction, without SSH: the host is as it was."""
        journals = [f"/var/lib/gpumend/runs/{RUN}/{self.case.component}/journal.json"]
        if not self.node.exists(journals[0]):
            return
        again = {"verb": "recover", "run": "next", "who": "test", "restarts": "idle", "journals": journals}
        result = result_of(carry_out(self.node, again))
        assert result["status"] in ("changed", "unchanged"), result
        assert [journal["state"] for journal in self.state()["journals"]] == ["put_back"]


def key(state: dict[str, Any], bench: Bench) -> str:
    """What of the host's state decides how it is recovered."""
    journals = [
        (journal["state"], journal["served"], journal["log"], len(journal["files"]))
        for journal in state["journals"]
    ]
    kinds = sorted("old" if name.endswith("-old") else "staged" for name in state["beside"])
    return json.dumps([journals, kinds, bench.content() == bench.new])


@pytest.fixture
def bench(request: pytest.FixtureRequest, boot: Boot) -> Iterator[Bench]:
    case = CASES[request.param]
    yield Bench(boot("trixie", "healthy", case.version), case)


@pytest.mark.parametrize("bench", CASES, indirect=True)
def test_killed_before_every_step(lab: Lab, bench: Bench) -> None:
    """Every step is killed once. What a later run does depends on nothing but the state that it finds: for each
    different one the whole product mends and audits, and for the rest its recovering transaction has to do."""
    node, seen = bench.node, set()
    step = 1
    while at := bench.kill_at(step):
        INJECTED["kill -9"] += 1
        bench.check(at)
        state = bench.state()
        if (found := key(state, bench)) not in seen:
            seen.add(found)
            mended = mend(lab, node)
            assert mended.rc == 0, f"after {at}: {mended.said}"
            recovered = any(journal["state"] == "working" for journal in state["journals"])
            assert ("GM003" in mended.host(node)["found"]) == recovered
            assert bench.content() == bench.new
            again = audit(lab, node)
            assert again.rc == 0, f"after {at}: {again.said}"
            bench.check(at)
            left = bench.state()
            assert left["beside"] == []
            assert "working" not in [journal["state"] for journal in left["journals"]]
            bench.reset()
        else:
            bench.recover()
            assert bench.content() == bench.old, f"not put back after {at}"
            assert bench.state()["beside"] == []
            node.sh("rm -rf /var/lib/gpumend")
        SURVIVED["kill -9"] += 1
        step += 1
    assert bench.content() == bench.new
    assert bench.state()["beside"] == []
    assert step > 20
    assert len(seen) >= 5


@pytest.mark.parametrize("bench", ["config.toml"], indirect=True)
def test_recovery_killed_before_every_step(bench: Bench) -> None:
    """A run that puts an interrupted one back may be killed, too: the next one puts back what is left."""
    renamed = 1
    while bench.kill_at(renamed) and bench.content() != bench.new:
        bench.reset()
        renamed += 1
    again = {
        "verb": "recover",
        "run": "next",
        "who": "test",
        "restarts": "idle",
        "journals": [f"/var/lib/gpumend/runs/{RUN}/{bench.case.component}/journal.json"],
    }
    step = 1
    while at := bench.kill_at(step, again):
        INJECTED["kill -9"] += 1
        bench.check(at)
        bench.recover()
        assert bench.content() == bench.old
        assert bench.state()["beside"] == []
        bench.reset()
        assert bench.kill_at(renamed)
        assert bench.content() == bench.new
        SURVIVED["kill -9"] += 1
        step += 1
    assert bench.content() == bench.old
    assert step > 5


# Not part of the shipped program: from its N-th step on, the disk has no room for one more file or byte.
FULL = KILL.replace(
    "    if _steps[0] == int(sys.argv[1]):",
    """    adds = name in ("mkdir", "mkstemp", "link")
    adds = adds or name == "fsync" and stat.S_ISREG(os.fstat(arguments[0]).st_mode)
    if adds and _steps[0] >= int(sys.argv[1]):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if False:""",
)


@pytest.mark.parametrize("bench", ["docker", "config.toml"], indirect=True)
def test_disk_that_is_full_from_any_step_on(bench: Bench) -> None:
    """Old or new, said so, and nothing left over that a later run would take for an interrupted one."""
    node, case = bench.node, bench.case
    ended: list[str] = []
    step = 1
    while ended[-1:] != ["changed"] or bench.state()["journals"] == []:
        INJECTED["full disk"] += 1
        done = carry_out(node, bench.data, FULL, (str(step),))
        result = result_of(done)
        ended.append(result["status"])
        bench.check(f"step {step}")
        state = bench.state()
        assert result["status"] in ("refused", "put_back", "changed"), (step, result)
        assert (bench.content() == bench.new) == (result["status"] == "changed"), (step, result)
        assert state["beside"] == [], step
        assert [journal["state"] for journal in state["journals"] if journal["state"] == "working"] == []
        if result["status"] != "changed":
            assert "No space left on device" in result["detail"]
        elif state["journals"] == []:
            assert "cannot be rolled back" in result["detail"]
        if result["status"] == "changed":
            bench.reset()
        else:
            node.sh("rm -rf /var/lib/gpumend")
        SURVIVED["full disk"] += 1
        step += 1
        if ended[-1] == "changed" and state["journals"]:
            break
    order = ["refused", "put_back", "changed"] if case.serves else ["refused", "changed"]
    assert [status for status in order if status in ended] == order, ended


# -- D. the connection ---------------------------------------------------------------------------------------------


@counted("lost connection")
@pytest.mark.parametrize("user", ["root", "ops"])
def test_lost_connection_does_not_end_the_transaction(lab: Lab, boot: Boot, user: str) -> None:
    """The session's sshd is killed while dockerd is being restarted, and the program is told so: it finishes, proves,
    and says so in its journal; the next run finds a host as wanted."""
    node = boot("trixie", "healthy")
    docker_untold(node)
    node.sh("mkfifo /run/gate")
    node.write(
        "/etc/systemd/system/docker.service.d/gate.conf",
        "[Service]\nExecStartPre=/bin/sh -c 'if [ -p /run/gate ]; then read x </run/gate; fi'\n",
    )
    node.sh("systemctl daemon-reload")
    running = start(lab, Target(node, user))
    wait_for("dockerd is being restarted", lambda: node.show("docker", "ActiveState") == "activating", 60.0)
    node.run(["pkill", "-KILL", "-f", rf"^sshd.*: {user}"])
    # As the kernel does where sudo gave the program a terminal of its own.
    node.run(["pkill", "-HUP", "-f", "^python3 -I -S -B -$"])
    ran = running.finish()
    assert ran.rc == 5, ran.said
    change = ran.change(node, Component.DOCKER)
    assert change["status"] == "lost"
    assert "audit it again" in change["detail"]
    assert node.name in ran.stdout
    journal = f"/var/lib/gpumend/runs/{ran.report['run']}/{Component.DOCKER}/journal.json"
    assert json.loads(node.read(journal))["state"] == "working"
    node.sh("echo go >/run/gate; rm /run/gate")
    wait_for("the transaction has ended", lambda: json.loads(node.read(journal))["state"] != "working", 60.0)
    assert json.loads(node.read(journal))["state"] == "done"
    wait_for(
        "the program has ended", lambda: node.run(["flock", "-n", LOCK, "true"], check=False).returncode == 0
    )
    before = node.tree("/etc")
    again = mend(lab, Target(node, user))
    assert again.rc == 0, again.said
    assert again.host(node)["changes"] == []
    assert node.tree("/etc") == before


@counted("kill -9")
def test_interrupted_restart_waits_for_containers_started_since(lab: Lab, boot: Boot) -> None:
    """What puts an interrupted run back may take a restart, too: it waits like any other."""
    node = boot("trixie", "healthy")
    docker_untold(node)
    data = planned(node, Component.DOCKER, RUN)
    kill_after_restart = "def prove(proofs, told):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    assert carry_out(node, data, kill_after_restart).returncode in (-9, 137)
    node.run(["docker", "run", "-d", "--name", "trainer", images.BASE, "sleep", "86400"])
    pid = node.main_pid("docker")
    ran = mend(lab, node)
    assert ran.rc in (0, 3), ran.said
    assert ran.statuses(node)[Component.RECOVER] == "pending"
    assert "it would stop 1 running: trainer" in ran.change(node, Component.RECOVER)["detail"]
    assert node.main_pid("docker") == pid
    assert node.run(["docker", "ps", "-q"]).stdout != ""


@counted("kill -9")
def test_containers_of_an_interrupted_restart_run_again(lab: Lab, boot: Boot) -> None:
    """Killed after dockerd's restart, before what it stopped was started: the next run starts it."""
    node = boot("trixie", "healthy")
    docker_untold(node)
    node.run(
        ["docker", "run", "-d", "--stop-signal=KILL", "--name", "trainer", images.BASE, "sleep", "86400"]
    )
    data = planned(node, Component.DOCKER, RUN, {"restarts": "allow"})
    kill_after_restart = "def prove(proofs, told):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    assert carry_out(node, data, kill_after_restart).returncode in (-9, 137)
    assert node.run(["docker", "ps", "-q"]).stdout == ""
    ran = mend(lab, Target(node, wanted={"restarts": "allow"}))
    assert ran.rc == 0, ran.said
    assert node.run(["docker", "ps", "--format", "{{.Names}}"]).stdout == "trainer\n"
