"""The whole look at a host: a request executed, its answer printed."""

import base64
import copy
import glob
import json
import os
import sys
import threading
import time
import zlib
from typing import Any, Callable, List, Optional

from gpumend.payload.cuda import ask_cuda
from gpumend.payload.probe.containers import look_further, unsettled, unsure
from gpumend.payload.probe.docker import docker
from gpumend.payload.probe.execution import Job, at_once, end_children, execute, program, resolved, run
from gpumend.payload.probe.files import (
    Json,
    dead_mounts,
    elf_section,
    expand,
    failure,
    lost,
    mentioned,
    meta,
    read_file,
    search,
)
from gpumend.payload.probe.processes import inner, processes
from gpumend.payload.probe.systemd import units

FORMAT = 1
PACKED = "gpumend:zlib:"
MAX_USERS_BYTES = 8 << 20  # of what is kept of users' files, all together
HANGS = 5  # seconds after which what takes milliseconds is not waited for
READS = 20  # seconds for all files: a second where homes lie on a network
BEYOND = 60  # seconds for a look and all its repetitions beyond what its commands may take
AGAIN = (0.5, 1, 1, 2, 2)  # seconds before each further look at a host that is not settled


def room(path: str) -> Json:
    """The free bytes of the file system at a path, and whether it may be written to."""
    try:
        found = os.statvfs(path)
    except OSError as error:
        return failure(error)
    return {
        "free": found.f_bavail * found.f_frsize,
        "readonly": bool(found.f_flag & 1),  # ST_RDONLY, statvfs(3)
    }


def system(root: str) -> Json:
    """Who asks, on what, and when: the frame of every other fact."""
    name = os.uname()
    limits: Json = {}
    jobs: List[Job] = [(limits, path, room, (root + path,)) for path in ("/", "/etc", "/var/lib", "/run")]
    at_once(jobs, time.monotonic() + HANGS)
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


def probe(request: Json) -> Json:
    """Execute a request; the answer has an item for each thing asked for, whatever happens to the others. A host whose
    containers come and go just then is looked at again, a few times, as long as there is time."""
    end = time.monotonic() + BEYOND + patience(request) + request.get("timeout", 10)
    for pause in AGAIN:
        answer = look(request, end)
        if not unsettled(answer) or time.monotonic() + pause + 2 * answer["seconds"] > end:
            return answer
        time.sleep(pause)
    return look(request, end)


def patience(request: Json) -> float:
    """Seconds that the slowest of the commands may take; they run side by side."""
    seconds: List[float] = [request.get("timeout", 10)]
    seconds.extend(found["timeout"] for found in request.get("commands", {}).values() if "timeout" in found)
    return max(seconds)


def users_own(spec: Json) -> bool:
    """Whether it is in users' directories that a glob looks."""
    return bool(spec["pattern"].startswith("/home/"))


def in_turn(request: Json) -> List[Json]:
    """The globs as they are read, users' directories last: what takes long there keeps nothing of root's from being read."""
    return sorted(request.get("globs", ()), key=users_own)


