"""containerd: the daemon, its configuration as it merges it, k3s and RKE2 around it, and the kubelet that it serves.

What a version makes of its files was measured with `containerd config dump` of 1.6.20, 1.7.24 and 2.1.9: `merge`.
"""

from __future__ import annotations

import copy
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from facts.docker import exec_start
from facts.documents import toml
from facts.fact import StateFact
from facts.reading import Reading, Unread
from facts.request import Command, Glob, Request
from facts.snapshot import NOT_ASKED, FileContent, FileMeta, Output, Process, Snapshot
from facts.version import Version, parse_version

if TYPE_CHECKING:
    from facts.host_state import HostState

CONFIG = "/etc/containerd/config.toml"
# Folders of drop-ins: nvidia-ctk's and 2.2's default import (containerd defaults/defaults_unix.go), and config.d of guides.
DROP_INS = ("/etc/containerd/conf.d/*.toml", "/etc/containerd/config.d/*.toml")
SHIMS = ("containerd-shim-runc-v2", "containerd-shim-runc-v1", "containerd-shim-grit-v1")
KUBELET_CONFIG = "/var/lib/kubelet/config.yaml"
V2_PLUGIN = "io.containerd.grpc.v1.cri"
V3_PLUGIN = "io.containerd.cri.v1.runtime"
OVERLAY = "io.containerd.snapshotter.v1.overlayfs"
IMAGES = "io.containerd.cri.v1.images"  # of version 3: has the snapshotter, which before was the CRI's own
MERGES_KEYS: Version = (
    2,
    1,
)  # before, a drop-in that has a plugin's table replaces it whole; measured, nct PR#1067
# The newest `version` that a containerd takes. 1.6 takes any number and reads it as 2 (measured with 1.6.20).
NEWEST_CONFIG: tuple[tuple[Version, int], ...] = (((1, 7), 2), ((2, 0), 3), ((2, 3), 4))
DEFAULT_DIRS = ("/etc/cdi", "/var/run/cdi")


@dataclass(frozen=True, slots=True)
class Flavour:
    """A Kubernetes distribution that brings its own containerd. k3s-io/k3s pkg/agent/containerd; rancher/rke2."""

    name: str
    processes: tuple[str, ...]
    folder: str
    program: str
    settings: str
    unit: str

    @property
    def generated(self) -> str:
        return f"{self.folder}/config.toml"

    @property
    def templates(self) -> tuple[str, str]:
        """In the order in which k3s looks: the first that is there counts."""
        return f"{self.folder}/config-v3.toml.tmpl", f"{self.folder}/config.toml.tmpl"


FLAVOURS = (
    Flavour(
        "k3s",
        ("k3s", "k3s-server", "k3s-agent"),
        "/var/lib/rancher/k3s/agent/etc/containerd",
        "/var/lib/rancher/k3s/data/current/bin/containerd",
        "/etc/rancher/k3s/config.yaml",
        "k3s.service",
    ),
    Flavour(
        "rke2",
        ("rke2",),
        "/var/lib/rancher/rke2/agent/etc/containerd",
        "/var/lib/rancher/rke2/bin/containerd",
        "/etc/rancher/rke2/config.yaml",
        "rke2-server.service",
    ),
)
# config.yaml holds the cluster's token: of it only these two leave the host.
K3S_SETTINGS = (
    r"(?m)^[ \t-]*[\"']?((?:container-runtime-endpoint|cgroup-driver)[\"']?[ \t]*[:=][ \t]*[\"']?[^\s\"'#]+)"
)
KUBELET_SETTINGS = r"(?m)^((?:cgroupDriver|containerRuntimeEndpoint)[ \t]*:[ \t]*\S+)"

