"""Faults of the host around a transaction, real ones: disks that fail, a daemon that hangs or dies late, a clock that
jumps, a host that goes down. After each: files old or new, the daemon as it was, and a next mend that ends well."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest

from gpumend.payload.source import change_source as program_source
from gpumend.rules.finding import Component
from gpumend.run.attempt import rollback_data
from gpumend.run.programs import probe_program
from gpumend.state.docker import DAEMON_JSON
from gpumend.state.host_state import parse
from gpumend.state.snapshot import Snapshot
from tests.nodes import images, scenarios, toolkit
from tests.nodes.base import SUITE
from tests.nodes.conftest import Boot
from tests.nodes.drive import Target, audit, carry_out, mend, planned, result_of, start
from tests.nodes.faults import PATHS, Before, fault, look, recovered, sha256
from tests.nodes.lab import Lab, Node
from tests.nodes.slot import wait_for
from tests.nodes.test_crash import KILL

RUN = "20260101T000000Z-dead"
TRAINER = ("docker", "run", "-d", "--stop-signal=KILL", "--name", "trainer", images.BASE, "sleep", "86400")


@pytest.fixture(scope="module")
def healthy(shared_boot: Boot) -> Node:
    return shared_boot(SUITE, "healthy")


@pytest.fixture
def host(healthy: Node) -> Iterator[Node]:
    """The module's node, healthy, and made so again afterwards."""
    files = {path: healthy.read(path) for path in PATHS}
    yield healthy
    healthy.sh(
        "pkill -CONT dockerd; docker rm -f trainer; rm -rf /var/lib/gpumend /etc/systemd/system/docker.service.d;"
        " systemctl daemon-reload; true",
        check=False,
    )
    for path, data in files.items():
        healthy.write(path, data)
    healthy.restart("docker")


# -- a disk that cannot be read --------------------------------------------------------------------------------------

# A process's memory has nothing at address 0: the first read of this regular file is EIO (proc_pid_mem(5)).
BAD_BLOCK = 'mount --bind /proc/1/mem "$1"'


@pytest.mark.parametrize("path", PATHS)
def test_file_that_cannot_be_read_is_unknown_and_left(lab: Lab, host: Node, path: str) -> None:
    with fault("EIO on read"):
        before = Before.of(host, *PATHS)
        host.sh(BAD_BLOCK, path)
        try:
            assert "Input/output error" in host.run(["cat", path], check=False).stderr
            audited, mended = audit(lab, host), mend(lab, host)
            assert audited.rc in (1, 3) and mended.rc in (1, 3, 4), mended.said
            for ran in (audited, mended):
                assert "Traceback" not in ran.said
                told = [finding for finding in ran.host(host)["findings"] if path in json.dumps(finding)]
                assert {finding["status"] for finding in told} <= {"fail", "unknown", "warn"}, ran.said
                assert "Input/output error" in json.dumps(told), ran.said
            assert set(mended.statuses(host).values()) <= {"refused"}, mended.said
        finally:
            host.sh('umount "$1"', path)
        before.check(path)
        assert before.check_next(lab, host).rc == 0


def test_file_that_cannot_be_read_any_more_when_it_is_to_be_changed(host: Node) -> None:
    """The plan has seen it; the transaction finds the bad block before it has written anything."""
    scenarios.write_daemon(host, scenarios.UNTOLD)
    data = planned(host, Component.DOCKER, RUN)
    before, pid = Before.of(host, *PATHS), host.main_pid("docker")
    with fault("EIO on read"):
        host.sh(BAD_BLOCK, DAEMON_JSON)
        result = result_of(carry_out(host, data))
        host.sh('umount "$1"', DAEMON_JSON)
        assert result["status"] == "refused"
        assert result["detail"].endswith("Input/output error")
        assert DAEMON_JSON in result["detail"]
        before.check()
        assert (look(host).journals, host.main_pid("docker")) == ((), pid)


# -- programs that cannot tell of one of the things they are asked about ----------------------------------------------


def read(node: Node) -> Snapshot:
    """The probe's answer on a node."""
    return Snapshot.from_output(node.run(["python3", "-I", "-S", "-B", "-"], input=probe_program()).stdout)


