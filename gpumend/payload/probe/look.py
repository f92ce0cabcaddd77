"""The whole look at a host: a request executed, its answer printed."""

import base64
import glob
import json
import os
import sys
import time
import zlib
from typing import List

from gpumend.payload.cuda import ask_cuda
from gpumend.payload.probe.containers import look_further, unsettled, unsure
from gpumend.payload.probe.docker import docker
from gpumend.payload.probe.execution import Job, at_once, execute, program, resolved, run
from gpumend.payload.probe.files import Json, elf_section, expand, failure, mentioned, meta, read_file, search
from gpumend.payload.probe.processes import inner, processes
from gpumend.payload.probe.systemd import units

FORMAT = 1
PACKED = "gpumend:zlib:"
AGAIN = (0.5, 1, 1, 2, 2)  # seconds before each further look at a host that is not settled


def system(root: str) -> Json:
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


def probe(request: Json) -> Json:
    """Execute a request; the answer has an item for each thing asked for, whatever happens to the others. A host whose
    containers come and go just then is looked at again, a few times."""
    for pause in AGAIN:
        answer = look(request)
        if not unsettled(answer):
            return answer
        time.sleep(pause)
    return look(request)


def look(request: Json) -> Json:
    """What the host has at one moment."""
    began = time.monotonic()
    root = request.get("root", "")
    commands = request.get("commands", {})
    timeout = request.get("timeout", 10)
    answer: Json = {
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
        listed: Json = {"status": "ok", "paths": []}
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
    at_once(jobs)
    look_further(request, answer, daemons, timeout)
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
