"""CRIU and cuda-checkpoint: versions, the CUDA plugin, and the configuration files that runc hands to CRIU."""

from __future__ import annotations

from typing import Any

from gpumend.run.remote.fact import StateFact
from gpumend.state.host_state import HostState


class CriuReady(StateFact[dict[str, Any]]):
    """CRIU's version, its `criu check` exit status, the CUDA plugin and cuda-checkpoint; None where CRIU is not here."""

    def read(self, state: HostState) -> dict[str, Any] | None:
        criu = state.criu
        if not criu.installed:
            return None
        version, check = criu.version.value, criu.check.value
        return {
            "version": ".".join(map(str, version)) if version else None,
            "check": check.rc if check else None,
            "plugin": list(criu.plugins.value or ()),
            "cuda_checkpoint": criu.cuda_checkpoint.value.path if criu.cuda_checkpoint.value else None,
        }