def test_container_that_dockerd_cannot_tell_of_is_unknown(healthy: Node) -> None:
    """Its layer is gone from the disk: dockerd lists it, and answers its inspection with HTTP 500."""
    healthy.run(["docker", "create", "--name", "lost", images.BASE, "true"])
    upper = healthy.run(["docker", "inspect", "-f", "{{.GraphDriver.Data.UpperDir}}", "lost"]).stdout.strip()
    layer = upper.removesuffix("/diff")
    healthy.sh('mv "$1" "$1.away"', layer)
    try:
        assert "no such file" in healthy.run(["docker", "inspect", "lost"], check=False).stderr
        found = parse(read(healthy)).docker
        assert found.info.ok and found.containers.status == "failed"
        assert "HTTP 500" in found.containers.detail and found.may_run_containers
    finally:
        healthy.sh('mv "$1.away" "$1"; docker rm lost', layer)
    assert parse(read(healthy)).docker.containers.ok


def test_unit_whose_command_has_an_empty_line_leaves_the_others_theirs(healthy: Node) -> None:
    """systemctl prints a line break of an ExecStart as it is, and an empty line between two units."""
    healthy.run(["systemctl", "daemon-reload"])  # which forgets when a command was started
    before = read(healthy).answer["units"]["units"]
    path = "/etc/systemd/system/k3s.service"
    healthy.write(path, '[Service]\nExecStart=/bin/sh -c "true\\n\\nMainPID=7" server --token=s3cret\n')
    try:
        healthy.run(["systemctl", "daemon-reload"])
        after = read(healthy).answer["units"]["units"]
    finally:
        healthy.sh('rm "$1"; systemctl daemon-reload', path)
    own = after.pop("k3s.service")
    assert (own["Id"], own["LoadState"]) == ("k3s.service", "loaded")
    assert "s3cret" not in own["ExecStart"] and own["ExecStart"].endswith("}")
    assert before.pop("k3s.service")["LoadState"] == "not-found"
    assert after == before


# -- a disk that becomes read-only in the middle ---------------------------------------------------------------------

# Not part of the shipped program: from its N-th step on, as soon as nobody has a file of it open for writing.
READ_ONLY = KILL.replace(
    "    if _steps[0] == int(sys.argv[1]):",
    """    if _steps[0] >= int(sys.argv[1]) and not _off:
        if os.system("mount -o remount,ro %s 2>/dev/null" % sys.argv[2]) == 0:
            _off.append(name)
    if False:""",
).replace("_steps = [0]", "_steps, _off = [0], []")


def config_wrong(host: Node) -> None:
    text = host.read(toolkit.CONFIG).decode().replace('mode = "cdi"', 'mode = "auto"')
    host.write(toolkit.CONFIG, text)


def runtime_unknown(host: Node) -> None:
    """dockerd knows another runtime alone: a reload is enough for ours. It takes one away only while the file names some
    (moby daemon/reload_unix.go)."""
    settings = scenarios.daemon_settings(host, runtimes={"other": {"path": "/usr/bin/runc"}})
    host.write(DAEMON_JSON, json.dumps(settings))
    host.run(["systemctl", "reload", "docker"])
    info = ["docker", "info", "-f", "{{json .Runtimes}}"]
    wait_for("dockerd has read it", lambda: '"nvidia"' not in host.run(info).stdout)


@dataclass(frozen=True)
class ReadOnly:
    """A directory's disk becomes read-only while this component's file is changed. prepare: what calls for the change."""

    directory: str
    component: Component
    path: str
    prepare: Callable[[Node], None]


READ_ONLY_CASES = {
    "the file's own": ReadOnly(
        "/etc/nvidia-container-runtime", Component.TOOLKIT, toolkit.CONFIG, config_wrong
    ),
    "the journal's": ReadOnly("/var/lib/gpumend", Component.TOOLKIT, toolkit.CONFIG, config_wrong),
    "the journal's, and dockerd is told": ReadOnly(
        "/var/lib/gpumend", Component.DOCKER, DAEMON_JSON, runtime_unknown
    ),
}


