"""The whole look at a host: a request executed, its answer printed."""

import base64
import glob
import itertools
import json
import os
import sys
import time
import warnings
import zlib
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

from gpumend.payload.cuda import ask_cuda
from gpumend.payload.probe.allocations import ledger
from gpumend.payload.probe.containers import look_further, unsettled, unsure
from gpumend.payload.probe.docker import docker
from gpumend.payload.probe.execution import program, resolved, roots_own
from gpumend.payload.probe.fence import FENCE, FENCED
from gpumend.payload.probe.files import (
    Json,
    content,
    dead_mounts,
    elf_section,
    expand,
    failure,
    lost,
    mentioned,
    meta,
    read_file,
    search,
    search_key,
    searched,
)
from gpumend.payload.probe.planned import may_be_here, said_by_docker, spared
from gpumend.payload.probe.processes import inner, processes
from gpumend.payload.probe.reader import at, name_for, read_apart
from gpumend.payload.probe.running import (
    NAMED,
    Job,
    at_once,
    by_name,
    end_children,
    hung,
    obstacle,
    run,
    run_all,
)
from gpumend.payload.probe.systemd import ask_systemd, units

FORMAT = 1
PACKED = "gpumend:zlib:"
MAX_USER_BYTES = 4 << 20  # of what is kept of one user's files: nobody takes all for himself
MAX_USERS_BYTES = 8 << 20  # of what is kept of users' files, all together
HANGS = 5  # seconds after which what takes milliseconds is not waited for
MOUNTS = 3  # seconds in which a file system has to answer
MOST_FOLLOWED = 20  # scripts that one file names
READS = 15  # seconds for all files and processes: a second where homes lie on a network
BEYOND = 60  # seconds for a look and all its repetitions beyond what its commands may take
REPEATS = (
    25  # seconds within which a host is looked at again: a container in a loop could ask for it without end
)
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


def system() -> Json:
    """Who asks, on what, and when: the frame of every other fact."""
    name = os.uname()
    return {
        "status": "ok",
        "uid": os.geteuid(),
        "kernel": name.release,
        "machine": name.machine,
        "hostname": name.nodename,
        "python": "%d.%d.%d" % sys.version_info[:3],
        "time": time.time(),
        "filesystems": {},
    }


def probe(request: Json) -> Json:
    """Execute a request; the answer has an item for each thing asked for, whatever happens to the others. A host whose
    containers come and go just then is looked at again, a few times, as long as there is time."""
    began = time.monotonic()
    end = began + BEYOND + patience(request) + request.get("timeout", 10)
    NAMED.clear()
    NAMED.update(by_name())
    FENCE.raise_up()
    try:
        for pause in AGAIN:
            answer = look(request, end)
            if not unsettled(answer) or time.monotonic() + pause + 2 * answer["seconds"] > began + REPEATS:
                return answer
            time.sleep(pause)
        return look(request, end)
    finally:
        FENCE.take_down()


def patience(request: Json) -> float:
    """Seconds that the slowest of the commands may take; they run side by side."""
    seconds: List[float] = [request.get("timeout", 10)]
    seconds.extend(found["timeout"] for found in request.get("commands", {}).values() if "timeout" in found)
    return max(seconds)


def users_own(pattern: str) -> bool:
    """Whether it is in users' directories that a pattern looks."""
    return pattern.startswith("/home/")


def by_pattern(globs: Sequence[Json]) -> List[List[Json]]:
    """What is asked of the files of one pattern, together: each is opened once. What is to be read `again` stays where it stands."""
    groups: List[List[Json]] = []
    first: Dict[str, List[Json]] = {}
    for spec in globs:
        if spec["pattern"] in first and not spec.get("again"):
            first[spec["pattern"]].append(spec)
        else:
            groups.append([spec])
            first.setdefault(spec["pattern"], groups[-1])
    return groups


