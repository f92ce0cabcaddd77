"""What stands on a terminal, or in a log, while a run goes on; and Ctrl-C."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import click
import gevent
import pytest

from gpumend.deploy import screen
from gpumend.reports.terminal import WIDTH
from tests.nodes.slot import wait_for

ROOT = Path(__file__).resolve().parents[2]
GPUMEND = (sys.executable, "-m", "gpumend.cli.main")
PYINFRA_WORDS = ("--> ", "Detected changes", "Connected", "Ready:", "Grand total")
SECONDS = 60.0


@pytest.fixture
def silent() -> Iterator[int]:
    """A port on which somebody answers and never says a word: the SSH banner does not come."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(8)
        yield listening.getsockname()[1]


@pytest.fixture
def here(tmp_path: Path, silent: int) -> Path:
    (tmp_path / "hosts.toml").write_text(
        f'[defaults]\nuser = "root"\nstrict_host_keys = "no"\nconnect_timeout = 60\n[hosts."@local"]\n'
        f'[hosts.mute1]\naddress = "127.0.0.1"\nport = {silent}\n'
        f'[hosts.mute2]\naddress = "localhost"\nport = {silent}\n'
    )
    return tmp_path


class Run:
    """A program with its standard error, or all of its output, on a terminal of some columns, or in a pipe."""

    def __init__(self, here: Path, *words: str, columns: int = 0, **env: str) -> None:
        environment = {
            key: value for key, value in os.environ.items() if key not in ("GPUMEND_HOSTS", "COLUMNS")
        }
        environment |= {"PYTHONPATH": str(ROOT), "XDG_CONFIG_HOME": str(here), "TERM": "xterm", **env}
        self.said = b""
        if columns:
            self.end, theirs = pty.openpty()
            fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        else:
            self.end, theirs = os.pipe()
        self.child = subprocess.Popen(
            [*GPUMEND, *words], cwd=here, env=environment, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs,
            start_new_session=True,
        )  # fmt: skip
        os.close(theirs)

    def until(self, text: str) -> None:
        """All that is said until this text; what comes at the end, where it is empty."""
        end = time.monotonic() + SECONDS
        while not text or text not in self.text:
            assert time.monotonic() < end, self.text
            if not select.select([self.end], [], [], 1.0)[0]:
                continue
            try:
                part = os.read(self.end, 65536)
            except OSError:  # EIO: nobody has the terminal's other end any more
                part = b""
            if not part:
                break
            self.said += part

    @property
    def text(self) -> str:
        return self.said.decode(errors="replace")

    def ended(self) -> int:
        self.until("")
        os.close(self.end)
        return self.child.wait(timeout=30)


def until_read(run: Run, here: Path) -> None:
    """@local has answered, while the others have not said a word."""
    run.until("connecting: 1 of 3 hosts; waiting for mute[1-2]")
    children = Path(f"/proc/{run.child.pid}/task/{run.child.pid}/children")
    wait_for("@local's answer", lambda: (here / "read").exists() and not children.read_text(), SECONDS / 2)


@pytest.fixture
def reads(here: Path) -> str:
    """A PATH whose python3 writes a line to `read` in the directory each time that the probe has answered."""
    (here / "python3").write_text(f'#!/bin/sh\n{sys.executable} "$@" && echo >>{here}/read\n')
    (here / "python3").chmod(0o755)
    return f"{here}:{os.environ['PATH']}"


def test_a_host_is_read_while_others_are_connected_to(here: Path, reads: str) -> None:
    """One that is down holds up nobody: its connection alone takes until it is given up."""
    run = Run(here, "audit", columns=100, PATH=reads)
    until_read(run, here)
    os.kill(run.child.pid, signal.SIGINT)
    assert run.ended() == 1
    assert (here / "read").read_text() == "\n", "it is asked once"