@pytest.mark.parametrize("name", READ_ONLY_CASES)
def test_disk_that_becomes_read_only_at_any_step(lab: Lab, host: Node, name: str) -> None:
    """As ext4 does after an error. What was renamed by then cannot be put back: that is said, it is whole, and a rollback
    puts it back once the disk is well."""
    case = READ_ONLY_CASES[name]
    directory, path = case.directory, case.path
    case.prepare(host)
    text = host.read(path).decode()
    host.sh(
        'mkdir -p "$1"; cp -a "$1" /root/kept; mount -t tmpfs -o size=8M tmpfs "$1"; cp -a /root/kept/. "$1"',
        directory,
    )
    ended: list[str] = []
    seen = look(host)
    try:
        data = planned(host, case.component, RUN)
        before = Before.of(host, path).would_be(data)
        again = 'mount -o remount,rw "$1"; printf %s "$2" >"$3"; rm -rf /var/lib/gpumend/*; rm -f "${3%/*}"/.*.gpumend*'
        while ended[-1:] != ["changed"] or not seen.journals:
            with fault("EROFS"):
                result = result_of(carry_out(host, data, READ_ONLY, (str(len(ended) + 1), directory)))
                status, at = result["status"], f"step {len(ended) + 1}: {result}"
                seen = before.check(at)
                assert status in ("refused", "put_back", "broken", "changed"), at
                if status != "changed":
                    assert "Read-only file system" in result["detail"], at
                if status != "broken":
                    assert (seen.files != before.old) == (status == "changed"), at
                elif "broken" not in ended:
                    host.sh('mount -o remount,rw "$1"', directory)
                    undone = result_of(carry_out(host, rollback_data(RUN, "idle")))
                    assert undone["status"] == "changed", undone
                    assert before.check(at).files == before.old
                if status not in ended:
                    host.sh('mount -o remount,rw "$1"', directory)
                    assert before.check_next(lab, host, at).rc == 0
            ended.append(status)
            host.sh(again, directory, text, path)
            if case.component is Component.DOCKER and status != "refused":
                case.prepare(host)
    finally:
        host.sh('umount "$1"; rm -rf /root/kept', directory)
    assert len(ended) > 20
    ends = {"refused", "changed"} | ({"put_back"} if case.component is Component.DOCKER else set())
    # A journal that cannot be written stops nobody from putting back.
    may = {"put_back", *(["broken"] if directory in path else [])}
    assert ends <= set(ended) <= ends | may, ended


# -- a daemon that hangs or dies ----------------------------------------------------------------------------------------


def test_dockerd_that_hangs(lab: Lab, host: Node) -> None:
    """Stopped by SIGSTOP: nothing waits for it for long, nothing is said to be well, and nothing is changed under it."""
    scenarios.write_daemon(host, scenarios.UNTOLD)
    data = planned(host, Component.DOCKER, RUN)
    before, pid = Before.of(host, *PATHS), host.main_pid("docker")
    with fault("SIGSTOPped dockerd"):
        host.run(["kill", "-STOP", str(pid)])
        # Side by side: either waits for its own answers.
        for ran in [running.finish() for running in (start(lab, host, dry=True), start(lab, host))]:
            assert ran.rc in (1, 3), ran.said
            assert ran.seconds < 60
            assert ran.codes(host, "unknown"), ran.said
            assert "Traceback" not in ran.said
            assert ran.host(host).get("changes", []) == []
    with fault("SIGSTOPped dockerd"):
        result = result_of(carry_out(host, data, "ANSWER_TIMEOUT = 1"))
        assert result == {
            "status": "refused",
            "detail": "dockerd runs and gives no answer: nothing is changed under it",
        }
        host.run(["kill", "-CONT", str(pid)])
        before.check()
        assert host.main_pid("docker") == pid
        assert before.check_next(lab, host).rc == 0


