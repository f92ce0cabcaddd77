"""Files that nobody named: whose they have to be before they count. Run as root, other users' files are real here."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gpumend.deploy import trust
from gpumend.deploy.trust import UntrustedError, check, owners, tree

ME = os.geteuid()
SOMEBODY = 65533  # nobody's number here


@pytest.fixture
def hosts(tmp_path: Path) -> Path:
    """A hosts file in a directory of its own, both the caller's."""
    directory = tmp_path / "here"
    directory.mkdir(mode=0o755)
    path = directory / "hosts.toml"
    path.write_text("[hosts.a]\n")
    path.chmod(0o644)
    return path


def test_ones_own_file_counts_and_a_directory_like_tmp_above_it_is_no_objection(hosts: Path) -> None:
    check(hosts)
    hosts.parent.chmod(0o1777)
    check(hosts)


@pytest.mark.parametrize(
    ("what", "mode", "said"),
    [
        ("file", 0o666, "everybody may write to it (mode 0666)"),
        ("file", 0o646, "everybody may write to it"),
        ("directory", 0o777, "everybody may write to it (mode 0777)"),
        ("above", 0o777, "everybody may write to it (mode 0777)"),
    ],
)
def test_what_everybody_may_write_to_does_not_count(hosts: Path, what: str, mode: int, said: str) -> None:
    path = {"file": hosts, "directory": hosts.parent, "above": hosts.parent.parent}[what]
    path.chmod(mode)
    with pytest.raises(UntrustedError) as raised:
        check(hosts)
    path.chmod(0o755)
    assert str(raised.value).startswith(f"{path}: ") and said in str(raised.value)


@pytest.mark.parametrize("what", ["file", "directory"])
def test_what_belongs_to_somebody_else_does_not_count(hosts: Path, what: str) -> None:
    path = hosts if what == "file" else hosts.parent
    with pytest.raises(UntrustedError) as raised:
        check(hosts, frozenset({0, ME}) - {ME} if ME else frozenset({SOMEBODY}))
    assert "it belongs to" in str(raised.value)
    if ME == 0:
        os.chown(path, SOMEBODY, 0)
        with pytest.raises(UntrustedError, match=f"{path}: it belongs to user {SOMEBODY}, not to root"):
            check(hosts)


def test_a_symlink_is_followed_and_both_ways_are_looked_at(hosts: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir(mode=0o755)
    link = other / "hosts.toml"
    link.symlink_to("../here/hosts.toml")
    check(link)
    hosts.parent.chmod(0o777)
    with pytest.raises(UntrustedError, match=f"{hosts.parent}: "):
        check(link)
    hosts.parent.chmod(0o755)
    other.chmod(0o777)
    with pytest.raises(UntrustedError, match=f"{other}: "):
        check(link)


def test_a_circle_of_symlinks_ends(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(UntrustedError, match="too many symlinks"):
        check(tmp_path / "a")


def test_a_group_counts_as_its_owner_only_where_he_is_alone_in_it(
    hosts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts.chmod(0o664)
    monkeypatch.setattr(trust, "_own_group", lambda path, found: True)
    check(hosts)
    monkeypatch.setattr(trust, "_own_group", lambda path, found: False)
    with pytest.raises(UntrustedError, match="others of its group may write to it"):
        check(hosts)


def test_under_sudo_files_of_whoever_called_it_count() -> None:
    assert owners({}) == {0, ME}
    assert owners({"SUDO_UID": "1000"}) == ({0, 1000} if ME == 0 else {0, ME})
    assert owners({"SUDO_UID": "x"}) == {0, ME}


def test_each_file_of_a_directory_is_looked_at(hosts: Path) -> None:
    assert tree(hosts.parent / "none") == []
    first, second = hosts.parent / "a.py", hosts.parent / "b.py"
    for path in (first, second):
        path.write_text("")
        path.chmod(0o644)
    assert tree(hosts.parent) == [first, second]
    second.chmod(0o666)
    with pytest.raises(UntrustedError, match=f"{second}: "):
        tree(hosts.parent)
