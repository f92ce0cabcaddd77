"""Kubernetes on a node: the kubelet, and k3s or RKE2, which bring a containerd of their own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from gpumend.state.containerd import (
    CONFIG,
    V2_PLUGIN,
    V3_PLUGIN,
    ConfigError,
    Cri,
    config_version,
    cri_of,
    deep_merge,
    dump_of,
    first_process,
    flag,
    flag_of,
    imports_of,
    loads,
    matching,
    merge,
)
from gpumend.state.docker import exec_start
from gpumend.state.flavours import FLAVOURS, KUBELET_CONFIG, KUBELET_CONFIGS, KUBELET_PKI, Flavour
from gpumend.state.reading import Reading, Unread, first_unknown
from gpumend.state.request import Command, Glob, Request
from gpumend.state.snapshot import NOT_ASKED, FileContent, Process, Snapshot
from gpumend.text.documents import copied, toml
from gpumend.text.record import Record
from gpumend.text.version import Version, parse_version

# Where a device plugin serves NVIDIA's GPUs to the kubelet once it has found them (k8s-device-plugin internal/plugin/server.go),
# and the DRA driver's: on a node that has one, pods with a GPU start.
PLUGIN_SOCKETS = tuple(
    f"{root}/{name}"
    for root in ("/var/lib/kubelet", "/var/lib/k0s/kubelet", "/var/snap/microk8s/common/var/lib/kubelet")
    for name in ("device-plugins/nvidia-gpu.sock", "plugins/gpu.nvidia.com/dra.sock")
)
MANAGED = b"# k0s_managed=true"  # first line of the containerd.toml that k0s writes
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
    files=tuple(path for found in FLAVOURS for path in (found.generated, *found.templates) if path),
    stats=(
        *(path for found in FLAVOURS for path in (found.directory, found.program)),
        *PLUGIN_SOCKETS,
        KUBELET_PKI,
    ),
    globs=(
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
    programs=("k3s",),
    commands={
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
    },
    processes=("kubelet", *(name for found in FLAVOURS for name in found.processes)),
    units=(
        *(found.unit for found in FLAVOURS),
        "k3s-agent.service",
        "rke2-agent.service",
        *(found.agent for found in FLAVOURS if found.agent),
        "kubelet.service",
    ),
)


class K3s(Record):
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
    parts: Mapping[str, Reading[FileContent]] = {}

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
        merged. Raises ConfigError, also for a drop-in that k0s will not take, and Unread for an import that was not read."""
        found: dict[str, Mapping[str, Any]] = {}
        known = {self.flavour.generated: self.generated, **self.parts}
        waiting = [self.flavour.generated]
        while waiting:
            path = waiting.pop(0)
            if path in found or path not in known or known[path].absent:
                continue
            found[path] = loads(path, known[path])
            for pattern in imports_of(path, found[path], (2, 0)):
                names = matching((pattern,), known)
                if not names and "*" not in pattern:
                    raise Unread(Reading.fail(pattern, NOT_ASKED))
                waiting += names
        for path in sorted(set(self.parts) - set(found)):
            drop_in = self._drop_in(path) if self.drops_in(path) and not known[path].absent else {}
            into = next((name for name in found if name.endswith("-cri.toml")), self.flavour.generated)
            if drop_in and into in found:
                merged = copied(dict(found[into]))
                deep_merge(merged, {key: value for key, value in drop_in.items() if key != "imports"})
                found[into] = merged
        return found

    def drops_in(self, path: str) -> bool:
        """Whether a file is one that k0s takes by itself."""
        return self.managed and path.startswith(f"{self.flavour.directory}/containerd.d/")

    @property
    def managed(self) -> bool:
        """Whether k0s writes its containerd's file: it does where that has its mark (component.go isK0sManagedConfig)."""
        text = self.generated.value.data if self.generated.value else b""
        return self.flavour.name == "k0s" and (MANAGED in text.splitlines() or self.generated.absent)

    def _drop_in(self, path: str) -> Mapping[str, Any]:
        """k0s takes drop-ins of its own form alone, from 1.34 on by its own check (configurer.go validateConfigTree), before
        that by its containerd 1.7. Raises ConfigError."""
        raw = loads(path, self.parts[path])
        own = config_version(loads(self.flavour.generated, self.generated))
        number, plugins = raw.get("version", own), raw.get("plugins")
        if number != own:
            raise ConfigError(path, f"version = {number}, this k0s takes files of version {own}")
        if own >= 3 and isinstance(plugins, Mapping) and V2_PLUGIN in plugins:
            raise ConfigError(path, f'[plugins."{V2_PLUGIN}"]: this k0s takes {V3_PLUGIN} in its place')
        return raw


class Kubelet(Record):
    """Who starts containers through CRI. cgroup_driver: `systemd` or `cgroupfs` as the kubelet is told, empty where it
    is not told. unread: the first of its files that nobody could read, where that could say otherwise."""

    process: Reading[Process]
    cgroup_driver: str
    endpoint: str
    unread: Reading[Any] | None = None


class Kubernetes(Record):
    """kubelet: a process of its own. k3s: a distribution with a containerd of its own, where it is here. service:
    kubelet.service; configured: the kubelet's file is there; plugin: a device plugin serves GPUs to the kubelet."""

    kubelet: Kubelet
    k3s: K3s | None
    service: Reading[Mapping[str, str]] = Reading.none("kubelet.service")
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
    processes = [snapshot.daemons(name) for name in flavour.processes]
    process = next(
        (found for each in processes if (found := first_process(each)).ok), first_process(processes[0])
    )
    if not flavour.like_k3s:  # its directory outlives it
        own = first_process(
            snapshot.daemons("containerd"), lambda item: flag(item, "-c", "--config") == flavour.config
        )
        process = own if own.ok else process
        if not process.ok:
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
        version = generated.map(lambda content: (2, 1) if _third(content) else (1, 7))
    parts = {
        path: snapshot.file(path)
        for pattern in flavour.imports
        for path in snapshot.glob(pattern).value or ()
    }
    if not flavour.like_k3s:
        parts[CONFIG] = snapshot.file(CONFIG)
    drop_ins = _kubelet_files(snapshot, "", flavour.kubelet_directory)[0] if flavour.like_k3s else {}
    return K3s(
        flavour,
        version,
        process,
        flag_of(words, "--container-runtime-endpoint", "--cri-socket")
        or settings.get("container-runtime-endpoint", ""),
        generated,
        {path: snapshot.file(path) for path in flavour.templates if path},
        dump_of(snapshot.succeeded(f"{flavour.name}-containerd-config")),
        unit,
        _kubelet_arg(words, "cgroup-driver")
        or settings.get("cgroup-driver", "")
        or drop_ins.get("cgroupDriver", ""),
        parts,
    )


def _third(content: FileContent) -> bool:
    """Whether a file is of version 3; one that is no TOML is GM511's."""
    try:
        return config_version(toml(content.text())) >= 3
    except (ValueError, RecursionError):
        return False


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


def parse(snapshot: Snapshot) -> Kubernetes:
    process = first_process(snapshot.daemons("kubelet"))
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
        any(snapshot.glob(pattern).value for pattern in KUBELET_CONFIGS) or snapshot.stat(KUBELET_PKI).ok,
        any(snapshot.stat(path).ok for path in PLUGIN_SOCKETS),
    )