def test_dockerd_that_hangs_when_it_is_told(lab: Lab, host: Node) -> None:
    """It is stopped right before its reload: the old file comes back, and that nobody could tell dockerd is said."""
    settings = scenarios.daemon_settings(host)
    del settings["runtimes"]
    scenarios.write_daemon(host, settings)
    host.run(TRAINER)
    data = planned(host, Component.DOCKER, RUN)
    assert data["service"][1] == "reload"
    before, pid = Before.of(host, *PATHS), host.main_pid("docker")
    stop = "_tell = Service.tell\ndef tell(self, action):\n    os.kill(int(sys.argv[1]), signal.SIGSTOP)\n    _tell(self, action)\nService.tell = tell\nPROOF_TIMEOUT = 1\n"
    with fault("SIGSTOPped dockerd"):
        result = result_of(carry_out(host, data, stop, (str(pid),)))
        assert result["status"] == "broken", result
        silent = "dockerd gives no answer 1 s after its reload"
        journal = r"(?: \(docker\.service: .*\))?"  # what the unit said last, where it said something
        said = f"{silent}{journal}; then: the files are as before, but {silent}{journal}"
        assert re.fullmatch(said, result["detail"], re.DOTALL), result["detail"]
        host.run(["kill", "-CONT", str(pid)])
        before.check()
        assert host.main_pid("docker") == pid
        assert before.check_next(lab, host).rc == 0


def test_dockerd_that_hangs_under_a_rollback(lab: Lab, host: Node) -> None:
    """It cannot say that a container runs; its shim does. The restart that the rollback would take waits, as for one that is told."""
    scenarios.write_daemon(host, scenarios.UNTOLD)
    done = result_of(carry_out(host, planned(host, Component.DOCKER, RUN, {"restarts": "idle"})))
    assert (done["status"], done["told"]) == ("changed", "restart"), done
    host.run(TRAINER)
    pid = host.main_pid("docker")
    inside = host.run(["docker", "inspect", "-f", "{{.State.Pid}}", "trainer"]).stdout.strip()
    with fault("SIGSTOPped dockerd"):
        host.run(["kill", "-STOP", str(pid)])
        result = result_of(carry_out(host, rollback_data(RUN, "idle")))
        host.run(["kill", "-CONT", str(pid)])
        assert result["status"] == "pending" and "is not known" in result["detail"], result
        assert host.main_pid("docker") == pid and host.exists(f"/proc/{inside}")
        assert host.read(DAEMON_JSON).decode() == scenarios.UNTOLD
        assert look(host).running == ("trainer",)


LATE = """#!/bin/sh
case "$*" in *fd://*)
    if grep -q nvidia-container-runtime /etc/docker/daemon.json; then (sleep 5; kill -KILL $$) & fi ;;
esac
exec /usr/lib/real/dockerd "$@"
"""


def test_dockerd_that_dies_five_seconds_after_its_restart(lab: Lab, host: Node) -> None:
    """It starts with the new file, answers and shows what the proof asks for, and dies: that is not proven."""
    scenarios.write_daemon(host, scenarios.UNTOLD)
    host.run(TRAINER)
    before = Before.of(host, *PATHS)
    host.sh("mkdir /usr/lib/real; mv /usr/sbin/dockerd /usr/lib/real/dockerd")
    host.write("/usr/sbin/dockerd", LATE, 0o755)
    try:
        with fault("dockerd that dies 5 s later"):
            # 6 s is the default; the lab's own inventory sets it to 0.
            ran = mend(lab, Target(host, wanted={"restarts": "allow", "restart_watch": 6}))
            assert ran.rc == 4, ran.said
            change = ran.change(host, Component.DOCKER)
            assert change["status"] == "put_back"
            assert "dockerd did not live 6 s after its restart" in change["detail"]
            before.check()
    finally:
        host.sh("mv /usr/lib/real/dockerd /usr/sbin/dockerd; rmdir /usr/lib/real")
    with fault("dockerd that dies 5 s later"):
        mended = mend(lab, Target(host, wanted={"restarts": "allow", "restart_watch": 6}))
        assert mended.rc == 0, mended.said
        assert look(host).running == ("trainer",)


# -- a clock that jumps ------------------------------------------------------------------------------------------------


