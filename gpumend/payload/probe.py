"""The program that reads a host: stdlib only, Python 3.6 or newer, sent over stdin in one exec.

It is a reader of things, not a judge of them: it executes a *request* (which files, globs, commands, units,
processes and Docker endpoints to read; `gpumend/state/request.py` builds it from what each subsystem in `facts/`
asks for) and prints one line of ASCII JSON. What was read is tagged, so that nothing unread can pass for fine:

    ok | absent | denied | timeout | failed

It believes no process for its name, and executes nothing that a user could have put there (`impostor`, `executable`).

It writes nothing on the host, and starts nothing that does: it never connects to Docker's socket while no
dockerd runs (socket activation would start it), and runs `nvidia-smi` only where the request's `needs` hold
(without its device nodes nvidia-smi calls the setuid nvidia-modprobe, which creates them and loads modules).

Secrets: environment values and Docker's answers pass an allow-list *here*, on the host.
Python 3.6 is RHEL 8's and Ubuntu 18.04's (docs.python.org/3.6), hence no f-string `=`, no walrus, no dataclass.
"""

import base64
import errno
import fnmatch
import glob
import hashlib
import http.client
import json
import os
import re
import select
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
import zlib

from gpumend.payload.cuda import ask_cuda

FORMAT = 1
PACKED = "gpumend:zlib:"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/snap/bin"
ACCOUNTS = ("/etc/group", "/etc/passwd")
MAX_FILE_BYTES = 1 << 20
MAX_SEARCHED_BYTES = 8 << 20  # of a file of which only what a pattern matches leaves the host
MAX_OUTPUT_BYTES = 1 << 20
DOCKER_CONNECTIONS = 4  # dockerd inspects side by side
HISTORIES = 50  # images whose layers are asked for
LOOKING = 2  # seconds that a look takes, or less: a container that is younger may have a dockerd that was not seen yet
STARTING = 10  # seconds after its start in which a dockerd that does not answer is waited for
AGAIN = (0.5, 1, 1, 2, 2)  # seconds before each further look at a host that is not settled
# Environment names that may leave the host. Everything else stays: proxies carry passwords, units carry tokens.
ENV_NAMES = re.compile(
    r"^(PATH|DOCKER_DRIVER|DOCKER_STORAGE_DRIVER|DOCKERD_STORAGE_DRIVER|DOCKER_RAMDISK|DOCKER_CONTEXT|XDG_RUNTIME_DIR|LD_LIBRARY_PATH"
    r"|NVIDIA_VISIBLE_DEVICES|NVIDIA_DRIVER_CAPABILITIES|NVIDIA_REQUIRE_[A-Z0-9_]+|NVIDIA_DISABLE_REQUIRE"
    r"|CUDA_VERSION|CUDA_VISIBLE_DEVICES)$"
)
# Flags whose value must not leave the host.
SECRET_FLAG = re.compile(
    r"^--?[\w-]*(token|password|passwd|secret|datastore-endpoint|api-?key)[\w-]*$", re.IGNORECASE
)
# Keys of `GET /info` that may leave the host: HttpProxy/HttpsProxy (passwords) and RegistryConfig must not.
DOCKER_INFO_KEYS = (
    "ServerVersion", "OperatingSystem", "Driver", "DriverStatus", "CgroupDriver", "CgroupVersion", "Runtimes",
    "DefaultRuntime", "SecurityOptions", "LiveRestoreEnabled", "CDISpecDirs", "DiscoveredDevices",
    "DockerRootDir", "ContainersRunning", "Containers", "Images", "KernelVersion", "Warnings", "Swarm",
)  # fmt: skip
COMPOSE_LABELS = (
    "com.docker.compose.project",
    "com.docker.compose.service",
    "com.docker.compose.project.working_dir",
    "com.docker.compose.project.config_files",
)


def failure(error):
    """The tag of an OSError: what a rule may conclude from it differs (absent is knowledge, denied is not)."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return {"status": "absent", "error": os.strerror(error.errno)}
    if error.errno in (errno.EACCES, errno.EPERM):
        return {"status": "denied", "error": os.strerror(error.errno)}
    return {"status": "failed", "error": os.strerror(error.errno) if error.errno else str(error)}


def kind_of(mode):
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


def meta(path):
    """What `stat` says of a path, links followed, and where its link (if it is one) leads."""
    item = {}
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


def opened(path, limit):
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


def read_file(path, limit=MAX_FILE_BYTES):
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


def matches(pattern, text):
    """What a pattern finds in a text: of each match its last group, or all of it where it has none."""
    return [found.group(found.lastindex or 0) for found in re.finditer(pattern, text)]


def search(path, pattern, limit=0, begins=""):
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


def search_key(pattern):
    """A short name for a pattern: several subsystems may look for different things in one file."""
    return hashlib.sha256(pattern.encode("utf-8")).hexdigest()[:8]


def elf_section(path, name):
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


def mentioned(data):
    """Absolute paths named in a file's text, as a superset of what any parser would find there."""
    found = set()
    for raw in re.findall(rb"/[A-Za-z0-9_./+:@%~=-]+", data):
        text = raw.decode("ascii")
        found.add(text.rstrip(":"))
        for part in text.split("::"):  # create-symlinks hooks write TARGET::LINK
            if part.startswith("/"):
                found.add(part)
    return found


