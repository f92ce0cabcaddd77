"""Kubernetes on a node: the kubelet, and k3s or RKE2, which bring a containerd of their own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpumend.state.containerd import (
    Cri,
    config_version,
    cri_of,
    dump_of,
    first_process,
    flag,
    flag_of,
    loads,
    merge,
)
from gpumend.state.docker import exec_start
from gpumend.state.flavours import FLAVOURS, Flavour
from gpumend.state.reading import Reading, first_unknown
from gpumend.state.request import Command, Glob, Request
from gpumend.state.snapshot import FileContent, Process, Snapshot
from gpumend.text.version import Version, parse_version

KUBELET_CONFIG = "/var/lib/kubelet/config.yaml"
# kubeadm's, kubespray's, and Amazon's of AL2 and AL2023 (JSON).
KUBELET_CONFIGS = (
    KUBELET_CONFIG,
    "/etc/kubernetes/kubelet-config.yaml",
    "/etc/kubernetes/kubelet/kubelet-config.json",
    "/etc/kubernetes/kubelet/config.json",
)
# config.yaml holds the cluster's token: of it only these two leave the host.
K3S_SETTINGS = (
    r"(?m)^[ \t-]*[\"']?((?:container-runtime-endpoint|cgroup-driver)[\"']?[ \t]*[:=][ \t]*[\"']?[^\s\"'#]+)"
)
KUBELET_SETTINGS = r"(?m)(?:^|[{,])[ \t]*[\"']?((?:cgroupDriver|containerRuntimeEndpoint)[\"']?[ \t]*:[ \t]*[\"']?[^\s\"',#}]+)"
# Of --config-dir (KEP-3983): each file over those before it. k3s copies the user's own into a directory inside.
KUBELET_DIRECTORIES = (
    "/etc/kubernetes/kubelet.conf.d",
    "/etc/kubernetes/kubelet/config.json.d",
    *(found.kubelet_directory for found in FLAVOURS),
)


def _drop_ins(directory: str) -> tuple[str, str]:
    return f"{directory}/*.conf", f"{directory}/*/*.conf"


REQUEST = Request(
    files=tuple(path for found in FLAVOURS for path in (found.generated, *found.templates)),
    stats=tuple(path for found in FLAVOURS for path in (found.directory, found.program)),
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
        ),
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
    ),
)


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
        # RKE2's own is at /run/k3s/containerd/containerd.sock, too
        return not self.endpoint or any(f"/{name}/" in self.endpoint for name in ("k3s", self.flavour.name))

    @property
    def heeded(self) -> tuple[str, ...]:
        """The templates that this k3s looks for: config-v3.toml.tmpl came with containerd 2.0 (1.31.6, 1.32.2)."""
        old = self.version.value is not None and self.version.value < (2, 0)
        return self.flavour.templates[1:] if old else self.flavour.templates

    @property
    def template(self) -> str | None:
        """The template that k3s takes: the first that is there."""
        return next((path for path in self.heeded if not self.templates[path].absent), None)

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
    is not told. unread: the first of its files that nobody could read, where that could say otherwise."""

    process: Reading[Process]
    cgroup_driver: str
    endpoint: str
    unread: Reading[Any] | None = None


@dataclass(frozen=True, slots=True)
class Kubernetes:
    """kubelet: a process of its own. k3s: k3s or RKE2, where it is here."""

    kubelet: Kubelet
    k3s: K3s | None

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
    if not process.ok and not snapshot.stat(flavour.directory).ok:
        return None
    settings = dict(_settings(snapshot, (flavour.settings, f"{flavour.settings}.d/*.yaml")))
    agent = flavour.unit.replace("-server", "").replace(".service", "-agent.service")
    units = [snapshot.unit(name) for name in (flavour.unit, agent)]
    # RKE2's archive has both units, of which one runs
    active = (found for found in units if (found.value or {}).get("ActiveState") == "active")
    unit = next(active, units[1] if units[0].absent else units[0])
    # k3s shortens its own command line in /proc to `k3s server`: its unit has the flags
    words = (
        *(process.value.argv if process.value else ()),
        *exec_start((unit.value or {}).get("ExecStart", "")),
    )
    return K3s(
        flavour,
        snapshot.succeeded(f"{flavour.name}-containerd").map(lambda found: parse_version(found.out)),
        process,
        flag_of(words, "--container-runtime-endpoint") or settings.get("container-runtime-endpoint", ""),
        snapshot.file(flavour.generated),
        {path: snapshot.file(path) for path in flavour.templates},
        dump_of(snapshot.succeeded(f"{flavour.name}-containerd-config")),
        unit,
        _kubelet_arg(words, "cgroup-driver")
        or settings.get("cgroup-driver", "")
        or _kubelet_files(snapshot, "", flavour.kubelet_directory)[0].get("cgroupDriver", ""),
    )


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
    given = flag(process.value, "--cgroup-driver")  # over its files
    return Kubernetes(
        Kubelet(
            process,
            given or settings.get("cgroupDriver", ""),
            flag(process.value, "--container-runtime-endpoint")
            or settings.get("containerRuntimeEndpoint", ""),
            None if given or not process.ok else unread,
        ),
        next(
            (found for flavour in FLAVOURS if (found := _k3s(snapshot, flavour)) is not None),
            None,
        ),
    )
