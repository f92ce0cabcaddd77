"""gpumend/payload/change/services.py: what it makes of systemd's words."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpumend.payload.change.services import reload_or_start, telling, until_next
from gpumend.payload.probe import execution


@pytest.mark.parametrize(
    ("said", "rc", "expected"),
    [
        ("active", 0, "reload"),
        ("inactive", 3, "restart"),
        ("failed", 3, "restart"),
        ("inactive", 4, "restart"),
        ("", 1, "reload"),
    ],
    ids=["runs", "stopped", "died", "no-unit-by-systemd-257", "no-bus"],
)
def test_a_daemon_is_restarted_only_where_systemd_says_that_it_is_down(
    programs: Path, monkeypatch: pytest.MonkeyPatch, said: str, rc: int, expected: str
) -> None:
    """Exit status and words of `systemctl is-active` of systemd 252, 257 and 262. A restart stops containers."""
    program = programs / "systemctl"
    program.write_text(
        f"#!/bin/sh\n[ -z '{said}' ] && echo 'Failed to connect to bus' >&2\necho '{said}'\nexit {rc}\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(execution, "PATH", f"{programs}:{execution.PATH}")
    assert reload_or_start("docker.service") == expected


# dockerd 28.5 (Debian sid), from the journal; 26 has no usage after the first line.
UNKNOWN_FLAG = """Status: unknown flag: --no-such-flag
See 'dockerd --help'.

Usage:\tdockerd [OPTIONS]

A self-sufficient runtime for containers.

Options:
      --log-format string                     Set the logging format
                                              ("text"|"json") (default "text")
  -l, --log-level string                      Set the logging level
                                              ("debug"|"info"|"warn"|"error"|"fatal") (default "info")
  -v, --version                               Print version information
                                              and quit
, Code: 125
"""


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (UNKNOWN_FLAG, "Status: unknown flag: --no-such-flag"),
        (UNKNOWN_FLAG * 2, "Status: unknown flag: --no-such-flag"),
        (
            "starting up\nfailed to load listeners: no sockets found\nbye\n",
            "failed to load listeners: no sockets found",
        ),
        ("starting up\n\nbye\n", "bye"),
        ("   indented alone\n", "   indented alone"),
        ("\n", ""),
    ],
    ids=["a flag", "twice", "an error", "no error", "nothing whole", "nothing"],
)
def test_the_line_that_says_why_a_daemon_ended(said: str, line: str) -> None:
    assert telling(said) == line


@pytest.mark.parametrize(
    ("left", "seconds"), [(6, 0.3), (0.3, 0.3), (0.05, 0.05)], ids=["often", "the last", "at its very end"]
)
def test_the_last_look_at_a_daemon_is_made_when_its_watch_is_over(left: float, seconds: float) -> None:
    """It was made up to 0.3 s later: a twentieth of the watch."""
    assert until_next(left) == seconds