REQUEST = Request(
    files=(CONFIG, *(path for found in FLAVOURS for path in (found.generated, *found.templates))),
    stats=tuple(path for found in FLAVOURS for path in (found.folder, found.program)),
    globs=(
        *(Glob(pattern) for pattern in DROP_INS),
        Glob(KUBELET_CONFIG, read=False, search=KUBELET_SETTINGS),
        *(
            Glob(pattern, read=False, search=K3S_SETTINGS)
            for found in FLAVOURS
            for pattern in (found.settings, f"{found.settings}.d/*.yaml")
        ),
    ),
    programs=("containerd", "ctr", "containerd-shim-grit-v1", "k3s", "runc", "crun", "crictl"),
    commands={
        "containerd": Command(("containerd", "--version"), timeout=5),
        # Reads only: with roots that do not exist it makes none (measured with 1.6.20, 1.7.24, 2.1.9).
        "containerd-config": Command(("containerd", "config", "dump"), timeout=10),
        **{
            f"{found.name}-containerd-config": Command(
                (found.program, "--config", found.generated, "config", "dump"),
                timeout=10,
                needs=(found.program, found.generated),
            )
            for found in FLAVOURS
        },
        **{
            f"{found.name}-containerd": Command(
                (found.program, "--version"), timeout=5, needs=(found.program,)
            )
            for found in FLAVOURS
        },
        "runc": Command(("runc", "--version"), timeout=5),
    },
    processes=("containerd", "kubelet", *SHIMS, *(name for found in FLAVOURS for name in found.processes)),
    units=(
        "containerd.service",
        *(found.unit for found in FLAVOURS),
        "k3s-agent.service",
        "rke2-agent.service",
    ),
    unit_properties=(
        "LoadState",
        "ActiveState",
        "MainPID",
        "ExecStart",
        "KillMode",
        "Delegate",
        "RequiredBy",
        "BoundBy",
        "ConsistsOf",
    ),
)


class ConfigError(ValueError):
    """containerd would not start with these files. path: which; the text has its line and column where known."""

    def __init__(self, path: str, detail: str) -> None:
        super().__init__(f"{path}: {detail}")
        self.path = path
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Runtime:
    """One entry of the CRI plugin's `runtimes`."""

    name: str
    type: str
    options: Mapping[str, Any]
    pod_annotations: tuple[str, ...] = ()
    container_annotations: tuple[str, ...] = ()
    snapshotter: str = ""

    @property
    def binary(self) -> str:
        """The OCI runtime it calls; empty for the shim's default, `runc` in its PATH."""
        return str(self.options.get("BinaryName") or "")

    @property
    def systemd_cgroup(self) -> bool:
        return self.options.get("SystemdCgroup") is True


@dataclass(frozen=True, slots=True)
class Cri:
    """What a containerd's CRI plugin has. enabled: not among disabled_plugins. enable_cdi: None where this version has
    no such key. snapshotter: of new containers, empty where not named. overlay_options: `mount_options` of the snapshotter
    overlayfs, which are added to each of its mounts."""

    runtimes: Mapping[str, Runtime]
    default: str
    enabled: bool = True
    enable_cdi: bool | None = None
    cdi_spec_dirs: tuple[str, ...] = DEFAULT_DIRS
    snapshotter: str = ""
    overlay_options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Containerd:
    """The containerd that runs as a service of its own.

    path: the file it reads. files: that file and its drop-ins, in the order in which they are merged. dump: what
    `containerd config dump` makes of /etc/containerd/config.toml. shims: the running ones, of any containerd here.
    """

    version: Reading[Version]
    runc: Reading[Version]
    process: Reading[Process]
    path: str
    files: Mapping[str, Reading[FileContent]]
    dump: Reading[Mapping[str, Any]]
    unit: Reading[Mapping[str, str]]
    shims: Reading[tuple[Process, ...]]
    grit_shim: Reading[FileMeta]
    programs: Mapping[str, Reading[FileMeta]] = field(default_factory=dict)

    @property
    def installed(self) -> bool:
        return self.version.ok or self.process.ok

    @property
    def content(self) -> Reading[FileContent]:
        return self.files[self.path]

    def parsed(self) -> dict[str, Mapping[str, Any]]:
        """Each file that is there as TOML; raises ConfigError for one that is none, Unread for one nobody could read."""
        found = {}
        for path, content in self.files.items():
            if content.get() is not None:
                found[path] = loads(path, content)
        return found

    def cri(self) -> Cri:
        """What its CRI plugin has: by its own account where it gives one, else as `merge` puts its files together.

        Raises Unread, and ConfigError where it would not start.
        """
        if self.dump.ok and self.path == CONFIG:
            return cri_of(self.dump.need())
        parsed = self.parsed()
        for pattern in unread_imports(self.path, parsed):
            raise Unread(Reading.fail(pattern, NOT_ASKED))
        return cri_of(merge(self.version.need(), self.path, parsed))


