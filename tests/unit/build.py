"""Hosts as tables: a builder of the probe's answers.

A `Host` is what lies on a machine: files by path, programs, what commands print, what dockerd says. `answer()` makes
of it exactly what `gpumend/payload/probe` would print there (test_build.py holds the two side by side), so a test says what
differs from a healthy host and nothing else:

    verdict(healthy().but(files={CONFIG: config(mode="banana")}))

`None` takes a thing away. Texts of a real H100 host come from tests/fixtures/h100.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import posixpath
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from gpumend.payload.probe.compose import asked as asked_by
from gpumend.payload.probe.compose import masked_compose, variables_of
from gpumend.payload.probe.files import content as content_of
from gpumend.payload.probe.files import matches, mentioned, search_key, sent
from gpumend.payload.probe.planned import spared
from gpumend.payload.probe.projects import compose_projects, keep_project
from gpumend.rules.finding import Finding
from gpumend.rules.judge import Verdict, judge
from gpumend.rules.wanted import parse as parse_wanted
from gpumend.state.host_state import HostState, parse, request
from gpumend.state.snapshot import Snapshot
from gpumend.text.edits import apply

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
CONFIG = "/etc/nvidia-container-runtime/config.toml"
DAEMON_JSON = "/etc/docker/daemon.json"
STATIC = "/etc/cdi/nvidia.yaml"
DYNAMIC = "/var/run/cdi/nvidia.yaml"
TODAY = datetime.date(2026, 11, 23)
NOW = 1_795_000_000.0  # of the hosts below: dockerd started an hour before, programs were installed a day before
HOUR, DAY = 3600.0, 86400.0

Item = dict[str, Any]
Files = Mapping[str, "str | bytes | Item | None"]
Command = tuple[int, str, str]


def fixture(name: str) -> str:
    """A raw capture's text."""
    return (FIXTURES / name).read_text("utf-8")


def capture(name: str) -> str:
    """What a captured command printed: without the `$ command` line before it and the `rc=` line after it."""
    return re.sub(r"(?m)^(\$ .*|rc=\d+)\n", "", fixture(name))


# --- things that lie at a path


def _item(kind: str, mode: int, **more: Any) -> Item:
    times = {"mtime": NOW - DAY, "ctime": NOW - DAY}
    return {"status": "ok", "kind": kind, "mode": mode, "uid": 0, "gid": 0, "size": 0, **times, **more}


def file(content: str | bytes = "", mode: int = 0o644, **more: Any) -> Item:
    data = content.encode() if isinstance(content, str) else content
    return _item(
        "file",
        mode,
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        **sent(data),
        **more,
    )


def program(path: str, ctime: float = NOW - DAY) -> Item:
    return {**_item("file", 0o755, ctime=ctime), "path": path}


def node(major: int, minor: int) -> Item:
    return _item("char", 0o666, rdev=[major, minor])


def a_directory() -> Item:
    return _item("dir", 0o755)


def fifo() -> Item:
    return _item("fifo", 0o644)


def link(to: str, found: Item, real: str = "") -> Item:
    """A symbolic link and what it leads to."""
    return {**found, "link": to, "real": real or to}


def dangling(to: str) -> Item:
    return {"link": to, "real": to, **absent()}


def absent() -> Item:
    return {"status": "absent", "error": "No such file or directory"}


def unread(status: str) -> Item:
    """What stands in an answer for a thing that could not be read: `denied`, `timeout` or `failed`."""
    return {"status": status, "error": f"{status}, says the test"}


# --- a host


