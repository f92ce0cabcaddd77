"""Whether somebody else could have written a file that nobody named: it is Python that is run, or says which hosts are changed.

The rule is sshd's for ~/.ssh (sshd_config StrictModes, misc.c safe_path), with the group of its owner alone allowed as Debian
allows it there (openssh debian/patches/user-group-modes.patch): Ubuntu's umask makes every file writable by that group.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

LINKS = 40  # followed in one path, as Linux does (path_resolution(7))


class UntrustedError(ValueError):
    """A file could be somebody else's. The text names the path that makes it so, and why."""


def owners(environment: Mapping[str, str] = os.environ) -> frozenset[int]:
    """Whose files count: root's and the caller's; under sudo, root's and those of who called sudo."""
    caller = os.geteuid()
    if caller == 0 and environment.get("SUDO_UID", "").isdigit():
        caller = int(environment["SUDO_UID"])
    return frozenset((0, caller))


def check(path: Path, allowed: frozenset[int] | None = None) -> None:
    """Raises UntrustedError where the file, a directory above it, or a symlink on the way is not of `allowed` (owners()), or
    others may write to it. A directory like /tmp, where everybody may add and nobody may take away, passes: what lies in it
    is looked at itself."""
    allowed = owners() if allowed is None else allowed
    for found in _way(path):
        why = _against(found, os.lstat(found), allowed)
        if why:
            raise UntrustedError(f"{found}: {why}")


def links(path: Path, allowed: frozenset[int]) -> None:
    """Raises UntrustedError where a symlink on the way to the path is not of `allowed`: whoever made it chose what is opened."""
    for found in _way(path):
        status = os.lstat(found)
        if stat.S_ISLNK(status.st_mode) and status.st_uid not in allowed:
            raise UntrustedError(f"{found} is a symlink of uid {status.st_uid}: not followed")


def tree(directory: Path, pattern: str = "*.py") -> list[Path]:
    """The directory's files of this pattern, each checked; none where there is no directory. Raises UntrustedError."""
    if not directory.is_dir():
        return []
    check(directory)
    files = sorted(directory.glob(pattern))
    for file in files:
        check(file)
    return files


def _way(path: Path) -> Iterator[Path]:
    """Each directory, symlink and file that the kernel passes on the way to a path, from / on."""
    left = list(path.absolute().parts[1:])
    here, links = Path("/"), 0
    yield here
    while left:
        part = left.pop(0)
        if part == "..":
            here = here.parent
            continue
        step = here / part
        yield step
        if not step.is_symlink():
            here = step
            continue
        links += 1
        if links > LINKS:
            raise UntrustedError(f"{path}: too many symlinks")
        target = step.readlink()
        if target.is_absolute():
            here = Path("/")
        left = [*(part for part in target.parts if part != "/"), *left]


def _against(path: Path, found: os.stat_result, allowed: frozenset[int]) -> str:
    """Why somebody else could change what is here; empty where nobody could."""
    if found.st_uid not in allowed:
        return f"it belongs to {_name(found.st_uid)}, not to {' or '.join(map(_name, sorted(allowed)))}"
    if stat.S_ISLNK(found.st_mode):
        return ""
    if stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX:
        return ""
    if found.st_mode & stat.S_IWOTH:
        return f"everybody may write to it (mode {stat.S_IMODE(found.st_mode):04o})"
    if found.st_mode & stat.S_IWGRP and not _own_group(path, found):
        return f"others of its group may write to it (mode {stat.S_IMODE(found.st_mode):04o})"
    return ""


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _own_group(path: Path, found: os.stat_result) -> bool:
    """Whether the owner is alone in the file's group, and the group's bits are not those of an access list."""
    if "system.posix_acl_access" in _attributes(path):
        return False
    try:
        group, owner = grp.getgrgid(found.st_gid), pwd.getpwuid(found.st_uid)
    except KeyError:
        return False
    if any(member != owner.pw_name for member in group.gr_mem):
        return False
    return all(user.pw_uid == found.st_uid for user in pwd.getpwall() if user.pw_gid == found.st_gid)


def _attributes(path: Path) -> list[str]:
    try:
        return os.listxattr(path)
    except (OSError, AttributeError):  # no such file system, or not Linux
        return []
