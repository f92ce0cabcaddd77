"""What goes wrong on real hosts, produced on booted ones: the right finding or error that names host and file, the
right exit status, the host left as it was, and the other host of the run not touched by it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from gpumend.rules.finding import Component
from gpumend.run.attempt import rollback_data
from gpumend.state.docker import DAEMON_JSON
from tests.nodes import images, scenarios, toolkit
from tests.nodes.base import SUITE
from tests.nodes.conftest import Boot
from tests.nodes.drive import Ran, Target, audit, carry_out, mend, planned, result_of, start
from tests.nodes.faults import PATHS, Before, Sight, fault, healed, look
from tests.nodes.lab import Entry, Lab, Node
from tests.nodes.slot import wait_for

CONFIG = toolkit.CONFIG
PLACES = ("/etc", "/var/lib/gpumend", "/var/run/cdi")
# Its first process is not told to end by SIGTERM, as no process 1 is: without KILL a restart would wait 10 s for it.
SLEEP = ("docker", "run", "-d", "--stop-signal=KILL", "--name", "trainer", images.BASE, "sleep", "86400")


class Beside:
    """A host that a run has to leave as it was."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.tree = tree(node)
        self.docker = node.main_pid("docker")

    def check(self) -> None:
        """Nothing was written, not even the same again, and dockerd was not restarted."""
        now = tree(self.node)
        assert {
            path for path in now.keys() | self.tree.keys() if now.get(path) != self.tree.get(path)
        } == set()
        assert self.node.main_pid("docker") == self.docker


def tree(node: Node) -> dict[str, Entry]:
    return node.tree(*PLACES)


@pytest.fixture
def well(shared_boot: Boot) -> Beside:
    """A healthy host that is in the same run."""
    return Beside(shared_boot(SUITE, "healthy"))


def unharmed(ran: Ran, well: Beside) -> None:
    """The healthy host of the run was as wanted before and after."""
    assert ran.host(well.node)["status"] == "as wanted", ran.said
    assert ran.host(well.node)["exit"] == 0
    assert ran.host(well.node).get("changes", []) == []
    well.check()


def both(lab: Lab, well: Beside, target: Node | Target) -> tuple[Ran, Ran]:
    """An audit and a mend over a host and the healthy one; neither says a traceback."""
    audited, mended = audit(lab, target, well.node), mend(lab, target, well.node)
    for ran in (audited, mended):
        assert "Traceback" not in ran.stdout + ran.stderr, ran.said
        unharmed(ran, well)
    return audited, mended


def starts(node: Node, unit: str = "docker.service") -> int:
    """How often a unit was started since the node is up."""
    node.run(["journalctl", "--sync"])
    log = node.run(["journalctl", "-u", unit, "-o", "cat", "--no-pager"]).stdout
    return log.count(f"Started {unit}")


# -- A. what a host may hold ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bad:
    """A host that cannot be mended: what breaks it, the finding, and the words in it."""

    scenario: str
    code: str
    words: str
    file: str = ""
    mess: Callable[[Node], object] = lambda node: None