@dataclass(frozen=True)
class Host:
    """A machine. programs: name -> path or item. commands: name of the request -> (exit status, output, errors).

    docker: {"info": ..., "containers": [...]} while dockerd runs, an `unread` item, or None where none runs.
    units: properties by unit; None on a host without systemd. globs: items that stand for a whole listing.
    inside: by container; listings: by directory; spaces: by mount point. besides: what a desired state asks for.
    """

    files: Files = field(default_factory=dict)
    programs: Mapping[str, str | Item | None] = field(default_factory=dict)
    commands: Mapping[str, Command | Item | None] = field(default_factory=dict)
    globs: Mapping[str, Item] = field(default_factory=dict)
    docker: Mapping[str, Any] | None = None
    units: Mapping[str, Mapping[str, str] | None] | None = None
    processes: tuple[Item, ...] | Item = ()
    system: Mapping[str, Any] = field(default_factory=dict)
    inside: Mapping[str, Item] = field(default_factory=dict)
    listings: Mapping[str, Item] = field(default_factory=dict)
    spaces: Mapping[str, Item] = field(default_factory=dict)
    besides: str = ""

    def but(self, **changes: Any) -> Host:
        """This host with entries added, replaced, or (None) taken away. `info` merges into docker's info."""
        info = changes.pop("info", None)
        for name in ("files", "programs", "commands", "globs", "units", "system"):
            if name in changes and isinstance(changes[name], Mapping):
                changes[name] = {**(getattr(self, name) or {}), **changes[name]}
        found = replace(self, **changes)
        if info is not None and found.docker is not None:
            merged = {
                key: value for key, value in {**found.docker["info"], **info}.items() if value is not None
            }
            found = replace(found, docker={**found.docker, "info": merged})
        return found

    def with_containers(self, *containers: Item) -> Host:
        assert self.docker is not None
        return replace(self, docker={**self.docker, "containers": list(containers)})

    def flags(self, *argv: str) -> Host:
        """This host with dockerd started with these arguments."""
        return replace(self, processes=(process("/usr/bin/dockerd", *argv),))

    def answer(self, plan: bool = True) -> Item:
        return answer(
            self.files,
            self.programs,
            self.commands,
            self.docker,
            self.units,
            self.processes,
            self.system,
            self.globs,
            self.inside,
            self.listings,
            self.spaces,
            self.besides,
            plan,
        )

    def state(self) -> HostState:
        return state(self.answer())

    def daemon(self) -> Any:
        """daemon.json as an object."""
        content = self.files[DAEMON_JSON]
        assert isinstance(content, str)
        return json.loads(content)


def process(exe: str, *argv: str, uid: int = 0, start: float = NOW - HOUR) -> Item:
    return {
        "pid": 4242,
        "argv": [exe, *argv],
        "uid": uid,
        "uids": [uid] * 4,
        "state": "S",
        "ppid": 1,
        "start": start,
        "exe": exe,
        "env": {},
        "nested": False,
        "container": None,
    }


def container(name: str = "job", **more: Any) -> Item:
    """A container as the probe shows it; `gpus=True` asks by --gpus, `cdi=...` by --device, `project=...` is compose's."""
    requests: list[Item] = []
    if more.pop("gpus", False):
        requests.append({"Driver": "", "Count": -1, "DeviceIDs": None, "Capabilities": [["gpu"]]})
    if "cdi" in more:
        requests.append({"Driver": "cdi", "Count": 0, "DeviceIDs": [more.pop("cdi")], "Capabilities": None})
    project = more.pop("project", None)
    return {
        "id": "0123456789ab",
        "name": name,
        "image": "cuda:13",
        "pid": 777,
        "running": True,
        "started": "2026-11-22T00:00:00Z",
        "runtime": "runc",
        "device_requests": requests,
        "devices": [],
        "privileged": False,
        "restart": "no",
        "env": {},
        "mounts": [],
        "labels": {"com.docker.compose.project": project} if project else {},
        **more,
    }


def _normal(found: str | bytes | Item | None) -> Item | None:
    return found if found is None or isinstance(found, dict) else file(found)


def _stat(found: Item) -> Item:
    return {key: value for key, value in found.items() if key not in ("data", "base64", "sha256", "section")}


@cache  # all hosts here lie in a few thousand paths, and each is asked for every pattern
def _matches(path: str, pattern: str) -> bool:
    """glob's rule: a star does not cross a slash."""
    mine, theirs = path.split("/"), pattern.split("/")
    return len(mine) == len(theirs) and all(fnmatchcase(a, b) for a, b in zip(mine, theirs, strict=True))