def idle_group(gid):
    """Whether nobody but root is in a group, so that what it may write is root's alone: gid 0, or a group of /etc/group
    without members that is no user's own in /etc/passwd. Debian's /usr/local was root:staff 2775 up to Debian 9, and is
    where a host was upgraded from it (Debian Policy 9.1.2). A group that only a directory service knows is not idle.
    """
    if gid == 0:
        return True
    rows = []
    for path in ACCOUNTS:
        try:
            with open(path, encoding="utf-8", errors="replace") as handle:
                rows.append([line.rstrip("\n").split(":") for line in handle])
        except OSError:
            return False
    here = [row for row in rows[0] if len(row) > 3 and row[2] == str(gid)]
    own = [row for row in rows[1] if len(row) > 3 and row[3] == str(gid)]
    return bool(here) and not own and not any(row[3].strip() for row in here)


def has_acl(path):
    """Whether a path has a POSIX ACL. Where it has, the group's bits of its mode are the ACL's mask, the most that any user
    or group that it names may do (acl(5), CORRESPONDENCE): without the group's `w`, no entry of it lets anybody write.
    """
    try:
        return bool(os.getxattr(path, "system.posix_acl_access"))
    except OSError as error:
        return error.errno not in (errno.ENODATA, errno.EOPNOTSUPP)


def other_hand(path, found, shown=None):
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


def resolved(path, gone=False):
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
            return None, "%s: %s" % (here, os.strerror(error.errno))
    return (None, why) if why else (at, None)


def distrust(path):
    """Why root does not execute what lies at a path, as text, or None where it does: it is a regular file that nobody else
    can change, put there by nobody else, and so is its interpreter where it begins with `#!` (execve(2); one level)."""
    real, why = resolved(path)
    if why:
        return why
    if not stat.S_ISREG(os.lstat(real).st_mode):
        return "%s is no regular file" % real
    with open(real, "rb") as handle:
        head = handle.read(256)  # BINPRM_BUF_SIZE, linux include/uapi/linux/binfmts.h
    words = head[2:].split(b"\n")[0].split() if head[:2] == b"#!" else []
    if not words:
        return None
    real, why = resolved(os.fsdecode(words[0]))
    return why or (None if stat.S_ISREG(os.lstat(real).st_mode) else "%s is no regular file" % real)


def executable(name):
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
        why = "%s: %s" % (found["path"], os.strerror(error.errno))
    if why:
        return None, {"status": "failed", "error": "not executed: " + why}
    return found["path"], None


def surroundings():
    """The environment of what is executed. As root: of PATH what root alone writes to, for the shells and package managers
    that call others by name; and root's own HOME, where `sudo` kept a user's (docker runs plugins that it finds there)."""
    path, home = PATH, os.environ.get("HOME", "/root")
    if os.geteuid() == 0:
        path, home = ":".join(at for at in PATH.split(":") if resolved(at)[0]) or "/nonexistent", "/root"
    return {"PATH": path, "LC_ALL": "C", "LANG": "C", "HOME": home}


def run(argv, timeout):
    """Run a command with no input and the C locale, as far as root may (`executable`). `cut`: it printed more than is kept.

    Ends after `timeout` seconds whatever the child does: a process in uninterruptible sleep (a broken GPU does
    that to nvidia-smi) survives SIGKILL, so it is left behind rather than waited for.
    """
    path, refused = executable(argv[0])
    if refused:
        return refused
    try:
        child = subprocess.Popen(
            argv,
            executable=path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=surroundings(),
            start_new_session=True,
            close_fds=True,
        )
    except OSError as error:
        return failure(error)
    chunks = {child.stdout: [], child.stderr: []}
    sizes = {child.stdout: 0, child.stderr: 0}
    open_pipes = [child.stdout, child.stderr]
    deadline = time.monotonic() + timeout
    while open_pipes:
        left = deadline - time.monotonic()
        ready = select.select(open_pipes, [], [], max(left, 0))[0] if left > 0 else []
        if not ready:
            break
        for pipe in ready:
            data = os.read(pipe.fileno(), 65536)
            if not data:
                open_pipes.remove(pipe)
            else:
                if sizes[pipe] < MAX_OUTPUT_BYTES:
                    chunks[pipe].append(data)
                sizes[pipe] += len(data)
    while child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    item = {
        "out": b"".join(chunks[child.stdout]).decode("utf-8", "replace"),
        "err": b"".join(chunks[child.stderr]).decode("utf-8", "replace")[-8192:],
    }
    if child.returncode is None:
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except OSError:
            pass
        item.update(status="timeout", error="no answer within %g s" % timeout)
    else:
        item.update(status="ok", rc=child.returncode)
    if sizes[child.stdout] > sum(map(len, chunks[child.stdout])):
        item["cut"] = True
    return item


def program(name):
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


def which(name):
    """Where a program is, as root's own PATH would find it, or None."""
    return program(name).get("path")


def without_secrets(words):
    """A command line without what its flags for tokens and passwords say (k3s has --token, --datastore-endpoint)."""
    result, hide = [], False
    for word in words:
        flag, sign, _ = word.partition("=")
        secret = SECRET_FLAG.match(flag)
        result.append("********" if hide else flag + sign + "********" if secret and sign else word)
        hide = bool(secret) and not sign
    return result


def allowed_env(pairs):
    """Only the environment names that may leave the host (`ENV_NAMES`), as a dict."""
    result = {}
    for pair in pairs or ():
        name, _, value = pair.partition("=")
        if ENV_NAMES.match(name):
            result[name] = value
    return result


