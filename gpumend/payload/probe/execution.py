"""What root may execute on a host: only what no user could have put there."""

import errno
import os
import stat
from typing import Dict, Optional, Tuple

from gpumend.payload.probe.files import MAX_SEARCHED_BYTES, Json, meta, open_file

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/snap/bin"
ACCOUNTS = ("/etc/group", "/etc/passwd")


def idle_group(gid: int) -> bool:
    """Whether nobody but root is in a group, so that what it may write is root's alone: gid 0, or a group of /etc/group
    without members that is no user's own in /etc/passwd. Debian's /usr/local was root:staff 2775 up to Debian 9, and is
    where a host was upgraded from it (Debian Policy 9.1.2). A group that only a directory service knows is not idle.
    """
    if gid == 0:
        return True
    rows = []
    for path in ACCOUNTS:
        try:
            with open_file(path) as handle:
                text = handle.read(MAX_SEARCHED_BYTES).decode("utf-8", "replace")
            rows.append([line.split(":") for line in text.split("\n")])
        except OSError:
            return False
    here = [row for row in rows[0] if len(row) > 3 and row[2] == str(gid)]
    own = [row for row in rows[1] if len(row) > 3 and row[3] == str(gid)]
    return bool(here) and not own and not any(row[3].strip() for row in here)


def has_acl(path: str) -> bool:
    """Whether a path has a POSIX ACL. Where it has, the group's bits of its mode are the ACL's mask, the most that any user
    or group that it names may do (acl(5), CORRESPONDENCE): without the group's `w`, no entry of it lets anybody write.
    """
    try:
        return bool(os.getxattr(path, "system.posix_acl_access"))
    except OSError as error:
        return error.errno not in (errno.ENODATA, errno.EOPNOTSUPP)


def other_hand(path: str, found: os.stat_result, shown: Optional[str] = None) -> Optional[str]:
    """Who besides root can change a file or directory with that lstat, as text, or None where nobody can. `shown`: its
    name in the text."""
    shown = shown or path
    if found.st_uid != 0:
        return "%s belongs to uid %d" % (shown, found.st_uid)
    if stat.S_ISLNK(found.st_mode):
        return None  # a link's mode means nothing (symlink(7)): its directory says who may replace it
    if found.st_mode & stat.S_IWOTH:  # also with the sticky bit: anybody puts a program into /tmp
        return "%s is writable by everybody" % shown
    if not found.st_mode & stat.S_IWGRP:
        return None
    if stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX:
        return None  # a group cannot replace what is root's there (inode(7)): Nix' store is root:nixbld 1775
    if has_acl(path):
        return "%s is writable by those whom its ACL names" % shown
    return None if idle_group(found.st_gid) else "%s is writable by group %d" % (shown, found.st_gid)


def resolved(path: str, gone: bool = False) -> Tuple[Optional[str], Optional[str]]:
    """(Where a path leads, None), or (None, who besides root could have chosen that, or why it cannot be told): no
    component of it, nor of what a link on it leads to, can be changed by anybody else. gone: its end may be missing."""
    if not path.startswith("/"):
        return None, "%s is no absolute path" % path
    at, parts, links = "/", path.split("/"), 0
    why = other_hand(at, os.lstat(at))
    while parts and not why:
        part = parts.pop(0)
        if part in ("", "."):
            continue
        if part == "..":  # `at` has no links left
            at = os.path.dirname(at)
            continue
        here = os.path.join(at, part)
        try:
            found = os.lstat(here)
            why = other_hand(here, found)
            if stat.S_ISLNK(found.st_mode):
                target, links = os.readlink(here), links + 1
                if links > 40:  # path_resolution(7)
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                at = "/" if target.startswith("/") else at
                parts = target.split("/") + parts
            else:
                at = here
        except OSError as error:
            if gone and error.errno == errno.ENOENT:
                return at, None
            return None, "%s: %s" % (here, error.strerror)
    return (None, why) if why else (at, None)


def roots_own(directory: str) -> Optional[int]:
    """A handle (O_PATH) on a directory that is root's alone all the way, for many files in it; None for any other, and where we are
    not root."""
    try:
        real = resolved(directory)[0] if os.geteuid() == 0 else None
        return os.open(real, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) if real else None
    except OSError:
        return None


def distrust(path: str) -> Optional[str]:
    """Why root does not execute what lies at a path, as text, or None where it does: it is a regular file that nobody else
    can change, put there by nobody else, and so is its interpreter where it begins with `#!` (execve(2); one level)."""
    real, why = resolved(path)
    if real is None:
        return why
    if not stat.S_ISREG(os.lstat(real).st_mode):
        return "%s is no regular file" % real
    with open_file(real) as handle:
        head = handle.read(256)  # BINPRM_BUF_SIZE, linux include/uapi/linux/binfmts.h
    words = head[2:].split(b"\n")[0].split() if head[:2] == b"#!" else []
    if not words:
        return None
    real, why = resolved(os.fsdecode(words[0]))
    if real is None:
        return why
    return None if stat.S_ISREG(os.lstat(real).st_mode) else "%s is no regular file" % real


def executable(name: str) -> Tuple[Optional[str], Optional[Json]]:
    """(The path of the program that a name stands for, None), or (None, why it is not executed, as a tagged answer). The one
    place that decides what root executes: nothing that another user could have put there or turned elsewhere. Whoever is
    not root has nothing to lose by it."""
    if os.geteuid() != 0:
        return name, None
    found = program(name)
    if found["status"] != "ok":
        return None, {"status": found["status"], "error": found.get("error", os.strerror(errno.ENOENT))}
    try:
        why = distrust(found["path"])
    except OSError as error:
        why = "%s: %s" % (found["path"], error.strerror)
    if why:
        return None, {"status": "failed", "error": "not executed: " + why}
    return found["path"], None


def surroundings() -> Dict[str, str]:
    """The environment of what is executed. As root: of PATH what root alone writes to, for the shells and package managers
    that call others by name; and root's own HOME, where `sudo` kept a user's (docker runs plugins that it finds there)."""
    path, home = PATH, os.environ.get("HOME", "/root")
    if os.geteuid() == 0:
        path, home = ":".join(at for at in PATH.split(":") if resolved(at)[0]) or "/nonexistent", "/root"
    return {"PATH": path, "LC_ALL": "C", "LANG": "C", "HOME": home}


def program(name: str) -> Json:
    """A program as root's own PATH would find it: its metadata, and `path`. A directory of it that could not be looked into
    (an NFS server that is gone) leaves open whether it is there."""
    unread = None
    for candidate in [name] if "/" in name else [os.path.join(at, name) for at in PATH.split(":")]:
        item = meta(candidate)
        if item["status"] == "ok" and item["kind"] == "file" and os.access(candidate, os.X_OK):
            return dict(item, path=candidate)
        if item["status"] not in ("ok", "absent"):
            unread = unread or {"status": item["status"], "error": "%s: %s" % (candidate, item["error"])}
    return unread or {"status": "absent"}


def which(name: str) -> Optional[str]:
    """Where a program is, as root's own PATH would find it, or None."""
    return program(name).get("path")