BAD = {
    "no GPU": Bad("no_gpu", "GM002", "no NVIDIA GPU"),
    "config.toml is not TOML": Bad("invalid_config_toml", "GM208", "end of document", CONFIG),
    "config.toml is a directory": Bad(
        "healthy", "GM208", "a dir, not a file", CONFIG, lambda n: n.sh('rm "$1"; mkdir "$1"', CONFIG)
    ),
    "config.toml is a link to nowhere": Bad("config_dangling_link", "GM208", "does not exist", CONFIG),
    "config.toml is Latin-1": Bad("non_utf8_config", "GM208", "not UTF-8 at byte 3", CONFIG),
    "daemon.json is not JSON": Bad("invalid_daemon_json", "GM401", "line 4 column 1", DAEMON_JSON),
    "daemon.json is a list": Bad(
        "healthy", "GM401", "not an object", DAEMON_JSON, lambda n: n.write(DAEMON_JSON, "[]")
    ),
    "daemon.json is a directory": Bad("daemon_json_is_directory", "GM401", "a dir, not a file", DAEMON_JSON),
    "daemon.json is a link to nowhere": Bad(
        "healthy", "GM401", "does not exist", DAEMON_JSON, lambda n: n.sh('ln -sfn /srv/gone.json "$1"', DAEMON_JSON)
    ),
    "daemon.json is Latin-1": Bad(
        "healthy", "GM401", "not UTF-8 at byte", DAEMON_JSON,
        lambda n: n.write(DAEMON_JSON, b'{"labels": ["ort=K\xfcche"]}'),
    ),
    "dockerd is down": Bad("docker_down", "GM407", "dockerd does not run"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_only_a_person_can_mend_is_named_and_left(lab: Lab, boot: Boot, well: Beside, name: str) -> None:
    bad = BAD[name]
    node = boot(SUITE, bad.scenario)
    bad.mess(node)
    with fault("host that only a person can mend"):
        before, seen = Beside(node), Before.of(node, *PATHS)
        audited, mended = both(lab, well, node)
        assert (audited.rc, mended.rc) == (3, 3), mended.said
        for ran in (audited, mended):
            finding = ran.finding(node, bad.code)
            text = json.dumps(finding, ensure_ascii=False)
            assert bad.words in text
            assert bad.file in text
            assert finding["mends"] is None
            assert node.name in ran.stdout
            assert bad.code in ran.stdout
        assert mended.host(node)["changes"] == []
        before.check()
        seen.check(name)
        seen.check_ran(mended, name)


def test_host_without_docker_is_mended_without_it(lab: Lab, boot: Boot, well: Beside) -> None:
    node = boot(SUITE, "no_docker")
    audited, mended = both(lab, well, node)
    assert (audited.rc, mended.rc) == (3, 0), mended.said
    assert [code for code in audited.codes(node) if code.startswith("GM4")] == []
    assert mended.statuses(node) == {Component.CDI: "changed", Component.TOOLKIT: "changed"}
    assert not node.exists("/etc/docker")


# -- A. hosts that cannot be read or reached ---------------------------------------------------------------------


def test_sudo_that_asks_for_a_password(lab: Lab, boot: Boot, well: Beside) -> None:
    node = boot(SUITE, "report_002")
    with healed("no way in", lab, node):
        before = Beside(node)
        for ran in both(lab, well, Target(node, "nosudo", sudo=True)):
            assert ran.rc == 1
            assert "password is required" in ran.host(node)["error"]
            assert f"[{node.name}]" in ran.stderr
        before.check()


def test_without_root_what_was_not_read_is_unknown(lab: Lab, boot: Boot, well: Beside) -> None:
    node = boot(SUITE, "healthy")
    node.sh("chmod 0600 /etc/docker/daemon.json")
    with healed("no way in", lab, node):
        before = Beside(node)
        for ran in both(lab, well, Target(node, "nosudo", sudo=False)):
            assert ran.rc == 1, ran.said
            assert "GM001" in ran.codes(node, "unknown")
            assert "uid 1001" in ran.finding(node, "GM001")["summary"]
            assert ran.host(node)["status"] == "not known"
        before.check()


def test_without_root_nothing_is_changed(lab: Lab, boot: Boot, well: Beside) -> None:
    """What is seen to be wrong even so is not mended half: the host says that it takes root."""
    node = boot(SUITE, "report_002")
    with healed("no way in", lab, node):
        before = Beside(node)
        _, mended = both(lab, well, Target(node, "nosudo", sudo=False))
        assert mended.rc in (1, 4), mended.said
        assert "GM001" in mended.codes(node, "unknown")
        assert all(change["status"] == "refused" for change in mended.host(node)["changes"])
        assert all("root is needed" in change["detail"] for change in mended.host(node)["changes"])
        before.check()


def test_host_without_python(lab: Lab, boot: Boot, well: Beside) -> None:
    node = boot(SUITE, "report_002")
    with healed("no way in", lab, node):
        before = Beside(node)
        node.sh("mv /usr/bin/python3 /usr/bin/python3.away")
        for ran in both(lab, well, node):
            assert ran.rc == 1
            assert ran.host(node)["error"] == "no python3 on this host"
        node.sh("mv /usr/bin/python3.away /usr/bin/python3")  # the look at the host needs it, too
        before.check()


def test_host_that_is_not_there(lab: Lab, boot: Boot, well: Beside) -> None:
    node = boot(SUITE, "healthy")
    with healed("host that goes away", lab, node):
        node.halt()
        for ran in both(lab, well, Target(node, connect_timeout=2)):
            assert ran.rc == 1
            assert "could not be reached" in ran.host(node)["error"]
            assert node.name in ran.stdout
        node.start()


def test_host_that_vanishes_while_it_is_read(lab: Lab, boot: Boot, well: Beside) -> None:
    node = boot(SUITE, "healthy")
    with healed("host that goes away", lab, node):
        toolkit.configure(node, faults=["nvidia-ctk hangs"])
        running = start(lab, node, well.node)
        wait_for("the probe is at work", lambda: runs(node, "nvidia-ctk"))
        node.halt()
        ran = running.finish()
        assert ran.rc == 1, ran.said
        assert ran.host(node)["error"]
        assert ran.seconds < 60
        unharmed(ran, well)
        node.start()
        toolkit.configure(node)


def test_host_that_vanishes_while_it_is_mended(lab: Lab, boot: Boot, well: Beside) -> None:
    node = boot(SUITE, "healthy")
    scenarios.write_daemon(node, scenarios.UNTOLD)
    plan = planned(node, Component.DOCKER, "run")
    with healed("lost connection", lab, node, plans=[plan]):
        hold_docker(node)
        running = start(lab, node, well.node)
        wait_for(
            "dockerd is being restarted", lambda: node.show("docker", "ActiveState") == "activating", 60.0
        )
        # Nothing answers any more, and nothing says so: only the silence tells.
        node.sh("iptables -I INPUT -i host0 -j DROP; iptables -I OUTPUT -o host0 -j DROP")
        ran = running.finish()
        node.sh("iptables -F INPUT; iptables -F OUTPUT")
        assert ran.rc == 5, ran.said
        assert ran.statuses(node) == {Component.DOCKER: "lost"}
        assert "audit it again" in ran.change(node, Component.DOCKER)["detail"]
        assert ran.seconds < 90
        unharmed(ran, well)
        node.sh("echo go >/run/gate; rm /run/gate /etc/systemd/system/docker.service.d/gate.conf")
        wait_for("the transaction has ended", lambda: ended(look(node)), 60.0)
        node.sh("systemctl daemon-reload")


def ended(seen: Sight) -> bool:
    return seen.states() == ["done"] and not seen.locked


def runs(node: Node, program: str) -> bool:
    return node.run(["pgrep", "-f", program], check=False).returncode == 0


def hold_docker(node: Node) -> None:
    """dockerd's next start waits until somebody writes to /run/gate."""
    node.sh("mkfifo /run/gate")
    node.write(
        "/etc/systemd/system/docker.service.d/gate.conf",
        "[Service]\nExecStartPre=/bin/sh -c 'read x </run/gate'\n",
    )
    node.sh("systemctl daemon-reload")


# -- A. hosts on which nothing can be written ---------------------------------------------------------------------


def test_read_only_etc(lab: Lab, boot: Boot, well: Beside) -> None:
    node = boot(SUITE, "report_002")
    with healed("EROFS", lab, node, heal=lambda: node.sh("umount /etc")):
        node.sh("mount --bind /etc /etc; mount -o remount,bind,ro /etc")
        before = Beside(node)
        audited, mended = both(lab, well, node)
        assert (audited.rc, mended.rc) == (3, 4), mended.said
        assert set(mended.statuses(node).values()) == {"refused"}
        assert "/etc is mounted read-only" in mended.stdout
        before.check()


@pytest.mark.parametrize("directory", ["/etc/docker", "/var/lib/gpumend"])
def test_full_disk(lab: Lab, boot: Boot, well: Beside, directory: str) -> None:
    node = boot(SUITE, "healthy")
    scenarios.write_daemon(node, scenarios.UNTOLD)
    with healed("full disk", lab, node, heal=lambda: node.sh('rm "$1/filler"', directory)):
        node.sh(
            """
            mkdir -p "$1"; cp -a "$1" /root/kept
            mount -t tmpfs -o size=2M,mode=0700 tmpfs "$1"; cp -a /root/kept/. "$1"
            dd if=/dev/zero of="$1/filler" bs=1M 2>/dev/null || true
            """,
            directory,
        )
        before = Beside(node)
        audited, mended = both(lab, well, node)
        assert (audited.rc, mended.rc) == (3, 4), mended.said
        assert mended.change(node, Component.DOCKER)["status"] == "refused"
        assert f"no space left in {directory}" in mended.change(node, Component.DOCKER)["detail"]
        before.check()


@pytest.mark.parametrize("directory", ["/etc/nvidia-container-runtime", "/var/lib/gpumend"])
def test_disk_without_inodes(lab: Lab, boot: Boot, directory: str) -> None:
    """There are bytes left, but one file too few: found only while at work, with every number of files to spare."""
    node = boot(SUITE, "healthy")
    node.sh(
        """sed -i 's/^mode = .*/mode = "auto"/' "$1"; mkdir -p "$2"; cp -a "$2" /root/kept""",
        CONFIG,
        directory,
    )
    data = planned(node, Component.TOOLKIT, "run")
    before, old = Before.of(node, *PATHS).would_be(data), node.read(CONFIG)
    mount = 'mount -t tmpfs -o "nr_inodes=$2,size=8M" tmpfs "$1"; cp -a /root/kept/. "$1"'
    ended: list[str] = []
    for inodes in range(2, 40):
        if node.sh(mount, directory, str(inodes), check=False).returncode == 0:
            with fault("full disk"):
                result = result_of(carry_out(node, data))
                seen = before.check(f"{inodes} inodes")
                assert (seen.files == before.old) == (result["status"] == "refused"), result
                if result["status"] != "changed":
                    assert "No space left on device" in result["detail"]
                    assert (seen.beside, seen.journals) == ((), ())
                    assert node.sh('find "$1" /etc -name "*.gpumend*"', directory).stdout == ""
                if result["status"] not in ended:
                    node.sh('mount -o remount,nr_inodes=1000 "$1"', directory)
                    assert before.check_next(lab, node).rc == 0
                ended.append(result["status"])
            node.write(CONFIG, old)
        node.sh('umount "$1" 2>/dev/null || true; rm -rf /var/lib/gpumend/*', directory)
        if ended[-1:] == ["changed"]:
            break
    assert ended[-1] == "changed"
    assert len(ended) > 1


# -- A. tools that fail ------------------------------------------------------------------------------------------

REAL = "/usr/local/libexec/real"
WRAPPED = """#!/bin/sh
case "$*" in
*{when}*) {do} ;;
esac
exec {real} "$@"
"""


def wrap(node: Node, program: str, when: str, do: str) -> None:
    """The program does something else where its arguments hold `when`."""
    # Under its own name: a daemon is what it executes.
    node.sh('mkdir -p "$(dirname "$2")"; mv "$1" "$2"', program, REAL + program)
    node.write(program, WRAPPED.format(when=when, do=do, real=REAL + program), 0o755)


def unwrap(node: Node, program: str) -> None:
    """The program is itself again."""
    node.sh('mv "$1" "$2"', REAL + program, program)


TOOL = "tool that fails, hangs or lies"


def test_nvidia_ctk_that_fails_leaves_unknown(lab: Lab, boot: Boot, well: Beside) -> None:
    node = boot(SUITE, "healthy")
    node.sh("rm /etc/cdi/nvidia.yaml")
    with healed(TOOL, lab, node, heal=lambda: toolkit.configure(node)):
        toolkit.configure(node, faults=["nvidia-ctk fails"])
        before = Beside(node)
        for ran in both(lab, well, node):
            assert ran.rc == 1, ran.said
            assert "told to fail" in json.dumps(ran.host(node)["findings"])
            assert ran.codes(node, "unknown")
        before.check()


def test_nvidia_ctk_that_hangs_does_not_hang_the_run(lab: Lab, boot: Boot, well: Beside) -> None:
    node = boot(SUITE, "healthy")
    node.sh("rm /etc/cdi/nvidia.yaml")
    with healed(TOOL, lab, node, heal=lambda: toolkit.configure(node)):
        toolkit.configure(node, faults=["nvidia-ctk hangs"])
        before = Beside(node)
        ran = audit(lab, node, well.node)
        assert ran.rc == 1, ran.said
        assert ran.seconds < 30
        assert "no answer within" in json.dumps(ran.host(node)["findings"])
        assert not runs(node, "nvidia-ctk")
        unharmed(ran, well)
        before.check()


def test_spec_that_cannot_be_generated(lab: Lab, boot: Boot, well: Beside) -> None:
    """nvidia-ctk answers, and fails at its work: what was there stays, and its words are told."""
    node = boot(SUITE, "stale_spec")
    with healed(TOOL, lab, node, heal=lambda: unwrap(node, "/usr/bin/nvidia-ctk")):
        wrap(node, "/usr/bin/nvidia-ctk", "cdi\\ generate", "echo 'no luck today' >&2; exit 1")
        before = Beside(node)
        audited, mended = both(lab, well, node)
        assert (audited.rc, mended.rc) == (3, 4), mended.said
        assert mended.change(node, Component.CDI)["status"] == "refused"
        assert mended.change(node, Component.CDI)["detail"].endswith("no luck today")
        assert "GM304" in mended.codes(node)
        before.tree.pop("/var/lib/gpumend", None)
        assert {path for path in tree(node) if not path.startswith("/var/lib/gpumend")} == set(before.tree)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ("sleep 4711", "timeout"),
        ("echo 'cdiVersion: 0.5.0'; exit 0", "has no device"),
        (
            f"exec {REAL}/usr/bin/nvidia-ctk \"$@\" | sed 's/libcuda.so.550.163.01/libcuda.so.1.1/'",
            "which is not there",
        ),
    ],
    ids=["hangs", "writes nothing", "writes what is not true"],
)
def test_spec_that_is_not_fit_is_not_taken(lab: Lab, boot: Boot, made: str, words: str) -> None:
    node = boot(SUITE, "healthy")
    node.sh("rm -r /etc/cdi")
    data = planned(node, Component.CDI, "run")
    with healed(TOOL, lab, node, heal=lambda: unwrap(node, "/usr/bin/nvidia-ctk")):
        wrap(
            node,
            "/usr/bin/nvidia-ctk",
            "cdi\\ generate",
            made if made.startswith(("sleep", "echo")) else f"{made}; exit",
        )
        result = result_of(carry_out(node, data, "COMMAND_TIMEOUT = 1"))
        assert result["status"] == "refused", result
        assert words in result["detail"] or "no answer within 1 s" in result["detail"]
        assert not node.exists("/etc/cdi")
        assert not runs(node, "sleep 4711")


