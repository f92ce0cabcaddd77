"""A site's books of GPU allocations, beside what Docker granted and what computes: read only where the desired state names
them. What is made of it is `gpumend/payload/allocations.py`."""

import glob
import json
import os
import re
import socket
import struct
import time
from typing import Dict, Iterable, List, Optional, Set, Tuple

from gpumend.payload.allocations import (
    DS01,
    entries_of,
    known_names,
    line_of_log,
    log_format,
    metadata_of,
    slots_of,
)
from gpumend.payload.probe.docker import ask_all, docker_get
from gpumend.payload.probe.execution import resolved
from gpumend.payload.probe.files import (
    Json,
    digest_of,
    failure,
    listing,
    of_process,
    open_file,
    opened,
    read_beside,
    walked,
)
from gpumend.payload.probe.http import MAX_ANSWERS, Budget, UnixConnection
from gpumend.payload.probe.processes import CONTAINER_ID, MAX_ARGV, age, boot_id, inner, start_ticks
from gpumend.payload.probe.reader import HERE, Source, each_answer, goes_on
from gpumend.payload.probe.running import Job, at_once, execute

MAX_STATE = 8 << 20  # bytes of a state file: 10,000 entries are 1.5 MB
MAX_METADATA = 1 << 16  # of one container's
MAX_METADATA_ALL = 32 << 20
MAX_METADATA_FILES = 50000
MAX_LOG = 1 << 20  # of a log's end
MAX_CONFIG = 1 << 20  # of a container's config.v2.json
MAX_LABEL = 1000
STILL = 5  # seconds in which a reader of books, or of processes, does not go on
BOOKS = 12  # seconds for all of them
LOOKS = 3  # at Docker's list, until it stays the same meanwhile
SMI_TIMEOUT = 15
SMI_NODES = ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/nvidia0")
# Whose containers are none of Docker's: CRI-O's, podman's and containerd's own scopes, pods, and what a user's own manager
# runs (rootless).
OTHER_ENGINES = re.compile(r"libpod-|crio-|cri-containerd-|kubepods|nerdctl-|/buildkit/|/user@\d+\.service/")
POD = re.compile(r"pod([0-9a-f]{8}[-_][0-9a-f_-]{27})")
SHIMS = ("containerd-shim", "containerd-shim-runc-v1", "containerd-shim-runc-v2", "docker-containerd-shim")
# What a person or a script makes containers by; the name of one stands in its arguments.
MAKERS = re.compile(r"docker|container|mlc|compose|nerdctl")


def ledger_state(path: str, shape: Json) -> Json:
    """The slots of the state file, its hash and its times. The rest of it stays on the host."""
    item, data = opened(path, MAX_STATE)
    item["path"] = path
    if data is None:
        if item["status"] == "ok":
            item.update(status="failed", error="a %s, not a file" % item["kind"])
        return item
    item["sha256"] = digest_of(data)
    try:
        item["slots"] = slots_of(data.decode("utf-8"), shape)
    except ValueError as error:
        item.update(status="failed", error=str(error))
    return item


def ledger_metadata(directory: str, shape: Json) -> Json:
    """What each container's metadata file says of its allocation; `error` in one that says nothing that can be read."""
    try:
        handle = walked(directory) if os.geteuid() == 0 else os.open(directory, os.O_PATH | os.O_DIRECTORY)
    except OSError as error:
        return dict(failure(error), path=directory)
    files: List[Json] = []
    size = 0
    try:
        names = [name for name in sorted(os.listdir("/proc/self/fd/%d" % handle)) if name.endswith(".json")]
        if len(names) > MAX_METADATA_FILES:
            raise OSError("more than %d files" % MAX_METADATA_FILES)
        alone = os.geteuid() != 0 or resolved(directory)[0] is not None
        for name in names:
            goes_on()
            if alone:
                item, data = read_beside(handle, name, MAX_METADATA)
            else:  # somebody else may turn the path elsewhere: each file by the whole of it
                item, data = opened(os.path.join(directory, name), MAX_METADATA)
            if item["status"] == "absent":
                continue  # it went while we looked
            size += len(data or b"")
            if size > MAX_METADATA_ALL:
                raise OSError("more than %d bytes" % MAX_METADATA_ALL)
            found: Json = {"file": name, "mtime": item.get("mtime"), "uid": item.get("uid")}
            try:
                if data is None:
                    raise ValueError(item.get("error") or "a %s, not a file" % item.get("kind"))
                found["sha256"] = digest_of(data)
                found.update(metadata_of(data.decode("utf-8"), shape))
            except ValueError as error:
                found["error"] = str(error)
            files.append(found)
    except OSError as error:
        return dict(failure(error), path=directory)
    finally:
        os.close(handle)
    return {"status": "ok", "path": directory, "files": files}


