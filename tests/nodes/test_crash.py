"""Promise 3: a crash or a lost connection at any step leaves each file old or new, never a mix, and dockerd running;
the next mend puts the interrupted run back, and ends well."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from gpumend.rules.finding import Component
from tests.nodes import images, scenarios, toolkit
from tests.nodes.base import SUITE
from tests.nodes.conftest import Boot
from tests.nodes.drive import Target, audit, carry_out, planned, result_of, start
from tests.nodes.faults import LOCK, PATHS, Before, Sight, fault, sha256
from tests.nodes.lab import Lab, Node
from tests.nodes.slot import wait_for

RUN = "20260101T000000Z-dead"
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
    scenarios.write_daemon(node, scenarios.UNTOLD)


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
    """One node that is brought back to the same state before every fault. before: what a fault may leave of it."""

    def __init__(self, node: Node, case: Case) -> None:
        self.node, self.case = node, case
        case.prepare(node)
        self.old = self.content()
        old = Before.of(node, case.target)
        self.data = planned(node, case.component, RUN)
        result = result_of(carry_out(node, self.data))
        assert result["status"] == "changed", result
        self.new = sha256(self.content())
        assert self.new != sha256(self.old)
        self.before = replace(old, new={case.target: self.new})
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

    def is_new(self, seen: Sight) -> bool:
        """Whether the file has its new bytes; the old ones otherwise, by `check`."""
        return seen.files[self.case.target] == self.new

    def kill_at(self, step: int, data: dict[str, Any] | None = None) -> str:
        """The program was killed before that step, whose name is returned; an empty text where it came to its end."""
        done = carry_out(self.node, data or self.data, KILL, (str(step),))
        if done.returncode == 0:
            assert result_of(done)["status"] == "changed", done.stdout
            return ""
        assert done.returncode in (-9, 137), done.stderr
        return done.stderr

    def check(self, at: str) -> Sight:
        """What has to hold right after a fault."""
        return self.before.check(at)

    def recover(self, at: str) -> None:
        """The next run's first transaction, without SSH: the host is as it was."""
        journals = [f"/var/lib/gpumend/runs/{RUN}/{self.case.component}/journal.json"]
        states = ["put_back"] if self.node.exists(journals[0]) else []
        if states:
            again = {
                "verb": "recover", "run": "next", "who": "test", "restarts": "idle", "journals": journals,
            }  # fmt: skip
            result = result_of(carry_out(self.node, again))
            assert result["status"] in ("changed", "unchanged"), result
        seen = self.check(f"the recovery after {at}")
        assert not self.is_new(seen), f"not put back after {at}"
        assert seen.states() == states, f"after {at}"
        assert seen.beside == (), f"after {at}"


def key(seen: Sight, bench: Bench) -> str:
    """What of the host's state decides how it is recovered."""
    journals = [
        (journal["state"], journal["served"], journal["log"], len(journal["steps"]))
        for journal in seen.journals
    ]
    kinds = sorted("old" if name.endswith("-old") else "staged" for name in seen.beside)
    return json.dumps([journals, kinds, bench.is_new(seen)])


@pytest.fixture
def bench(request: pytest.FixtureRequest, boot: Boot) -> Iterator[Bench]:
    case = CASES[request.param]
    yield Bench(boot(SUITE, "healthy", case.version), case)


@pytest.mark.parametrize("bench", CASES, indirect=True)
def test_killed_before_every_step(lab: Lab, bench: Bench) -> None:
    """Every step is killed once. What a later run does depends on nothing but the state that it finds: for each
    different one the whole product mends and audits, and for the rest its recovering transaction has to do."""
    node, known = bench.node, set()
    step = 1
    while at := bench.kill_at(step):
        with fault("kill -9"):
            seen = bench.check(at)
            if (found := key(seen, bench)) not in known:
                known.add(found)
                mended = bench.before.check_next(lab, node, at)
                assert mended.rc == 0, f"after {at}: {mended.said}"
                assert ("GM003" in mended.host(node)["found"]) == ("working" in seen.states())
                again = audit(lab, node)
                assert again.rc == 0, f"after {at}: {again.said}"
                assert bench.is_new(bench.check(at))
                bench.reset()
            else:
                bench.recover(at)
                node.sh("rm -rf /var/lib/gpumend")
        step += 1
    left = bench.check("the end")
    assert bench.is_new(left)
    assert left.beside == ()
    assert step > 20
    assert len(known) >= 5