# -- A. two at once ----------------------------------------------------------------------------------------------


def test_two_runs_at_once_on_one_host(lab: Lab, boot: Boot) -> None:
    node = boot(SUITE, "report_002")
    before, seen = starts(node), Before.of(node, CONFIG, DAEMON_JSON)
    seen = seen.would_be(*(planned(node, each, "run") for each in (Component.TOOLKIT, Component.DOCKER)))
    with fault("two controllers"):
        runs_ = [start(lab, node), start(lab, node)]
        ended = [running.finish() for running in runs_]
        for ran in ended:
            assert ran.rc == 0, ran.said
            assert set(ran.statuses(node).values()) <= {"changed", "unchanged"}
        # Where CDI is on by itself a reload is all that dockerd needs.
        by_itself = scenarios.cdi_by_default(node)
        assert starts(node) - before == (0 if by_itself else 1)
        done = [
            ran.statuses(node).get(component)
            for ran in ended
            for component in (Component.CDI, Component.DOCKER)
        ]
        assert done.count("changed") == 2
        settings = json.loads(node.read(DAEMON_JSON))
        assert settings["runtimes"]["nvidia"] == scenarios.RUNTIME
        assert settings["features"] == {"buildkit": True} | ({} if by_itself else {"cdi": True})
        seen.check()
        again = seen.check_next(lab, node)
        assert (again.rc, again.statuses(node)) == (0, {}), again.said