def log_end(path: str) -> List[str]:
    """The lines at the end of a log. Raises OSError."""
    with open_file(path) as handle:
        size = os.fstat(handle.fileno()).st_size
        handle.seek(max(0, size - MAX_LOG))
        lines = handle.read(MAX_LOG).decode("utf-8", "replace").splitlines()
    return lines[1:] if size > MAX_LOG else lines


def ledger_history(paths: Iterable[str], names: Set[str]) -> Json:
    """The last line that the logs have of each of some containers, and how many lines are none of a known format."""
    last: Dict[str, Json] = {}
    logs: Json = {}
    for path in paths:
        try:
            lines = log_end(path)
        except OSError as error:
            logs[path] = failure(error)
            continue
        strange = 0
        for line in lines:
            found = line_of_log(line)
            if found is None:
                strange += 1
            elif found["name"] in names and found["time"] >= last.get(found["name"], {}).get("time", ""):
                last[found["name"]] = {key: found[key][:200] for key in ("time", "act", "user", "slot")}
        logs[path] = {"status": "ok", "format": log_format(path, lines), "strange": strange}
    return {"logs": logs, "last": last}


def peer_of(path: str, timeout: float) -> int:
    """Who listens at a unix socket: its process id, as the kernel has it (unix(7) SO_PEERCRED). Nothing is sent. Raises
    OSError."""
    asking = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        asking.settimeout(timeout)
        asking.connect(path)
        return int(struct.unpack("3i", asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0])
    finally:
        asking.close()


def the_daemon(path: str, daemons: List[Json], timeout: float) -> Tuple[Optional[Json], str]:
    """(The dockerd behind a socket, "") or (None, why that is not known). systemd listens for one that it starts."""
    peer = peer_of(path, timeout)
    mine = [found for found in daemons if found["pid"] == peer]
    if mine:
        return mine[0], ""
    if peer != 1:
        return None, "process %d listens at %s, and it is no dockerd of this host's: name the real socket" % (
            peer,
            path,
        )
    if len(daemons) != 1:
        return None, "systemd listens at %s, and %d dockerds run" % (path, len(daemons))
    return daemons[0], ""


def grant_of(raw: Json, labels: Iterable[str]) -> Json:
    """What of a container's inspection tells what it holds. Of labels only those that the desired state names."""
    config, host, state = raw.get("Config") or {}, raw.get("HostConfig") or {}, raw.get("State") or {}
    told = config.get("Labels") or {}
    env = dict(pair.partition("=")[::2] for pair in config.get("Env") or ())
    requests = []
    for request in host.get("DeviceRequests") or ():
        requests.append(
            {
                "driver": request.get("Driver") or "",
                "count": request.get("Count") or 0,
                "ids": [str(each)[:MAX_LABEL] for each in request.get("DeviceIDs") or ()],
                "capabilities": sorted(
                    {each for group in request.get("Capabilities") or () for each in group}
                ),
            }
        )
    nodes = [str(each.get("PathOnHost")) for each in host.get("Devices") or ()]
    return {
        "id": str(raw["Id"]),
        "names": [str(raw.get("Name") or "").lstrip("/")],
        "running": bool(state.get("Running") or state.get("Restarting")),
        "status": str(state.get("Status") or ""),
        "pid": int(state.get("Pid") or 0),
        "started": str(state.get("StartedAt") or ""),
        "error": str(state.get("Error") or "")[:MAX_LABEL],
        "runtime": str(host.get("Runtime") or ""),
        "visible": str(env.get("NVIDIA_VISIBLE_DEVICES") or "")[:MAX_LABEL],
        "requests": requests,
        "nodes": [path for path in nodes if re.match(r"/dev/nvidia\d+$", path)],
        "labels": {name: str(told[name])[:MAX_LABEL] for name in labels if name in told},
    }


