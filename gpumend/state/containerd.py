"""containerd: the daemon, its configuration as it merges it, k3s and RKE2 around it, and the kubelet that it serves.

What a version makes of its files was measured with `containerd config dump` of 1.6.20, 1.7.24 and 2.1.9, and read in
cmd/containerd/server/config/config.go of 2.0, 2.2 and 2.3: `merge`.
"""

from __future__ import annotations

import copy
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from gpumend.state.docker import exec_start
from gpumend.state.reading import Reading, Unread, first_unknown
from gpumend.state.request import Command, Glob, Request
from gpumend.state.snapshot import NOT_ASKED, FileContent, FileMeta, Output, Process, Snapshot
from gpumend.text.documents import toml
from gpumend.text.version import Version, parse_version

CONFIG = "/etc/containerd/config.toml"
# Directories of drop-ins: nvidia-ctk's and 2.2's default import (containerd defaults/defaults_unix.go), and config.d of guides.
DROP_INS = ("/etc/containerd/conf.d/*.toml", "/etc/containerd/config.d/*.toml")
SHIMS = ("containerd-shim-runc-v2", "containerd-shim-runc-v1", "containerd-shim-grit-v1")
KUBELET_CONFIG = "/var/lib/kubelet/config.yaml"
# kubeadm's, kubespray's, and Amazon's of AL2 and AL2023 (JSON).
KUBELET_CONFIGS = (
    KUBELET_CONFIG,
    "/etc/kubernetes/kubelet-config.yaml",
    "/etc/kubernetes/kubelet/kubelet-config.json",
    "/etc/kubernetes/kubelet/config.json",
    "/var/lib/k0s/kubelet-config.yaml",
)
# Where a device plugin serves NVIDIA's GPUs to the kubelet once it has found them (k8s-device-plugin internal/plugin/server.go),
# and the DRA driver's: on a node that has one, pods with a GPU start.
PLUGIN_SOCKETS = tuple(
    f"{root}/{name}"
    for root in ("/var/lib/kubelet", "/var/lib/k0s/kubelet", "/var/snap/microk8s/common/var/lib/kubelet")
    for name in ("device-plugins/nvidia-gpu.sock", "plugins/gpu.nvidia.com/dra.sock")
)
V2_PLUGIN = "io.containerd.grpc.v1.cri"
V3_PLUGIN = "io.containerd.cri.v1.runtime"
OVERLAY = "io.containerd.snapshotter.v1.overlayfs"
IMAGES = "io.containerd.cri.v1.images"  # of version 3: has the snapshotter, which before was the CRI's own
# Before, a drop-in that has a plugin's table replaces it whole (v1.7.34 mergeConfig; v2.0.0 has it no more: a21e379b6).
MERGES_KEYS: Version = (2, 0)
# From then on each file is converted by itself, and a drop-in above the root is refused (v2.3.0 LoadConfigWithPlugins).
CONVERTS_EACH: Version = (2, 3)
JOINS_GLOBS: Version = (
    1,
    7,
)  # before, a relative import with a star is below the daemon's own directory, `/`
# The newest `version` that a containerd takes. 1.6 takes any number and reads it as 2 (measured with 1.6.20).
NEWEST_CONFIG: tuple[tuple[Version, int], ...] = (((1, 7), 2), ((2, 0), 3), ((2, 3), 4))
DEFAULT_DIRS = ("/etc/cdi", "/var/run/cdi")


