"""gpumend/payload/change/services.py: what it makes of systemd's words."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpumend.payload.change.services import reload_or_start
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
