"""What is opened and read of a host: files, their metadata, parts of them, directories and file systems."""

import base64
import errno
import fnmatch
import glob
import hashlib
import os
import re
import stat
import struct
from typing import Any, Dict, Iterator, List, Optional, Sequence, Set, Tuple

Json = Dict[str, Any]

MAX_FILE_BYTES = 1 << 20
MAX_SEARCHED_BYTES = 8 << 20  # of a file of which only what a pattern matches leaves the host


def failure(error: OSError) -> Json:
    """The tag of an OSError: what a rule may conclude from it differs (absent is knowledge, denied is not)."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return {"status": "absent", "error": os.strerror(error.errno)}
    if error.errno in (errno.EACCES, errno.EPERM):
        return {"status": "denied", "error": os.strerror(error.errno)}
    return {"status": "failed", "error": os.strerror(error.errno) if error.errno else str(error)}


def kind_of(mode: int) -> str:
    """One word for a file's type."""
    for test, word in (
        (stat.S_ISREG, "file"),
        (stat.S_ISDIR, "dir"),
        (stat.S_ISCHR, "char"),
        (stat.S_ISBLK, "block"),
        (stat.S_ISSOCK, "socket"),
        (stat.S_ISFIFO, "fifo"),
        (stat.S_ISLNK, "link"),
    ):
        if test(mode):
            return word
    return "other"


def meta(path: str) -> Json:
    """What `stat` says of a path, links followed, and where its link (if it is one) leads."""
    item: Json = {}
    try:
        own = os.lstat(path)
        if stat.S_ISLNK(own.st_mode):
            item["link"] = os.readlink(path)
            item["real"] = os.path.realpath(path)
        found = os.stat(path)
    except OSError as error:
        item.update(failure(error))
        return item
    item.update(
        status="ok",
        kind=kind_of(found.st_mode),
        mode=stat.S_IMODE(found.st_mode),
        uid=found.st_uid,
        gid=found.st_gid,
        size=found.st_size,
        mtime=found.st_mtime,
        ctime=found.st_ctime,
    )
    if item["kind"] in ("char", "block"):
        item["rdev"] = [os.major(found.st_rdev), os.minor(found.st_rdev)]
    return item


def opened(path: str, limit: int) -> Tuple[Json, Optional[bytes]]:
    """Metadata of a path, and the bytes of a regular file (None for all else: a directory, FIFO or device is reported
    by kind and not opened). A file over `limit` is `failed`: half a file is no answer."""
    item = meta(path)
    if item["status"] != "ok" or item["kind"] != "file":
        return item, None
    try:
        with open(path, "rb") as handle:
            data = handle.read(limit + 1)
    except OSError as error:
        item.update(failure(error))
        return item, None
    if len(data) > limit:
        item.update(status="failed", error="larger than %d bytes" % limit)
        return item, None
    return item, data


def read_file(path: str, limit: int = MAX_FILE_BYTES) -> Json:
    """Metadata, bytes, their hash and the SELinux label of a regular file."""
    item, data = opened(path, limit)
    if data is None:
        return item
    item["sha256"] = hashlib.sha256(data).hexdigest()
    item["data"] = base64.b64encode(data).decode("ascii")
    try:
        item["selinux"] = os.getxattr(path, "security.selinux").rstrip(b"\0").decode("ascii", "replace")
    except (OSError, AttributeError):
        pass
    return item


def matches(pattern: str, text: str) -> List[str]:
    """What a pattern finds in a text: of each match its last group, or all of it where it has none."""
    return [found.group(found.lastindex or 0) for found in re.finditer(pattern, text)]


def search(path: str, pattern: str, limit: int = 0, begins: str = "") -> Json:
    """Metadata of a file and, under `found`, what the pattern finds in it. The rest of the file stays on the host.
    A file that is larger than `limit`, or does not begin with `begins`, has nothing to find."""
    item, data = opened(path, MAX_SEARCHED_BYTES) if not limit else (meta(path), None)
    if limit and item["status"] == "ok" and item["kind"] == "file" and item["size"] <= limit:
        item, data = opened(path, limit)
    if data is not None and not data.startswith(begins.encode("utf-8")):
        data = None
    if data is not None:
        hits = matches(pattern, data.decode("utf-8", "replace"))
        item["found"] = {search_key(pattern): hits} if hits else {}
    return item


def search_key(pattern: str) -> str:
    """A short name for a pattern: several subsystems may look for different things in one file."""
    return hashlib.sha256(pattern.encode("utf-8")).hexdigest()[:8]


