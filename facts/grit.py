"""GRIT: grit.toml as containerd-shim-grit-v1 decodes it."""

from __future__ import annotations

from typing import Any

from gpumend.run.remote.fact import StateFact
from gpumend.state.host_state import HostState


class GritToml(StateFact[dict[str, Any]]):
    """/etc/containerd/grit.toml; None where there is none."""

    def read(self, state: HostState) -> dict[str, Any] | None:
        raw = state.grit.raw.get()
        return None if raw is None else dict(raw)
