"""What is opened and read of a host: files, their metadata, parts of them, directories and file systems."""

import base64
import errno
import fnmatch
import glob
import os
import re
import stat
import struct
import threading
import time
from typing import IO, Any, Dict, Iterator, List, Optional, Sequence, Set, Tuple, Union

# CPython's own, as random.py has it: OpenSSL's, which hashlib brings along, costs 5 ms of CPU time to load.
try:
    from _sha2 import sha256 as new_digest  # type: ignore[import-not-found]  # 3.12 and newer
except ImportError:
    try:
        from _sha256 import sha256 as new_digest  # type: ignore[import-not-found]
    except ImportError:
        from hashlib import sha256 as new_digest

Json = Dict[str, Any]
Named = Tuple[int, str]  # a uid or ANYBODY, and the file of theirs that names another

MAX_FILE_BYTES = 1 << 20
MAX_DIRECTORIES = 50000  # looked into for one pattern, and its matches: users can make any number
NETWORK = re.compile(
    r"nfs|cifs$|smb|fuse(?!ctl$)|ceph$|9p$|lustre$|gpfs$|beegfs|afs$|glusterfs|virtiofs$|panfs$|wekafs$"
)
ANYBODY = -1  # no uid: whoever may write to a directory of root's
LONG_LINE = re.compile(r"(?m)^([^\n]{4096})[^\n]+")
PLAIN_TEXT, DOUBLED = bytes(range(32, 127)) + b"\t\n\r", b'"\\\t\n\r'
MAX_SEARCHED_BYTES = 8 << 20  # of a file of which only what a pattern matches leaves the host


def digest_of(data: bytes) -> str:
    """In hexadecimal digits."""
    return str(new_digest(data).hexdigest())


def of_process(pid: Union[int, str], name: str, most: int = 4096) -> bytes:
    """What a file of proc(5) says of a process, up to so many bytes, in as few calls as it takes: a host has thousands of processes.
    Raises OSError."""
    file = os.open("/proc/%s/%s" % (pid, name), os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.read(file, 4096)
        more = data
        while len(more) == 4096 and len(data) < most:
            more = os.read(file, min(4096, most - len(data)))
            data += more
        return data
    finally:
        os.close(file)


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
        found = own
        if stat.S_ISLNK(own.st_mode):
            item["link"] = os.readlink(path)
            item["real"] = os.path.realpath(path)
            found = os.stat(path)
    except OSError as error:
        item.update(failure(error))
        return item
    item.update(meta_of(found))
    return item


def meta_of(found: os.stat_result) -> Json:
    """What a stat says, as the answer has it."""
    item: Json = {
        "status": "ok",
        "kind": kind_of(found.st_mode),
        "mode": stat.S_IMODE(found.st_mode),
        "uid": found.st_uid,
        "gid": found.st_gid,
        "size": found.st_size,
        "mtime": found.st_mtime,
        "ctime": found.st_ctime,
    }
    if item["kind"] in ("char", "block"):
        item["rdev"] = [os.major(found.st_rdev), os.minor(found.st_rdev)]
    return item


def chooser(directory: os.stat_result, found: os.stat_result) -> Optional[int]:
    """Who besides root could have put an entry with that lstat into its directory: a uid, ANYBODY, or None for nobody."""
    if directory.st_uid:
        return directory.st_uid
    if found.st_uid:
        return found.st_uid
    if (
        directory.st_mode & stat.S_ISVTX
    ):  # nobody moves what is root's (inode(7)), but a name more of a file of root's is
        shared = directory.st_mode & (
            stat.S_IWOTH | stat.S_IWGRP
        )  # anybody's to make: fs.protected_hardlinks, proc(5)
        return ANYBODY if shared and stat.S_ISREG(found.st_mode) and found.st_nlink > 1 else None
    shared = directory.st_mode & stat.S_IWOTH or (directory.st_mode & stat.S_IWGRP and directory.st_gid)
    return ANYBODY if shared else None


def walked(path: str, named: Optional[Named] = None) -> int:
    """A handle (O_PATH) on what a path leads to, as root. Raises OSError; see `led`."""
    return led(path, named)[0]


def whose_hand(path: str) -> Optional[str]:
    """Which directory or link on a path to a directory others than root could have turned elsewhere, and whose it is, as text, or
    None. Raises OSError."""
    handle, hand, through = led(path)
    os.close(handle)
    return None if hand is None else "%s, which %s" % (through, belongs(hand))


def belongs(hand: int) -> str:
    return "others may write to" if hand == ANYBODY else "belongs to uid %d" % hand


def led(path: str, named: Optional[Named] = None) -> Tuple[int, Optional[int], str]:
    """(A handle (O_PATH) on what a path leads to, as root; who could have turned it elsewhere, None for nobody; and where). named:
    who wrote it down for us, and where. Raises OSError.

    A user who could have turned the path elsewhere (a directory or a link on it is his, or he may write there) gets out of
    it only what he could have read by himself: from there on each directory is his or may be entered by all, the file is
    his or may be read by all, and nothing lies in /proc or /sys, where the mode of a file does not tell who may read it.
    Each component is opened by itself and no link is followed by the kernel, so that what is judged is what is read.
    """
    parts, links = path.split("/"), 0
    hand, through = named or (None, "")
    how = "is named in" if named else "leads through"
    handles = [os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)]
    names = ["/"]
    kernels = {os.stat(at).st_dev for at in ("/proc", "/sys") if os.path.isdir(at)}
    try:
        while parts:
            part = parts.pop(0)
            if part in ("", "."):
                continue
            if part == "..":
                if len(handles) > 1:
                    os.close(handles.pop())
                    names.pop()
                continue
            directory = os.fstat(handles[-1])
            handles.append(os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=handles[-1]))
            names.append(os.path.join(names[-1], part))
            found = os.fstat(handles[-1])
            if hand is None:
                hand = chooser(directory, found)
                through = names[-1] if directory.st_uid == 0 and found.st_uid else names[-2]
            if stat.S_ISLNK(found.st_mode):
                target, links = os.readlink("", dir_fd=handles[-1]), links + 1
                if links > 40:  # path_resolution(7)
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                os.close(handles.pop())
                names.pop()
                while target.startswith("/") and len(handles) > 1:
                    os.close(handles.pop())
                    names.pop()
                parts = target.split("/") + parts
            elif hand is not None:
                needed = stat.S_IXOTH if stat.S_ISDIR(found.st_mode) else stat.S_IROTH
                if found.st_dev in kernels or not (found.st_uid == hand or found.st_mode & needed):
                    raise OSError("not read: %s %s %s, which %s" % (path, how, through, belongs(hand)))
        return handles.pop(), hand, through
    finally:
        for handle in handles:
            os.close(handle)