def _unit(name: str, found: Mapping[str, str] | None) -> dict[str, str]:
    if found is None:
        return {"Id": name, "LoadState": "not-found", "ActiveState": "inactive"}
    return {"Id": name, **dict.fromkeys(request()["unit_properties"], ""), **found}


def answer(
    files: Files | None = None,
    programs: Mapping[str, str | Item | None] | None = None,
    commands: Mapping[str, Command | Item | None] | None = None,
    docker: Mapping[str, Any] | None = None,
    units: Mapping[str, Mapping[str, str] | None] | None = None,
    processes: tuple[Item, ...] | Item = (),
    system: Mapping[str, Any] | None = None,
    globs: Mapping[str, Item] | None = None,
    inside: Mapping[str, Item] | None = None,
    listings: Mapping[str, Item] | None = None,
    spaces: Mapping[str, Item] | None = None,
    besides: str = "",
    plan: bool = True,
) -> Item:
    """The probe's answer of a host that holds these things and nothing else, to the request of all subsystems; besides: what
    a desired state calls for (`besides_of`). plan: without those commands that the host's other answers spare."""
    lying = {path: item for path, found in (files or {}).items() if (item := _normal(found)) is not None}
    directories = {path[:at] for path in lying for at in range(len(path)) if path[at] == "/"}
    asked = request(True, besides)
    read: dict[str, Item] = {}
    stats: dict[str, Item] = {}
    listed: dict[str, Item] = {}

    def stat(path: str) -> Item:
        return _stat(lying[path]) if path in lying else a_directory() if path in directories else absent()

    for spec in asked["globs"]:
        pattern = spec["pattern"]
        directory = pattern.rpartition("/")[0]
        if globs and pattern in globs:
            listed[pattern] = globs[pattern]
            continue
        paths = sorted(path for path in lying if _matches(path, pattern))
        before = listed.get(pattern, {}).get("paths", ())  # another search's
        listed[pattern] = {"status": "ok", "paths": sorted({*paths, *before})}
        if not re.search(r"[*?[]", directory) and directory not in directories and directory not in lying:
            listed[pattern] = {"status": "absent"}
        if spec.get("where") and spec["where"] not in lying:
            listed[pattern] = {"status": "absent"}
        for path in paths:
            if spec["read"]:
                read[path] = lying[path]
            elif spec.get("search") and "data" in lying[path]:
                data = content_of(lying[path]) or b""
                passed = len(data) > spec.get("limit", len(data))
                passed = passed or not data.startswith(spec.get("begins", "").encode())
                passed = passed or spec.get("holds", "").encode() not in data
                text = "" if passed else data.decode("utf-8", "replace")
                if hits := matches(spec["search"], text):
                    others = stats.get(path, {}).get("found", {})
                    stats[path] = {**stat(path), "found": {**others, search_key(spec["search"]): hits}}
                elif path not in before:
                    listed[pattern]["paths"] = [other for other in listed[pattern]["paths"] if other != path]
                named = matches(spec["follow"], text) if "follow" in spec else []
                for name in (each for each in sorted(set(named)) if each in lying):
                    data = content_of(lying[name]) or b""
                    script = data.decode("utf-8", "replace") if data.startswith(b"#!") else ""
                    if hits := matches(spec["search"], script):
                        stats[name] = {**stat(name), "found": {search_key(spec["search"]): hits}}
                        listed[pattern]["paths"] = sorted({*listed[pattern]["paths"], name})
            else:
                stats[path] = stat(path)
            if "section" in spec:
                stats[path]["section"] = lying[path].get(
                    "section", {"status": "absent", "error": "not an ELF file"}
                )
            if "mentioned" in spec and "data" in lying[path]:
                for name in mentioned(content_of(lying[path]) or b""):
                    stats.setdefault(name, stat(name))
    for path in asked["files"]:
        read[path] = lying[path] if path in lying else a_directory() if path in directories else absent()
    for path in asked["stats"]:
        searched = {"found": stats[path]["found"]} if "found" in stats.get(path, {}) else {}
        stats[path] = {**stat(path), **searched}
    found: Item = {
        "gpumend": 1,
        "system": {
            "status": "ok",
            "uid": 0,
            "kernel": "6.8.0-60-generic",
            "machine": "x86_64",
            "hostname": "gpu1",
            "python": "3.12.3",
            "time": NOW,
            "filesystems": {
                path: {"free": 50 << 30, "readonly": False} for path in ("/", "/etc", "/var/lib", "/run")
            },
            **(system or {}),
        },
        "files": read,
        "stats": stats,
        "globs": listed,
        "commands": {
            name: _command(command, (commands or {}).get(name)) for name, command in asked["commands"].items()
        },
        "programs": {name: _program((programs or {}).get(name)) for name in asked["programs"]},
        "processes": {"status": "ok", "processes": list(processes), "impostors": []}
        if isinstance(processes, tuple)
        else processes,
        "docker": _docker(docker),
        "units": {"status": "absent", "error": "this host was not booted by systemd"}
        if units is None
        else {"status": "ok", "units": {name: _unit(name, units.get(name)) for name in asked["units"]}},
        "inside": dict(inside or {}),
        "listings": {**{path: absent() for path in asked["listings"]}, **(listings or {})},
        "spaces": dict(spaces or {}),
        "compose": _projects(lying, (docker or {}).get("containers", ())),
        "seconds": 0.1,
    }
    for name, command in asked["commands"].items():
        if plan and (why := spared(command, found)):
            found["commands"][name] = {"status": "absent", "error": f"not asked: {why}"}
    return found


