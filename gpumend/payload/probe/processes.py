"""Which processes run: who each is, by what the kernel says that it executes and not by its name."""

import os
import re
from typing import Dict, Iterable, List, Optional, Sequence, Union

from gpumend.payload.probe.execution import distrust, other_hand, resolved, which
from gpumend.payload.probe.files import Json, failure, of_process

Pid = Union[int, str]

# Environment names that may leave the host. Everything else stays: proxies carry passwords, units carry tokens.
ENV_NAMES = re.compile(
    r"^(PATH|DOCKER_DRIVER|DOCKER_STORAGE_DRIVER|DOCKERD_STORAGE_DRIVER|DOCKER_RAMDISK|DOCKER_CONTEXT|XDG_RUNTIME_DIR|LD_LIBRARY_PATH"
    r"|NVIDIA_VISIBLE_DEVICES|NVIDIA_DRIVER_CAPABILITIES|NVIDIA_REQUIRE_[A-Z0-9_]+|NVIDIA_DISABLE_REQUIRE"
    r"|CUDA_VERSION|CUDA_VISIBLE_DEVICES)$"
)
# Flags whose value must not leave the host.
SECRET_FLAG = re.compile(
    r"^--?(?=[\w-]*$)[\w-]*?(?:token|password|passwd|secret|datastore-endpoint|api-?key)", re.IGNORECASE
)
MAX_ARGV = 1 << 18  # bytes of a command line that are read
MAX_ENV = 1 << 20  # of an environment
MAX_OTHERS_ARGV = 4096  # characters that are kept of one that is no process of the host's own
MAX_OTHERS = 4 << 20  # of all those together: anybody can start thousands
IMPOSTORS = 20  # as many are named: anybody can start thousands
# Whose program has another name. k3s-io/k3s scripts/build: its containerd and k3s-server are links to k3s; before 1.19 k3s
# was a link to its containerd. rancher/rke2 runs upstream's own.
OTHER_NAMES = {"containerd": ("k3s",), "k3s": ("containerd",), "k3s-server": ("k3s", "containerd"), "k3s-agent": ("k3s", "containerd")}  # fmt: skip
# In a cgroup that systemd, and no user's manager, gave to a service (systemd docs/CGROUP_DELEGATION.md); from inside of a
# cgroup namespace paths begin with `..` (cgroup_namespaces(7)).
SYSTEM_UNIT = re.compile(
    r"(?m)^(?:0:|\d+:name=systemd):/(?:\.\./)*(?!user\.slice/|\.\.)(?:[^/\n]+/)*[^/\n]+\.service(?:/|$)"
)
CONTAINER_ID = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")


def without_secrets(words: Iterable[str]) -> List[str]:
    """A command line without what its flags for tokens and passwords say (k3s has --token, --datastore-endpoint)."""
    result, hide = [], False
    for word in words:
        flag, sign, _ = word.partition("=")
        secret = SECRET_FLAG.match(flag)
        result.append("********" if hide else flag + sign + "********" if secret and sign else word)
        hide = bool(secret) and not sign
    return result


def allowed_env(pairs: Optional[Iterable[str]]) -> Dict[str, str]:
    """Only the environment names that may leave the host (`ENV_NAMES`), as a dict."""
    result = {}
    for pair in pairs or ():
        name, _, value = pair.partition("=")
        if ENV_NAMES.match(name):
            result[name] = value
    return result


def user_ids(pid: Pid) -> List[int]:
    """A process's real, effective, saved and file system user id, as the host numbers them (proc(5) status)."""
    with open("/proc/%s/status" % pid) as handle:
        for line in handle:
            if line.startswith("Uid:"):
                return [int(word) for word in line.split()[1:5]]
    raise ValueError("no Uid")


def system_unit(pid: Pid) -> bool:
    """Whether a process is in the cgroup of a unit of the system's own manager."""
    with open("/proc/%s/cgroup" % pid) as handle:
        return bool(SYSTEM_UNIT.search(handle.read()))