def on_disk(root: str, listed: Set[str]) -> Tuple[List[Json], str]:
    """(Containers below Docker's root that its list does not have, with their names as far as they can be read; why that
    is not known). dockerd leaves out what it cannot load and what belongs to another storage driver (moby
    daemon/daemon.go restore)."""
    directory = os.path.join(root, "containers")
    names = listing(directory)
    if names["status"] != "ok":
        return [], "" if names["status"] == "absent" else "%s: %s" % (directory, names["error"])
    found = []
    for ident in sorted(names["names"]):
        if not re.match(r"[0-9a-f]{64}$", ident) or ident in listed:
            continue
        name = ""
        try:
            with open_file(os.path.join(directory, ident, "config.v2.json")) as handle:
                name = str(json.loads(handle.read(MAX_CONFIG).decode("utf-8")).get("Name") or "").lstrip("/")
        except (OSError, ValueError, AttributeError, RecursionError):
            if not os.path.isdir(os.path.join(directory, ident)):
                continue  # it was removed meanwhile
        found.append({"id": ident, "name": name})
    return found, ""


def docker_list(
    connection: UnixConnection, path: str, labels: Iterable[str], end: float, budget: Budget
) -> Optional[Json]:
    """Docker's containers, their number as it counts them, and its root; None where they came or went meanwhile."""
    listed = docker_get(connection, "/containers/json?all=1")
    unread: List[str] = []
    urls = ["/containers/%s/json" % entry["Id"] for entry in listed]
    containers = []
    for entry, raw in zip(listed, ask_all(path, urls, end, unread, budget)):
        if raw is not None:
            found = grant_of(raw, labels)
            more = [str(name).rpartition("/")[2] for name in entry.get("Names") or ()]
            found["names"] = list(dict.fromkeys(found["names"] + more))
            containers.append(found)
    again = {entry["Id"] for entry in docker_get(connection, "/containers/json?all=1")}
    info = docker_get(connection, "/info")
    if not unread and (again != {found["id"] for found in containers} or len(listed) != len(containers)):
        return None
    root = str(info["DockerRootDir"])
    return {"containers": containers, "unread": unread[:3], "count": info.get("Containers"), "root": root}


def docker_grants(path: str, daemons: Json, labels: Iterable[str], timeout: float) -> Json:
    """Docker's containers and what each was granted, by the dockerd itself: `up` seconds that it runs, `count` as it counts
    them, `unlisted` what its root has besides, `unread` what it could not tell of."""
    if daemons["status"] != "ok":
        return dict(daemons)
    own = [p for p in daemons["processes"] if os.path.basename(p["argv"][0]) == "dockerd"]
    own = [found for found in own if found["uid"] == 0 and not inner(found)]
    if not own:
        return {"status": "failed", "error": "no dockerd runs"}
    end = time.monotonic() + timeout
    budget = Budget(MAX_ANSWERS)
    connection = UnixConnection(path, timeout, end, budget)
    try:
        daemon, why = the_daemon(path, own, timeout)
        if daemon is None:
            return {"status": "failed", "error": why}
        ticks = start_ticks(daemon["pid"])
        for _ in range(LOOKS):
            found = docker_list(connection, path, labels, end, budget)
            if found is not None:
                break
        else:
            return {"status": "failed", "error": "containers came or went whenever it was asked"}
        unlisted, disk_error = on_disk(found.pop("root"), {each["id"] for each in found["containers"]})
        up = None if ticks is None else age(ticks)
        found.update(status="ok", up=up, pid=daemon["pid"], ticks=ticks)
        return dict(found, unlisted=unlisted, disk_error=disk_error, hidden=[])
    except socket.timeout:
        return {"status": "timeout", "error": "dockerd gave no whole answer within %g s" % timeout}
    except OSError as error:
        return {"status": "failed", "error": "%s: %s" % (path, error.strerror or error)}
    except ValueError as error:
        return {"status": "failed", "error": str(error)}
    except (AttributeError, LookupError, TypeError) as error:
        return {"status": "failed", "error": "its answer is no dockerd's: %s" % error}
    finally:
        connection.close()