IMPOSTORS = 20  # as many are named: anybody can start thousands
# Whose program has another name. k3s-io/k3s scripts/build: its containerd and k3s-server are links to k3s; before 1.19 k3s
# was a link to its containerd. rancher/rke2 runs upstream's own.
OTHER_NAMES = {"containerd": ("k3s",), "k3s": ("containerd",), "k3s-server": ("k3s", "containerd"), "k3s-agent": ("k3s", "containerd")}  # fmt: skip
# In a cgroup that systemd, and no user's manager, gave to a service (systemd docs/CGROUP_DELEGATION.md); from inside of a
# cgroup namespace paths begin with `..` (cgroup_namespaces(7)).
SYSTEM_UNIT = re.compile(
    r"(?m)^(?:0:|\d+:name=systemd):/(?:\.\./)*(?!user\.slice/|\.\.)(?:[^/\n]+/)*[^/\n]+\.service(?:/|$)"
)


def user_ids(pid):
    """A process's real, effective, saved and file system user id, as the host numbers them (proc(5) status)."""
    with open("/proc/%s/status" % pid) as handle:
        for line in handle:
            if line.startswith("Uid:"):
                return [int(word) for word in line.split()[1:5]]
    raise ValueError("no Uid")


def system_unit(pid):
    """Whether a process is in the cgroup of a unit of the system's own manager."""
    with open("/proc/%s/cgroup" % pid) as handle:
        return bool(SYSTEM_UNIT.search(handle.read()))


def called(name, path, pid):
    """Whether the program at a path, which a process executes, is the one of that name. nixpkgs' wrapped ones are
    `.NAME-wrapped`; a link of that name in root's PATH may lead to it (Docker 18.09: dockerd, dockerd-ce)."""
    base = os.path.basename(path)
    wrapped = re.match(r"\.(.+)-wrapped$", base)
    base = wrapped.group(1) if wrapped else base
    if base == name or base in OTHER_NAMES.get(name, ()):
        return True
    if name.startswith("containerd-shim") and base.startswith("containerd-shim"):
        return True
    link = which(name)
    if pid is None or link is None or distrust(link):
        return False
    return os.path.samestat(os.stat(link), os.stat("/proc/%s/exe" % pid))


def impostor(name, entry):
    """Why a process is not what its command line calls it, as text, or None where it is. The one place that says so.

    Whoever starts a program says what its argv[0] is, and a setuid one runs as root, whoever started it: neither tells
    who a process is. A daemon has one user id throughout and executes the program of its name. The host's own is root's,
    its program is where and as root alone could put it, and it is in our mount namespace, or in a unit, which may have
    one of its own (snap, PrivateTmp=). What a user or a container runs of their own is theirs: `inner`, `uid`.
    """
    pid, exe = entry["pid"], entry.get("exe")
    if len(set(entry["uids"])) > 1:
        return "its user ids are %s" % ", ".join(map(str, entry["uids"]))
    if exe is None:  # who is not root may not look at others'
        return "what it executes may not be looked at" if os.geteuid() == 0 else None
    own = entry["uid"] == 0 and not inner(entry)
    # Its program was replaced, as by every upgrade: the old one is still what /proc/PID/exe leads to (proc(5)).
    gone = exe.endswith(" (deleted)")
    path = exe[: -len(" (deleted)")] if gone else exe
    if not called(name, path, pid if own else None):
        return "it executes %s" % exe
    if not own or os.geteuid() != 0:
        return None
    link = "/proc/%d/exe" % pid
    why = other_hand(link, os.stat(link), path) or resolved(os.path.dirname(path), gone)[1]
    if why:
        return why
    if os.path.samestat(os.stat("/proc/%d/ns/mnt" % pid), os.stat("/proc/self/ns/mnt")) or system_unit(pid):
        return None
    return "it is in a mount namespace of its own, and no system unit's"


def genuine(pid, name):
    """Whether a process is the program that it calls itself, whoever's it is. Raises OSError where it has ended."""
    entry = {"pid": int(pid), "uids": user_ids(pid), "exe": os.readlink("/proc/%s/exe" % pid)}
    return impostor(name, dict(entry, uid=entry["uids"][1], **whereabouts(pid))) is None


def processes(names):
    """Every running process whose program is called one of `names`: who, since when, how started. `impostors`: those that
    only call themselves so, of which nothing else is believed.

    `start` is in seconds since the epoch (btime + starttime ticks, proc(5)), comparable with a file's ctime.
    """
    result, impostors = [], []
    try:
        with open("/proc/stat") as handle:
            boot = next(int(line.split()[1]) for line in handle if line.startswith("btime "))
        ticks = os.sysconf("SC_CLK_TCK")
    except (OSError, StopIteration, ValueError) as error:
        return {"status": "failed", "error": str(error)}
    pids = [name for name in os.listdir("/proc") if name.isdigit()]
    if "1" not in pids:
        return {"status": "denied", "error": "others' processes are hidden (proc(5), hidepid)"}
    for pid in pids:
        base = "/proc/" + pid
        try:
            with open(base + "/cmdline", "rb") as handle:
                argv = without_secrets(handle.read().decode("utf-8", "replace").split("\0")[:-1])
            if not argv or os.path.basename(argv[0]) not in names:
                continue
            with open(base + "/stat") as handle:
                fields = handle.read().rpartition(")")[2].split()
            entry = {
                "pid": int(pid),
                "argv": argv,
                "uid": os.stat(base).st_uid,
                "uids": user_ids(pid),
                "state": fields[0],
                "ppid": int(fields[1]),
                "start": boot + int(fields[19]) / float(ticks),
            }
            entry.update(whereabouts(pid))
        except PermissionError as error:  # hidepid=1
            return failure(error)
        except (OSError, IndexError, ValueError):
            continue  # it ended while we looked
        try:
            entry["exe"] = os.readlink(base + "/exe")
            with open(base + "/environ", "rb") as handle:
                entry["env"] = allowed_env(handle.read().decode("utf-8", "replace").split("\0"))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
        except OSError as error:
            entry["error"] = failure(error)["status"]
        name = os.path.basename(argv[0])
        try:
            why = impostor(name, entry)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
        except OSError as error:
            why = "it cannot be looked at: %s" % os.strerror(error.errno)
        if why is None:
            result.append(entry)
        elif len(impostors) < IMPOSTORS:
            keys = ("pid", "uid", "uids", "exe", "nested", "container")
            impostors.append(dict({key: entry.get(key) for key in keys}, name=name, why=why))
    return {"status": "ok", "processes": result, "impostors": impostors}


