"""What only the answers so far say where to look for: inside containers, and for dockerds that run in them."""

import json
import os
import time
from typing import Iterable, List, Optional

from gpumend.payload.probe.compose import compose_project
from gpumend.payload.probe.docker import ask_all, container, docker, without_leads
from gpumend.payload.probe.files import (
    Json,
    content,
    failure,
    listing,
    meta,
    open_inside,
    read_file,
    search,
    spaces,
)
from gpumend.payload.probe.http import BadAnswer
from gpumend.payload.probe.processes import age, inner, start_ticks
from gpumend.payload.probe.projects import compose_projects, keep_project
from gpumend.payload.probe.reader import Source, read_apart
from gpumend.payload.probe.running import Job

LOOKING = 2  # seconds that a look takes, or less: a container that is younger may have a dockerd that was not seen yet
INNER_SECONDS = 6  # for all answers of a dockerd in a container
READERS = 2  # of containers side by side, where there are any: they share the memory that the probe may have
STARTING = 10  # seconds after its start in which a dockerd that does not answer is waited for


def inside(pid: int, spec: Json, timeout: float, daemon: bool) -> Json:
    """What a container holds, read through /proc/PID/root without starting anything: its mounts, files and metadata of
    paths, and, where a dockerd runs in it (`daemon`), what that says over its own socket. Only `ended` where the process
    ended meanwhile, as in a container in a loop: what was missing then says nothing about its image."""
    start = start_ticks(pid)
    found: Json = {"pid": pid, "mountinfo": read_file("/proc/%d/mountinfo" % pid), "files": {}, "stats": {}}
    for section in ("files", "stats"):
        for path in spec.get(section, ()):
            try:
                handle = open_inside(pid, path)
            except OSError as error:
                found[section][path] = failure(error)
                continue
            try:
                at = "/proc/self/fd/%d" % handle
                item = read_file(at, inside=handle) if section == "files" else meta(at)
                item.pop("link", None)
                item.pop("real", None)
                if item.get("kind") == "dir":
                    space = os.fstatvfs(handle)
                    item["free"] = space.f_bavail * space.f_frsize
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


def unread(why: Json, pid: int, spec: Json, timeout: float, daemon: bool) -> Json:
    """As `inside`, of a container of which nothing could be read, with why."""
    found = {"pid": pid, "mountinfo": dict(why), "starts": False}
    for section in ("files", "stats"):
        found[section] = {path: dict(why) for path in spec.get(section, ())}
    return dict(found, docker=dict(why)) if daemon else found


def late(daemons: List[Json], answer: Json, timeout: float, path: str = "/run/docker.sock") -> List[Json]:
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
    except (OSError, BadAnswer) as error:
        lost.append(str(error) or type(error).__name__)
    found = [container(raw) for raw in answers if raw is not None]
    for each in found:
        without_leads(each, each["labels"])  # nobody has looked whether they are its image's
    return found


def look_further(
    request: Json, answer: Json, daemons: List[Json], timeout: float, end: Optional[float] = None
) -> None:
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
    seconds = min(timeout, INNER_SECONDS)
    reads: List[Job] = [(answer, "spaces", spaces, (request.get("spaces", ()),))]
    for name, (pid, daemon) in running.items():
        if spec:
            reads.append((answer["inside"], name, inside, (pid, spec, seconds, daemon)))
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
        config = content(answer["files"].get("/etc/docker/daemon.json", {}))
        directories.append(json.loads(config.decode("utf-8")).get("data-root") if config else None)
    except (ValueError, AttributeError):
        pass  # GM401 tells
    for path in directories:
        if isinstance(path, str) and path.startswith("/"):
            reads.append((answer["listings"], path, listing, (path,)))
    beside = request.get("beside_compose") or {}
    for found in answer["docker"].get("containers", ()):
        directory = found["labels"].get("com.docker.compose.project.working_dir", "")
        if found["privileged"] and directory.startswith("/"):
            for name in beside.get("names", ()):
                path = os.path.join(directory, name)
                reads.append((answer["stats"], path, search, (path, beside["search"])))
    answer["compose"] = {}
    projects = compose_projects(answer["docker"].get("containers", ()), request.get("compose") or ())
    made: Json = {}
    for number, project in enumerate(projects):
        reads.append((made, str(number), compose_project, project))
    read_side_by_side(reads, end or time.monotonic() + 2 * timeout, seconds + 2)
    for number, project in enumerate(projects):
        keep_project(answer["compose"], project[0], made[str(number)])


def read_side_by_side(jobs: List[Job], end: float, wait: float) -> None:
    """As `at_once`, in readers: what containers answer, and files that users chose, harm those alone."""

    def source(job: Job) -> Source:
        _, _, function, arguments = job
        return lambda: {"answer": function(*arguments)}

    def take(number: int, found: Json) -> None:
        where, key, function, arguments = jobs[number]
        where[key] = (
            unread(found, *arguments)
            if function is inside and "answer" not in found
            else found.get("answer", found)
        )

    others = any(function in (inside, search, compose_project) for _, _, function, _ in jobs)
    read_apart([source(job) for job in jobs], take, end, {}, wait, READERS if others else 1)


def unsure(impostors: Iterable[Json]) -> Optional[str]:
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


def unsettled(answer: Json) -> bool:
    """Whether a dockerd in a container ended while it was looked at, or has just begun and does not answer yet, or may have
    begun after we looked for one: a look a moment later tells what becomes of it."""
    return any(found.get("ended") or found.get("starts") for found in answer["inside"].values())
