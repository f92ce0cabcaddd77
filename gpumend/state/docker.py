"""Docker: where it comes from, what its daemon says of itself, its daemon.json, and who uses GPUs how."""

from __future__ import annotations

import json
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from gpumend.state.reading import Reading
from gpumend.state.request import Command, Glob, Request
from gpumend.state.snapshot import NOT_ASKED, FileContent, FileMeta, Output, Process, Snapshot
from gpumend.text.mask import mask
from gpumend.text.record import Record
from gpumend.text.version import Version, parse_version

DAEMON_JSON = "/etc/docker/daemon.json"
SNAP_DAEMON_JSON = "/var/snap/docker/current/config/daemon.json"
ROOTLESS_GLOB = "/home/*/.config/docker/daemon.json"
# Docker Desktop runs from here and from nowhere else (docker/desktop-linux#53).
# Where a dockerd's --config-file leads that no package of Docker's starts: a revision of the snap (docker-snap
# bin/dockerd-wrapper), NixOS' virtualisation.docker.daemon.settings.
ELSEWHERE = ("/var/snap/docker/*/config/daemon.json", "/nix/store/*-daemon.json")
DESKTOP, DESKTOP_HOMES = "/opt/docker-desktop", "/home/*/.docker/desktop"

REQUEST = Request(
    files=(DAEMON_JSON, SNAP_DAEMON_JSON),
    stats=("/run/docker.sock", "/var/snap/docker", "/etc/docker", DESKTOP),
    globs=(
        *(Glob(pattern, mentioned=True) for pattern in (DAEMON_JSON, *ELSEWHERE)),
        Glob(ROOTLESS_GLOB, read=False),
        Glob(DESKTOP_HOMES, read=False),
    ),
    programs=("dockerd", "docker"),
    # 45 ms of CPU time for one line
    commands={
        "dockerd": Command(("dockerd", "--version"), timeout=10, without_docker=True),
        # Ends before dockerd writes anything (moby cmd/dockerd/daemon.go: Validate; held by tests/nodes/test_leftovers.py).
        "dockerd-validate": Command(
            ("dockerd", "--validate", f"--config-file={DAEMON_JSON}"),
            timeout=10,
            needs=(DAEMON_JSON,),
            taken_by=("dockerd", DAEMON_JSON),
        ),
        "docker-journal": Command(
            ("journalctl", "--unit=docker.service", "--boot", "--lines=60", "--output=cat", "--no-pager"),
            timeout=10,
            without_docker=True,
            keep=r"(?m)^.*(?:level=(?:fatal|error)|failed to start daemon|unable to configure).*$",
        ),
    },
    processes=("dockerd", "rootlesskit", "com.docker.backend"),
    units=("docker.service", "docker.socket"),
    unit_properties=(
        "LoadState",
        "ActiveState",
        "SubState",
        "UnitFileState",
        "Result",
        "MainPID",
        "ExecStart",
        "FragmentPath",
        "DropInPaths",
        "NeedDaemonReload",
    ),
)