@pytest.mark.parametrize("bench", ["config.toml"], indirect=True)
def test_recovery_killed_before_every_step(bench: Bench) -> None:
    """A run that puts an interrupted one back may be killed, too: the next one puts back what is left."""
    renamed = 1
    while (at := bench.kill_at(renamed)) and not bench.is_new(bench.check(at)):
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
        with fault("kill -9"):
            bench.check(at)
            bench.recover(at)
        bench.reset()
        assert bench.kill_at(renamed)
        assert bench.is_new(bench.check(at))
        step += 1
    assert not bench.is_new(bench.check("the end"))
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
def test_disk_that_is_full_from_any_step_on(lab: Lab, bench: Bench) -> None:
    """Old or new, said so, and nothing left over that a later run would take for an interrupted one."""
    node, case = bench.node, bench.case
    ended: list[str] = []
    step, journals = 1, 0
    while not journals:
        with fault("full disk"):
            result = result_of(carry_out(node, bench.data, FULL, (str(step),)))
            status, at = result["status"], f"step {step}: {result}"
            seen = bench.check(at)
            assert status in ("refused", "put_back", "changed"), at
            assert bench.is_new(seen) == (status == "changed"), at
            assert seen.beside == (), at
            assert "working" not in seen.states(), at
            if status != "changed":
                assert "No space left on device" in result["detail"]
            elif not seen.journals:
                assert "cannot be rolled back" in result["detail"]
            if status not in ended:
                assert bench.before.check_next(lab, node, at).rc == 0
                bench.reset()
            elif status == "changed":
                bench.reset()
            else:
                node.sh("rm -rf /var/lib/gpumend")
        ended.append(status)
        journals = len(seen.journals) if status == "changed" else 0
        step += 1
    order = ["refused", "put_back", "changed"] if case.serves else ["refused", "changed"]
    assert [status for status in order if status in ended] == order, ended


# -- D. the connection ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("user", ["root", "ops"])
def test_lost_connection_does_not_end_the_transaction(lab: Lab, boot: Boot, user: str) -> None:
    """The session's sshd is killed while dockerd is being restarted, and the program is told so: it finishes, proves,
    and says so in its journal; the next run finds a host as wanted."""
    node = boot(SUITE, "healthy")
    docker_untold(node)
    before = Before.of(node, *PATHS).would_be(planned(node, Component.DOCKER, RUN))
    node.sh("mkfifo /run/gate")
    node.write(
        "/etc/systemd/system/docker.service.d/gate.conf",
        "[Service]\nExecStartPre=/bin/sh -c 'if [ -p /run/gate ]; then read x </run/gate; fi'\n",
    )
    node.sh("systemctl daemon-reload")
    with fault("lost connection"):
        running = start(lab, Target(node, user))
        wait_for(
            "dockerd is being restarted", lambda: node.show("docker", "ActiveState") == "activating", 60.0
        )
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
        wait_for(
            "the transaction has ended", lambda: json.loads(node.read(journal))["state"] != "working", 60.0
        )
        assert json.loads(node.read(journal))["state"] == "done"
        wait_for(
            "the program has ended",
            lambda: node.run(["flock", "-n", LOCK, "true"], check=False).returncode == 0,
        )
        before.check()
        tree = node.tree("/etc")
        again = before.check_next(lab, Target(node, user))
        assert again.rc == 0, again.said
        assert again.host(node)["changes"] == []
        assert node.tree("/etc") == tree


def killed_after_restart(node: Node, data: dict[str, Any]) -> None:
    """dockerd was restarted with the new file, and the transaction killed before it had proven anything."""
    die = "def prove(proofs, told):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    assert carry_out(node, data, die).returncode in (-9, 137)


def test_interrupted_restart_waits_for_containers_started_since(lab: Lab, boot: Boot) -> None:
    """What puts an interrupted run back may take a restart, too: it waits like any other."""
    node = boot(SUITE, "healthy")
    docker_untold(node)
    data = planned(node, Component.DOCKER, RUN)
    with fault("kill -9"):
        before = Before.of(node, *PATHS).would_be(data)
        killed_after_restart(node, data)
        before.check()
        node.run(["docker", "run", "-d", "--name", "trainer", images.BASE, "sleep", "86400"])
        pid = node.main_pid("docker")
        ran = replace(before, running=("trainer",)).check_next(lab, node)
        assert ran.rc in (0, 3), ran.said
        assert ran.statuses(node)[Component.RECOVER] == "pending"
        assert "it would stop 1 running: trainer" in ran.change(node, Component.RECOVER)["detail"]
        assert node.main_pid("docker") == pid


def test_containers_of_an_interrupted_restart_run_again(lab: Lab, boot: Boot) -> None:
    """Killed after dockerd's restart, before what it stopped was started: the next run starts it."""
    node = boot(SUITE, "healthy")
    docker_untold(node)
    node.run(
        ["docker", "run", "-d", "--stop-signal=KILL", "--name", "trainer", images.BASE, "sleep", "86400"]
    )
    data = planned(node, Component.DOCKER, RUN, {"restarts": "allow"})
    with fault("kill -9"):
        before = Before.of(node, *PATHS).would_be(data)
        killed_after_restart(node, data)
        replace(before, running=()).check()  # whoever allows a restart allows this
        ran = before.check_next(lab, Target(node, wanted={"restarts": "allow"}))
        assert ran.rc == 0, ran.said