def test_host_that_is_locked_says_by_whom(lab: Lab, boot: Boot) -> None:
    node = boot(SUITE, "healthy")
    node.sh("""sed -i 's/^mode = .*/mode = "auto"/' "$1" """, CONFIG)
    data = planned(node, Component.TOOLKIT, "run") | {"lock_wait": 0}
    with healed("two controllers", lab, node):
        node.sh("echo 'alice@desk, run 7' >/run/gpumend.lock; chmod 600 /run/gpumend.lock")
        node.sh("setsid -f flock /run/gpumend.lock sleep 4712 >/dev/null 2>&1")
        wait_for("locked", lambda: look(node).locked)
        before = Beside(node)
        result = result_of(carry_out(node, data))
        assert result == {"status": "refused", "detail": "another run holds the lock: alice@desk, run 7"}
        before.check()
        node.run(["pkill", "-f", "sleep 4712"])  # theirs alone: whether we left one is what is looked at now


# -- B. changes whose proof fails ----------------------------------------------------------------------------------


REFUSED = "dockerd that refuses the file"


def test_validator_that_refuses(lab: Lab, boot: Boot, well: Beside) -> None:
    node = boot(SUITE, "healthy")
    # dockerd runs with what it read before this directive came; it would refuse it at its next start.
    scenarios.write_daemon(node, scenarios.UNTOLD)
    node.write(DAEMON_JSON, '{\n  "log-driver": "json-file",\n  "bogus": 1\n}\n')
    before, seen = Beside(node), Before.of(node, *PATHS)
    with fault(REFUSED):
        _, mended = both(lab, well, node)
        assert mended.rc == 4, mended.said
        change = mended.change(node, Component.DOCKER)
        assert change["status"] == "refused"
        assert "dockerd refuses the new /etc/docker/daemon.json" in change["detail"]
        assert "bogus" in change["detail"]
        seen.check()
        seen.check_ran(mended)
    now = tree(node)
    before.tree["/etc/docker"] = now["/etc/docker"]  # a staged file came and went
    for path in [path for path in now if path.startswith("/var/lib/gpumend")]:
        before.tree[path] = now[path]
        assert now[path][0] == "directory"
    before.check()