class Container(Record):
    """A container and how it asks for GPUs. requests: its DeviceRequests as (driver, device ids, capabilities).

    restarts: how often its policy has started it again; restarting: it waits for that now; exit: its last exit status. log: of a privileged container, the
    lines that tell of a daemon's storage. error: why its last start failed, in the daemon's words (State.Error), masked; empty
    where it started. counts: of each request how many GPUs, -1 for all.
    """

    id: str
    name: str
    image: str
    running: bool
    runtime: str
    requests: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...]
    devices: tuple[str, ...]
    privileged: bool
    restart: str
    env: Mapping[str, str]
    labels: Mapping[str, str]
    mounts: tuple[Mapping[str, Any], ...]
    restarts: int = 0
    exit: int = 0
    restarting: bool = False
    log: tuple[str, ...] = ()
    error: str = ""
    counts: tuple[int, ...] = ()

    @property
    def project(self) -> str | None:
        """Its compose project."""
        return self.labels.get("com.docker.compose.project")

    def uses_gpus_flag(self) -> bool:
        """Whether it asks through `--gpus`, compose `gpus:` or a reservation with driver nvidia: one DeviceRequest."""
        return any(
            driver in ("", "nvidia") and "gpu" in capabilities for driver, _, capabilities in self.requests
        )

    def uses_cdi(self) -> bool:
        """Whether it asks through `--device nvidia.com/gpu=` or compose `driver: cdi`."""
        return any(driver == "cdi" for driver, _, _ in self.requests)

    def uses_runtime(self) -> bool:
        """Whether it runs under the nvidia runtime."""
        return self.runtime == "nvidia"

    def wants_gpu(self) -> bool:
        """Whether it asks for a GPU by any of the three ways, or has its bare nodes; the nvidia runtime gives none where nothing
        is visible."""
        visible = self.env.get("NVIDIA_VISIBLE_DEVICES", "")
        by_runtime = self.runtime.startswith("nvidia") and visible not in ("", "void", "none")
        cdi = any(each.startswith("nvidia.com/") for _, ids, _ in self.requests for each in ids)
        bare = any(path.startswith("/dev/nvidia") for path in self.devices)
        return self.uses_gpus_flag() or cdi or by_runtime or bare

    @property
    def restarts_by_itself(self) -> bool:
        """Whether its policy brings it back when the daemon starts; on-failure does not (moby restartmanager)."""
        return self.restart in ("always", "unless-stopped")

    def label(self) -> str:
        return f"{self.name} (compose project {self.project})" if self.project else self.name


class Docker(Record):
    """A rootful dockerd, as systemd or snap runs it.

    version: of the daemon binary. info: `GET /info` (allow-listed keys) while it runs. process: dockerd as root.
    config_path: the file it reads (its --config-file flag, the snap's, or the default). config: that file parsed. unread: we could
    not read it, which says nothing of what dockerd can.
    config_named: whether that is a default, or docker.service itself names it: whoever starts a dockerd by hand names any.
    desktop, rootless: whose daemons were seen besides. runtime_paths: metadata of the absolute paths that
    daemon.json's runtimes name. validated: why `dockerd --validate` refuses the default daemon.json; empty where it takes
    it or cannot say. last_words: what dockerd said of its end, where none answers.
    """

    version: Reading[Version]
    process: Reading[Process]
    info: Reading[Mapping[str, Any]]
    containers: Reading[tuple[Container, ...]]
    config_path: str
    config_named: bool
    content: Reading[FileContent]
    unread: bool
    config: Reading[dict[str, Any]]
    dangling: str | None
    flags: Mapping[str, str]
    unit: Reading[Mapping[str, str]]
    snap: bool
    desktop: Reading[bool]
    rootless_users: tuple[int, ...]
    rootless_configs: Reading[tuple[str, ...]]
    runtime_paths: Mapping[str, Reading[FileMeta]]
    validated: Reading[str]
    last_words: Reading[tuple[str, ...]]

    @property
    def installed(self) -> bool:
        """Whether there is one, or it is not known that there is none: a program that gave no version is one."""
        return not self.version.absent or not self.process.absent or self.unit.ok

    @property
    def running(self) -> bool:
        return self.info.ok

    @property
    def rootless_only(self) -> bool:
        """Whether users run daemons of their own here and the rootful one is switched off: nothing of it is to be judged."""
        unit = self.unit.value or {}
        off = unit.get("UnitFileState", "") in ("", "disabled", "masked")
        off = off and unit.get("ActiveState", "inactive") == "inactive"
        known = self.unit.known and self.process.absent and self.info.absent
        return bool(self.rootless_users) and known and off

    @property
    def may_run_containers(self) -> bool:
        """Whether containers run; also where a dockerd gives no answer, or cannot tell of each of its containers."""
        if not self.containers.known:
            return True
        return any(found.running for found in self.containers.value or ())

    def value(self, *keys: str) -> Any:
        """A value of daemon.json by its path of keys, or None; raises Unread where the file could not be read."""
        found: Any = self.config.get() or {}
        for key in keys:
            if not isinstance(found, dict) or key not in found:
                return None
            found = found[key]
        return found

    def effective(self, key: str) -> Any:
        """A value of the running daemon's own account (`docker info`); raises Unread where none answered."""
        return self.info.need().get(key)

    def cgroup_driver(self) -> str | None:
        """Of the running daemon, None where none runs; raises Unread."""
        return str((self.info.get() or {}).get("CgroupDriver") or "") or None