def called(name: str, path: str, pid: Optional[int]) -> bool:
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


def impostor(name: str, entry: Json) -> Optional[str]:
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


def genuine(pid: Pid, name: str) -> bool:
    """Whether a process is the program that it calls itself, whoever's it is. Raises OSError where it has ended."""
    entry: Json = {"pid": int(pid), "uids": user_ids(pid), "exe": os.readlink("/proc/%s/exe" % pid)}
    return impostor(name, dict(entry, uid=entry["uids"][1], **whereabouts(pid))) is None


def processes(names: Sequence[str]) -> Json:
    """Every running process whose program is called one of `names`: who, since when, how started. `impostors`: those that
    only call themselves so, of which nothing else is believed. `left_out`: how many of users and containers there are
    besides, where they are too many.

    `start` is in seconds since the epoch (btime + starttime ticks, proc(5)), comparable with a file's ctime.
    """
    result: List[Json] = []
    impostors: List[Json] = []
    others, left_out = 0, 0
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
            line = of_process(pid, "cmdline", MAX_ARGV)
            called_as = line.partition(b"\0")[0].rpartition(b"/")[2].decode("utf-8", "replace")
            if called_as not in names or b"\0" not in line:  # a title of its own
                continue
            argv = without_secrets(line.decode("utf-8", "replace").split("\0")[: len(line) == MAX_ARGV or -1])
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
                entry["env"] = allowed_env(handle.read(MAX_ENV).decode("utf-8", "replace").split("\0"))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
        except OSError as error:
            entry["error"] = failure(error)["status"]
        try:
            why = impostor(called_as, entry)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
        except OSError as error:
            why = "it cannot be looked at: %s" % error.strerror
        if why is None and (entry["uid"] or inner(entry)):
            cut_to(entry, MAX_OTHERS_ARGV)
            others += len(str(entry))
            if others > MAX_OTHERS:
                left_out += 1
                continue
        if why is None:
            result.append(entry)
        elif len(impostors) < IMPOSTORS:
            keys = ("pid", "uid", "uids", "exe", "nested", "container")
            impostors.append(dict({key: entry.get(key) for key in keys}, name=called_as, why=why))
    found: Json = {"status": "ok", "processes": result, "impostors": impostors}
    return dict(found, left_out=left_out) if left_out else found


def cut_to(entry: Json, limit: int) -> None:
    """Of a process's arguments and its environment as many characters are kept; `cut` tells of it."""
    argv, left = entry["argv"], limit
    for at, word in enumerate(argv):
        left -= len(word) + 1
        if left < 0:
            entry.update(argv=argv[:at] + [word[: max(0, left + len(word))]], cut=True)
            break
    for name, value in entry.get("env", {}).items():
        if len(value) > limit:
            entry["env"][name] = value[:limit]


def whereabouts(pid: Pid) -> Json:
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


def inner(process: Json) -> bool:
    """Whether a process is a container's own. Its daemon is not this host's, whatever its name."""
    return bool(process.get("nested") or process.get("container"))


def boot_id() -> str:
    """The kernel's name of this boot (random(4)). Raises OSError."""
    with open("/proc/sys/kernel/random/boot_id") as handle:
        return handle.read().strip()


def start_ticks(pid: int) -> Optional[int]:
    """When a process started, in clock ticks since boot (proc(5) stat), or None where it has ended: then its number may
    be another's, and its /proc/PID/root is empty."""
    try:
        with open("/proc/%d/stat" % pid) as handle:
            fields = handle.read().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else int(fields[19])
    except (OSError, IndexError, ValueError):
        return None


def age(start: int) -> float:
    """Seconds since `start`, in clock ticks since boot."""
    with open("/proc/uptime") as handle:
        return float(handle.read().split()[0]) - start / float(os.sysconf("SC_CLK_TCK"))