def inode(node: Node, path: str) -> str:
    return node.run(["stat", "-c", "%i %Y %a %u", path]).stdout


def test_dockerd_that_will_not_start_again_at_all(lab: Lab, boot: Boot, well: Beside) -> None:
    """A drop-in with a flag that dockerd does not know: it runs on, and no file of ours can bring it up again. That is
    exit 5, and the file is as it was."""
    node = boot(SUITE, "healthy")
    scenarios.write_daemon(node, scenarios.UNTOLD)
    old, file = node.read(DAEMON_JSON), inode(node, DAEMON_JSON)
    flags = "/etc/systemd/system/docker.service.d/flags.conf"
    node.write(flags, "[Service]\nExecStart=\nExecStart=/usr/sbin/dockerd -H fd:// --no-such-flag\n")
    node.sh("systemctl daemon-reload")
    with healed(REFUSED, lab, node):
        mended = mend(lab, node, well.node)
        assert mended.rc == 5, mended.said
        change = mended.change(node, Component.DOCKER)
        assert change["status"] == "broken"
        assert "; then: the files are as before, but systemctl restart docker.service" in change["detail"]
        assert "no-such-flag" in change["detail"]
        assert "NOT put back" in mended.stdout
        assert (node.read(DAEMON_JSON), inode(node, DAEMON_JSON)) == (old, file)
        assert list_gpumend(node) == []
        unharmed(mended, well)
        node.sh('rm "$1"; systemctl daemon-reload', flags)
        node.restart("docker")


