"""`gpumend` as it is installed, away from the checkout, on a terminal: it shows what it would change, and asks once."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import shlex
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from gpumend.rules.finding import Component
from tests.installed import ROOT, built, installed
from tests.nodes import gpu, toolkit
from tests.nodes.apt import AptLock, serve
from tests.nodes.conftest import Boot
from tests.nodes.lab import Lab, Node

QUESTION = "Change them as shown above? [y/N]: "
SECONDS = 240.0
# chattr(1), which the nodes do not have: FS_IOC_SETFLAGS of linux/fs.h
SET = "import fcntl, sys; fcntl.ioctl(open(sys.argv[2]), 0x40086602, int(sys.argv[1], 16).to_bytes(8, 'little'))"
CHATTR = ["python3", "-c", SET]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The installed command."""
    _, wheel = built(tmp_path_factory.mktemp("built"))
    return installed(wheel, tmp_path_factory.mktemp("installed")) / "gpumend"


def on_a_terminal(
    argv: list[str], cwd: Path, answer: str | None, seen: Callable[[bytes], None] = lambda _: None
) -> tuple[int, str, int]:
    """A program's exit status, all that stood on its terminal, and how many questions: each gets this answer, or Ctrl-C. seen: is
    given each part as soon as it stands there."""
    ours, theirs = pty.openpty()
    # Wide enough that no line of progress is shortened, whatever the node is called.
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 160, 0, 0))
    environment = {
        key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "GPUMEND_HOSTS")
    }
    child = subprocess.Popen(
        argv, cwd=cwd, env=environment, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    said, asked, until = b"", 0, time.monotonic() + SECONDS
    try:
        while time.monotonic() < until:
            if not select.select([ours], [], [], 1.0)[0]:
                continue
            try:
                part = os.read(ours, 65536)
            except OSError:  # EIO: nobody has the other end any more
                break
            said += part
            seen(part)
            if said.count(QUESTION.encode()) > asked:
                asked += 1
                if answer is None:
                    os.killpg(
                        child.pid, signal.SIGINT
                    )  # as a terminal does: everybody in the foreground gets it
                else:
                    os.write(ours, answer.encode())
        return child.wait(timeout=30), said.decode(errors="replace"), asked
    finally:
        child.kill()
        child.wait()
        os.close(ours)


def hosts_file(lab: Lab, node: Node, directory: Path) -> Path:
    path = directory / "hosts.toml"
    path.write_text(
        f'[defaults]\nuser = "root"\nkey = "{lab.key}"\nknown_hosts = "{lab.known_hosts}"\n'
        f'gpumend = {{ restart_watch = 0 }}\n[hosts.{node.name}]\naddress = "{node.address}"\n'
    )
    return path


def test_a_plan_is_mended_as_it_was_approved_or_not_at_all(
    boot: Boot, lab: Lab, program: Path, tmp_path: Path
) -> None:
    node = boot("trixie", scenario="report_002")
    hosts_file(lab, node, tmp_path)
    report, log = tmp_path / "report.json", tmp_path / "log"

    def gpumend(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(program), *words], cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS,
            env={key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "GPUMEND_HOSTS")},
        )  # fmt: skip

    def mended(*words: str) -> tuple[int, dict[str, Any]]:
        done = gpumend("mend", "--yes", "--plan", "plan.json", "--report", str(report), *words)
        document: dict[str, Any] = json.loads(report.read_text())
        assert document["exit"] == done.returncode, done.stderr
        return done.returncode, document

    assert gpumend("plan", "--out", "plan.json").returncode == 3

    # The host has changed since.
    was = node.read("/etc/docker/daemon.json")
    node.write("/etc/docker/daemon.json", was + b"\n")
    etc = node.tree("/etc", "/var/lib/gpumend")
    status, document = mended()
    host = document["hosts"][node.name]
    assert (status, host["status"]) == (4, "refused")
    assert "it has changed since the plan was made: docker.daemon_config" in host["changes"][0]["detail"]
    assert node.tree("/etc", "/var/lib/gpumend") == etc, "nothing was changed"

    # It is as it was; what has to be done before it fails.
    node.write("/etc/docker/daemon.json", was)
    etc = node.tree("/etc", "/var/lib/gpumend")
    status, document = mended("--before", "echo $GPUMEND_HOST is busy; exit 7", "--after", f"touch {log}")
    host = document["hosts"][node.name]
    assert (status, host["status"]) == (4, "refused")
    assert f"--before ended with exit status 7: {node.name} is busy" in host["changes"][0]["detail"]
    assert node.tree("/etc", "/var/lib/gpumend") == etc and not log.exists()

    # Ctrl-C while what comes before it is at work: it ends, nothing is changed, and what comes after is done.
    started, go = tmp_path / "started", tmp_path / "go"

    def begun() -> subprocess.Popen[str]:
        """A mend whose --before waits for somebody, after one Ctrl-C."""
        before = f"touch {started}; while ! [ -e {go} ]; do sleep 0.05; done"
        child = subprocess.Popen(
            [str(program), "mend", "--yes", "--before", before, "--after", f"echo $GPUMEND_EXIT >> {log}", "--report", str(report)],
            cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        while not started.exists():
            assert child.poll() is None
            time.sleep(0.05)
        child.send_signal(signal.SIGINT)
        said = ""
        assert child.stderr is not None
        while "interrupted" not in said:
            said += child.stderr.readline()
        return child

    with begun() as child:
        go.touch()
        assert child.wait(timeout=SECONDS) == 3
    assert json.loads(report.read_text())["stopped"] == {"why": "interrupted", "left": [node.name]}
    assert node.tree("/etc", "/var/lib/gpumend") == etc and log.read_text() == "3\n"

    # Ctrl-C until it is gone: the report says what was at work.
    started.unlink()
    go.unlink()
    with begun() as child:
        while child.poll() is None:
            child.send_signal(signal.SIGINT)
            time.sleep(0.1)
    go.touch()
    assert child.returncode == 1
    assert (
        "interrupted while --before was at work"
        in json.loads(report.read_text())["hosts"][node.name]["error"]
    )
    assert node.tree("/etc", "/var/lib/gpumend") == etc and log.read_text() == "3\n"

    # As approved.
    status, document = mended(
        "--before", f"echo $GPUMEND_ADDRESS >> {log}", "--after", f"echo $GPUMEND_EXIT $GPUMEND_STATUS >> {log}; exit 1",
        "--canary", "1", "--max-failures", "1",
    )  # fmt: skip
    host = document["hosts"][node.name]
    assert log.read_text() == f"3\n{node.address}\n0 mended\n"
    assert (status, host["after"]) == (3, "--after ended with exit status 1"), "somebody has to look at it"
    assert {change["status"] for change in host["changes"]} == {"changed"} and not host["plan"]
    assert mended()[0] == 0, "a second time nothing is left to be changed"

    # Broken again, and held by somebody: who that is, and not what the kernel calls it.
    node.write("/etc/docker/daemon.json", was)
    node.write("/root/other.json", was)
    for held, freed, said in (
        ([*CHATTR, "0x10"], [*CHATTR, "0"], "/etc/docker/daemon.json is immutable (lsattr -d shows it)"),
        (["mount", "--bind", "/root/other.json"], ["umount"], "/etc/docker/daemon.json is a bind mount"),
    ):
        node.run([*held, "/etc/docker/daemon.json"])
        done = gpumend("mend", "--yes", "--report", str(report))
        node.run([*freed, "/etc/docker/daemon.json"])
        [change] = json.loads(report.read_text())["hosts"][node.name]["changes"]
        assert (done.returncode, change["status"]) == (4, "refused") and said in change["detail"]


def test_mend_asks_once_and_a_no_changes_nothing(boot: Boot, lab: Lab, program: Path, tmp_path: Path) -> None:
    node = boot("trixie", scenario="report_002")
    hosts = hosts_file(lab, node, tmp_path)
    report = tmp_path / "report.json"
    argv = [str(program), "mend", node.name, "--report", str(report)]
    etc = node.tree("/etc", "/var/lib")
    status, said, asked = on_a_terminal(argv, tmp_path, "n\n")
    assert (status, asked) == (3, 1), said
    first = said.split("\r\n")[0]
    assert first == f"gpumend: {hosts}: 1 host", said
    assert "would change  docker.daemon_config" in said.partition(QUESTION)[0]
    assert f"To be changed: 1 host: {node.name}" in said
    assert node.tree("/etc", "/var/lib") == etc, "nothing was changed"
    assert json.loads(report.read_text())["kind"] == "audit"

    status, said, asked = on_a_terminal(argv, tmp_path, None)
    assert (status, asked) == (3, 1), said
    assert "gpumend: nothing was changed" in said and "Traceback" not in said
    assert node.tree("/etc", "/var/lib") == etc

    status, said, asked = on_a_terminal(argv, tmp_path, "y\n")
    assert (status, asked) == (0, 1), said
    assert json.loads(report.read_text())["hosts"][node.name]["status"] == "mended"

    status, said, asked = on_a_terminal(argv, tmp_path, "y\n")
    assert (status, asked) == (0, 0), "where nothing is to be changed, nothing is asked"


def test_nothing_is_silent_while_a_package_managers_lock_is_waited_for(
    boot: Boot, lab: Lab, program: Path, tmp_path: Path
) -> None:
    node = boot("trixie", None)
    gpu.install(node)
    serve(node, *toolkit.debs("1.20.0"))
    hosts = hosts_file(lab, node, tmp_path)
    hosts.write_text(hosts.read_text().replace("gpumend = { ", "gpumend = { toolkit = { install = true }, "))
    report, moments = tmp_path / "report.json", [time.monotonic()]
    with AptLock(node) as lock:

        def seen(part: bytes) -> None:
            moments.append(time.monotonic())
            if re.search(rb"waits for process \d+ \(python3\).* for 1[1-9] s", part):
                lock.release()

        argv = [str(program), "mend", node.name, "--report", str(report)]
        status, said, asked = on_a_terminal(argv, tmp_path, "y\n", seen)
    assert (status, asked) == (0, 1), said
    assert max(later - before for before, later in pairwise(moments)) < 10
    changes = {
        each["component"]: each for each in json.loads(report.read_text())["hosts"][node.name]["changes"]
    }
    told = changes[Component.PACKAGES]["detail"]
    assert re.search(r"waited 1\d s for apt's lock, which process \d+ \(python3\) held", told), told


# `pipx install PATH` without a network: a virtual environment of its own, whose programs are in ~/.local/bin.
PIPX = f"""#!{sys.executable}
import sys
import termios
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from tests.installed import installed, wheel_of
assert sys.argv[1] == "install", sys.argv
made = Path.home() / "made"
made.mkdir()
programs = Path.home() / ".local/bin"
programs.mkdir(parents=True)
bin = installed(wheel_of(Path(sys.argv[2]).absolute(), made), Path.home() / "environment")
(programs / "gpumend").symlink_to(bin / "gpumend")
"""


def commands(page: str) -> list[str]:
    """A page's command lines, from the first to the first audit of a host."""
    text = (ROOT / page).read_text("utf-8")
    lines = [
        line for block in re.findall(r"^```\n(.*?)^```$", text, re.M | re.S) for line in block.splitlines()
    ]
    first = next(number for number, line in enumerate(lines) if line.startswith("git clone "))
    last = next(number for number, line in enumerate(lines) if line.startswith("gpumend audit "))
    return lines[first : last + 1]


def test_from_a_clone_to_the_first_audit_as_readme_says(boot: Boot, lab: Lab, tmp_path: Path) -> None:
    """At most four commands, one of which may be what installs pipx. The host is reached by ~/.ssh alone, as a user with sudo."""
    node = boot("trixie", scenario="report_002")
    written = commands("README.md")
    plain = [shlex.split(line, comments=True) for line in written]
    assert plain == [shlex.split(line, comments=True) for line in commands("docs/getting-started.md")]
    assert [words[:2] for words in plain] == [
        ["git", "clone"],
        ["pipx", "install"],
        ["gpumend", "audit"],
    ]
    home, programs = tmp_path / "home", tmp_path / "programs"
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    (home / ".ssh/config").write_text(
        f"Host gpu1.example.net\nHostName {node.address}\nIdentityFile {lab.key}\n"
    )
    (home / ".ssh/known_hosts").write_bytes(lab.known_hosts.read_bytes())
    programs.mkdir()
    (programs / "pipx").write_text(PIPX)
    (programs / "pipx").chmod(0o755)
    etc = node.tree("/etc", "/var/lib/gpumend")
    done = subprocess.run(
        ["bash", "-ec", "\n".join(written).replace("REPOSITORY", shlex.quote(str(ROOT)))],
        cwd=home, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS,
        env={"HOME": str(home), "PATH": f"{home}/.local/bin:{programs}:{os.environ['PATH']}", "LANG": "C.UTF-8"},
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert "GM404" in done.stdout and "would change  docker.daemon_config" in done.stdout
    assert node.tree("/etc", "/var/lib/gpumend") == etc