def tree(request: Json, root: str, answer: Json) -> Json:
    """What files there are, and what is in them: into the answer, thing by thing. `done` of it: how many globs are."""
    files = answer["files"]
    with open("/proc/self/mountinfo", errors="replace") as handle:
        dead = dead_mounts(handle.read(), HANGS)
    users = [0]  # bytes of users' files so far

    def looked(function: Callable[..., Json], path: str, *more: Any) -> Json:
        why = lost(root + path, dead)
        item = failure(why) if why else function(root + path, *more)
        if item.get("uid") or "link" in item:
            hits = [len(hit) for hits in item.get("found", {}).values() for hit in hits]
            users[0] += len(item.get("data", "")) + sum(hits)
            if users[0] > MAX_USERS_BYTES and (hits or "data" in item):
                return {
                    "status": "failed",
                    "error": "files of users have more than %d bytes" % MAX_USERS_BYTES,
                }
        return item

    def matched(spec: Json) -> None:
        directory = root + os.path.dirname(spec["pattern"])
        listed: Json = {"status": "ok", "paths": []}
        try:
            if not glob.has_magic(directory) and not lost(directory, dead):
                os.listdir(directory)
            paths, unread = expand(root + spec["pattern"], dead)
            listed["paths"] = sorted(path[len(root) :] for path in paths)
            if unread:
                raise unread
        except OSError as error:
            listed.update(failure(error))
        before = answer["globs"].get(spec["pattern"], {}).get("paths", ())  # another search's
        answer["globs"][spec["pattern"]] = listed
        for path in list(listed["paths"]):
            if spec["read"] and path not in files:
                files[path] = looked(read_file, path)
            elif spec.get("search"):
                found = looked(search, path, spec["search"], spec.get("limit", 0), spec.get("begins", ""))
                if found["status"] == "ok" and not found.get("found"):
                    listed["paths"].remove(path)
                else:
                    others = answer["stats"].get(path, {}).get("found", {})
                    answer["stats"][path] = dict(found, found=dict(others, **found.get("found", {})))
            elif not spec["read"]:
                answer["stats"][path] = looked(meta, path)
            if spec.get("section"):
                answer["stats"][path]["section"] = looked(elf_section, path, spec["section"])
            if spec.get("mentioned") and "data" in files.get(path, ()):
                for name in mentioned(base64.b64decode(files[path]["data"])):
                    if name not in answer["stats"]:
                        answer["stats"][name] = looked(meta, name)
        listed["paths"] = sorted(set(listed["paths"]).union(before))
        answer["done"] += 1

    for path in request.get("files", ()):
        files[path] = looked(read_file, path)
    for name in request.get("programs", ()):
        answer["programs"][name] = program(name)
    for spec in in_turn(request):
        if not users_own(spec):
            matched(spec)
    for path in request.get("stats", ()):
        answer["stats"][path] = looked(meta, path)
    for spec in in_turn(request):
        if users_own(spec):
            matched(spec)
    return {"status": "ok"}


def whole(request: Json, found: Json, why: Json) -> Json:
    """The sections of `tree` as they are while it still reads, with why all that it has not reached is not known."""
    while True:
        try:
            answer: Json = copy.deepcopy(found)
            break
        except RuntimeError:  # it was written to just then
            time.sleep(0.01)
    for spec in in_turn(request)[answer.pop("done") :]:
        before = answer["globs"].get(spec["pattern"], {}).get("paths", ())
        known = answer["files"] if spec["read"] else answer["stats"]
        answer["globs"][spec["pattern"]] = dict(why, paths=[path for path in before if path in known])
    for section in ("files", "stats", "programs"):
        for name in request.get(section, ()):
            answer[section].setdefault(name, dict(why))
    return answer


def look(request: Json, end: Optional[float] = None) -> Json:
    """What the host has at one moment, as far as it is known at `end`."""
    began = time.monotonic()
    root = request.get("root", "")
    commands = request.get("commands", {})
    timeout = request.get("timeout", 10)

    def within(seconds: float) -> float:
        return min(time.monotonic() + seconds, end or float("inf"))

    answer: Json = {"gpumend": FORMAT, "system": system(root), "commands": {}}
    found: Json = {"files": {}, "stats": {}, "globs": {}, "programs": {}, "done": 0}
    read: Json = {}
    at_once([(read, "tree", tree, (request, root, found))], within(READS))
    if read["tree"]["status"] == "ok":
        del found["done"]
        answer.update(found)
    else:
        answer.update(whole(request, found, read["tree"]))
    at_once([(answer, "processes", processes, (request.get("processes", ()),))], within(2 * HANGS))
    daemons = [
        p for p in answer["processes"].get("processes", ()) if os.path.basename(p["argv"][0]) == "dockerd"
    ]
    # A dockerd inside a container is no reason to knock: docker.socket would start the host's own, which is stopped.
    rootful = any(p["uid"] == 0 and not inner(p) for p in daemons)
    jobs: List[Job] = [
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
    at_once(jobs, within(patience(request) + HANGS))
    look_further(request, answer, daemons, timeout, within(patience(request) + HANGS))
    answer["seconds"] = round(time.monotonic() - began, 3)
    return answer


def main(request: Json) -> None:
    """Print the answer as one line of ASCII JSON: one stray byte would make pyinfra drop the rest unseen. `packed`: as
    base64 of zlib, a third of the bytes that a controller of a thousand hosts has to decrypt and hold."""
    text = json.dumps(probe(request), ensure_ascii=True, separators=(",", ":"))
    if request.get("packed"):
        text = PACKED + base64.b64encode(zlib.compress(text.encode("ascii"))).decode("ascii")
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
    end_children()
    if threading.active_count() > 1:  # left behind in a read that may never end
        os._exit(0)
