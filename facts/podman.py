"""podman: its version, and the spec directories that containers.conf gives it."""

from __future__ import annotations

from gpumend.run.remote.fact import StateFact
from gpumend.state.host_state import HostState


class PodmanVersion(StateFact[str]):
    """podman's version; None where it is not installed."""

    def read(self, state: HostState) -> str | None:
        version = state.podman.version.get()
        return ".".join(map(str, version)) if version else None