class Tree:
    """What is read of files, and of processes, thing by thing: in children (reader.py), whose parent has the same."""

    def __init__(self, request: Json, root: str) -> None:
        self.request, self.root = request, root
        self.answer: Json = {
            "files": {},
            "stats": {},
            "globs": {},
            "programs": {},
            "rooms": {},
            "obstacles": {},
        }
        self.dead: Dict[str, str] = {}  # mounts that do not answer
        self.users: Dict[str, int] = {}  # bytes of files so far, by whose they are
        self.spoiled: Dict[str, Json] = {}  # why a path is not read (again)
        self.hung = hung()
        self.sources: List[Tuple[str, str, Callable[[], Json]]] = list(self.in_turn())

    def in_turn(self) -> Iterator[Tuple[str, str, Callable[[], Json]]]:
        """(section, key, what reads it), users' directories last: what takes long there keeps nothing of root's from being
        read."""
        request = self.request
        for path in ("/", "/etc", "/var/lib", "/run"):
            yield "rooms", path, self.one("rooms", path, lambda path: room(self.root + path))
        yield "dead", "", lambda: {"dead": dead_mounts(mounts(), MOUNTS)}
        for path in request.get("files", ()):
            yield "files", path, self.one("files", path, lambda path: self.looked(read_file, path))
        for name in request.get("programs", ()):
            yield "programs", name, self.one("programs", name, program)
        groups = by_pattern(request.get("globs", ()))
        for specs in groups:
            if not users_own(specs[0]["pattern"]):
                yield "globs", specs[0]["pattern"], self.matching(specs)
        for name, command in request.get("commands", {}).items():
            if not command.get("asks_cuda"):
                yield "obstacles", name, self.one("obstacles", name, self.obstacle)
        for path in request.get("stats", ()):
            yield "stats", path, self.one("stats", path, lambda path: self.looked(meta, path))
        names = request.get("processes", ())
        yield "processes", "", lambda: {"processes": processes(names)}
        for specs in groups:
            if users_own(specs[0]["pattern"]):
                yield "globs", specs[0]["pattern"], self.matching(specs)

    def one(self, section: str, key: str, function: Callable[[str], Json]) -> Callable[[], Json]:
        """What reads one thing."""
        return lambda: {section: {key: function(key)}}

    def obstacle(self, name: str) -> Json:
        """Why a command is not run, or an empty dict."""
        return obstacle(self.request["commands"][name], self.root) or {}

    def matching(self, specs: List[Json]) -> Callable[[], Json]:
        return lambda: self.matched(specs)

    def read(self, end: float, wait: float) -> None:
        """All is read that could be until `end`; what could not is tagged with why."""

        def apart(source: Callable[[], Json]) -> Callable[[], Json]:
            def read() -> Json:
                found = source()
                self.keep(slight(found))  # the child's own, for its later sources
                return found

            return read

        def take(number: int, found: Json) -> None:
            section, key, _ = self.sources[number]
            if "status" not in found:
                self.keep(found)
            elif section == "globs":
                known = self.answer["globs"].get(key, {}).get("paths", ())  # another search's
                self.answer["globs"][key] = dict(found, paths=list(known))
            elif section == "processes":
                self.answer["processes"] = found
            elif section != "dead":
                self.answer[section][key] = found

        read_apart([apart(source) for _, _, source in self.sources], take, end, self.spoiled, wait)

    def keep(self, found: Json) -> None:
        """What one source says is part of the answer."""
        for section, items in found.items():
            if section in ("dead", "users"):
                setattr(self, section, items)
            elif section == "stats":
                add_all(self.answer["stats"], items)
            elif section == "processes":
                self.answer["processes"] = items
            else:
                self.answer[section].update(items)

    def looked(self, function: Callable[..., Json], path: str, *more: Any) -> Json:
        """What a function says of a path, but not where it is known to be of no use."""
        if path in self.spoiled:
            return dict(self.spoiled[path])
        if self.hung and name_for(path) in self.hung:
            before = self.hung[name_for(path)]
            return {"status": "failed", "error": "not read: process %d, which did, cannot be ended" % before}
        why = lost(self.root + path, self.dead)
        if why:
            return failure(why)
        at(path)
        item = function(self.root + path, *more)
        if not item.get("uid") and "link" not in item:
            return item
        hits = [len(hit) for hits in item.get("found", {}).values() for hit in hits]
        size, owner = len(item.get("data", "")) + sum(hits), str(item.get("uid", 0))  # JSON's keys are texts
        kept = self.users.get(owner, 0) + size
        theirs = size + sum(others for uid, others in self.users.items() if uid != "0")
        if size and kept > MAX_USER_BYTES:
            error = "files of uid %s have more than %d bytes" % (owner, MAX_USER_BYTES)
            return {"status": "failed", "error": error}
        if size and owner != "0" and theirs > MAX_USERS_BYTES:
            return {"status": "failed", "error": "files of users have more than %d bytes" % MAX_USERS_BYTES}
        self.users[owner] = kept
        return item

    def handle_on(self, directory: str, paths: Sequence[str]) -> Optional[int]:
        """A handle on a directory that is root's alone all the way, for many files in it; else None."""
        if len(paths) < 3 or glob.has_magic(directory) or lost(directory, self.dead):
            return None
        return roots_own(directory)

    def useless(self, spec: Json) -> bool:
        """Whether a pattern is not looked at: what it needs is not there, or it leads to what another one does."""
        if spec.get("where") and not may_be_here(spec["where"], self.answer):
            return True
        if not spec.get("twin"):
            return False
        here, there = (self.root + fixed(pattern) for pattern in (spec["pattern"], spec["twin"]))
        try:
            return not (lost(here, self.dead) or lost(there, self.dead)) and os.path.samefile(here, there)
        except OSError:
            return False

    def matched(self, specs: List[Json]) -> Json:
        """What a pattern matches, and what its specs ask for of each."""
        root, pattern = self.root, specs[0]["pattern"]
        if all(self.useless(spec) for spec in specs):
            return {"globs": {pattern: {"status": "absent"}}}
        directory = root + os.path.dirname(pattern)
        listed: Json = {"status": "ok", "paths": []}
        files: Json = {}
        stats: Json = {}
        try:
            if not glob.has_magic(directory) and not lost(directory, self.dead):
                os.stat(directory + "/")
            paths, unread = expand(root + pattern, self.dead)
            listed["paths"] = sorted(path[len(root) :] for path in paths)
            if unread:
                raise unread
        except OSError as error:
            listed.update(failure(error))
        before = self.answer["globs"].get(pattern, {}).get("paths", ())  # an earlier search's
        sought = [spec for spec in specs if spec.get("search")]
        whole = [spec for spec in specs if spec["read"]]
        handle = self.handle_on(directory, listed["paths"]) if sought else None
        for path in list(listed["paths"]):
            if whole and path not in self.answer["files"]:
                files[path] = self.looked(read_file, path)
            if sought:
                add_all(stats, self.sought_in(path, sought, handle))
                if path not in stats and len(sought) == len(specs):
                    listed["paths"].remove(path)
            if len(sought) + len(whole) < len(specs) and path not in stats:
                stats[path] = self.looked(meta, path)
            for spec in specs:
                if spec.get("section"):
                    stats[path]["section"] = self.looked(elf_section, path, spec["section"])
                if spec.get("mentioned"):
                    stats.update(self.named_in(files.get(path) or self.looked(read_file, path), stats))
        if handle is not None:
            os.close(handle)
        scripts = stats if any(spec.get("follow") for spec in sought) else ()
        listed["paths"] = sorted(set(listed["paths"]).union(before, scripts))
        if listed["status"] == "absent" and not listed["paths"]:  # of most patterns: it says all
            listed = {"status": "absent"}
        return {"globs": {pattern: listed}, "files": files, "stats": stats, "users": self.users}

    def sought_in(self, path: str, sought: List[Json], handle: Optional[int]) -> Json:
        """What some searches find in a file, which is not there where they find nothing. One of them may follow to the scripts that
        it names."""
        leads = next((spec for spec in sought if spec.get("follow")), None)
        more = [{"search": leads["follow"], "limit": leads.get("limit", 0)}] if leads else []
        item = self.looked(searched, path, sought + more, handle)
        hits = item.setdefault("found", {})
        scripts = hits.pop(search_key(leads["follow"]), []) if leads else []
        found: Json = {path: item} if item["status"] != "ok" or hits else {}
        if leads:
            add_all(found, self.followed(leads, scripts, item.get("uid")))
        return found

    def followed(self, spec: Json, names: List[str], owner: Optional[int]) -> Json:
        """The scripts that a file names and in which the search finds something, with what. A user's file has nobody else's read."""
        found: Json = {}
        for name in sorted(set(names))[:MOST_FOLLOWED]:
            item = self.looked(search, name, spec["search"], spec.get("limit", 0), "#!")
            if item.get("found") and owner in (0, item.get("uid")):
                found[name] = item
        return found

    def named_in(self, item: Json, known: Json) -> Json:
        """Metadata of the paths that a file's text names."""
        names = mentioned(content(item) or b"")
        unknown = [name for name in names if name not in self.answer["stats"] and name not in known]
        return {name: self.looked(meta, name) for name in unknown}


