"""Kubernetes distributions that bring their own containerd, and where each keeps what."""

from __future__ import annotations

import posixpath

from gpumend.text.record import Record

KUBELET_CONFIG = "/var/lib/kubelet/config.yaml"
# kubeadm's, kubespray's, and Amazon's of AL2 and AL2023 (JSON).
KUBELET_CONFIGS = (
    KUBELET_CONFIG,
    "/etc/kubernetes/kubelet-config.yaml",
    "/etc/kubernetes/kubelet/kubelet-config.json",
    "/etc/kubernetes/kubelet/config.json",
    "/var/lib/k0s/kubelet-config.yaml",
)
# Each kubelet makes it that has joined a cluster, whatever its settings; `kubeadm reset` empties /var/lib/kubelet.
KUBELET_PKI = "/var/lib/kubelet/pki"


class Flavour(Record):
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