@dataclass(frozen=True, slots=True)
class Flavour:
    """A Kubernetes distribution that brings its own containerd. k3s-io/k3s pkg/agent/containerd; rancher/rke2."""

    name: str
    processes: tuple[str, ...]
    directory: str
    program: str
    settings: str
    unit: str
    config: str = (
        ""  # of one that has no templates as k3s has them: the file that its containerd's process names
    )
    imports: tuple[str, ...] = ()  # what that file imports, or is made of
    template: str = ""  # from which MicroK8s renders it at each start
    agent: str = ""

    @property
    def like_k3s(self) -> bool:
        """Whether it has k3s' templates, and registers the nvidia runtime by itself."""
        return not self.config

    @property
    def generated(self) -> str:
        return self.config or f"{self.directory}/config.toml"

    @property
    def kubelet_directory(self) -> str:
        """Of drop-ins for its kubelet; k3s-io/k3s#2116 (1.32)."""
        return f"{posixpath.dirname(self.directory)}/kubelet.conf.d"

    @property
    def templates(self) -> tuple[str, str]:
        """In the order in which k3s looks: the first that is there counts."""
        if self.config:
            return self.template, self.template
        return f"{self.directory}/config-v3.toml.tmpl", f"{self.directory}/config.toml.tmpl"


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
    # k0sproject/k0s docs/runtime.md; pkg/component/worker/containerd/configurer.go: of containerd.d, files with a table of the
    # CRI are merged into containerd-cri.toml, the others imported.
    Flavour(
        "k0s",
        ("k0s",),
        "/etc/k0s",
        "/var/lib/k0s/bin/containerd",
        "",
        "k0sworker.service",
        "/etc/k0s/containerd.toml",
        ("/run/k0s/*.toml", "/etc/k0s/containerd.d/*.toml"),
        agent="k0scontroller.service",
    ),
    # canonical/microk8s: microk8s-resources/wrappers/run-containerd-with-args renders the template at each start.
    Flavour(
        "microk8s",
        ("kubelite",),
        "/var/snap/microk8s/current/args",
        "/snap/microk8s/current/bin/containerd",
        "/var/snap/microk8s/current/args/kubelet",
        "snap.microk8s.daemon-containerd.service",
        "/var/snap/microk8s/current/args/containerd.toml",
        template="/var/snap/microk8s/current/args/containerd-template.toml",
        agent="snap.microk8s.daemon-kubelite.service",
    ),
)
# A node's own containerd under another name, beside its settings for it: kubernetes/kops nodeup containerd.
OTHER_CONFIGS: Mapping[str, str] = {"/etc/containerd/config-kops.toml": "kOps"}
# config.yaml holds the cluster's token: of it only these two leave the host.
K3S_SETTINGS = (
    r"(?m)^[ \t-]*[\"']?((?:container-runtime-endpoint|cgroup-driver)[\"']?[ \t]*[:=][ \t]*[\"']?[^\s\"'#]+)"
)
KUBELET_SETTINGS = r"(?m)(?:^|[{,])[ \t]*[\"']?((?:cgroupDriver|containerRuntimeEndpoint)[\"']?[ \t]*:[ \t]*[\"']?[^\s\"',#}]+)"
# Of --config-dir (KEP-3983): each file over those before it. k3s copies the user's own into a directory inside.
KUBELET_DIRECTORIES = (
    "/etc/kubernetes/kubelet.conf.d",
    "/etc/kubernetes/kubelet/config.json.d",
    *(found.kubelet_directory for found in FLAVOURS if found.like_k3s),
)


def _drop_ins(directory: str) -> tuple[str, str]:
    return f"{directory}/*.conf", f"{directory}/*/*.conf"