def container_of(pid: str, ours: Set[str]) -> Optional[str]:
    """The whole id of the container of Docker's that a process runs in, by its cgroup. Raises OSError."""
    with open("/proc/%s/cgroup" % pid) as handle:
        for line in handle:
            if not OTHER_ENGINES.search(line):
                ids = [each for each in CONTAINER_ID.findall(line) if each not in ours]
                if ids:
                    return str(ids[0])
    return None


def our_ids() -> Set[str]:
    """The container that we run in ourselves."""
    try:
        with open("/proc/self/cgroup") as handle:
            return set(CONTAINER_ID.findall(handle.read()))
    except OSError:
        return set()


def running_now(among: Optional[Set[str]] = None) -> Json:
    """The ids of containers that have processes, by cgroups and by shims of Docker's. among: only these are of interest."""
    ours = our_ids()
    found: Set[str] = set()
    try:
        for pid in os.listdir("/proc"):
            if not pid.isdigit():
                continue
            goes_on()
            try:
                ident = container_of(pid, ours)
                if ident:
                    found.add(ident)
                words = of_process(pid, "cmdline").decode("utf-8", "replace").split("\0")
                if (
                    os.path.basename(words[0]) in SHIMS
                    and "moby" in words
                    and os.stat("/proc/" + pid).st_uid == 0
                ):
                    found.update(each for each in words if CONTAINER_ID.match(each))
            except PermissionError as error:
                return failure(error)
            except (OSError, IndexError):
                continue  # it ended
    except OSError as error:
        return failure(error)
    return {"status": "ok", "ids": sorted(found if among is None else found & among)}


def pods_now() -> List[str]:
    """The UIDs of pods that have processes: systemd's slices have `_` for `-` (kubelet pkg/kubelet/cm)."""
    found: Set[str] = set()
    for pid in os.listdir("/proc"):
        try:
            with open("/proc/%s/cgroup" % pid) as handle:
                found.update(each.replace("_", "-") for each in POD.findall(handle.read()))
        except OSError:
            continue  # no process, or one that ended
    return sorted(found)


def names_at_work(names: Iterable[str]) -> Dict[str, int]:
    """Of some names of containers those that stand in a process's arguments, by its id: somebody is about to make one. What
    stands before `._.` is what a person calls it, and counts where a tool for containers is called."""
    exact, short = set(names), {}  # type: Set[str], Dict[str, str]
    for name in exact:
        if "._." in name:
            short[name.partition("._.")[0]] = name
    found: Dict[str, int] = {}
    if not exact:
        return found
    ours = {os.getpid(), os.getppid()} if HERE else {os.getpid()}  # a reader, and whom it reads for
    for pid in os.listdir("/proc"):
        if not pid.isdigit() or int(pid) in ours:
            continue
        goes_on()
        try:
            text = of_process(pid, "cmdline", MAX_ARGV).decode("utf-8", "replace")
        except OSError:
            continue
        words = re.split(r"[\0\s=,/'\"]+", text)
        for each in exact.intersection(words):
            found[each] = int(pid)
        if short and MAKERS.search(text[:4096]):
            for each in set(short).intersection(words):
                found[short[each]] = int(pid)
    return found