def test_ctrl_c_keeps_the_answers_that_are_there_and_names_the_hosts_that_are_missing(
    here: Path, reads: str
) -> None:
    report = here / "report.json"
    run = Run(here, "audit", "--report", str(report), columns=100, PATH=reads)
    until_read(run, here)
    os.killpg(run.child.pid, signal.SIGINT)  # as a terminal does: everybody in the foreground gets it
    status = run.ended()
    assert status == 1, run.text
    assert "gpumend: interrupted: no answer yet from mute1, mute2" in run.text
    found = json.loads(report.read_text())
    assert (found["exit"], found["stopped"]) == (1, {"why": "interrupted", "left": ["mute1", "mute2"]})
    hosts = found["hosts"]
    assert hosts["@local"]["facts"]["kernel"], "the answer that there is"
    assert hosts["mute1"]["error"] == "could not be reached: interrupted: it had not answered"
    assert "Stopped (interrupted): not done with 2 hosts: mute[1-2]" in run.text


def test_ctrl_c_while_a_host_is_read(here: Path) -> None:
    (here / "hosts.toml").write_text('[hosts."@local"]\n')
    (here / "python3").write_text("#!/bin/sh\nexec sleep 300\n")
    (here / "python3").chmod(0o755)
    run = Run(here, "audit", columns=100, PATH=f"{here}:{os.environ['PATH']}")
    run.until("waiting for @local")
    os.kill(run.child.pid, signal.SIGINT)
    try:
        run.until("1 no answer")
        assert "interrupted: it had not answered" in run.text
    finally:
        os.killpg(run.child.pid, signal.SIGKILL)
        run.ended()


def test_ctrl_c_while_a_host_is_read_and_others_are_connected_to(here: Path) -> None:
    report = here / "report.json"
    (here / "python3").write_text(f"#!/bin/sh\n: >{here}/begun\nexec sleep 300\n")
    (here / "python3").chmod(0o755)
    run = Run(here, "audit", "--report", str(report), columns=100, PATH=f"{here}:{os.environ['PATH']}")
    wait_for("@local's probe", (here / "begun").exists, SECONDS)
    os.kill(run.child.pid, signal.SIGINT)
    try:
        run.until("3 no answer")
        assert "gpumend: interrupted: no answer yet from @local, mute1, mute2" in run.text
        wait_for("the report", report.exists)
        found = json.loads(report.read_text())
        assert found["hosts"]["@local"]["error"] == "interrupted: it had not answered"
    finally:
        os.killpg(run.child.pid, signal.SIGKILL)
        run.ended()


def test_gpumend_becomes_the_program_that_it_starts(here: Path) -> None:
    run = Run(here, "audit", columns=100)
    run.until("waiting for mute[1-2]")
    argv = Path(f"/proc/{run.child.pid}/cmdline").read_bytes().split(b"\0")
    assert b"gpumend.deploy.process" in argv
    os.kill(run.child.pid, signal.SIGINT)
    assert run.ended() == 1


# As `gpumend` does it: an interrupt that comes meanwhile is held back.
HELD = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])
os.kill(os.getpid(), getattr(signal, sys.argv[1]))
os.execv(sys.executable, [sys.executable, "-P", "-m", "gpumend.deploy.process", "@local", "deploys/gpu_host.py", "--dry"])
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interrupt_that_comes_before_the_program_is_loaded_is_told(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HELD, name], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    told = "gpumend: interrupted before a host was connected to\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", told)


@pytest.mark.parametrize("words", [(), ("-v",)])
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interrupt_that_comes_before_the_inventory_is_there_is_told(
    tmp_path: Path, name: str, words: tuple[str, ...]
) -> None:
    """pyinfra ends with exit status 0 then, in which nothing would be wrong with the hosts."""
    (tmp_path / "mine.py").write_text(
        f"import os, signal\n\nos.kill(os.getpid(), signal.{name})\nhosts = []\n"
    )
    done = subprocess.run(
        [*GPUMEND, "audit", "mine.py", *words], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    told = "gpumend: interrupted before a host was connected to"
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, told), (done.stdout, done.stderr)


@pytest.fixture
def one(here: Path) -> Path:
    (here / "hosts.toml").write_text(
        '[defaults]\nstrict_host_keys = "no"\n[hosts."@local"]\n[hosts.down]\naddress = "127.0.0.1"\nport = 1\n'
    )
    return here