def elf_section(path: str, name: str) -> Json:
    """The bytes of one section of an ELF file (elf(5)), by name: its headers are read and nothing else.

    `absent` where the file is no ELF file or has no such section.
    """
    try:
        with open(path, "rb") as handle:
            ident = handle.read(64)
            if ident[:4] != b"\x7fELF" or len(ident) < 64:
                return {"status": "absent", "error": "not an ELF file"}
            wide, order = ident[4] == 2, "<" if ident[5] == 1 else ">"
            # e_shoff; then e_shentsize, e_shnum, e_shstrndx, which end the header
            (table,) = struct.unpack_from(order + ("Q" if wide else "I"), ident, 40 if wide else 32)
            size, count, names = struct.unpack_from(order + "HHH", ident, 58 if wide else 46)
            entry = struct.Struct(order + ("IIQQQQIIQQ" if wide else "IIIIIIIIII"))
            if size < entry.size or table == 0:
                return {"status": "absent", "error": "no section headers"}
            handle.seek(table)
            raw = handle.read(size * count)
            headers = [entry.unpack_from(raw, at) for at in range(0, len(raw) - size + 1, size)]
            handle.seek(headers[names][4])
            strings = handle.read(min(headers[names][5], MAX_FILE_BYTES))
            for header in headers:
                start = header[0]
                if strings[start : strings.index(b"\0", start)] == name.encode("ascii"):
                    handle.seek(header[4])
                    data = handle.read(min(header[5], MAX_FILE_BYTES))
                    return {"status": "ok", "data": base64.b64encode(data).decode("ascii")}
    except OSError as error:
        return failure(error)
    except (struct.error, IndexError, ValueError) as error:
        return {"status": "failed", "error": "not a whole ELF file: %s" % error}
    return {"status": "absent", "error": "no section " + name}


def mentioned(data: bytes) -> Set[str]:
    """Absolute paths named in a file's text, as a superset of what any parser would find there."""
    found = set()
    for raw in re.findall(rb"/[A-Za-z0-9_./+:@%~=-]+", data):
        text = raw.decode("ascii")
        found.add(text.rstrip(":"))
        for part in text.split("::"):  # create-symlinks hooks write TARGET::LINK
            if part.startswith("/"):
                found.add(part)
    return found


def mount_points(text: str) -> Iterator[Tuple[str, str]]:
    """(mount point, type) of each mount, from mountinfo of proc(5); its octal escapes undone."""
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split()
        if len(fields) > 4 and right:
            yield re.sub(r"\\([0-7]{3})", lambda m: chr(int(m.group(1), 8)), fields[4]), right.split()[0]


def spaces(types: Sequence[str]) -> Json:
    """Size, free bytes and free inodes of each mounted file system of these types: local ones, that cannot hang."""
    with open("/proc/self/mountinfo") as handle:
        points = dict(mount_points(handle.read()))
    found = {}
    for path, kind in points.items():
        if kind in types:
            try:
                at = os.statvfs(path)
                found[path] = {
                    "status": "ok",
                    "size": at.f_blocks * at.f_frsize,
                    "free": at.f_bavail * at.f_frsize,
                }
            except OSError as error:
                found[path] = failure(error)
    return found


def expand(pattern: str) -> Tuple[List[str], Optional[OSError]]:
    """(The paths that match, as glob(3) has them; the error of a first directory that could not be looked into, or None.)
    glob.glob passes over such a directory, as if nothing in it matched."""
    paths, unread, parts = ["/"], None, pattern.strip("/").split("/")
    for part in parts:
        if not glob.has_magic(part):
            paths = [os.path.join(path, part) for path in paths]
            continue
        directories, paths = paths, []
        for directory in directories:
            try:
                names = fnmatch.filter(os.listdir(directory), part)
            except OSError as error:
                unread = unread or (None if failure(error)["status"] == "absent" else error)
                continue
            paths.extend(
                os.path.join(directory, name) for name in names if part[0] == "." or not name.startswith(".")
            )
    if glob.has_magic(parts[-1]):
        return paths, unread
    there = []
    for path in paths:
        try:
            os.lstat(path)
            there.append(path)
        except OSError as error:
            unread = unread or (None if failure(error)["status"] == "absent" else error)
    return there, unread


def listing(path: str) -> Json:
    """The names in a directory, each with how many names it has in turn (None where it is no directory)."""
    found = {}
    try:
        for name in os.listdir(path):
            inside = os.path.join(path, name)
            try:
                directory = stat.S_ISDIR(os.lstat(inside).st_mode)
                found[name] = len(os.listdir(inside)) if directory else None
            except FileNotFoundError:
                pass  # it went while we looked: that says nothing of the others
    except OSError as error:
        return failure(error)
    return {"status": "ok", "names": found}


def open_inside(pid: int, path: str) -> int:
    """A handle (O_PATH) on a path of a process's own root. The kernel follows no link on the way: a container could lead
    one out to the host's files, which are not its to show. Links are followed here, within that root. Raises OSError."""
    parts, links = path.strip("/").split("/"), 0
    handles = [os.open("/proc/%d/root" % pid, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)]
    try:
        while parts:
            part = parts.pop(0)
            if part in ("", "."):
                continue
            if part == "..":  # of the root it is the root
                if len(handles) > 1:
                    os.close(handles.pop())
                continue
            deeper = os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=handles[-1])
            handles.append(deeper)
            if stat.S_ISLNK(os.fstat(deeper).st_mode):
                target, links = os.readlink("", dir_fd=deeper), links + 1
                if links > 40:  # path_resolution(7)
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                os.close(handles.pop())
                while target.startswith("/") and len(handles) > 1:
                    os.close(handles.pop())
                parts = target.split("/") + parts
        return handles.pop()
    finally:
        for handle in handles:
            os.close(handle)