def open_file(path: str, inside: Optional[int] = None, named: Optional[Named] = None) -> IO[bytes]:
    """A file, opened for reading: the one place where the probe opens one of a host. It is a regular file, and opening it
    neither waited for anything nor did anything. inside: a handle (O_PATH) on it, from `open_inside`. named: as of `walked`.
    Raises OSError."""
    kernels_own = path.startswith(("/proc/", "/sys/")) and ".." not in path.split("/")
    if inside is not None:
        handle = os.dup(inside)
    elif os.geteuid() != 0 or kernels_own:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    else:
        handle = walked(path, named)
    try:
        kind = kind_of(os.fstat(handle).st_mode)
        if kind != "file":
            raise OSError("not read: %s is no regular file, its kind is %s" % (path, kind))
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
        file = os.open("/proc/self/fd/%d" % handle, flags)
        os.set_blocking(file, True)  # what may have waited is the open: a lease (fcntl(2))
        return os.fdopen(file, "rb", 8192)  # of a size that is told it is not asked whether it is a terminal
    finally:
        os.close(handle)


def opened(
    path: str,
    limit: int,
    inside: Optional[int] = None,
    named: Optional[Named] = None,
    largest: int = 0,
) -> Tuple[Json, Optional[bytes]]:
    """Metadata of a path, and the bytes of a regular file (None for all else: a directory, FIFO or device is reported
    by kind and not opened). A file over `limit` is `failed`: half a file is no answer. largest: one with more bytes is passed
    over."""
    item = meta(path)
    if item["status"] != "ok" or item["kind"] != "file" or (largest and item["size"] > largest):
        return item, None
    return taken(item, path, limit, inside, named)


def taken(
    item: Json, path: str, limit: int, inside: Optional[int] = None, named: Optional[Named] = None
) -> Tuple[Json, Optional[bytes]]:
    """As `opened`, of a regular file with that metadata."""
    try:
        with open_file(path, inside, named) as handle:
            data = handle.read(limit + 1)
            label(item, handle.fileno())
    except OSError as error:
        item.update(failure(error))
        return item, None
    return whole_file(item, data, limit)


def label(item: Json, file: int) -> None:
    """The SELinux label of an open file is put to its metadata, where it has one."""
    try:
        found = os.getxattr(file, "security.selinux")
        item["selinux"] = found.rstrip(b"\0").decode("ascii", "replace")
    except (OSError, AttributeError):
        pass


def whole_file(item: Json, data: bytes, limit: int) -> Tuple[Json, Optional[bytes]]:
    """What has been read of a file with that metadata, where that is not more than the limit."""
    if len(data) > limit:
        item.update(status="failed", error="larger than %d bytes" % limit)
        return item, None
    return item, data