def add_all(stats: Json, more: Json) -> None:
    """What is told of some paths, besides what is: all that searches found in each; and that one of them failed, where one did."""
    for path, item in more.items():
        both = [each for each in (stats.get(path, {}), item) if "found" in each]
        if both:
            item = dict(item, found={key: hits for each in both for key, hits in each["found"].items()})
        for each in both:
            if each["status"] not in ("ok", "absent"):
                item.update(status=each["status"], error=each["error"])
        stats[path] = item


def fixed(pattern: str) -> str:
    """The directory from which a pattern looks."""
    parts = os.path.dirname(pattern).split("/")
    return "/".join(itertools.takewhile(lambda part: not glob.has_magic(part), parts))


def slight(found: Json) -> Json:
    """What a source says, without the bytes of files."""
    if "files" not in found:
        return found
    light = {path: {key: item[key] for key in item if key != "data"} for path, item in found["files"].items()}
    return dict(found, files=light)


def mounts() -> str:
    """mountinfo of proc(5)."""
    with open("/proc/self/mountinfo", errors="replace") as handle:
        return handle.read()


def look(request: Json, end: Optional[float] = None) -> Json:
    """What the host has at one moment, as far as it is known at `end`."""
    began = time.monotonic()
    root = request.get("root", "")
    commands = request.get("commands", {})
    timeout = request.get("timeout", 10)

    def within(seconds: float) -> float:
        return min(time.monotonic() + seconds, end or float("inf"))

    tree = Tree(request, root)
    tree.read(within(READS), HANGS)
    answer: Json = {"gpumend": FORMAT, "system": system(), "commands": {}}
    answer.update(tree.answer)
    answer["system"]["filesystems"] = answer.pop("rooms")
    obstacles = answer.pop("obstacles")
    daemons = [
        p for p in answer["processes"].get("processes", ()) if os.path.basename(p["argv"][0]) == "dockerd"
    ]
    # A dockerd inside a container is no reason to knock: docker.socket would start the host's own, which is stopped.
    rootful = any(p["uid"] == 0 and not inner(p) for p in daemons)
    made, todo = sorted_out(commands, obstacles, answer, rootful)
    by_itself = ask_systemd(request, todo, answer)
    made.update(by_itself["commands"])
    todo = [name for name in todo if name not in made]
    jobs: List[Job] = [({}, "", run_all, (commands, todo, timeout, made))]
    for name, command in commands.items():
        if command.get("asks_cuda"):
            jobs.append((made, name, ask_cuda, (command, made, root, run, resolved)))
    doubt = unsure(answer["processes"].get("impostors", ()))
    if answer["processes"]["status"] == "ok" and doubt and not rootful:
        answer["docker"] = {"status": "failed", "error": doubt}
    elif answer["processes"]["status"] == "ok":
        asked = ("/run/docker.sock", rootful, timeout, request.get("log_keep", ""), True)
        jobs.append((answer, "docker", docker, asked))
    else:  # not `absent`: one may run
        answer["docker"] = dict(answer["processes"])
    if "units" in by_itself:
        answer["units"] = by_itself["units"]
    else:
        asked_units = (request.get("units", ()), request.get("unit_properties", ()), timeout)
        jobs.append((answer, "units", units, asked_units))
    if request.get("allocations"):
        jobs.append((answer, "allocations", ledger, (request["allocations"], answer["processes"], timeout)))
    FENCE.stands(FENCED)
    at_once(jobs, within(patience(request) + HANGS))
    answer["commands"] = whole(commands, made, todo)
    left = yet_to_ask(commands, answer)
    if left:
        at_once([({}, "", run_all, (commands, left, timeout, made))], within(patience(request) + HANGS))
        answer["commands"].update(whole(commands, made, left))
    look_further(request, answer, daemons, timeout, within(patience(request) + HANGS))
    answer["seconds"] = round(time.monotonic() - began, 3)
    return answer


