"""Files that root itself cannot rename another one over: the change is refused, and says who holds them."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from gpumend.payload.change import step
from gpumend.payload.change.files import Refused
from gpumend.payload.probe.files import mount_points

# /proc/self/mountinfo after `mount --bind a 'the b'`, Linux 6.1
BIND = "83 63 254:0 /tmp/w/t/a /srv/the\\040b rw,relatime - ext4 /dev/vda rw,discard,resuid=65534\n"


@pytest.mark.parametrize(
    ("flags", "word", "undo"),
    [(step.IMMUTABLE, "immutable", "chattr -i"), (step.APPEND | 0x80000, "append-only", "chattr -a")],
)
def test_what_chattr_holds_is_refused_by_its_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, flags: int, word: str, undo: str
) -> None:
    """The kernel's answer for an ordinary file is of this machine; the flags are ours."""
    path = tmp_path / "config.toml"
    path.write_text("")
    step.replaceable(str(path))
    monkeypatch.setattr(fcntl, "ioctl", lambda *_: flags.to_bytes(8, "little"))
    with pytest.raises(Refused, match=f"{path} is {word} .lsattr -d shows it.*{undo} {path}"):
        step.replaceable(str(path))


def test_a_bind_mount_is_known_by_its_mount_point() -> None:
    assert dict(mount_points(BIND)) == {"/srv/the b": "ext4"}


def test_a_mount_point_is_refused_as_one() -> None:
    """/proc/version is none, /proc is one on every Linux."""
    with pytest.raises(Refused, match=r"/proc is a bind mount.*findmnt /proc"):
        step.replaceable("/proc")