def _projects(lying: Mapping[str, Item], containers: Iterable[Item]) -> Item:
    """What the probe's `compose_project` says of files that are not on this machine: names are looked for beside their file."""
    kept: Item = {}
    for given, directory, env_files in compose_projects(containers):
        found: Item = {}
        variables: set[str] = set()
        waiting = list(given)
        for path in waiting:
            found[path] = _compose(lying[path]) if path in lying else absent()
            if path not in given:
                found[path]["followed"] = True
            names, more = asked_by(_text_of(lying[path]) if path in lying else "")
            variables |= more
            beside = [posixpath.normpath(posixpath.join(posixpath.dirname(path), name)) for name in names]
            waiting += [each for each in beside if each not in waiting]
        envs = [posixpath.join(directory, each) for each in env_files or (".env",)]
        envs += [posixpath.join(posixpath.dirname(path), ".env") for path in waiting[len(given) :]]
        for path in dict.fromkeys(envs):
            found[path] = {**absent(), "followed": True}
            if path in lying:
                sets = variables_of(_text_of(lying[path]), variables)
                found[path] = {
                    "others": lying[path].get("others", ""),
                    **_stat(lying[path]),
                    "variables": sets,
                    "followed": True,
                }
        keep_project(kept, given, found)
    return kept


def _text_of(found: Item) -> str:
    return (content_of(found) or b"").decode("utf-8")


def _compose(found: Item) -> Item:
    """A compose file as the probe sends it; `others` of the item says who besides root could have chosen it."""
    if "data" not in found:
        return found
    text = (content_of(found) or b"").decode("utf-8")
    return {
        "others": found.get("others", ""),
        **_stat(found),
        "sha256": found["sha256"],
        "text": masked_compose(text),
    }


def _command(asked: Mapping[str, Any], found: Command | Item | None) -> Item:
    if found is None:
        return {"status": "absent", "error": f"{asked['argv'][0]} is not here"}
    if isinstance(found, dict):
        return found
    out = "\n".join(matches(asked["keep"], found[1])) + "\n" if asked["keep"] else found[1]
    return {"status": "ok", "rc": found[0], "out": out, "err": found[2]}


def _program(found: str | Item | None) -> Item:
    if found is None:
        return {"status": "absent"}
    return program(found) if isinstance(found, str) else found