def sorted_out(commands: Json, obstacles: Json, answer: Json, rootful: bool) -> Tuple[Json, List[str]]:
    """(Answers of commands that are not run, by name; names of those that are run now). Of the rest their answers decide, and
    Docker's (`yet_to_ask`)."""
    answers: Json = {}
    todo = []
    for name, command in commands.items():
        if command.get("asks_cuda"):
            continue
        why = spared(command, answer)
        if obstacles[name] or why:
            answers[name] = obstacles[name] or {"status": "absent", "error": "not asked: %s" % why}
        elif not (
            command.get("without_docker") or after_others(command) or (rootful and command.get("by_docker"))
        ):
            todo.append(name)
    return answers, todo


def after_others(command: Json) -> bool:
    """Whether another command's answer may spare it."""
    return bool(command.get("said_by") or command.get("listed_by"))


def whole(commands: Json, made: Json, todo: List[str]) -> Json:
    """The answers of commands so far, in the order of the request; also of what hangs before it is started."""
    late = {"status": "timeout", "error": "no answer in time"}
    return {name: made.get(name, dict(late)) for name in commands if name in made or name in todo}


def yet_to_ask(commands: Json, answer: Json) -> List[str]:
    """The names of commands that are run since neither Docker nor another command has told what they would; the others have
    their answers."""
    todo = []
    for name, command in commands.items():
        if name in answer["commands"]:
            continue
        if command.get("without_docker") and answer["docker"]["status"] == "ok":
            answer["commands"][name] = {"status": "absent", "error": "dockerd has answered"}
            continue
        why = spared(command, answer) if after_others(command) else None
        found = said_by_docker(name, answer) if command.get("by_docker") else None
        if why:
            found = {"status": "absent", "error": "not asked: %s" % why}
        if found:
            answer["commands"][name] = found
        else:
            todo.append(name)
    return todo


def main(request: Json) -> None:
    """Print the answer as one line of ASCII JSON: one stray byte would make pyinfra drop the rest unseen. `packed`: as
    base64 of zlib, a third of the bytes that a controller of a thousand hosts has to decrypt and hold."""
    warnings.simplefilter("ignore", DeprecationWarning)  # of fork, where a thread is left behind in a read
    text = json.dumps(probe(request), ensure_ascii=True, separators=(",", ":"))
    if request.get("packed"):
        text = PACKED + base64.b64encode(zlib.compress(text.encode("ascii"))).decode("ascii")
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
    end_children()
    # A thread may be left behind in a read that never ends; and to take all apart costs 6 ms of CPU time.
    os._exit(0)