def computing(apps: Json) -> Json:
    """Who computes on a GPU: of each process its user, the name of its program and its container."""
    ours = our_ids()
    found: Json = {}
    for line in (apps.get("out") or "").splitlines():
        pid = line.split(",")[0].strip()
        if not pid.isdigit():
            continue
        try:
            ident = container_of(pid, ours)
            with open("/proc/%s/comm" % pid) as handle:
                comm = handle.read(64).strip()
            user = os.stat("/proc/" + pid).st_uid
        except OSError:
            continue  # it ended, or is of a namespace that is none of ours
        found[pid] = {"container": (ident or "")[:12], "comm": comm, "uid": user}
    return found


def apart(sources: Iterable[Source]) -> List[Json]:
    """What each says, read by a child: a site's books may lie where users write, and of processes anybody starts thousands,
    with arguments that take long to read or never are."""
    return each_answer(list(sources), time.monotonic() + BOOKS, STILL)


def ledger(spec: Json, daemons: Json, timeout: float) -> Json:
    """One look at a site's allocations, from the books to what holds GPUs: the books first, so that what is made meanwhile
    is on Docker's list and not missing from it."""
    shape = dict(DS01, **(spec.get("shape") or {}))
    look: Json = {"status": "ok", "state": None, "metadata": None, "history": {"logs": {}, "last": {}}}
    books: List[Tuple[str, Source]] = []
    if spec.get("state"):
        books.append(("state", lambda: ledger_state(spec["state"], shape)))
    if spec.get("metadata"):
        books.append(("metadata", lambda: ledger_metadata(spec["metadata"], shape)))
    for (name, _), found in zip(books, apart(source for _, source in books)):
        look[name] = dict(found, path=spec[name])
    names = {entry["name"] for entry in entries_of(look)}
    names.update(each["name"] for each in (look["metadata"] or {}).get("files", ()) if "name" in each)
    logs = list(spec.get("history") or ())
    history, live = apart([lambda: ledger_history(logs, names), running_now])
    look["history"] = (
        {"logs": {path: dict(history) for path in logs}, "last": {}} if "status" in history else history
    )
    jobs: List[Job] = [
        (look, "docker", docker_grants, (spec["socket"], daemons, spec.get("labels") or (), timeout))
    ]
    for key, argv in (
        ("smi", ["nvidia-smi", "-L"]),
        ("apps", ["nvidia-smi", "--query-compute-apps=pid,gpu_uuid", "--format=csv,noheader"]),
    ):
        jobs.append((look, key, execute, ({"argv": argv, "needs": SMI_NODES}, "", SMI_TIMEOUT)))
    at_once(jobs, time.monotonic() + max(SMI_TIMEOUT, timeout) + 2)
    look["present"] = len(glob.glob("/proc/driver/nvidia/gpus/*")) or None
    look["live"] = live
    missing: Set[str] = set()
    if look["docker"]["status"] == "ok" and live["status"] == "ok":
        missing = set(live["ids"]) - {found["id"] for found in look["docker"]["containers"]}
    stale = names - known_names(look)
    pids, hidden, busy, pods = apart(
        [
            lambda: {"pids": computing(look["apps"])},
            lambda: running_now(missing) if missing else {"ids": []},
            lambda: {"busy": names_at_work(stale)},
            lambda: {"pods": pods_now() if spec.get("pods") else []},
        ]
    )
    for found in (pids, busy, pods):
        if "status" in found:
            return found
    look.update(pids=pids["pids"], busy=busy["busy"])
    if missing:
        look["docker"]["hidden"] = hidden.get("ids", sorted(missing))
    elif look["docker"]["status"] == "ok" and live["status"] == "ok":
        look["docker"]["hidden"] = []
    if spec.get("pods"):
        look["pods"] = pods["pods"]
    look["boot"] = boot_id()
    look["clock"] = time.monotonic()
    return look