def test_runtime_by_flag_and_by_file(lab: Lab, boot: Boot) -> None:
    """dockerd merges --add-runtime with the file's runtimes: no conflict, and nothing to hold back for."""
    node = boot(SUITE, "runtime_missing")
    node.write(
        "/etc/systemd/system/docker.service.d/flags.conf",
        "[Service]\nExecStart=\nExecStart=/usr/sbin/dockerd -H fd:// --add-runtime=other=/usr/bin/runc\n",
    )
    node.sh("systemctl daemon-reload")
    scenarios.write_daemon(
        node, scenarios.daemon_settings(node, runtimes={"third": {"path": "/usr/bin/runc"}})
    )
    ran = mend(lab, node)
    assert ran.rc == 0, ran.said
    node.restart("docker")
    assert audit(lab, node).rc == 0


def list_gpumend(node: Node) -> list[str]:
    """Files of ours outside our own directory."""
    return node.sh("find /etc /var/run/cdi /srv -name '*.gpumend*' 2>/dev/null || true").stdout.split()


def test_dockerd_that_will_not_start_with_the_runtime(lab: Lab, boot: Boot) -> None:
    """A dockerd that says yes when it is asked, and then exits 1. The container that ran before runs again."""
    node = boot(SUITE, "healthy")
    scenarios.write_daemon(node, scenarios.UNTOLD)
    node.run(SLEEP)
    wrap(
        node,
        "/usr/sbin/dockerd",
        "fd://",
        "grep -q nvidia-container-runtime /etc/docker/daemon.json && exit 1",
    )
    old, file = node.read(DAEMON_JSON), inode(node, DAEMON_JSON)
    target = Target(node, wanted={"restarts": "allow"})

    def heal() -> None:
        unwrap(node, "/usr/sbin/dockerd")
        node.restart("docker")  # the process has the name by which a dockerd is known
        node.run(["docker", "start", "trainer"])

    with healed(REFUSED, lab, target, heal):
        ran = mend(lab, target)
        assert ran.rc == 4, ran.said
        assert ran.change(node, Component.DOCKER)["status"] == "put_back"
        assert (node.read(DAEMON_JSON), inode(node, DAEMON_JSON)) == (old, file)
        assert node.is_active("docker")
        assert running(node) == ["trainer"]


def test_old_dockerd_that_does_not_take_the_reload(lab: Lab, boot: Boot) -> None:
    """Docker 20.10 cannot validate: it is told, does not take the file, and the old bytes come back."""
    node = boot("bookworm", "healthy")
    scenarios.write_daemon(node, scenarios.UNTOLD)
    node.write(DAEMON_JSON, '{\n  "log-driver": "json-file",\n  "bogus": 1\n}\n')
    data = planned(node, Component.DOCKER, "run")
    assert (data["validate"], data["service"][1]) == ([], "reload")
    old, file, pid = node.read(DAEMON_JSON), inode(node, DAEMON_JSON), node.main_pid("docker")
    with healed(REFUSED, lab, node, heal=lambda: node.write(DAEMON_JSON, scenarios.UNTOLD)):
        result = result_of(carry_out(node, data, "PROOF_TIMEOUT = 2"))
        assert result == {"status": "put_back", "detail": "`docker info` shows no Runtimes.nvidia"}
        assert (node.read(DAEMON_JSON), inode(node, DAEMON_JSON)) == (old, file)
        assert node.main_pid("docker") == pid


# -- E. promises --------------------------------------------------------------------------------------------------


def running(node: Node) -> list[str]:
    return sorted(node.run(["docker", "ps", "--format", "{{.Names}}"]).stdout.split())


@pytest.mark.parametrize("user", ["root", "ops"])
def test_round_trips_and_a_second_run_that_changes_nothing(lab: Lab, boot: Boot, user: str) -> None:
    node = boot(SUITE, "report_002")
    target = Target(node, user)
    before = Beside(node)
    found = audit(lab, target)
    assert (found.rc, found.sessions[node.name]) == (3, 1), found.said
    before.check()
    mended = mend(lab, target)
    assert mended.rc == 0, mended.said
    changed = mended.statuses(node)
    assert changed == {Component.CDI: "changed", Component.TOOLKIT: "changed", Component.DOCKER: "changed"}
    assert mended.sessions[node.name] <= 1 + 2 * len(changed)
    assert mended.sessions[node.name] == 1 + len(changed)
    after = Beside(node)
    for again in (mend(lab, target), audit(lab, target)):
        assert (again.rc, again.sessions[node.name]) == (0, 1), again.said
        assert again.host(node).get("changes", []) == []
    after.check()


def test_restart_waits_for_running_containers(lab: Lab, boot: Boot) -> None:
    node = boot(SUITE, "healthy")
    scenarios.write_daemon(node, scenarios.UNTOLD)
    node.run(SLEEP)
    pid = node.main_pid("docker")
    for _ in range(2):
        ran = mend(lab, node)
        assert ran.rc == 3, ran.said
        change = ran.change(node, Component.DOCKER)
        assert change["status"] == "pending"
        assert "it would stop 1 running: trainer" in change["detail"]
        assert "the restart waits" in ran.stdout
        assert (running(node), node.main_pid("docker")) == (["trainer"], pid)
        written = tree(node)
    assert tree(node) == written
    # What a reload can make true is true already.
    assert "nvidia" in node.run(["docker", "info", "-f", "{{json .Runtimes}}"]).stdout
    node.run(["docker", "rm", "-f", "trainer"])
    assert mend(lab, node).rc == 0
    assert node.main_pid("docker") != pid