def daemon_json(content: FileContent) -> dict[str, Any]:
    """daemon.json as dockerd reads it: an empty file is an empty object, a UTF-8 or UTF-16 byte order mark is skipped,
    of a key that stands twice the last counts (moby daemon/config/config.go getConflictFreeConfiguration).

    Raises ValueError naming line and column.
    """
    if content.data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        text = content.data.decode("utf-16")
    else:
        text = content.text().removeprefix("\ufeff")
    if not text.strip():
        return {}
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno} column {error.colno}: {error.msg}") from None
    if not isinstance(found, dict):
        raise ValueError(f"a JSON {type(found).__name__}, not an object")
    return found


def flags_of(argv: tuple[str, ...]) -> dict[str, str]:
    """dockerd's long flags by name without dashes; a flag without a value is `true`, a repeated one joined by commas."""
    found: dict[str, str] = {}
    words = list(argv[1:])
    while words:
        word = words.pop(0)
        if word == "-H" and words:
            word = f"--host={words.pop(0)}"
        if not word.startswith("--"):
            continue
        name, sign, value = word[2:].partition("=")
        if not sign:
            value = words.pop(0) if words and not words[0].startswith("-") else "true"
        found[name] = f"{found[name]},{value}" if name in found else value
    return found


def exec_start(text: str) -> tuple[str, ...]:
    """The argv of systemd's ExecStart property: `{ path=... ; argv[]=/usr/bin/dockerd -H fd:// ; ... }`."""
    words, end, _ = text.partition("argv[]=")[2].partition(" ;")
    return tuple(words.split()) if end else ()


def _container(raw: Mapping[str, Any]) -> Container:
    requests = []
    for request in raw.get("device_requests") or ():
        capabilities = {word for group in request.get("Capabilities") or () for word in group}
        requests.append(
            (
                str(request.get("Driver") or ""),
                tuple(request.get("DeviceIDs") or ()),
                tuple(sorted(capabilities)),
            )
        )
    return Container(
        id=str(raw.get("id")),
        name=str(raw.get("name")),
        image=str(raw.get("image")),
        running=bool(raw.get("running")),
        runtime=str(raw.get("runtime") or ""),
        requests=tuple(requests),
        devices=tuple(str(path) for path in raw.get("devices") or ()),
        privileged=bool(raw.get("privileged")),
        restart=str(raw.get("restart") or ""),
        env={str(name): str(value) for name, value in (raw.get("env") or {}).items()},
        labels={str(name): str(value) for name, value in (raw.get("labels") or {}).items()},
        mounts=tuple(dict(mount) for mount in raw.get("mounts") or ()),
        restarts=int(raw.get("restarts") or 0),
        exit=int(raw.get("exit") or 0),
        restarting=bool(raw.get("restarting")),
        log=tuple(str(line) for line in raw.get("log") or ()),
        error=mask(str(raw.get("error") or "")),
        counts=tuple(int(request.get("Count") or 0) for request in raw.get("device_requests") or ()),
    )


# Of `GET /info`, what rules look into; null where there is none (API 1.24 to 1.51).
INFO_TYPES = {"Runtimes": dict, "DriverStatus": list, "CDISpecDirs": list, "DiscoveredDevices": list}