def _docker(found: Mapping[str, Any] | None) -> Item:
    if found is None:
        return {"status": "absent", "error": "no dockerd runs"}
    if "status" in found:
        return dict(found)
    version = {"Version": found["info"].get("ServerVersion"), "ApiVersion": "1.51", "MinAPIVersion": "1.24"}
    return {"status": "ok", "version": version, "containers": [], "images": [], "sizes": [], **found}


# --- judging


def state(found: Item) -> HostState:
    """HostState of an answer, through the same JSON text that a host sends."""
    return parse(Snapshot.from_output(json.dumps(found)))


def verdict(host: Host | Item, wanted: Mapping[str, Any] | None = None) -> Verdict:
    found = host.state() if isinstance(host, Host) else state(host)
    return judge(found, parse_wanted(wanted or {}), "gpu1", TODAY)


def besides_its_age(found: Iterable[Finding]) -> tuple[Finding, ...]:
    """Findings but for the one note that every host with the captured driver has since September 2026 (GM221, bulletin 5861)."""
    aged = "driver 580.159.04 is below 580.178.04"
    return tuple(each for each in found if not (each.code == "GM221" and each.summary.startswith(aged)))


def findings(host: Host | Item, code: str, wanted: Mapping[str, Any] | None = None) -> list[Finding]:
    return [found for found in verdict(host, wanted).findings if found.code == code]


def outcome(host: Host | Item, code: str, wanted: Mapping[str, Any] | None = None) -> str:
    """One word for a table: `ok`, or the status of the one finding with this code. Two findings fail the test."""
    found = findings(host, code, wanted)
    assert len(found) <= 1, [finding.summary for finding in found]
    return str(found[0].status) if found else "ok"


def the(host: Host | Item, code: str, wanted: Mapping[str, Any] | None = None) -> Finding:
    """The one finding with this code."""
    found = findings(host, code, wanted)
    assert len(found) == 1, f"{len(found)} findings {code}"
    return found[0]


def edits_of(found: Iterable[Finding]) -> dict[str, Any]:
    """What the findings' changes set: `section.key` -> value."""
    return {
        ".".join(edit.keys): edit.value
        for finding in found
        if finding.change
        for edit in finding.change.edits
    }


def mended(host: Host, judged: Verdict) -> Host:
    """The host after the edits of all changes, dockerd told of its own: what the next audit would see."""
    files: dict[str, Any] = {}
    for finding in judged.findings:
        for edit in finding.change.edits if finding.change else ():
            before = files.get(edit.path, host.files.get(edit.path))
            item = _normal(before)
            data = content_of(item) if item else None
            files[edit.path] = apply(edit.path, data, [edit])
    after = host.but(files=files)
    if DAEMON_JSON not in files or host.docker is None:
        return after
    daemon = json.loads(files[DAEMON_JSON])
    info = dict(host.docker["info"])
    info["Runtimes"] = {"runc": {}, **daemon.get("runtimes", {})}
    version = tuple(int(part) for part in info["ServerVersion"].split(".")[:2])
    cdi = daemon.get("features", {}).get("cdi", version >= (28, 2))
    info["CDISpecDirs"] = daemon.get("cdi-spec-dirs", ["/etc/cdi", "/var/run/cdi"]) if cdi else []
    return after.but(info=info)


# --- hosts to start from


