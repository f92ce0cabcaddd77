"""`gpumend` as it is installed, away from the checkout, on a terminal: it shows what it would change, and asks once."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import time
from pathlib import Path

import pytest

from tests.installed import built, installed
from tests.nodes.conftest import Boot
from tests.nodes.lab import Lab

QUESTION = "Change them as shown above? [y/N]: "
SECONDS = 240.0


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The installed command."""
    _, wheel = built(tmp_path_factory.mktemp("built"))
    return installed(wheel, tmp_path_factory.mktemp("installed")) / "gpumend"


def on_a_terminal(argv: list[str], cwd: Path, answer: str) -> tuple[int, str, int]:
    """A program's exit status, all that stood on its terminal, and how many questions: each gets this answer."""
    ours, theirs = pty.openpty()
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
            if said.count(QUESTION.encode()) > asked:
                asked += 1
                os.write(ours, answer.encode())
        return child.wait(timeout=30), said.decode(errors="replace"), asked
    finally:
        child.kill()
        child.wait()
        os.close(ours)


def test_mend_asks_once_and_a_no_changes_nothing(boot: Boot, lab: Lab, program: Path, tmp_path: Path) -> None:
    node = boot("trixie", scenario="report_002")
    hosts = tmp_path / "hosts.toml"
    hosts.write_text(
        f'[defaults]\nuser = "root"\nkey = "{lab.key}"\nknown_hosts = "{lab.known_hosts}"\n'
        f'gpumend = {{ restart_watch = 0 }}\n[hosts.{node.name}]\naddress = "{node.address}"\n'
    )
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

    status, said, asked = on_a_terminal(argv, tmp_path, "y\n")
    assert (status, asked) == (0, 1), said
    assert json.loads(report.read_text())["hosts"][node.name]["status"] == "mended"

    status, said, asked = on_a_terminal(argv, tmp_path, "y\n")
    assert (status, asked) == (0, 0), "where nothing is to be changed, nothing is asked"
