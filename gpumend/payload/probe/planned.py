"""Which commands have something to say on this host, by what its files, mounts and processes have said before."""

import os
import re
from typing import Any, Iterable, List, Optional, Sequence

from gpumend.payload.probe.execution import PATH
from gpumend.payload.probe.files import Json, content, mount_points
from gpumend.payload.probe.processes import inner


def spared(command: Json, answer: Json) -> Optional[str]:
    """Why a command is not run, as text, or None where it is: also where what would spare it could not be read."""
    wanted = command.get("where_one")
    if wanted and not any(may_be_here(name, answer) for name in wanted):
        return "none of what would need it is here"
    if command.get("told_by") and not may_tell(command["told_by"], answer):
        return "nothing that was read calls for it"
    if command.get("mounted") and not may_be_mounted(command["mounted"], answer):
        return "no %s is mounted" % ", ".join(command["mounted"])
    if command.get("said_by") and said(command["said_by"], answer):
        return "%s has said it" % command["said_by"][0]
    if command.get("listed_by") and listed(command["listed_by"], answer):
        return "%s has listed all" % command["listed_by"][0]
    if command.get("taken_by") and took(command["taken_by"], answer):
        return "%s has started with this %s" % tuple(command["taken_by"])
    return None


def may_be_here(name: str, answer: Json) -> bool:
    """Whether a process of that name runs, or what a path or a pattern of the request means is there, as far as is known."""
    if "/" not in name:
        found = answer["processes"]
        return bool(
            found["status"] != "ok"
            or found.get("left_out")
            or any(os.path.basename(each["argv"][0]) == name for each in found["processes"])
        )
    if name in answer["globs"]:
        listed = answer["globs"][name]
        return bool(listed.get("paths") or listed["status"] not in ("ok", "absent"))
    return bool((answer["stats"].get(name) or answer["files"].get(name) or {}).get("status") != "absent")


def may_tell(told_by: Json, answer: Json) -> bool:
    """Whether a search in files that match one of some patterns has found what another pattern matches, or could not look."""
    calls = told_by["pattern"]
    for pattern in told_by["globs"]:
        listed = answer["globs"].get(pattern, {"status": "failed"})
        if listed["status"] not in ("ok", "absent"):
            return True
        if any(may_hold(calls, path, answer) for path in listed.get("paths", ())):
            return True
    return False


def may_hold(pattern: str, path: str, answer: Json) -> bool:
    """Whether a search in that file has found what another pattern matches, or could not look."""
    item = answer["stats"].get(path, {"status": "failed"})
    hits = [hit for each in item.get("found", {}).values() for hit in each]
    return item["status"] != "ok" or any(re.search(pattern, hit) for hit in hits)


def may_be_mounted(types: Iterable[str], answer: Json) -> bool:
    """Whether a file system of one of these types is mounted, as far as is known."""
    data = content(answer["files"].get("/proc/self/mountinfo", {}))
    text = (data or b"").decode("utf-8", "replace")
    return not data or any(kind in types for _, kind in mount_points(text))


def said(said_by: Iterable[str], answer: Json) -> bool:
    """Whether another command has printed what a pattern matches."""
    name, pattern = said_by
    found = answer.get("commands", {}).get(name, {})
    return found.get("status") == "ok" and found["rc"] == 0 and bool(re.search(pattern, found["out"]))


def listed(listed_by: Sequence[Any], answer: Json) -> bool:
    """Whether another command has listed as many things as are here by some files, and said nothing else."""
    name, one, there = listed_by
    found = answer.get("commands", {}).get(name, {})
    if found.get("status") != "ok" or found["rc"] != 0 or found["err"]:
        return False
    things = set()
    for pattern, counts in there:
        files = answer["globs"].get(pattern, {"status": "failed"})
        if files["status"] not in ("ok", "absent"):
            return False
        for path in files.get("paths", ()):
            if not counts or may_hold(counts, path, answer):
                things.add(os.path.basename(os.path.dirname(path)))
    return not re.sub(one, "", found["out"]) and len(re.findall(one, found["out"])) >= len(things)


def hosts_own(processes: Iterable[Json], name: str) -> List[Json]:
    """Those processes of a name that are the host's own."""
    named = [each for each in processes if os.path.basename(each["argv"][0]) == name]
    return [each for each in named if each["uid"] == 0 and not inner(each)]


def took(taken_by: Iterable[str], answer: Json) -> bool:
    """Whether a daemon of the host's own has started with a file as it is, so that it has taken it: it runs the program that
    lies on the disk, it was told of no other file, and the file has not been changed since. It has its start by the clock's
    whole second of the boot: it may seem older than it is, and not younger (proc(5), btime)."""
    name, path = taken_by
    file, found = answer["files"].get(path, {}), answer["processes"]
    if found["status"] != "ok" or file.get("status") != "ok" or "link" in file:
        return False
    own = hosts_own(found["processes"], name)
    return len(own) == 1 and all(
        (each.get("exe") or " (deleted)")[-10:] != " (deleted)"
        and not any(word.startswith(("--config-file", "-config-file")) for word in each["argv"])
        and each["start"] > max(file["ctime"], file["mtime"])
        for each in own
    )


def said_by_docker(name: str, answer: Json) -> Optional[Json]:
    """What a program says of its version, as its answer to --version: by Docker's own account, where that is of the program
    that we would execute; else None. Of containerd dockerd tells what the running one says: it has to be the only one, and to
    execute what lies on the disk. runc it executes itself, where that is its default runtime (moby daemon/info_unix.go)."""
    found, daemons = answer["docker"].get("version", {}), answer["processes"]
    version = found.get("Components", {}).get(name)
    where = answer["programs"].get(name, {})
    if not version or where.get("status") != "ok" or daemons["status"] != "ok":
        return None
    if name == "containerd":
        own = hosts_own(daemons["processes"], name)
        others = [each for each in daemons["processes"] if os.path.basename(each["argv"][0]) == name]
        if len(others) != 1 or not own or own[0].get("exe") != where.get("real", where["path"]):
            return None
    else:
        paths = [each.get("env", {}).get("PATH") for each in hosts_own(daemons["processes"], "dockerd")]
        if len(paths) != 1 or not paths[0] or not (PATH + ":").startswith(paths[0] + ":"):
            return None
        if os.path.dirname(where["path"]) not in paths[0].split(":"):
            return None
    return {"status": "ok", "rc": 0, "out": "%s version %s\n" % (name, version), "err": ""}
