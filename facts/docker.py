"""Docker: where it comes from, what its daemon says of itself, its daemon.json, and who uses GPUs how."""

from __future__ import annotations

from typing import Any

from gpumend.run.remote.fact import StateFact
from gpumend.state.host_state import HostState


class DaemonJson(StateFact[dict[str, Any]]):
    """daemon.json as an object; None where there is no file. Values under `proxies` are left out: they hold secrets."""

    def read(self, state: HostState) -> dict[str, Any] | None:
        config = state.docker.config.get()
        return None if config is None else {k: v for k, v in config.items() if not k.endswith("proxies")}


class DockerVersion(StateFact[str]):
    """dockerd's version; None where Docker is not installed."""

    def read(self, state: HostState) -> str | None:
        version = state.docker.version.get()
        return ".".join(map(str, version)) if version else None