CONTAINER_ID = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")


def whereabouts(pid):
    """Where a process runs, as far as that is not where we do: `nested` in a pid namespace of its own, `container` its id.

    NSpid of proc(5) has one number for each namespace from ours inwards (Linux 4.1 and newer; without it: not known to
    be nested). A container with `--pid=host` shares ours, and is told by the id in its cgroup's name. Raises OSError for a
    process that has ended: a container's would else pass for the host's own.
    """
    found = {"nested": False, "container": None}
    with open("/proc/%s/status" % pid) as handle:
        for line in handle:
            if line.startswith("NSpid:"):
                found["nested"] = len(line.split()) > 2
    try:
        with open("/proc/self/cgroup") as handle:
            ours = set(CONTAINER_ID.findall(handle.read()))
    except FileNotFoundError:
        return found  # a kernel without cgroups
    with open("/proc/%s/cgroup" % pid) as handle:
        theirs = [name for name in CONTAINER_ID.findall(handle.read()) if name not in ours]
    found["container"] = theirs[0][:12] if theirs else None
    return found


def inner(process):
    """Whether a process is a container's own. Its daemon is not this host's, whatever its name."""
    return bool(process.get("nested") or process.get("container"))


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path, timeout):
        http.client.HTTPConnection.__init__(self, "localhost", timeout=timeout)
        self.unix_path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.unix_path)


class Gone(ValueError):
    """dockerd knows no such thing (any more): HTTP 404."""


def docker_get(connection, url):
    """One answer of the Engine API as JSON; raises OSError or ValueError with what went wrong, Gone for HTTP 404."""
    connection.request("GET", url)
    response = connection.getresponse()
    body = response.read()
    if response.status != 200:
        kind = Gone if response.status == 404 else ValueError
        raise kind(
            "GET %s: HTTP %d %s" % (url, response.status, body[:200].decode("utf-8", "replace").strip())
        )
    return json.loads(body.decode("utf-8"))


def container(raw):
    """What of a container's inspection matters for GPUs and may leave the host."""
    config, host = raw.get("Config") or {}, raw.get("HostConfig") or {}
    labels = config.get("Labels") or {}
    return {
        "id": raw.get("Id", "")[:12],
        "name": raw.get("Name", "").lstrip("/"),
        "image": config.get("Image"),
        "pid": (raw.get("State") or {}).get("Pid"),
        "running": bool((raw.get("State") or {}).get("Running")),
        "started": (raw.get("State") or {}).get("StartedAt"),
        "runtime": host.get("Runtime"),
        "device_requests": [
            {key: request.get(key) for key in ("Driver", "Count", "DeviceIDs", "Capabilities")}
            for request in host.get("DeviceRequests") or ()
        ],
        "devices": [device.get("PathOnHost") for device in host.get("Devices") or ()],
        "privileged": bool(host.get("Privileged")),
        "restart": (host.get("RestartPolicy") or {}).get("Name"),
        "restarts": raw.get("RestartCount") or 0,
        "exit": (raw.get("State") or {}).get("ExitCode") or 0,
        "restarting": bool((raw.get("State") or {}).get("Restarting")),
        "error": ((raw.get("State") or {}).get("Error") or "")[:2000],
        "env": allowed_env(config.get("Env")),
        "mounts": [
            {"source": mount.get("Source"), "target": mount.get("Destination"), "type": mount.get("Type")}
            for mount in raw.get("Mounts") or ()
        ],
        "labels": {key: labels[key] for key in COMPOSE_LABELS if key in labels},
    }


def image(entry, config):
    """An image's names and those of its environment values that may leave the host."""
    names = entry.get("RepoTags") or entry.get("RepoDigests") or []
    return {
        "id": entry["Id"].partition(":")[2][:12],
        "names": [name for name in names if not name.startswith("<none>")],
        "env": allowed_env((config.get("config") or config.get("Config") or {}).get("Env")),
    }


def stored_config(root, driver, ident):
    """An image's configuration as Docker stores it (moby image/fs.go), which spares dockerd 500 inspections of half a
    millisecond: {} where it names nothing of NVIDIA's or CUDA's, None where it is not there, as in the containerd store."""
    path = "%s/image/%s/imagedb/content/sha256/%s" % (root, driver, ident.partition(":")[2])
    try:
        with open(path, "rb") as handle:
            data = handle.read(MAX_FILE_BYTES)
    except (OSError, ValueError):
        return None
    if "sha256:" + hashlib.sha256(data).hexdigest() != ident:
        return None
    return json.loads(data.decode("utf-8")) if b"NVIDIA_" in data or b"CUDA_VERSION" in data else {}