def opened_in(
    directory: Optional[int], path: str, limit: int, largest: int = 0
) -> Tuple[Json, Optional[bytes]]:
    """As `opened`, by a handle on the path's directory, where that is root's alone all the way: a hundred files in it cost a hundred
    opens and not a thousand. What is a link there, or may be somebody else's, is opened as any other path."""
    if directory is None:
        return opened(path, limit, largest=largest)
    name = os.path.basename(path)
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if stat.S_ISLNK(found.st_mode) or chooser(os.fstat(directory), found) is not None:
            return opened(path, limit, largest=largest)
        item = meta_of(found)
        if item["kind"] != "file" or (largest and item["size"] > largest):
            return item, None
    except OSError as error:
        return failure(error), None
    return taken_in(directory, name, item, limit)


def taken_in(directory: int, name: str, item: Json, limit: int) -> Tuple[Json, Optional[bytes]]:
    """As `taken`, of a file of root's in a directory that is root's alone: so it is root who may have put something else in its place
    since. To open that does not wait, and it is not read."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    try:
        file = os.open(name, flags, dir_fd=directory)
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise OSError("not read: %s is no regular file any more" % name)
            size = max(4096, min(limit, item["size"])) + 1  # as much memory as is read is reserved
            data = more = os.read(file, min(size, limit + 1))
            while more and len(data) <= limit:
                more = os.read(file, min(size, limit + 1 - len(data)))
                data += more
            label(item, file)
        finally:
            os.close(file)
    except OSError as error:
        item.update(failure(error))
        return item, None
    return whole_file(item, data, limit)


def sent(data: bytes) -> Json:
    """What of a file leaves the host: its text where that is printable ASCII, as of most, of which the answer's zlib makes half as
    much; else base64, and `base64` says so: also where it is shorter, as JSON writes some characters with two."""
    doubled = len(data) - len(data.translate(None, DOUBLED))
    if data.translate(None, PLAIN_TEXT) or doubled > len(data) // 3:
        return {"data": base64.b64encode(data).decode("ascii"), "base64": True}
    return {"data": data.decode("ascii")}


def content(item: Json) -> Optional[bytes]:
    """The bytes of a file that was read; None of any other."""
    if "data" not in item:
        return None
    return base64.b64decode(item["data"]) if item.get("base64") else item["data"].encode("ascii")


def read_file(path: str, limit: int = MAX_FILE_BYTES, inside: Optional[int] = None) -> Json:
    """Metadata, bytes, their hash and the SELinux label of a regular file."""
    item, data = opened(path, limit, inside)
    if data is not None:
        item["sha256"] = digest_of(data)
        item.update(sent(data))
    return item


def read_beside(directory: int, name: str, limit: int) -> Tuple[Json, Optional[bytes]]:
    """Metadata and bytes of a regular file in a directory whose path is root's alone, by a handle on it: a thousand files
    cost a thousand opens and not ten thousand. No link is followed. What a user put there gets root to read only what he
    could have read by himself, as in `walked`."""
    try:
        handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except OSError as error:
        return failure(error), None
    try:
        found = os.fstat(handle)
        item: Json = {
            "status": "ok",
            "kind": kind_of(found.st_mode),
            "uid": found.st_uid,
            "size": found.st_size,
            "mtime": found.st_mtime,
        }
        if item["kind"] != "file":
            return item, None
        hand = chooser(os.fstat(directory), found)
        his = found.st_uid == hand or found.st_mode & stat.S_IROTH
        if os.geteuid() == 0 and hand is not None and not his:
            raise OSError("not read: others may have put %s there" % name)
        file = os.open("/proc/self/fd/%d" % handle, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        try:
            data = os.read(file, limit + 1)
        finally:
            os.close(file)
    except OSError as error:
        return failure(error), None
    finally:
        os.close(handle)
    if len(data) > limit:
        return dict(item, status="failed", error="larger than %d bytes" % limit), None
    return item, data


def matches(pattern: str, text: str) -> List[str]:
    """What a pattern finds in a text: of each match its last group, or all of it where it has none. Of a line so many
    characters are looked at: some patterns take time that grows with the square of them."""
    text = LONG_LINE.sub(r"\1", text)
    return [found.group(found.lastindex or 0) for found in re.finditer(pattern, text)]


def search(path: str, pattern: str, limit: int = 0, begins: str = "") -> Json:
    """As `searched`, for one thing."""
    return searched(path, [{"search": pattern, "limit": limit, "begins": begins}])


def searched(path: str, specs: Sequence[Json], directory: Optional[int] = None) -> Json:
    """Metadata of a file and, under `found`, what each spec's `search` finds in it, by `search_key`. The rest of the file stays on
    the host. For a spec a file that is larger than its `limit`, does not begin with `begins` or does not hold `holds` has nothing to
    find. directory: as `opened_in` takes it."""
    limits = [spec.get("limit") or 0 for spec in specs]
    largest = max(limits) if all(limits) else 0  # no spec would look into a larger one
    item, data = opened_in(directory, path, largest or MAX_SEARCHED_BYTES, largest)
    if data is None:
        return item
    item["found"] = {}
    for spec, limit in zip(specs, limits):
        passed = limit and len(data) > limit
        if passed or not data.startswith(spec.get("begins", "").encode("utf-8")):
            continue
        if spec.get("holds", "").encode("utf-8") in data:
            hits = matches(spec["search"], data.decode("utf-8", "replace"))
            if hits:
                item["found"][search_key(spec["search"])] = hits
    return item


def search_key(pattern: str) -> str:
    """A short name for a pattern: several subsystems may look for different things in one file."""
    return digest_of(pattern.encode("utf-8"))[:8]


def elf_section(path: str, name: str) -> Json:
    """The bytes of one section of an ELF file (elf(5)), by name: its headers are read and nothing else.

    `absent` where the file is no ELF file or has no such section.
    """
    try:
        with open_file(path) as handle:
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
            raw = handle.read(min(size * count, MAX_SEARCHED_BYTES))
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
    """Absolute paths that are a whole value in a file's text, as a superset of what any parser would find there. What stands in
    the middle of a word is none: a hook's `--link TARGET::LINK`, a spec's `nvidia.com/gpu`, `--config=FILE`."""
    found = re.findall(rb"(?<![A-Za-z0-9_.:=/-])/[A-Za-z0-9_./+:@%~=-]+", data)
    return {raw.decode("ascii").rstrip(":") for raw in found}


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


def dead_mounts(text: str, wait: float) -> Dict[str, str]:
    """The type of each mounted file system of a network or a user's (FUSE) that does not answer within some seconds, by
    its mount point; from mountinfo of proc(5). A look below one never returns. One thread is left behind for each."""
    points = {path: kind for path, kind in mount_points(text) if NETWORK.match(kind)}
    answered = set()

    def ask(path: str) -> None:
        try:
            os.statvfs(path)
        except OSError:
            pass  # it answers
        answered.add(path)

    threads = [threading.Thread(target=ask, args=(path,), daemon=True) for path in points]
    end = time.monotonic() + wait
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0, end - time.monotonic()))
    return {path: kind for path, kind in points.items() if path not in answered}


def lost(path: str, dead: Dict[str, str]) -> Optional[OSError]:
    """Why a path is not looked at: it leads, also by links, below one of the `dead_mounts`. Or None. Nothing below one is
    touched for it. Where none is dead, it costs nothing."""
    if not dead:
        return None
    at, parts, links = "/", path.split("/"), 0
    while parts:
        part = parts.pop(0)
        if part in ("", ".", ".."):
            at = os.path.dirname(at) if part == ".." else at  # what is there so far has no link left
            continue
        at = os.path.join(at, part)
        if at in dead:
            return OSError("not looked into: %s (%s) does not answer" % (at, dead[at]))
        try:
            target = os.readlink(at)
        except OSError:
            continue  # no link, or not there
        links += 1
        if links > 40:  # path_resolution(7)
            return None
        at, parts = "/" if target.startswith("/") else os.path.dirname(at), target.split("/") + parts
    return None


def expand(pattern: str, dead: Optional[Dict[str, str]] = None) -> Tuple[List[str], Optional[OSError]]:
    """(The paths that match, as glob(3) has them; the error of a first directory that could not be looked into, or None.)
    glob.glob passes over such a directory, as if nothing in it matched. dead: mounts that are not looked into."""
    paths, unread, parts, looked = ["/"], None, pattern.strip("/").split("/"), 0
    for part in parts:
        if not glob.has_magic(part):
            paths = [os.path.join(path, part) for path in paths]
            continue
        directories, paths = paths, []
        for directory in directories:
            looked += 1
            if looked > MAX_DIRECTORIES:
                unread = unread or OSError("more than %d directories" % MAX_DIRECTORIES)
                break
            try:
                why = lost(directory, dead or {})
                if why:
                    raise why
                names = fnmatch.filter(os.listdir(directory), part)
            except OSError as error:
                unread = unread or (None if failure(error)["status"] == "absent" else error)
                continue
            paths.extend(
                os.path.join(directory, name) for name in names if part[0] == "." or not name.startswith(".")
            )
    there = []
    for path in paths:
        try:
            why = lost(path, dead or {})
            if why:
                raise why
            if not glob.has_magic(parts[-1]):
                os.lstat(path)
            there.append(path)
        except OSError as error:
            unread = unread or (None if failure(error)["status"] == "absent" else error)
    if len(there) > MAX_DIRECTORIES:
        return there[:MAX_DIRECTORIES], unread or OSError("more than %d paths" % MAX_DIRECTORIES)
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
