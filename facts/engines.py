"""containerd, k3s, CRI-O and podman: versions and configuration files. Their rules come with their own issue."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from facts.fact import StateFact
from facts.reading import Reading
from facts.request import Command, Glob, Request
from facts.snapshot import Process, Snapshot
from facts.version import Version, parse_version

if TYPE_CHECKING:
    from facts.host_state import HostState

CONFIG = "/etc/containerd/config.toml"
GRIT = "/etc/containerd/grit.toml"
K3S_FOLDER = "/var/lib/rancher/k3s/agent/etc/containerd"

REQUEST = Request(
    files=(
        CONFIG,
        GRIT,
        f"{K3S_FOLDER}/config.toml",
        f"{K3S_FOLDER}/config.toml.tmpl",
        f"{K3S_FOLDER}/config-v3.toml.tmpl",
        "/etc/crio/crio.conf",
        "/etc/containers/containers.conf",
    ),
    globs=(
        Glob("/etc/containerd/conf.d/*.toml"),
        Glob("/etc/crio/crio.conf.d/*"),
        Glob("/etc/containers/containers.conf.d/*.conf"),
    ),
    programs=("containerd", "k3s", "crio", "podman", "criu", "runc", "crun"),
    commands={
        "containerd": Command(("containerd", "--version"), timeout=5),
        "podman": Command(("podman", "--version"), timeout=5),
        "crio": Command(("crio", "--version"), timeout=5),
        "criu": Command(("criu", "--version"), timeout=5),
        "runc": Command(("runc", "--version"), timeout=5),
    },
    processes=("containerd", "k3s", "crio"),
    units=("containerd.service", "k3s.service", "crio.service"),
)


@dataclass(frozen=True)
class Engines:
    """versions: by program, for containerd, podman, crio, criu, runc. configs: their files' text by path.

    grit: /etc/containerd/grit.toml parsed (runc Options by containerd-shim-grit-v1).
    """

    versions: Mapping[str, Reading[Version]]
    configs: Mapping[str, Reading[str]]
    processes: Mapping[str, Reading[tuple[Process, ...]]]
    grit: Reading[dict[str, Any]]


def parse(snapshot: Snapshot) -> Engines:
    paths = list(REQUEST.files)
    for pattern in REQUEST.globs:
        paths.extend(snapshot.glob(pattern.pattern).value or ())
    return Engines(
        versions={
            name: snapshot.succeeded(name).map(lambda found: parse_version(found.out))
            for name in REQUEST.commands
        },
        configs={path: snapshot.text(path) for path in paths},
        processes={name: snapshot.processes(name) for name in REQUEST.processes},
        grit=snapshot.text(GRIT).map(tomllib.loads),
    )


class EngineVersions(StateFact[dict[str, str]]):
    """Versions of containerd, podman, CRI-O, CRIU and runc, of those that are installed."""

    def read(self, state: HostState) -> dict[str, str] | None:
        return {
            name: ".".join(map(str, reading.value))
            for name, reading in state.engines.versions.items()
            if reading.value
        }


class GritToml(StateFact[dict[str, Any]]):
    """/etc/containerd/grit.toml; None where there is none."""

    def read(self, state: HostState) -> dict[str, Any] | None:
        return state.engines.grit.get()