@dataclass(frozen=True, slots=True)
class K3s:
    """k3s or RKE2. endpoint: of the kubelet's runtime where it is not the embedded containerd. generated: the config
    that its containerd reads, written anew at each start; template: the one that counts. version: of its containerd."""

    flavour: Flavour
    version: Reading[Version]
    process: Reading[Process]
    endpoint: str
    generated: Reading[FileContent]
    templates: Mapping[str, Reading[FileContent]]
    dump: Reading[Mapping[str, Any]]
    unit: Reading[Mapping[str, str]]
    cgroup_driver: str

    @property
    def embedded(self) -> bool:
        """Whether its own containerd serves the kubelet."""
        return not self.endpoint or f"/{self.flavour.name}/" in self.endpoint

    @property
    def template(self) -> str | None:
        """The template that k3s takes: the first that is there."""
        return next((path for path in self.flavour.templates if not self.templates[path].absent), None)

    def cri(self) -> Cri:
        """What its containerd has; raises Unread, and ConfigError where the generated file is no TOML."""
        if self.dump.ok:
            return cri_of(self.dump.need())
        raw = loads(self.flavour.generated, self.generated)
        version = (2, 1) if config_version(raw) >= 3 else (1, 7)
        return cri_of(merge(version, self.flavour.generated, {self.flavour.generated: raw}))


@dataclass(frozen=True, slots=True)
class Kubelet:
    """Who starts containers through CRI. cgroup_driver: `systemd` or `cgroupfs` as the kubelet is told, empty where it
    is not told."""

    process: Reading[Process]
    cgroup_driver: str
    endpoint: str


@dataclass(frozen=True, slots=True)
class Kubernetes:
    """kubelet: a process of its own. k3s: k3s or RKE2, where it is here."""

    kubelet: Kubelet
    k3s: K3s | None

    @property
    def here(self) -> bool:
        return self.kubelet.process.ok or self.k3s is not None

    @property
    def cgroup_driver(self) -> str:
        return self.kubelet.cgroup_driver or (self.k3s.cgroup_driver if self.k3s else "")


def loads(path: str, content: Reading[FileContent]) -> Mapping[str, Any]:
    """A file as TOML; raises ConfigError naming line and column."""
    try:
        return toml(content.need().text())
    except (ValueError, RecursionError) as error:
        raise ConfigError(path, str(error) or type(error).__name__) from None


def config_version(raw: Mapping[str, Any]) -> int:
    """A file's `version`; one without counts as 1 (containerd docs/man/containerd-config.toml.5.md)."""
    found = raw.get("version", 1)
    return found if isinstance(found, int) and not isinstance(found, bool) and found > 0 else 1


def plugin_of(version: Version, config: int) -> str:
    """The name under which a containerd reads its CRI runtime settings in a file of this `version`."""
    if version >= (2, 0) and config >= 3:
        return V3_PLUGIN
    return "cri" if config < 2 else V2_PLUGIN


def newest_config(version: Version) -> int | None:
    """The newest file `version` that a containerd takes; None where it takes any."""
    return next((number for since, number in reversed(NEWEST_CONFIG) if version >= since), None)


