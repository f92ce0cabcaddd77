"""Compose projects of a host: which services ask for GPUs, and how."""

from __future__ import annotations

from gpumend.run.remote.fact import StateFact
from gpumend.state.host_state import HostState


class ComposeGpuUse(StateFact[dict[str, dict[str, list[str]]]]):
    """By project, of each service that has a container with a GPU: the ways in which its files have it ask."""

    def read(self, state: HostState) -> dict[str, dict[str, list[str]]]:
        return {
            found.name: {service: list(ways) for service, ways in found.asks.items()}
            for found in state.compose.projects
        }