def test_pending_second_run_writes_nothing(lab: Lab, boot: Boot) -> None:
    node = boot(SUITE, "healthy")
    scenarios.write_daemon(node, scenarios.UNTOLD)
    node.run(SLEEP)
    assert mend(lab, node).rc == 3
    before = Beside(node)
    assert mend(lab, node).rc == 3
    before.check()


def test_restart_that_is_allowed_brings_containers_back(lab: Lab, boot: Boot) -> None:
    node = boot(SUITE, "healthy")
    scenarios.write_daemon(node, scenarios.UNTOLD)
    node.run(SLEEP)
    node.run(["docker", "run", "-d", "--stop-signal=KILL", "--name", "other", images.BASE, "sleep", "86400"])
    node.run(["docker", "create", "--name", "stopped", images.BASE, "sleep", "86400"])
    pid = node.main_pid("docker")
    ran = mend(lab, Target(node, wanted={"restarts": "allow"}))
    assert ran.rc == 0, ran.said
    assert ran.change(node, Component.DOCKER)["notified"] == "restart"
    assert node.main_pid("docker") != pid
    assert running(node) == ["other", "trainer"]


def test_restarts_never(lab: Lab, boot: Boot) -> None:
    node = boot(SUITE, "healthy")
    scenarios.write_daemon(node, scenarios.UNTOLD)
    pid = node.main_pid("docker")
    ran = mend(lab, Target(node, wanted={"restarts": "never"}))
    assert ran.rc == 3, ran.said
    assert ran.change(node, Component.DOCKER)["status"] == "pending"
    assert node.main_pid("docker") == pid


def test_live_restore_keeps_containers_through_the_restart(lab: Lab, boot: Boot) -> None:
    node = boot(SUITE, "healthy")
    scenarios.write_daemon(node, '{\n  "live-restore": true,\n  "features": {"cdi": false}\n}\n')
    node.run(SLEEP)
    inner = node.run(["docker", "inspect", "-f", "{{.State.Pid}}", "trainer"]).stdout
    pid = node.main_pid("docker")
    ran = mend(lab, node)
    assert ran.rc == 0, ran.said
    assert node.main_pid("docker") != pid
    assert node.run(["docker", "inspect", "-f", "{{.State.Pid}}", "trainer"]).stdout == inner
    assert running(node) == ["trainer"]


def test_journals_are_for_root_only(lab: Lab, boot: Boot) -> None:
    node = boot(SUITE, "report_002")
    node.sh("umask 0000; chmod 0644 /etc/docker/daemon.json")
    assert mend(lab, node).rc == 0
    found = node.tree("/var/lib/gpumend")
    assert any(path.endswith("docker.daemon_config/journal.json") for path in found)
    assert any(path.endswith("docker.daemon_config/0.before") for path in found)
    for path, entry in found.items():
        assert entry[1:4] == (0o700 if entry[0] == "directory" else 0o600, 0, 0), path


def test_links_planted_beside_the_target_are_not_followed(lab: Lab, boot: Boot) -> None:
    node = boot(SUITE, "report_002")
    node.write("/root/precious", "precious\n")
    node.sh(
        """
        for name in .daemon.json.gpumend-old .daemon.json.gpumend .daemon.json.tmp daemon.json.new; do
            ln -s /root/precious "/etc/docker/$name"
        done
        """
    )
    assert mend(lab, node).rc == 0
    assert node.read("/root/precious") == b"precious\n"
    assert not node.exists("/etc/docker/.daemon.json.gpumend-old")
    assert audit(lab, node).rc == 0


def test_mode_owner_and_attributes_stay(lab: Lab, boot: Boot) -> None:
    node = boot(SUITE, "report_002")
    python = "import os, sys; os.setxattr(sys.argv[1], 'user.site', b'cellar')"
    for path in (DAEMON_JSON, CONFIG):
        node.sh('chmod 0640 "$1"; chown root:daemon "$1"', path)
        node.run(["python3", "-c", python, path])
    labelled = label(node, CONFIG)
    assert mend(lab, node).rc == 0
    for path in (DAEMON_JSON, CONFIG):
        assert node.run(["stat", "-c", "%a %U %G", path]).stdout == "640 root daemon\n"
        shown = node.run(
            ["python3", "-c", "import os, sys; print(os.getxattr(sys.argv[1], 'user.site'))", path]
        )
        assert shown.stdout == "b'cellar'\n"
    assert label(node, CONFIG) == labelled