def imports_of(path: str, raw: Mapping[str, Any]) -> tuple[str, ...]:
    """The patterns of a file's `imports`, absolute: a relative one is beside the file."""
    listed = raw.get("imports")
    folder = posixpath.dirname(path)
    return (
        tuple(posixpath.normpath(posixpath.join(folder, item)) for item in listed if isinstance(item, str))
        if isinstance(listed, list)
        else ()
    )


def order(path: str, parsed: Mapping[str, Mapping[str, Any]], version: Version) -> tuple[str, ...]:
    """The files in the order in which containerd merges them: the root, then what each import names, sorted. Files that
    `unread_imports` names are not among them."""
    found = [path]
    patterns = imports_of(path, parsed.get(path, {}))
    if not patterns and version >= (2, 2) and path not in parsed:
        patterns = DROP_INS[:1]  # containerd 2.2 defaults/defaults_unix.go
    for pattern in patterns:
        found.extend(sorted(name for name in parsed if fnmatchcase(name, pattern) and name not in found))
    return tuple(found)


def unread_imports(path: str, parsed: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """What the root file imports from places that the probe does not read."""
    return tuple(
        pattern
        for pattern in imports_of(path, parsed.get(path, {}))
        if pattern not in DROP_INS and pattern not in parsed
    )


def _deep(into: dict[str, Any], other: Mapping[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _deep(into[key], value)
        else:
            into[key] = copy.deepcopy(value)


def merge(version: Version, path: str, parsed: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The root file and its drop-ins as this containerd merges them, in the form of its own dump.

    The CRI runtime settings come out under the name that this version has for them; what a file says under a name that
    this version ignores is left out. Before 2.1 a drop-in's table of a plugin replaces the whole table; from 2.1 on
    keys are merged. From 2.0 on the highest `version` of any file counts for all: a drop-in above the root's makes
    containerd ignore the root's older plugin names. Measured; tests/nodes/test_containerd.py holds the two together.
    """
    files = order(path, parsed, version)
    name = V3_PLUGIN if version >= (2, 0) else V2_PLUGIN
    highest = max((config_version(parsed[file]) for file in files if file in parsed), default=2)
    section: dict[str, Any] = {}
    images: dict[str, Any] = {}
    overlay: dict[str, Any] = {}
    disabled: list[str] = []
    for file in files:
        raw = parsed.get(file, {})
        plugins = raw.get("plugins")
        plugins = plugins if isinstance(plugins, Mapping) else {}
        disabled.extend(_texts(raw.get("disabled_plugins")))
        if version >= (2, 0) and highest >= 3 and isinstance(plugins.get(IMAGES), Mapping):
            _deep(images, plugins[IMAGES])
        if version >= (1, 7) and isinstance(
            plugins.get(OVERLAY), Mapping
        ):  # 1.6.20 does not know mount_options
            overlay = {} if version < MERGES_KEYS and file != path else overlay
            _deep(overlay, plugins[OVERLAY])
        for known in names_read(version, highest, config_version(raw)):
            part = plugins.get(known)
            if not isinstance(part, Mapping):
                continue
            if version < MERGES_KEYS and file != path:
                section = copy.deepcopy(dict(part))
            else:
                _deep(section, part)
    _defaults(version, section)
    return {
        "version": 3 if version >= (2, 0) else 2,
        "disabled_plugins": disabled,
        "plugins": {name: section, IMAGES: images, OVERLAY: overlay},
    }


def _defaults(version: Version, section: dict[str, Any]) -> None:
    """What containerd has where no file says it. Before 2.0 the default `runc` is there only while no file names a
    runtime: one that names `nvidia` alone takes it away, and the CRI plugin then does not load (measured)."""
    if version >= (1, 7):
        section.setdefault("enable_cdi", version >= (2, 0))
    containerd = section.setdefault("containerd", {})
    runtimes = containerd.setdefault("runtimes", {}) if isinstance(containerd, dict) else None
    if isinstance(runtimes, dict) and (version >= (2, 0) or not runtimes):
        runtimes.setdefault("runc", {"runtime_type": "io.containerd.runc.v2"})


def names_read(version: Version, highest: int, own: int) -> tuple[str, ...]:
    """The plugin names that count in a file whose `version` is `own`, where the highest among the files is `highest`."""
    if version < (2, 0):
        return ("cri",) if own < 2 else (V2_PLUGIN,)
    if highest >= 3:
        return (V3_PLUGIN,)
    # Without a version 2.1.9 drops the CRI's settings: "Ignoring unknown key in TOML for plugin" (measured).
    return (V2_PLUGIN, V3_PLUGIN) if highest == 2 else (V3_PLUGIN,)


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(str(item) for item in value) if isinstance(value, list) else ()


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def cri_of(dump: Mapping[str, Any]) -> Cri:
    """The CRI plugin's settings in containerd's dump, of version 2 or 3; without them the defaults hold."""
    plugins = _table(dump.get("plugins"))
    section = _table(plugins.get(V3_PLUGIN)) or _table(plugins.get(V2_PLUGIN))
    containerd = _table(section.get("containerd"))
    images = _table(plugins.get(IMAGES))
    runtimes = {
        str(name): Runtime(
            str(name),
            str(found.get("runtime_type") or ""),
            _table(found.get("options")),
            _texts(found.get("pod_annotations")),
            _texts(found.get("container_annotations")),
            str(found.get("snapshotter") or ""),
        )
        for name, found in _table(containerd.get("runtimes")).items()
        if isinstance(found, Mapping)
    }
    disabled = set(_texts(dump.get("disabled_plugins")))
    cdi = section.get("enable_cdi")
    dirs = _texts(section.get("cdi_spec_dirs"))
    return Cri(
        runtimes,
        str(containerd.get("default_runtime_name") or "runc"),
        not disabled & {"cri", V2_PLUGIN, V3_PLUGIN, f"{V2_PLUGIN}.cri"},
        cdi if isinstance(cdi, bool) else None,
        dirs or DEFAULT_DIRS,
        str(images.get("snapshotter") or containerd.get("snapshotter") or ""),
        _texts(_table(plugins.get(OVERLAY)).get("mount_options")),
    )


def flag(process: Process | None, *names: str) -> str:
    """The value of a flag on a process's command line, `--name value` or `--name=value`; empty where it is not there."""
    return _flag(process.argv[1:] if process else (), *names)


def _flag(words: Sequence[str], *names: str) -> str:
    for number, word in enumerate(words):
        name, sign, value = word.partition("=")
        if name in names:
            return value if sign else (words[number + 1] if number + 1 < len(words) else "")
    return ""


def _dump(output: Reading[Output]) -> Reading[Mapping[str, Any]]:
    return output.map(lambda found: toml(found.out))


def _first(found: Reading[tuple[Process, ...]], test: Any = None) -> Reading[Process]:
    if not found.known:
        return Reading(found.status, None, found.source, found.detail)
    process = next((item for item in found.value or () if test is None or test(item)), None)
    return Reading.of(process, "/proc") if process else Reading.none("/proc", "no such process")


def _service(snapshot: Snapshot) -> Containerd:
    folders = tuple(found.folder for found in FLAVOURS)
    process = _first(
        snapshot.processes("containerd"),
        lambda item: (
            item.uid == 0 and not flag(item, "-c", "--config").startswith(folders) and not _child(item)
        ),
    )
    path = flag(process.value, "-c", "--config") or CONFIG
    files: dict[str, Reading[FileContent]] = {path: snapshot.file(path)}
    for pattern in DROP_INS:
        listed = snapshot.glob(pattern)
        if not listed.known:
            files[pattern] = Reading(listed.status, None, listed.source, listed.detail)
        files.update((name, snapshot.file(name)) for name in listed.value or ())
    shims: list[Process] = []
    for name in SHIMS:
        shims.extend(snapshot.processes(name).value or ())
    listed_shims = snapshot.processes(SHIMS[0])
    return Containerd(
        version=snapshot.succeeded("containerd").map(lambda found: parse_version(found.out)),
        runc=snapshot.succeeded("runc").map(lambda found: parse_version(found.out)),
        process=process,
        path=path,
        files=files,
        dump=_dump(snapshot.succeeded("containerd-config")),
        unit=snapshot.unit("containerd.service"),
        shims=Reading.of(tuple(shims), "/proc")
        if listed_shims.ok
        else Reading(listed_shims.status, None, listed_shims.source, listed_shims.detail),
        grit_shim=snapshot.program("containerd-shim-grit-v1"),
        programs={name: snapshot.program(name) for name in ("ctr", "crictl", "runc", "crun")},
    )


def _child(process: Process) -> bool:
    """dockerd's own containerd, which no kubelet talks to (moby: --config /var/run/docker/containerd/containerd.toml)."""
    return "/docker/containerd/" in flag(process, "-c", "--config")


def _settings(snapshot: Snapshot, patterns: Sequence[str]) -> Iterator[tuple[str, str]]:
    for pattern in patterns:
        for path in snapshot.glob(pattern).value or ():
            for line in snapshot.found(path).value or ():
                match = re.match(r"([\w-]+)[\"']?\s*[:=]\s*[\"']?(\S+)", line)
                if match:
                    yield match.group(1), match.group(2).strip("\"'")


def _k3s(snapshot: Snapshot, flavour: Flavour) -> K3s | None:
    processes = [snapshot.processes(name) for name in flavour.processes]
    process = next((found for each in processes if (found := _first(each)).ok), _first(processes[0]))
    if not process.ok and not snapshot.stat(flavour.folder).ok:
        return None
    settings = dict(_settings(snapshot, (flavour.settings, f"{flavour.settings}.d/*.yaml")))
    unit = snapshot.unit(flavour.unit)
    if unit.absent:
        unit = snapshot.unit(flavour.unit.replace("-server", "").replace(".service", "-agent.service"))
    # k3s shortens its own command line in /proc to `k3s server`: its unit has the flags
    words = (
        *(process.value.argv if process.value else ()),
        *exec_start((unit.value or {}).get("ExecStart", "")),
    )
    return K3s(
        flavour,
        snapshot.succeeded(f"{flavour.name}-containerd").map(lambda found: parse_version(found.out)),
        process,
        _flag(words, "--container-runtime-endpoint") or settings.get("container-runtime-endpoint", ""),
        snapshot.file(flavour.generated),
        {path: snapshot.file(path) for path in flavour.templates},
        _dump(snapshot.succeeded(f"{flavour.name}-containerd-config")),
        unit,
        settings.get("cgroup-driver", ""),
    )


def parse(snapshot: Snapshot) -> Containerd:
    return _service(snapshot)


def parse_kubernetes(snapshot: Snapshot) -> Kubernetes:
    process = _first(snapshot.processes("kubelet"))
    settings = dict(_settings(snapshot, (KUBELET_CONFIG,)))
    return Kubernetes(
        Kubelet(
            process,
            flag(process.value, "--cgroup-driver") or settings.get("cgroupDriver", ""),
            flag(process.value, "--container-runtime-endpoint")
            or settings.get("containerRuntimeEndpoint", ""),
        ),
        next((found for flavour in FLAVOURS if (found := _k3s(snapshot, flavour)) is not None), None),
    )


class ContainerdVersion(StateFact[str]):
    """containerd's version; None where it is not installed."""

    def read(self, state: HostState) -> str | None:
        version = state.containerd.version.get()
        return ".".join(map(str, version)) if version else None


class ContainerdRuntimes(StateFact[dict[str, Any]]):
    """The runtimes that containerd's CRI plugin has, with their types and options; None where there is no containerd."""

    def read(self, state: HostState) -> dict[str, Any] | None:
        if not state.containerd.installed:
            return None
        return {
            name: {"type": found.type, "options": dict(found.options)}
            for name, found in state.containerd.cri().runtimes.items()
        }