def ask_all(path, urls, deadline, refused=None):
    """Answers to many questions, in their order, over a few connections; None where dockerd knows no such thing any more,
    or gives an error of its own for it, which `refused` (a list) then has. Raises what one of the connections raised;
    socket.timeout where the time was over before the last answer."""
    found, failed, todo = [None] * len(urls), [], list(enumerate(urls))

    def work():
        connection = UnixConnection(path, max(0.1, deadline - time.monotonic()))
        try:
            while not failed:
                try:
                    number, url = todo.pop()
                except IndexError:
                    return
                if time.monotonic() > deadline:
                    raise socket.timeout("%d of %d answers in time" % (len(urls) - len(todo) - 1, len(urls)))
                try:
                    found[number] = docker_get(connection, url)
                except Gone:
                    pass  # it was removed between the list and the look
                except ValueError as error:
                    if refused is not None:
                        refused.append(str(error))
        except Exception as error:  # of a thread: told by the one that waits for it
            failed.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=work) for _ in range(min(DOCKER_CONNECTIONS, len(urls)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return found


def images_of(path, info, listed, deadline, own, refused):
    """The images whose environment is NVIDIA's or names a CUDA version, and the size of every image, with the sizes of
    its layers from the lowest up for the HISTORIES largest: they are for a prediction only. own: it is the host's Docker,
    whose store can be read. refused: what dockerd could not tell of one, as text."""
    root, driver = info.get("DockerRootDir", ""), info.get("Driver", "")
    configs = [stored_config(root, driver, entry["Id"]) if own and root else None for entry in listed]
    asked = [number for number, config in enumerate(configs) if config is None]
    answers = ask_all(path, ["/images/%s/json" % listed[number]["Id"] for number in asked], deadline, refused)
    for number, config in zip(asked, answers):  # noqa: B905  (strict= is Python 3.10)
        configs[number] = config
    there = [(entry, config) for entry, config in zip(listed, configs) if config is not None]  # noqa: B905
    found = [image(entry, config) for entry, config in there]
    large = sorted((entry for entry, _ in there), key=lambda entry: -(entry.get("Size") or 0))[:HISTORIES]
    steps = ask_all(path, ["/images/%s/history" % entry["Id"] for entry in large], deadline)
    layers = {
        entry["Id"]: [step.get("Size") or 0 for step in reversed(history) if step.get("Size")]
        for entry, history in zip(large, steps)  # noqa: B905
        if history is not None
    }
    sizes = [
        dict(id=item["id"], names=item["names"], size=entry.get("Size") or 0, layers=layers.get(entry["Id"]))
        for item, (entry, _) in zip(found, there)  # noqa: B905
    ]
    ours = [i for i in found if "CUDA_VERSION" in i["env"] or any(n.startswith("NVIDIA_") for n in i["env"])]
    return ours, sizes


def log_of(connection, ident, keep):
    """Of a container's last log lines those that a pattern finds, the newest last. The rest stays on the host."""
    try:
        connection.request("GET", "/containers/%s/logs?stdout=1&stderr=1&tail=200" % ident)
        response = connection.getresponse()
        body = response.read()
    except http.client.HTTPException as error:
        raise ValueError("GET logs: %s" % error)
    # Removed; or a log driver that cannot be read back (docs.docker.com, dual logging).
    if response.status in (404, 409, 501):
        return []
    if response.status != 200:
        raise ValueError("GET logs of %s: HTTP %d" % (ident[:12], response.status))
    text, at = b"", 0
    # Without a terminal each chunk has a header of 8 bytes (Engine API, ContainerAttach, stream format).
    while body[at : at + 1] in (b"\1", b"\2") and body[at + 1 : at + 4] == b"\0\0\0":
        (size,) = struct.unpack_from(">I", body, at + 4)
        text += body[at + 8 : at + 8 + size]
        at += 8 + size
    return [line[-500:] for line in matches(keep, (text + body[at:]).decode("utf-8", "replace"))][-20:]


def docker_info_of(info):
    """What of Docker's account of itself matters, without the list of each runtime's features: 3 KB a runtime."""
    found = {key: info[key] for key in DOCKER_INFO_KEYS if key in info}
    if info.get("Runtimes"):
        found["Runtimes"] = {
            name: {key: runtime[key] for key in runtime if key != "status"}
            for name, runtime in info["Runtimes"].items()
        }
    return found


def docker(path, running, timeout, keep="", own=False):
    """Docker's own account of itself and of all its containers, over its socket.

    Stopped ones count: they break at their next start, and a restart policy may start them any time.

    keep: what of the log of privileged containers may leave the host; an empty text reads no log. own: it is the host's.
    `unread` of the answer: containers and images that dockerd lists and cannot tell of (HTTP 500).
    `running` (is a dockerd alive?) guards the connect: docker.socket would otherwise start a stopped daemon.
    """
    if not running:
        return {"status": "absent", "error": "no dockerd runs"}
    deadline = time.monotonic() + timeout
    connection = UnixConnection(path, timeout)
    try:
        info = docker_get(connection, "/info")
        version = docker_get(connection, "/version")
        containers, lost, unseen = [], [], []
        listed = [entry["Id"] for entry in docker_get(connection, "/containers/json?all=1")]
        for raw in ask_all(path, ["/containers/%s/json" % ident for ident in listed], deadline, lost):
            if raw is None:
                continue
            found = container(raw)
            containers.append(found)
            if found["privileged"] and keep:
                try:
                    found["log"] = log_of(connection, raw["Id"], keep)
                except ValueError as error:
                    lost.append(str(error))
        images, sizes = images_of(path, info, docker_get(connection, "/images/json"), deadline, own, unseen)
        return {
            "status": "ok",
            "images": images,
            "sizes": sizes,
            "info": docker_info_of(info),
            "version": {key: version.get(key) for key in ("Version", "ApiVersion", "MinAPIVersion")},
            "containers": containers,
            "unread": {"containers": lost[:3], "images": unseen[:3]},
        }
    except socket.timeout as error:
        said = str(error) if "answers" in str(error) else "no answer"
        return {"status": "timeout", "error": "dockerd gave %s within %g s" % (said, timeout)}
    except OSError as error:
        return failure(error) if error.errno != errno.ENOENT else {"status": "failed", "error": "no " + path}
    except (ValueError, http.client.HTTPException) as error:
        return {"status": "failed", "error": str(error)}
    finally:
        connection.close()


def unit_properties(text, wanted):
    """The properties that `systemctl show` prints of one unit. It prints a line break of an ExecStart as it is: a line that
    begins none of the `wanted` properties goes on with the one before."""
    found, last = {}, None
    for line in text.strip("\n").split("\n"):
        key, sign, value = line.partition("=")
        if sign and key in wanted and key not in found:
            last, found[key] = key, value
        elif last:
            found[last] += " " + line
    return {key: " ".join(without_secrets(value.split(" "))) for key, value in found.items()}


def units(names, properties, timeout):
    """State of systemd units by name. One `systemctl show` for all; `absent` on a host without systemd."""
    if not os.path.isdir("/run/systemd/system"):  # sd_booted(3)
        return {"status": "absent", "error": "this host was not booted by systemd"}
    wanted = ["Id"] + [name for name in properties if name != "Id"]

    def show(some):
        item = execute({"argv": ["systemctl", "show", "--property=" + ",".join(wanted)] + some}, "", timeout)
        if item["status"] == "ok" and item["rc"]:
            item["status"] = "failed"
            item["error"] = item.pop("err") or "systemctl show: exit status %d" % item["rc"]
        return item

    item, found = show(list(names)), {}
    blocks = item.get("out", "").split("\n\n")
    # With an empty line in an ExecStart, whose block is whose cannot be told: each unit is asked for by itself.
    together = len(blocks) == len(names) and all(re.search(r"(?m)^Id=", block) for block in blocks)
    for block, name in zip(blocks if together else names, names):  # noqa: B905  (strict= is Python 3.10)
        if not together and item["status"] == "ok":
            item = show([name])
            block = item.get("out", "")
        found[name] = unit_properties(block, wanted)
    return {"status": "ok", "units": found} if item["status"] == "ok" else item


def system(root):
    """Who asks, on what, and when: the frame of every other fact."""
    name = os.uname()
    limits = {}
    for path in ("/", "/etc", "/var/lib", "/run"):
        try:
            found = os.statvfs(root + path)
            limits[path] = {
                "free": found.f_bavail * found.f_frsize,
                "readonly": bool(found.f_flag & 1),  # ST_RDONLY, statvfs(3)
            }
        except OSError as error:
            limits[path] = failure(error)
    return {
        "status": "ok",
        "uid": os.geteuid(),
        "kernel": name.release,
        "machine": name.machine,
        "hostname": name.nodename,
        "python": "%d.%d.%d" % sys.version_info[:3],
        "time": time.time(),
        "filesystems": limits,
    }


def obstacle(command, root):
    """Why a command is not run, or None: a path that it needs does not exist (the guard that keeps an audit from writing),
    its program does not, or whether they do is not known; or a path that spares it exists."""
    absent = {"status": "absent", "error": "%s is not here" % command["argv"][0]}
    if any(os.path.exists(root + path) for path in command.get("spares", ())):
        return absent
    needed = [meta(root + path) for path in command.get("needs", ())] + [program(command["argv"][0])]
    if any(item["status"] == "absent" for item in needed):
        return absent
    one = [meta(root + path) for path in command.get("needs_one", ())]
    if one and all(item["status"] == "absent" for item in one):
        return absent
    if one and not any(item["status"] == "ok" for item in one):
        needed.extend(one)
    unread = [item for item in needed if item["status"] not in ("ok", "absent")]
    return {"status": unread[0]["status"], "error": unread[0]["error"]} if unread else None


def execute(command, root, timeout):
    """One command of a request: its output, or why it was not run. Half an output is no answer."""
    found = obstacle(command, root)
    if found:
        return found
    found = run(command["argv"], command.get("timeout", timeout))
    if found.pop("cut", False) and found["status"] == "ok":  # half an answer is none
        found.update(status="failed", error="printed more than %d bytes" % MAX_OUTPUT_BYTES)
    if command.get("keep") and "out" in found:
        found["out"] = "\n".join(matches(command["keep"], found["out"])) + "\n"
    return found


def at_once(jobs):
    """Each job's answer under its key: (where, key, function, arguments). They run side by side, since they only wait:
    for nvidia-smi half a second. One that fails in a way nobody thought of is `failed` by itself."""

    def work(where, key, function, arguments):
        try:
            where[key] = function(*arguments)
        except Exception as error:
            where[key] = {"status": "failed", "error": "%s: %s" % (type(error).__name__, error)}

    threads = [threading.Thread(target=work, args=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def mount_points(text):
    """(mount point, type) of each mount, from mountinfo of proc(5); its octal escapes undone."""
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split()
        if len(fields) > 4 and right:
            yield re.sub(r"\\([0-7]{3})", lambda m: chr(int(m.group(1), 8)), fields[4]), right.split()[0]


def spaces(types):
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


def expand(pattern):
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


def listing(path):
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


def open_inside(pid, path):
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


def start_ticks(pid):
    """When a process started, in clock ticks since boot (proc(5) stat), or None where it has ended: then its number may
    be another's, and its /proc/PID/root is empty."""
    try:
        with open("/proc/%d/stat" % pid) as handle:
            fields = handle.read().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else int(fields[19])
    except (OSError, IndexError, ValueError):
        return None


def age(start):
    """Seconds since `start`, in clock ticks since boot."""
    with open("/proc/uptime") as handle:
        return float(handle.read().split()[0]) - start / float(os.sysconf("SC_CLK_TCK"))


def inside(pid, spec, timeout, daemon):
    """What a container holds, read through /proc/PID/root without starting anything: its mounts, files and metadata of
    paths, and, where a dockerd runs in it (`daemon`), what that says over its own socket. Only `ended` where the process
    ended meanwhile, as in a container in a loop: what was missing then says nothing about its image."""
    start = start_ticks(pid)
    found = {"pid": pid, "mountinfo": read_file("/proc/%d/mountinfo" % pid), "files": {}, "stats": {}}
    for section in ("files", "stats"):
        for path in spec.get(section, ()):
            try:
                handle = open_inside(pid, path)
            except OSError as error:
                found[section][path] = failure(error)
                continue
            try:
                item = (read_file if section == "files" else meta)("/proc/self/fd/%d" % handle)
                item.pop("link", None)
                item.pop("real", None)
                if item.get("kind") == "dir":
                    at = os.fstatvfs(handle)
                    item["free"] = at.f_bavail * at.f_frsize
                found[section][path] = item
            except OSError as error:
                found[section][path] = failure(error)
            finally:
                os.close(handle)
    if daemon:
        try:
            handle = open_inside(pid, spec["socket"])
        except OSError as error:
            found["docker"] = failure(error)
        else:
            try:
                found["docker"] = docker("/proc/self/fd/%d" % handle, True, timeout)
            finally:
                os.close(handle)
    if start is None or start_ticks(pid) != start:
        gone = {"status": "failed", "error": "it ended while it was looked at"}
        return {"pid": pid, "ended": True, "docker": gone} if daemon else {"pid": pid, "ended": True}
    if not daemon or found["docker"]["status"] != "ok":
        found["starts"] = age(start) < (STARTING if daemon else LOOKING)
    return found


def late(daemons, answer, timeout, path="/run/docker.sock"):
    """The containers that dockerds run in and that Docker did not list yet: they began while we looked. Where it does not
    tell of them any more, its list is not whole, and says so."""
    known = {found["id"] for found in answer["docker"].get("containers", ())}
    names = {process["container"] for process in daemons if inner(process)} - known - {None}
    if not names or answer["docker"]["status"] != "ok":
        return []
    urls = ["/containers/%s/json" % name for name in sorted(names)]  # another engine's are 404
    answers, lost = [], answer["docker"]["unread"]["containers"]
    try:
        answers = ask_all(path, urls, time.monotonic() + timeout, lost)
    except (OSError, http.client.HTTPException) as error:
        lost.append(str(error) or type(error).__name__)
    return [container(raw) for raw in answers if raw is not None]


def look_further(request, answer, daemons, timeout):
    """What only the answers so far say where to look for: the daemon's directory, and containers that may run a dockerd."""
    running = {}
    begun = late(daemons, answer, timeout)
    if begun:
        answer["docker"]["containers"].extend(begun)
    for found in answer["docker"].get("containers", ()):
        if found["privileged"] and found.get("pid"):
            running[found["id"]] = (found["pid"], False)
    for process in daemons:
        if inner(process) and process["uid"] == 0:
            running[process["container"] or str(process["pid"])] = (process["pid"], True)
    answer["inside"], answer["listings"] = {}, {}
    spec = request.get("inside") or {}
    jobs = [
        (answer["inside"], name, inside, (pid, spec, timeout, daemon))
        for name, (pid, daemon) in running.items()
        if spec
    ]
    directories = list(request.get("listings", ()))
    directories.append((answer["docker"].get("info") or {}).get("DockerRootDir"))
    for process in daemons:
        if process["uid"] == 0 and not inner(
            process
        ):  # a user's own would have root list what the user may not
            words = process["argv"] + [""]
            for at, word in enumerate(words[:-1]):
                name, sign, value = word.partition("=")
                if name in ("--data-root", "--graph", "-g"):
                    directories.append(value if sign else words[at + 1])
    try:
        config = answer["files"].get("/etc/docker/daemon.json", {}).get("data")
        directories.append(
            json.loads(base64.b64decode(config).decode("utf-8")).get("data-root") if config else None
        )
    except (ValueError, AttributeError):
        pass  # GM401 tells
    for path in directories:
        if isinstance(path, str) and path.startswith("/"):
            jobs.append((answer["listings"], path, listing, (path,)))
    beside = request.get("beside_compose") or {}
    for found in answer["docker"].get("containers", ()):
        directory = found["labels"].get("com.docker.compose.project.working_dir", "")
        if found["privileged"] and directory.startswith("/"):
            for name in beside.get("names", ()):
                path = os.path.join(directory, name)
                answer["stats"][path] = search(path, beside["search"])
    for name, command in request.get("commands", {}).items():
        if command.get("without_docker"):
            answer["commands"][name] = {"status": "absent", "error": "dockerd has answered"}
            if answer["docker"]["status"] != "ok":
                jobs.append((answer["commands"], name, execute, (command, request.get("root", ""), timeout)))
    jobs.append((answer, "spaces", spaces, (request.get("spaces", ()),)))
    at_once(jobs)


def unsure(impostors):
    """Why it is not known whether the host's dockerd runs, or None: a process is root's alone and executes a dockerd, but
    one that others could have put there. It is not asked."""
    for found in impostors:
        exe = os.path.basename(found["exe"] or "").partition(" (deleted)")[0]
        if (
            found["name"] == "dockerd"
            and set(found["uids"]) == {0}
            and exe in ("", "dockerd")
            and not inner(found)
        ):
            return "dockerd %d is not asked: %s" % (found["pid"], found["why"])
    return None


def unsettled(answer):
    """Whether a dockerd in a container ended while it was looked at, or has just begun and does not answer yet, or may have
    begun after we looked for one: a look a moment later tells what becomes of it."""
    return any(found.get("ended") or found.get("starts") for found in answer["inside"].values())


def probe(request):
    """Execute a request; the answer has an item for each thing asked for, whatever happens to the others. A host whose
    containers come and go just then is looked at again, a few times."""
    for pause in AGAIN:
        answer = look(request)
        if not unsettled(answer):
            return answer
        time.sleep(pause)
    return look(request)


def look(request):
    """What the host has at one moment."""
    began = time.monotonic()
    root = request.get("root", "")
    commands = request.get("commands", {})
    timeout = request.get("timeout", 10)
    answer = {
        "gpumend": FORMAT,
        "system": system(root),
        "files": {},
        "stats": {},
        "globs": {},
        "commands": {},
    }
    files = answer["files"]
    for spec in request.get("globs", ()):
        directory = root + os.path.dirname(spec["pattern"])
        listed = {"status": "ok", "paths": []}
        try:
            if not glob.has_magic(directory):
                os.listdir(directory)
            paths, unread = expand(root + spec["pattern"])
            listed["paths"] = sorted(path[len(root) :] for path in paths)
            if unread:
                raise unread
        except OSError as error:
            listed.update(failure(error))
        before = answer["globs"].get(spec["pattern"], {}).get("paths", ())  # another search's
        answer["globs"][spec["pattern"]] = listed
        for path in list(listed["paths"]):
            if spec["read"] and path not in files:
                files[path] = read_file(root + path)
            elif spec.get("search"):
                found = search(root + path, spec["search"], spec.get("limit", 0), spec.get("begins", ""))
                if found["status"] == "ok" and not found.get("found"):
                    listed["paths"].remove(path)
                else:
                    others = answer["stats"].get(path, {}).get("found", {})
                    answer["stats"][path] = dict(found, found=dict(others, **found.get("found", {})))
            elif not spec["read"]:
                answer["stats"][path] = meta(root + path)
            if spec.get("section"):
                answer["stats"][path]["section"] = elf_section(root + path, spec["section"])
            if spec.get("mentioned") and "data" in files.get(path, ()):
                for name in mentioned(base64.b64decode(files[path]["data"])):
                    answer["stats"].setdefault(name, meta(root + name))
        listed["paths"] = sorted(set(listed["paths"]).union(before))
    for path in request.get("files", ()):
        files[path] = read_file(root + path)
    for path in request.get("stats", ()):
        answer["stats"][path] = meta(root + path)
    answer["programs"] = {}
    for name in request.get("programs", ()):
        answer["programs"][name] = program(name)
    answer["processes"] = processes(request.get("processes", ()))
    daemons = [
        p for p in answer["processes"].get("processes", ()) if os.path.basename(p["argv"][0]) == "dockerd"
    ]
    # A dockerd inside a container is no reason to knock: docker.socket would start the host's own, which is stopped.
    rootful = any(p["uid"] == 0 and not inner(p) for p in daemons)
    jobs = [
        (answer["commands"], name, execute, (command, root, timeout))
        for name, command in commands.items()
        if not command.get("without_docker") and not command.get("asks_cuda")
    ]
    for name, command in commands.items():
        if command.get("asks_cuda"):
            jobs.append(
                (answer["commands"], name, ask_cuda, (command, answer["commands"], root, run, resolved))
            )
    doubt = unsure(answer["processes"].get("impostors", ()))
    if answer["processes"]["status"] == "ok" and doubt and not rootful:
        answer["docker"] = {"status": "failed", "error": doubt}
    elif answer["processes"]["status"] == "ok":
        asked = ("/run/docker.sock", rootful, timeout, request.get("log_keep", ""), True)
        jobs.append((answer, "docker", docker, asked))
    else:  # not `absent`: one may run
        answer["docker"] = dict(answer["processes"])
    jobs.append(
        (answer, "units", units, (request.get("units", ()), request.get("unit_properties", ()), timeout))
    )
    at_once(jobs)
    look_further(request, answer, daemons, timeout)
    answer["seconds"] = round(time.monotonic() - began, 3)
    return answer


def main(request):
    """Print the answer as one line of ASCII JSON: one stray byte would make pyinfra drop the rest unseen. `packed`: as
    base64 of zlib, a third of the bytes that a controller of a thousand hosts has to decrypt and hold."""
    text = json.dumps(probe(request), ensure_ascii=True, separators=(",", ":"))
    if request.get("packed"):
        text = PACKED + base64.b64encode(zlib.compress(text.encode("ascii"))).decode("ascii")
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