def label(node: Node, path: str) -> str:
    """A security label where this kernel lets one be set, and an empty text where not."""
    script = (
        "import os, sys\n"
        "try: os.setxattr(sys.argv[1], 'security.selinux', b'system_u:object_r:etc_t:s0', os.XATTR_CREATE)\n"
        "except OSError: pass\n"
        "try: print(os.getxattr(sys.argv[1], 'security.selinux'))\n"
        "except OSError: print()\n"
    )
    return node.run(["python3", "-c", script, path]).stdout


def test_link_to_a_file_elsewhere_stays_a_link(lab: Lab, boot: Boot) -> None:
    node = boot(SUITE, "report_002")
    for path in (DAEMON_JSON, CONFIG):
        node.sh('mkdir -p /srv/config; mv "$1" /srv/config/; ln -s "/srv/config/${1##*/}" "$1"', path)
    node.restart("docker")
    assert mend(lab, node).rc == 0
    for path in (DAEMON_JSON, CONFIG):
        assert node.run(["readlink", path]).stdout == f"/srv/config/{path.rpartition('/')[2]}\n"
    assert json.loads(node.read("/srv/config/daemon.json"))["runtimes"]["nvidia"] == scenarios.RUNTIME
    assert b'mode = "cdi"' in node.read("/srv/config/config.toml")
    assert list_gpumend(node) == []


# -- F. rollback -----------------------------------------------------------------------------------------------------


def test_rollback_gives_back_what_was(boot: Boot, lab: Lab) -> None:
    node = boot(SUITE, "report_002")
    before = tree(node)
    mended = mend(lab, node)
    assert mended.rc == 0
    pid = node.main_pid("docker")
    result = result_of(carry_out(node, rollback_data(mended.report["run"], "idle")))
    assert result["status"] == "changed", result
    assert sorted(result["files"]) == ["/etc/cdi/nvidia.yaml", DAEMON_JSON, CONFIG]
    after = tree(node)
    for path in (DAEMON_JSON, CONFIG):
        assert after[path] == before[path]
    assert not node.exists("/etc/cdi")
    # Where CDI is on by itself a reload is all that dockerd needs.
    assert node.main_pid("docker") != 0 and (node.main_pid("docker") == pid) == scenarios.cdi_by_default(node)
    assert "nvidia" not in node.run(["docker", "info", "-f", "{{json .Runtimes}}"]).stdout
    assert list_gpumend(node) == []
    again = result_of(carry_out(node, rollback_data(mended.report["run"], "idle")))
    assert again["status"] == "unchanged"


def test_rollback_reloads_where_that_suffices(boot: Boot, lab: Lab) -> None:
    node = boot(SUITE, "runtime_missing")
    # dockerd's reload takes runtimes away only where the file still names some (moby daemon/reload_unix.go).
    other = {"runtimes": {"other": {"path": "/usr/bin/runc"}}}
    scenarios.write_daemon(node, scenarios.daemon_settings(node, **other))
    old, pid = node.read(DAEMON_JSON), node.main_pid("docker")
    mended = mend(lab, node)
    assert mended.rc == 0, mended.said
    assert mended.change(node, Component.DOCKER)["notified"] == "reload"
    assert result_of(carry_out(node, rollback_data(mended.report["run"], "idle")))["status"] == "changed"
    assert node.read(DAEMON_JSON) == old
    assert node.main_pid("docker") == pid
    wait_for(
        "dockerd has read it",
        lambda: "nvidia" not in node.run(["docker", "info", "-f", "{{json .Runtimes}}"]).stdout,
    )


def test_rollback_leaves_what_somebody_changed_since(boot: Boot, lab: Lab) -> None:
    node = boot(SUITE, "report_002")
    old = node.read(DAEMON_JSON)
    mended = mend(lab, node)
    theirs = node.read(CONFIG) + b"# mine\n"
    node.write(CONFIG, theirs)
    result = result_of(carry_out(node, rollback_data(mended.report["run"], "idle")))
    assert result["status"] == "broken"
    assert f"{CONFIG} was changed by somebody else since" in result["detail"]
    assert node.read(CONFIG) == theirs
    assert node.read(DAEMON_JSON) == old
    node.run(["docker", "info"])


def test_rollback_waits_for_running_containers(boot: Boot, lab: Lab) -> None:
    node = boot(SUITE, "healthy")
    scenarios.write_daemon(node, scenarios.UNTOLD)
    mended = mend(lab, node)
    assert mended.rc == 0
    node.run(SLEEP)
    pid = node.main_pid("docker")
    result = result_of(carry_out(node, rollback_data(mended.report["run"], "idle")))
    assert result["status"] == "pending", result
    assert "it would stop 1 running: trainer" in result["detail"]
    assert node.read(DAEMON_JSON) == scenarios.UNTOLD.encode()
    assert (running(node), node.main_pid("docker")) == (["trainer"], pid)


def test_rollback_of_a_run_that_was_not_here(boot: Boot) -> None:
    node = boot(SUITE, None)
    result = result_of(carry_out(node, rollback_data("20260101T000000Z-0000", "idle")))
    assert result["status"] == "refused"
    assert "20260101T000000Z-0000" in result["detail"]
