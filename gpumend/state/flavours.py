"""Kubernetes distributions that bring their own containerd, and where each keeps what."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Flavour:
    """A Kubernetes distribution that brings its own containerd. k3s-io/k3s pkg/agent/containerd; rancher/rke2."""

    name: str
    processes: tuple[str, ...]
    directory: str
    program: str
    settings: str
    unit: str

    @property
    def generated(self) -> str:
        return f"{self.directory}/config.toml"

    @property
    def kubelet_directory(self) -> str:
        """Of drop-ins for its kubelet; k3s-io/k3s#2116 (1.32)."""
        return f"{posixpath.dirname(self.directory)}/kubelet.conf.d"

    @property
    def templates(self) -> tuple[str, str]:
        """In the order in which k3s looks: the first that is there counts."""
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
)
