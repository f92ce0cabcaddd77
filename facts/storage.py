"""Where images and containers lie: Docker's and containerd's roots, and the Dockers that run inside of containers."""

from __future__ import annotations

from typing import Any

from gpumend.run.remote.fact import StateFact
from gpumend.state.host_state import HostState


class DockerRoot(StateFact[dict[str, Any]]):
    """Docker's root: path, file system, bytes left, driver and why Docker has it."""

    def read(self, state: HostState) -> dict[str, Any] | None:
        root, chosen = state.storage.docker, state.storage.choice.value
        return {
            "path": root.path,
            "fstype": root.mount.need().fstype,
            "free": root.free,
            "drivers": list(root.drivers.value or ()),
            "driver": chosen.driver if chosen else None,
            "rule": chosen.rule if chosen else None,
            "reason": chosen.reason if chosen else None,
        }


class DindContainers(StateFact[list[dict[str, Any]]]):
    """Containers that run a dockerd of their own: where its root lies, and what it says of itself."""

    def read(self, state: HostState) -> list[dict[str, Any]] | None:
        return [
            {
                "name": found.name,
                "fstype": found.root.fstype,
                "driver": found.driver,
                "fuse": found.fuse.value,
            }
            for found in state.storage.inners
            if found.daemon
        ]
