"""containerd: the daemon, its configuration as it merges it, k3s and RKE2 around it, and the kubelet that it serves."""

from __future__ import annotations

from typing import Any

from gpumend.run.remote.fact import StateFact
from gpumend.state.host_state import HostState


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