def _info(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    for key, kind in INFO_TYPES.items():
        if not isinstance(raw.get(key), (kind, type(None))):
            raise ValueError(f"{key} is a {type(raw[key]).__name__}, not a {kind.__name__}")
    return raw


def whole(raw: Reading[Mapping[str, Any]], what: str) -> Reading[Mapping[str, Any]]:
    """Docker's answer, `failed` where dockerd lists `containers` or `images` and cannot tell of one: that one may be
    anything."""
    unread = ((raw.value or {}).get("unread") or {}).get(what)
    return Reading.fail(raw.source, str(unread[0])) if unread else raw


def containers_of(answer: Mapping[str, Any]) -> tuple[Container, ...]:
    """The containers in Docker's answer."""
    return tuple(_container(item) for item in answer["containers"])


NOWHERE = FileMeta("", "other")


def _runtime_paths(config: Reading[dict[str, Any]]) -> set[str]:
    runtimes = (config.value or {}).get("runtimes")
    entries = runtimes.values() if isinstance(runtimes, dict) else ()
    paths = {str(entry.get("path")) for entry in entries if isinstance(entry, dict)}
    return {path for path in paths if path.startswith("/")}


def _desktop(snapshot: Snapshot, info: Reading[Mapping[str, Any]]) -> Reading[bool]:
    """Whether somebody uses Docker Desktop here. Without its program nobody does, whatever a home (of a file server, of
    another machine's Desktop) has, or hides from root."""
    if snapshot.processes("com.docker.backend").value or "Docker Desktop" in str(
        (info.value or {}).get("OperatingSystem", "")
    ):
        return Reading.of(True, "docker info, /proc")
    there = snapshot.stat(DESKTOP)
    return Reading.of(False, DESKTOP) if there.absent else snapshot.glob(DESKTOP_HOMES).map(bool)


def refusal(output: Output) -> str:
    """Why dockerd does not take its file, in its own last line; empty where it does, or knows no `--validate`."""
    lines = (output.err.strip() or output.out.strip()).splitlines()
    if output.rc == 0 or not lines or "unknown flag: --validate" in output.err:
        return ""
    return lines[-1]


def parse(snapshot: Snapshot) -> Docker:
    daemons = snapshot.processes("dockerd")
    # A dockerd inside a container is that container's, not this host's.
    own = tuple(found for found in daemons.value or () if not found.inner)
    rootful = next((found for found in own if found.uid == 0), None)
    process: Reading[Process]
    if not daemons.known:
        process = daemons.without_value()
    elif rootful is None:
        process = Reading.none("/proc", "no dockerd runs")
    else:
        process = Reading.of(rootful, "/proc")
    unit = snapshot.unit("docker.service")
    unit_argv = exec_start((unit.value or {}).get("ExecStart", ""))
    flags = flags_of(rootful.argv if rootful else unit_argv)
    # A leftover /var/snap/docker says nothing where a dockerd from elsewhere runs, or is installed.
    program = (
        (rootful.exe or rootful.argv[0]) if rootful else (snapshot.program("dockerd").value or NOWHERE).path
    )
    snap = program.startswith("/snap/") or (not program and snapshot.stat("/var/snap/docker").ok)
    path = flags.get("config-file", SNAP_DAEMON_JSON if snap else DAEMON_JSON)
    content = snapshot.file(path)
    if content.detail == NOT_ASKED and any(
        fnmatchcase(path, pattern) and snapshot.glob(pattern).ok for pattern in ELSEWHERE
    ):  # looked for, and not there
        content = Reading.none(path, "No such file or directory")
    raw = snapshot.docker
    if raw.absent and not daemons.known:  # nobody looked whether one runs
        raw = Reading(daemons.status, None, raw.source, daemons.detail)
    info: Reading[Mapping[str, Any]] = raw.map(lambda found: _info(found["info"]))
    return Docker(
        version=snapshot.succeeded("dockerd").map(lambda found: parse_version(found.out))
        if not info.ok
        else info.map(lambda found: parse_version(str(found["ServerVersion"]))),
        process=process,
        info=info,
        containers=whole(raw, "containers").map(containers_of),
        config_path=path,
        config_named=path in (DAEMON_JSON, SNAP_DAEMON_JSON, flags_of(unit_argv).get("config-file")),
        content=content,
        unread=snapshot.unread(path) and not content.absent,
        config=content.map(daemon_json),
        dangling=snapshot.dangling(path),
        flags=flags,
        unit=unit,
        snap=snap,
        desktop=_desktop(snapshot, info),
        rootless_users=tuple(sorted({found.uid for found in own if found.uid != 0})),
        rootless_configs=snapshot.glob(ROOTLESS_GLOB),
        runtime_paths={path: snapshot.stat(path) for path in _runtime_paths(content.map(daemon_json))},
        validated=snapshot.command("dockerd-validate").map(refusal),
        last_words=snapshot.command("docker-journal").map(lambda found: tuple(found.out.splitlines())),
    )