REQUEST = Request(
    files=(
        CONFIG,
        *OTHER_CONFIGS,
        *(path for found in FLAVOURS for path in (found.generated, *found.templates) if path),
    ),
    stats=(*(path for found in FLAVOURS for path in (found.directory, found.program)), *PLUGIN_SOCKETS),
    globs=(
        *(Glob(pattern, mentioned=True) for pattern in (CONFIG, *DROP_INS)),
        *(
            Glob(pattern, read=False, search=KUBELET_SETTINGS)
            for pattern in (
                *KUBELET_CONFIGS,
                *(each for directory in KUBELET_DIRECTORIES for each in _drop_ins(directory)),
            )
        ),
        *(
            Glob(pattern, read=False, search=K3S_SETTINGS)
            for found in FLAVOURS
            for pattern in (found.settings, f"{found.settings}.d/*.yaml")
            if found.settings
        ),
        *(Glob(pattern) for found in FLAVOURS for pattern in found.imports),
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
        *(found.agent for found in FLAVOURS if found.agent),
        "kubelet.service",
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
        "LimitNOFILESoft",
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
    overlayfs, which are added to each of its mounts. restores: CreateContainer may restore a checkpoint, where that has to be
    switched on; criu: `enable_criu`, None where it is not named."""

    runtimes: Mapping[str, Runtime]
    default: str
    enabled: bool = True
    enable_cdi: bool | None = None
    cdi_spec_dirs: tuple[str, ...] = DEFAULT_DIRS
    snapshotter: str = ""
    overlay_options: tuple[str, ...] = ()
    restores: bool = False
    criu: bool | None = None


@dataclass(frozen=True, slots=True)
class Containerd:
    """The containerd that runs as a service of its own.

    path: the file it reads. files: that file and its drop-ins, in the order in which they are merged. dump: what
    `containerd config dump` makes of /etc/containerd/config.toml. shims: the running ones, of any containerd here.
    binaries: metadata of the programs that the files name as BinaryName.
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
    binaries: Mapping[str, Reading[FileMeta]] = field(default_factory=dict)

    @property
    def installed(self) -> bool:
        return self.version.ok or self.process.ok

    @property
    def content(self) -> Reading[FileContent]:
        return self.files[self.path]

    def parsed(self) -> dict[str, Mapping[str, Any]]:
        """Each file that it reads as TOML, in the order in which it reads them; what nothing imports is not among them.
        Raises ConfigError for one that is no TOML, Unread for one nobody could read."""
        version = self.version.value or MERGES_KEYS
        found: dict[str, Mapping[str, Any]] = {}
        waiting = [self.path]
        while waiting:
            path = waiting.pop(0)
            if path in found or self.files[path].get() is None:
                continue
            found[path] = loads(path, self.files[path])
            waiting += _named(imports_of(path, found[path], version), self.files)
        return found

    def unheeded(self) -> tuple[str, ...]:
        """Files in the directories of drop-ins that nothing imports; raises as `parsed` does."""
        read = self.parsed()
        return tuple(path for path, content in self.files.items() if content.ok and path not in read)

    def cri(self) -> Cri:
        """What its CRI plugin has: by its own account where it gives one, else as `merge` puts its files together.

        Raises Unread, and ConfigError where it would not start.
        """
        if self.dump.ok and self.path == CONFIG:
            return cri_of(self.dump.need())
        parsed = self.parsed()
        for pattern in unread_imports(parsed, self.version.need()):
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
    parts: Mapping[str, Reading[FileContent]] = field(default_factory=dict)

    @property
    def embedded(self) -> bool:
        """Whether its own containerd serves the kubelet."""
        # RKE2's own is at /run/k3s/containerd/containerd.sock, too
        own = ("k3s", self.flavour.name) if self.flavour.like_k3s else (self.flavour.name,)
        if "SNAP_" in self.endpoint:  # MicroK8s: ${SNAP_COMMON}/run/containerd.sock
            return True
        return not self.endpoint or any(f"/{name}/" in self.endpoint for name in own)

    @property
    def heeded(self) -> tuple[str, ...]:
        """The templates that this k3s looks for: config-v3.toml.tmpl came with containerd 2.0 (1.31.6, 1.32.2)."""
        old = self.version.value is not None and self.version.value < (2, 0)
        return self.flavour.templates[1:] if old else self.flavour.templates

    @property
    def template(self) -> str | None:
        """The template that k3s takes: the first that is there."""
        return next(
            (path for path in self.heeded if path in self.templates and not self.templates[path].absent), None
        )

    def cri(self) -> Cri:
        """What its containerd has; raises Unread, and ConfigError where the generated file is no TOML."""
        if self.dump.ok:
            return cri_of(self.dump.need())
        if not self.flavour.like_k3s:
            parsed = self.parsed()
            return cri_of(merge(self.version.need(), self.flavour.generated, parsed))
        raw = loads(self.flavour.generated, self.generated)
        version = (2, 1) if config_version(raw) >= 3 else (1, 7)
        return cri_of(merge(version, self.flavour.generated, {self.flavour.generated: raw}))

    def parsed(self) -> dict[str, Mapping[str, Any]]:
        """The files that its containerd reads, as TOML, in that order. What k0s will merge into its own at its next start is
        merged. Raises ConfigError, and Unread for an import that was not read."""
        found: dict[str, Mapping[str, Any]] = {}
        known = {self.flavour.generated: self.generated, **self.parts}
        waiting = [self.flavour.generated]
        while waiting:
            path = waiting.pop(0)
            if path in found or path not in known or known[path].absent:
                continue
            found[path] = loads(path, known[path])
            for pattern in imports_of(path, found[path], (2, 0)):
                names = _named((pattern,), known)
                if not names and "*" not in pattern:
                    raise Unread(Reading.fail(pattern, NOT_ASKED))
                waiting += names
        for path in sorted(set(self.parts) - set(found)):
            drop_in = loads(path, self.parts[path]) if self.drops_in(path) and not known[path].absent else {}
            into = next((name for name in found if name.endswith("-cri.toml")), self.flavour.generated)
            if drop_in and into in found:
                merged = copy.deepcopy(dict(found[into]))
                _deep(merged, {key: value for key, value in drop_in.items() if key != "imports"})
                found[into] = merged
        return found

    def drops_in(self, path: str) -> bool:
        """Whether a file is one that k0s takes by itself."""
        return self.flavour.name == "k0s" and path.startswith(f"{self.flavour.directory}/containerd.d/")


@dataclass(frozen=True, slots=True)
class Kubelet:
    """Who starts containers through CRI. cgroup_driver: `systemd` or `cgroupfs` as the kubelet is told, empty where it
    is not told. unread: the first of its files that nobody could read, where that could say otherwise."""

    process: Reading[Process]
    cgroup_driver: str
    endpoint: str
    unread: Reading[Any] | None = None


@dataclass(frozen=True, slots=True)
class Kubernetes:
    """kubelet: a process of its own. k3s: a distribution with a containerd of its own, where it is here. service:
    kubelet.service; configured: the kubelet's file is there; plugin: a device plugin serves GPUs to the kubelet."""

    kubelet: Kubelet
    k3s: K3s | None
    service: Reading[Mapping[str, str]] = field(default_factory=lambda: Reading.none("kubelet.service"))
    configured: bool = False
    plugin: bool = False

    @property
    def node(self) -> bool:
        """Whether this is a node, also between two starts of its kubelet: the kubelet runs, its service is wanted, or a kubelet
        has been configured here. Raises Unread."""
        unit = self.service.value or {}
        wanted = unit.get("ActiveState") in ("active", "activating", "reloading", "failed")
        wanted = wanted or unit.get("UnitFileState") in ("enabled", "enabled-runtime")
        return wanted or self.configured or self.here

    @property
    def here(self) -> bool:
        """Raises Unread where nobody could look."""
        return self.k3s is not None or self.kubelet.process.get() is not None

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


def newest_config(version: Version) -> int | None:
    """The newest file `version` that a containerd takes; None where it takes any."""
    return next((number for since, number in reversed(NEWEST_CONFIG) if version >= since), None)


def imports_of(path: str, raw: Mapping[str, Any], version: Version) -> tuple[str, ...]:
    """The patterns of a file's `imports`, absolute: a relative one is beside the file (resolveImports)."""
    listed = raw.get("imports")
    here = posixpath.dirname(path)
    found = []
    for item in listed if isinstance(listed, list) else ():
        if isinstance(item, str):
            directory = "/" if "*" in item and version < JOINS_GLOBS else here
            found.append(posixpath.normpath(posixpath.join(directory, item)))
    return tuple(found)


def _named(patterns: Sequence[str], names: Iterable[str]) -> list[str]:
    """The names that each pattern means, sorted by pattern."""
    return [
        name
        for pattern in patterns
        for name in sorted(found for found in names if fnmatchcase(found, pattern))
    ]


def unread_imports(parsed: Mapping[str, Mapping[str, Any]], version: Version) -> tuple[str, ...]:
    """What a file imports from places that the probe does not read."""
    return tuple(
        pattern
        for path, raw in parsed.items()
        for pattern in imports_of(path, raw, version)
        if pattern not in parsed
        and not (pattern.endswith(".toml") and f"{posixpath.dirname(pattern)}/*.toml" in DROP_INS)
    )


def counting_version(version: Version, files: Iterable[Mapping[str, Any]]) -> int:
    """The `version` by which a containerd takes its files, given in the order in which it reads them.

    It is the last that a file names (mergeConfig): before 2.0 a drop-in of version 1 has the root's newer names ignored,
    from 2.0 on a drop-in of version 3 keeps a root of version 2 from being converted. Without any it is 1 before 2.0,
    and the newest from then on.
    """
    named = [config_version(raw) for raw in files if config_version(raw) > 1 or raw.get("version") == 1]
    if version < (2, 0):
        return named[-1] if named else 1
    named = [
        number for number in named if number > 1
    ]  # those of version 1 are converted to what was before them
    newest = newest_config(version) or 3
    if version >= CONVERTS_EACH:
        return max([newest, *named])
    return named[-1] if named else newest


def _deep(into: dict[str, Any], other: Mapping[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _deep(into[key], value)
        else:
            into[key] = copy.deepcopy(value)


def _converted(newer: dict[str, Any], older: Mapping[str, Any]) -> None:
    """The CRI's table of version 2 becomes version 3's, as far as that does not say it: a runtime beside others under the
    newer name is lost (plugins/cri/runtime migrateConfig)."""
    for key, value in older.items():
        if key == "containerd" and isinstance(value, Mapping):
            into = newer.setdefault("containerd", {})
            for name, part in value.items() if isinstance(into, dict) else ():
                into.setdefault(name, copy.deepcopy(part))
        else:
            newer.setdefault(key, copy.deepcopy(value))


def merge(version: Version, path: str, parsed: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The files that a containerd reads, in that order, as it merges them: in the form of its own dump.

    The CRI runtime settings come out under the name that this version has for them; what a file says under a name that
    this version ignores is left out. Before 2.0 a drop-in's table of a plugin replaces the whole table; from then on
    keys are merged. Measured; tests/nodes/test_containerd.py holds the two together.
    """
    name = V3_PLUGIN if version >= (2, 0) else V2_PLUGIN
    counts = counting_version(version, parsed.values())
    section: dict[str, Any] = {}
    older: dict[str, Any] = {}
    images: dict[str, Any] = {}
    overlay: dict[str, Any] = {}
    disabled: list[str] = []
    for file, raw in parsed.items():
        plugins = raw.get("plugins")
        plugins = plugins if isinstance(plugins, Mapping) else {}
        disabled.extend(_texts(raw.get("disabled_plugins")))
        if version >= (2, 0) and isinstance(plugins.get(IMAGES), Mapping):
            _deep(images, plugins[IMAGES])
        if version >= (1, 7) and isinstance(
            plugins.get(OVERLAY), Mapping
        ):  # 1.6.20 does not know mount_options
            overlay = {} if version < MERGES_KEYS and file != path else overlay
            _deep(overlay, plugins[OVERLAY])
        newer: dict[str, Any] = {}
        for known in names_read(version, counts, config_version(raw)):
            part = plugins.get(known)
            if not isinstance(part, Mapping):
                continue
            if version < MERGES_KEYS:
                section = copy.deepcopy(dict(part))
            else:
                _deep(newer if known == V3_PLUGIN else older, part)
        if version >= CONVERTS_EACH:
            _converted(newer, older)
            older = {}
        _deep(section, newer)
    _converted(section, older)
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


def names_read(version: Version, counts: int, own: int) -> tuple[str, ...]:
    """The plugin names that count in a file whose `version` is `own`, where `counts` is the one that counts for all."""
    if version < (2, 0):
        return ("cri",) if counts < 2 else (V2_PLUGIN,)
    older = ("cri", V2_PLUGIN) if own < 2 else (V2_PLUGIN,)
    if version >= CONVERTS_EACH:
        return (*older, V3_PLUGIN) if own < 4 else (V3_PLUGIN,)
    # A file without a version, alone, gets the newest and no conversion: "Ignoring unknown key in TOML for plugin".
    return (*older, V3_PLUGIN) if counts < 3 else (V3_PLUGIN,)


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
        section.get("enable_experimental_restore_via_create") is True,
        found if isinstance(found := section.get("enable_criu"), bool) else None,
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
        return found.without_value()
    process = next((item for item in found.value or () if test is None or test(item)), None)
    return Reading.of(process, "/proc") if process else Reading.none("/proc", "no such process")


def _service(snapshot: Snapshot) -> Containerd:
    directories = tuple(found.directory for found in FLAVOURS)
    process = _first(
        snapshot.processes("containerd"),
        lambda item: (
            item.uid == 0
            and not flag(item, "-c", "--config").startswith(directories)
            and not _child(item)
            and not item.inner
        ),
    )
    path = flag(process.value, "-c", "--config") or CONFIG
    files: dict[str, Reading[FileContent]] = {path: snapshot.file(path)}
    for pattern in DROP_INS:
        listed = snapshot.glob(pattern)
        if not listed.known:
            files[pattern] = listed.without_value()
        files.update((name, snapshot.file(name)) for name in listed.value or ())
    shims: list[Process] = []
    for name in SHIMS:
        shims.extend(snapshot.processes(name).value or ())
    listed_shims = snapshot.processes(SHIMS[0])
    return Containerd(
        version=snapshot.succeeded("containerd").map(lambda found: parse_version(found.out)),
        # Its later lines have the versions of other things: of the OCI spec, of Go.
        runc=snapshot.succeeded("runc").map(lambda found: parse_version(found.out.partition("\n")[0])),
        process=process,
        path=path,
        files=files,
        dump=_dump(snapshot.succeeded("containerd-config")),
        unit=snapshot.unit("containerd.service"),
        shims=Reading.of(tuple(shims), "/proc") if listed_shims.ok else listed_shims.without_value(),
        grit_shim=snapshot.program("containerd-shim-grit-v1"),
        programs={name: snapshot.program(name) for name in ("ctr", "crictl", "runc", "crun")},
        binaries={name: snapshot.stat(name) for name in _binaries(files.values())},
    )


def _binaries(files: Iterable[Reading[FileContent]]) -> set[str]:
    return {
        name.decode("ascii", "replace")
        for content in files
        for name in re.findall(
            rb"""(?m)^\s*BinaryName\s*=\s*["'](/[^"'\n]+)""", content.value.data if content.value else b""
        )
    }


def _child(process: Process) -> bool:
    """dockerd's own containerd, which no kubelet talks to (moby: --config /var/run/docker/containerd/containerd.toml)."""
    return "/docker/containerd/" in flag(process, "-c", "--config")


def _settings(snapshot: Snapshot, patterns: Sequence[str]) -> Iterator[tuple[str, str]]:
    for pattern in patterns:
        for path in snapshot.glob(pattern).value or ():
            yield from _lines(snapshot.found(path).value or ())


def _lines(found: Iterable[str]) -> Iterator[tuple[str, str]]:
    for line in found:
        match = re.match(r"([\w-]+)[\"']?\s*[:=]\s*[\"']?(\S+)", line)
        if match:
            yield match.group(1), match.group(2).strip("\"'")


def _k3s(snapshot: Snapshot, flavour: Flavour) -> K3s | None:
    processes = [snapshot.processes(name) for name in flavour.processes]
    process = next((found for each in processes if (found := _first(each)).ok), _first(processes[0]))
    if not flavour.like_k3s:  # its directory outlives it
        own = _first(snapshot.processes("containerd"), lambda item: _reads(item, flavour.config))
        process = own if own.ok else process
        if not process.ok or process.need().inner:
            return None
    elif not process.ok and not snapshot.stat(flavour.directory).ok:
        return None
    patterns = (flavour.settings, f"{flavour.settings}.d/*.yaml") if flavour.settings else ()
    settings = dict(_settings(snapshot, patterns))
    agent = flavour.agent or flavour.unit.replace("-server", "").replace(".service", "-agent.service")
    units = [snapshot.unit(name) for name in (flavour.unit, agent)]
    # RKE2's archive has both units, of which one runs
    active = (found for found in units if (found.value or {}).get("ActiveState") == "active")
    unit = next(active, units[1] if units[0].absent else units[0])
    # k3s shortens its own command line in /proc to `k3s server`: its unit has the flags
    words = (
        *(process.value.argv if process.value else ()),
        *exec_start((unit.value or {}).get("ExecStart", "")),
    )
    generated = snapshot.file(flavour.generated)
    version = snapshot.succeeded(f"{flavour.name}-containerd").map(lambda found: parse_version(found.out))
    if not flavour.like_k3s and version.absent:  # by the form of its file, as its generation writes it
        version = generated.map(
            lambda content: (2, 1) if config_version(toml(content.text())) >= 3 else (1, 7)
        )
    parts = {
        path: snapshot.file(path)
        for pattern in flavour.imports
        for path in snapshot.glob(pattern).value or ()
    }
    if not flavour.like_k3s:
        parts[CONFIG] = snapshot.file(CONFIG)
    return K3s(
        flavour,
        version,
        process,
        _flag(words, "--container-runtime-endpoint", "--cri-socket")
        or settings.get("container-runtime-endpoint", ""),
        generated,
        {path: snapshot.file(path) for path in flavour.templates if path},
        _dump(snapshot.succeeded(f"{flavour.name}-containerd-config")),
        unit,
        _kubelet_arg(words, "cgroup-driver")
        or settings.get("cgroup-driver", "")
        or (
            _kubelet_files(snapshot, "", flavour.kubelet_directory)[0].get("cgroupDriver", "")
            if flavour.like_k3s
            else ""
        ),
        parts,
    )


def _reads(process: Process, config: str) -> bool:
    return process.uid == 0 and flag(process, "-c", "--config") == config


def _kubelet_arg(words: Sequence[str], name: str) -> str:
    """What `--kubelet-arg NAME=VALUE` on k3s' command line says; the last counts."""
    found = [re.fullmatch(rf"(?:--kubelet-arg=)?(?:--)?{name}=(\S+)", word.strip("\"'")) for word in words]
    return next((match.group(1) for match in reversed(found) if match), "")


def _kubelet_files(
    snapshot: Snapshot, config: str, directory: str
) -> tuple[dict[str, str], Reading[Any] | None]:
    """What a kubelet's --config and --config-dir say, and the first of them that nobody could read."""
    settings: dict[str, str] = {}
    listed = [snapshot.glob(config)] if config else []
    inside = [snapshot.glob(pattern) for pattern in _drop_ins(directory)] if directory else []
    listed.append(Reading.of(tuple(sorted(path for each in inside for path in each.value or ()))))
    unread = first_unknown((*listed, *inside))
    for path in (path for each in listed for path in each.value or ()):
        lines = snapshot.found(path, KUBELET_SETTINGS)
        unread = unread or (None if lines.known else lines)
        settings.update(_lines(lines.value or ()))
    return settings, unread


def parse(snapshot: Snapshot) -> Containerd:
    return _service(snapshot)


def parse_kubernetes(snapshot: Snapshot) -> Kubernetes:
    process = _first(snapshot.processes("kubelet"))
    directory = flag(process.value, "--config-dir").rstrip("/")
    config = flag(process.value, "--config") or ("" if directory else KUBELET_CONFIG)
    settings, unread = _kubelet_files(snapshot, config, directory)
    k3s = next((found for flavour in FLAVOURS if (found := _k3s(snapshot, flavour)) is not None), None)
    if (
        k3s is not None and not k3s.flavour.like_k3s and not process.ok
    ):  # its kubelet is in a program of its own
        settings = {}
    given = flag(process.value, "--cgroup-driver")  # over its files
    return Kubernetes(
        Kubelet(
            process,
            given or settings.get("cgroupDriver", ""),
            flag(process.value, "--container-runtime-endpoint")
            or settings.get("containerRuntimeEndpoint", ""),
            None if given or not process.ok else unread,
        ),
        k3s,
        snapshot.unit("kubelet.service"),
        any(snapshot.glob(pattern).value for pattern in KUBELET_CONFIGS),
        any(snapshot.stat(path).ok for path in PLUGIN_SOCKETS),
    )