@pytest.mark.parametrize("columns", [0, 60, 160], ids=lambda value: f"{value or 'no'} columns")
def test_pyinfras_own_words_are_hidden_and_no_line_is_wider_than_the_terminal(
    one: Path, columns: int
) -> None:
    run = Run(one, "audit", columns=columns, GPUMEND_HOSTS=str(one / "hosts.toml"))
    assert run.ended() == 1
    assert [word for word in PYINFRA_WORDS if word in run.text] == []
    assert "port 1 on 127.0.0.1: connection refused" in " ".join(run.text.split()), "the report has it"
    shown = click.unstyle(run.text.replace(screen.ERASE, "\n")).splitlines()
    report = shown[shown.index("HOST" + " " * 4 + shown[[row[:4] for row in shown].index("HOST")][8:]) :]
    wide = [line for line in report if len(line) > (columns or WIDTH)]
    assert [line for line in wide if " " in line.strip().removeprefix("- ")] == [], "a path alone stays whole"
    assert ("\x1b[" in run.text) == bool(columns), "colours on a terminal alone"


def test_verbose_shows_what_pyinfra_says(one: Path) -> None:
    run = Run(one, "audit", "-v", "down")
    assert run.ended() == 1
    assert "--> Connecting to hosts" in run.text


@pytest.mark.parametrize(("name", "columns"), [("NO_COLOR", 80), ("FORCE_COLOR", 0)])
def test_colours_as_the_environment_says(one: Path, name: str, columns: int) -> None:
    run = Run(one, "audit", "down", columns=columns, **{name: "1"})
    assert run.ended() == 1
    colours = [part for part in run.text.split("\x1b[")[1:] if not part.startswith("K")]
    assert bool(colours) == (name == "FORCE_COLOR"), run.text


def test_quiet_is_one_line_and_no_progress(one: Path) -> None:
    run = Run(one, "audit", "-q", columns=80)
    assert run.ended() == 1
    first, last = run.text.splitlines()
    assert first.startswith("gpumend: ") and last.startswith("audit ")
    assert screen.ERASE not in run.text


def test_a_run_that_ends_before_it_has_read_a_host_is_not_fine(one: Path) -> None:
    """pyinfra takes an interrupt before it connects for a good end."""
    (one / "mine.py").write_text("raise SystemExit(0)\n")
    run = Run(one, "audit", "mine.py")
    assert run.ended() == 1
    assert "gpumend: the run ended before it had read a host" in run.text


def test_without_a_terminal_a_line_comes_every_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen.Screen(written))
    monkeypatch.setattr(screen, "EVERY", 0.01)
    screen.start(lambda: "reading: 1 of 3 hosts; waiting for mute[1-2]")
    try:
        while written.getvalue().count("\n") < 2:
            gevent.sleep(0.005)
    finally:
        screen.stop()
    assert set(written.getvalue().splitlines()) == {
        "gpumend: reading: 1 of 3 hosts; waiting for mute[1-2], 0 s"
    }


def test_the_order_is_the_same_whoever_answers_first(one: Path) -> None:
    def shown() -> list[str]:
        run = Run(one, "audit", "--report", "-", "-q")
        run.ended()
        return list(json.loads(run.text[run.text.index("{") :])["hosts"])

    assert shown() == shown() == ["@local", "down"]


def test_the_line_fits_the_terminal_of_standard_error() -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
    with os.fdopen(theirs, "w") as error:
        screen.Screen(error).show("x" * 200)
        shown = os.read(ours, 4096).decode().removeprefix(screen.ERASE)
    os.close(ours)
    assert len(shown) == 39 and shown.strip("x") == "..."


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_how_long_it_takes_stands_there_whatever_the_width(columns: int) -> None:
    """The seconds were cut off, and the line stood still while packages came."""
    doing = "apt install nvidia-container-toolkit, nvidia-container-toolkit-base, libnvidia-container-tools, libnvidia-container1"
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    os.set_blocking(ours, False)  # to be read is what stands there already, or nothing
    shown = []
    with os.fdopen(theirs, "w") as error:
        found = screen.Screen(error)
        for seconds in (11, 12):
            found.show(f"gpumend: 2 changes done; at work on gpu1: {doing} for {seconds} s, {seconds + 4} s")
            shown.append(os.read(ours, 4096).decode().removeprefix(screen.ERASE))
    os.close(ours)
    assert all(len(line) < columns and line.startswith("gpumend: 2 changes done") for line in shown)
    assert shown[0].endswith(" for 11 s, 15 s") and shown[1].endswith(" for 12 s, 16 s")
