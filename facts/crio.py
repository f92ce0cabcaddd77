"""CRI-O: its version, its files as it merges them, and what the running one says that it has."""

from __future__ import annotations

from typing import Any

from gpumend.run.remote.fact import StateFact
from gpumend.state.host_state import HostState


class CrioVersion(StateFact[str]):
    """CRI-O's version; None where it is not installed."""

    def read(self, state: HostState) -> str | None:
        version = state.crio.version.get()
        return ".".join(map(str, version)) if version else None


class CrioRuntimes(StateFact[dict[str, Any]]):
    """The runtimes that CRI-O has, with their paths: of the running one where one runs, else as its files say."""

    def read(self, state: HostState) -> dict[str, Any] | None:
        if not state.crio.installed:
            return None
        found = state.crio.live_settings() or state.crio.settings()
        return {name: table.get("runtime_path", "") for name, table in found.runtimes.items()}