def h100_files() -> dict[str, str | bytes | Item | None]:
    """The driver's traces on the captured host, as captured."""
    version = re.findall(r"(?m)^(?:NVRM|GCC) version:.*$", fixture("h100/proc.txt"))
    information = re.findall(r"(?ms)^Model:.*?^GPU Excluded:[^\n]*\n", fixture("h100/proc.txt"))[0]
    files: dict[str, str | bytes | Item | None] = {
        "/etc/os-release": capture("h100/os-release.txt"),
        "/proc/driver/nvidia/version": "\n".join(sorted(version, reverse=True)) + "\n",
        "/proc/driver/nvidia/gpus/0000:00:06.0/information": information,
        "/proc/modules": "".join(re.findall(r"(?m)^nvidia.* Live .*\n", fixture("h100/sysmod.txt"))),
        "/sys/module/nvidia/version": "580.159.04\n",
        "/proc/meminfo": "MemTotal:       263945352 kB\nMemFree:        201945352 kB\n",
        "/proc/devices": "Character devices:\n195 nvidia\n238 nvidia-uvm\n",
        "/sbin/ldconfig": file("#!/bin/sh\n", 0o755),
        "/sbin/ldconfig.real": file("\x7fELF", 0o755),
        "/etc/ld.so.conf": "include /etc/ld.so.conf.d/*.conf\n",
    }
    for major, minor, path in re.findall(
        r"(?m)^crw\S+ .*? (\d+), +(\d+) .* (/dev/nvidia\S+)$", fixture("h100/dev.txt")
    ):
        files[path] = node(int(major), int(minor))
    lib = "/usr/local/nvidia/lib64"
    for name in ("libcuda", "libnvidia-ml"):
        real = f"{lib}/{name}.so.580.159.04"
        files[real] = file("")
        files[f"{lib}/{name}.so.1"] = link(f"{name}.so.580.159.04", file(""), real)
    return files


def h100() -> Host:
    """The captured host as it is: a driver, no container toolkit, no Docker, no systemd, no modinfo, no /dev/char."""
    return Host(
        files=h100_files(),
        commands={
            "ldconfig": (0, capture("h100/ldconfig.txt"), ""),
            "nvidia-smi": (0, capture("h100/smi_L.txt"), ""),
            "nvidia-smi-version": (0, "NVIDIA-SMI version  : 580.159.04\nCUDA Version        : 13.0\n", ""),
            "dpkg": (1, _dpkg(), "dpkg-query: no packages found matching podman*\n"),
        },
    )


def _dpkg() -> str:
    rows = re.findall(r"(?m)^(\S+)\t(\S+)$", fixture("h100/dpkg.txt"))
    return "".join(f"ii \t{name}\t{version}\n" for name, version in rows)


def config(mode: str | None = "cdi", ldconfig: str | None = "@/sbin/ldconfig.real", more: str = "") -> str:
    """The default config.toml (a real one, verbatim) with these two values; None leaves the line out."""
    text = fixture("config.default.toml")
    for key, value in (("mode", mode), ("ldconfig", ldconfig)):
        line = "" if value is None else f'{key} = "{value}"\n'
        text = re.sub(rf"(?m)^{key} = .*\n", lambda _, line=line: line, text)  # type: ignore[misc]
    return text + more


def spec(text: str | None = None, *replacements: tuple[str, str]) -> str:
    """The real spec of the H100 with pieces replaced; each piece must be there. Its UUID is the captured GPU's."""
    text = text or fixture("h100/cdi-h100.yaml")
    text = text.replace(
        "GPU-bf1b60a9-98db-c888-cead-1578858123b2", "GPU-ddcfa932-2616-cecb-a95e-350855afb5ab"
    )
    for old, new in replacements:
        assert old in text, old
        text = text.replace(old, new)
    return text


def named(text: str) -> dict[str, str | bytes | Item | None]:
    """Every file that a spec names, so that nothing in it is stale. Device nodes are the host's own."""
    paths = re.findall(r"hostPath: (\S+)", text) + re.findall(r"path: (/usr/bin\S+)", text)
    return {path: file("", 0o755) for path in paths}


def daemon_json(version: str, **more: Any) -> str:
    """What a rightly set up Docker of this version has in daemon.json."""
    needs_feature = (25, 0) <= _numbers(version) < (28, 2)
    found: dict[str, Any] = {
        "log-driver": "local",
        "runtimes": {"nvidia": {"args": [], "path": "/usr/bin/nvidia-container-runtime"}},
    }
    if needs_feature:
        found["features"] = {"cdi": True}
    return json.dumps({**found, **more}, indent=4)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])