def write_step(path: str, before: str, data: str) -> dict[str, object]:
    return {
        "do": "write", "path": path, "before": sha256(before.encode()),
        "data": base64.b64encode(data.encode()).decode(), "mode": 0o644, "argv": [],
    }  # fmt: skip


@pytest.mark.parametrize("verb", ["rollback", "recover"])
def test_clock_that_jumps_back_between_two_changes(host: Node, verb: str) -> None:
    """The second change of a file is made in 1970 by the host's clock: it is still the one to be undone first."""
    path, frame = "/etc/jumps", {"run": RUN, "who": "test", "restarts": "idle", "validate": [], "proofs": []}
    host.write(path, "old\n")
    kill = (
        "\ndef prove(proofs, told):\n    os.kill(os.getpid(), signal.SIGKILL)\n" if verb == "recover" else ""
    )
    with fault("clock jump"):
        for name, year, was, now in (
            ("b.first", 2_000_000_000, "old\n", "new\n"),
            ("a.second", 0, "new\n", "newer\n"),
        ):
            data = frame | {
                "verb": "apply", "component": name, "steps": [write_step(path, was, now)], "service": None,
            }  # fmt: skip
            # The old inode is kept beside by then: what is put back has to be the right one.
            done = carry_out(host, data, f"time.time = lambda: {year}\n{kill}")
            assert done.returncode in ((-9, 137) if kill else (0,)), done.stderr
        assert host.read(path) == b"newer\n"
        undo = rollback_data(RUN, "idle")
        if verb == "recover":
            journals = [
                f"/var/lib/gpumend/runs/{RUN}/{name}/journal.json" for name in ("a.second", "b.first")
            ]
            undo = {**frame, "verb": "recover", "run": "next", "journals": journals}
        result = result_of(carry_out(host, undo))
        assert result["status"] == "changed", result
        assert host.read(path) == b"old\n"
        seen = look(host, path)
        assert (seen.states(), seen.beside, seen.locked) == (["put_back", "put_back"], (), False)
    host.sh('rm "$1"', path)


# -- a host that goes down --------------------------------------------------------------------------------------------

# Not part of the shipped program: it stops at a step, for good.
HOLD = """
def _hold(place, name, wanted):
    real = getattr(place, name)
    def wrapped(*arguments, **named):
        if wanted in repr(arguments):
            open("/run/at-step", "w").close()
            signal.pause()
        return real(*arguments, **named)
    setattr(place, name, wrapped)

_hold(%s)
"""
STEPS = {
    "before its file is renamed": 'os, "rename", "/etc/docker/.daemon.json."',
    "before dockerd's restart": 'sys.modules["__main__"], "run", "\'restart\', \'docker"',
    "after dockerd's restart": 'sys.modules["__main__"], "prove", "nvidia"',
}


@pytest.mark.parametrize("step", STEPS)
def test_host_that_goes_down_in_the_middle(lab: Lab, host: Node, step: str) -> None:
    """Every process is gone at once, and the host boots: with the old file or the new one, and its containers."""
    scenarios.write_daemon(host, scenarios.UNTOLD)
    host.run([*TRAINER[:3], "--restart=always", *TRAINER[3:]])
    wanted = {"restarts": "allow"}
    data = planned(host, Component.DOCKER, RUN, wanted)
    before = Before.of(host, *PATHS)
    new = {DAEMON_JSON: sha256(base64.b64decode(data["steps"][0]["data"]))}
    call = f"main_transaction(json.loads({json.dumps(data)!r}), lambda: None)"
    host.write("/root/held.py", f"{program_source()}\n{HOLD % STEPS[step]}\n{call}\n")
    with fault("host reboot"):
        host.sh("setsid -f python3 -I -S -B /root/held.py >/dev/null 2>&1 </dev/null")
        wait_for("the transaction is at its step", lambda: host.exists("/run/at-step"), 60.0)
        host.reboot(orderly=False)
        assert look(host).states() == ["working"]
        replace(before, new=new).check(step)
        ran = before.check_next(lab, Target(host, wanted=wanted), step)
        assert ran.rc == 0, ran.said
        assert recovered(ran, host)
        assert look(host, DAEMON_JSON).files == new