def healthy_docker(version: str = "28.5.2") -> dict[str, Any]:
    """What a rightly set up dockerd of this version says of itself on the H100 host."""
    dirs = ["/etc/cdi", "/var/run/cdi"] if _numbers(version) >= (25, 0) else None
    found: dict[str, Any] = {
        "ServerVersion": version,
        "OperatingSystem": "Ubuntu 24.04.3 LTS",
        "Driver": "overlay2",
        "DriverStatus": [["Backing Filesystem", "extfs"]],
        "CgroupDriver": "systemd",
        "CgroupVersion": "2",
        "Runtimes": {"runc": {"path": "runc"}, "nvidia": {"path": "/usr/bin/nvidia-container-runtime"}},
        "DefaultRuntime": "runc",
        "SecurityOptions": ["name=seccomp,profile=builtin"],
        "LiveRestoreEnabled": False,
        "DockerRootDir": "/var/lib/docker",
        "ContainersRunning": 0,
    }
    if dirs is not None:
        found["CDISpecDirs"] = dirs
    if _numbers(version) >= (28, 2):
        names = ("0", "GPU-ddcfa932-2616-cecb-a95e-350855afb5ab", "all")
        found["DiscoveredDevices"] = [{"Source": "cdi", "ID": f"nvidia.com/gpu={name}"} for name in names]
    return {"info": found, "containers": []}


PROGRAMS = (
    "nvidia-ctk",
    "nvidia-cdi-hook",
    "nvidia-container-runtime",
    "nvidia-container-runtime-hook",
    "nvidia-container-cli",
    "dockerd",
    "docker",
)
REFRESH = "nvidia-cdi-refresh.service"


def healthy(
    docker: str = "28.5.2", toolkit: str = "1.20.0", mode: str = "cdi", layout: str = "ubuntu"
) -> Host:
    """The H100 with toolkit and Docker set up as the default wanted state has it: an audit finds nothing.

    layout: `ubuntu` (a wrapper script and ldconfig.real) or `debian` (a program).
    """
    base = h100()
    text = spec()
    units: dict[str, dict[str, str]] = {
        "docker.service": {"LoadState": "loaded", "ActiveState": "active", "Result": "success"},
        "nvidia-persistenced.service": {"LoadState": "loaded", "ActiveState": "active"},
    }
    refresh = _numbers(toolkit) >= (1, 18)
    if refresh:
        units[REFRESH] = {
            "LoadState": "loaded",
            "ActiveState": "inactive",
            "UnitFileState": "enabled",
            "Result": "success",
            "ExecMainStatus": "0",
        }
    files: dict[str, Any] = {
        CONFIG: config(mode, "@/sbin/ldconfig.real" if layout == "ubuntu" else "@/sbin/ldconfig"),
        DAEMON_JSON: daemon_json(docker),
        DYNAMIC if refresh else STATIC: text,
        "/run/systemd/system": a_directory(),
        "/usr/bin/nvidia-container-runtime": file("", 0o755),
        **{
            f"/dev/char/195:{minor}": node(195, minor) for minor in (0, 254, 255)
        },  # as newer drivers make them
        **{f"/dev/char/238:{minor}": node(238, minor) for minor in (0, 1)},
        **named(text),
    }
    if layout == "debian":
        files["/sbin/ldconfig"] = file("\x7fELF", 0o755)
        files["/sbin/ldconfig.real"] = None
        files["/etc/os-release"] = 'PRETTY_NAME="Debian GNU/Linux 13 (trixie)"\nID=debian\nVERSION_ID="13"\n'
    return base.but(
        files=files,
        programs={name: f"/usr/bin/{name}" for name in PROGRAMS},
        commands={
            "nvidia-ctk": (0, f"NVIDIA Container Toolkit CLI version {toolkit}\ncommit: d34b3046\n", ""),
            "dockerd": (0, f"Docker version {docker}, build 0a1b2c3\n", ""),
            "modinfo": (0, "580.159.04\n", ""),
            "systemd-version": (0, "systemd 257\n", ""),
        },
        docker=healthy_docker(docker),
        units=units,
        processes=(
            process("/usr/bin/dockerd", "-H", "fd://", "--containerd=/run/containerd/containerd.sock"),
        ),
    )
