"""The few facts that tell one host from another at a glance."""

from __future__ import annotations

from functools import lru_cache

from gpumend.state.host_state import HostState
from gpumend.text.record import Record
from gpumend.text.version import show


class Card(Record):
    """A GPU as nvidia-smi or NVML names it."""

    name: str
    brand: str
    architecture: str


class Glance(Record):
    """None where not known. gpus: the names of all; cards: of those that were asked in detail."""

    os: str | None
    kernel: str
    driver: str | None
    gpus: tuple[str, ...]
    cards: tuple[Card, ...]
    toolkit: str | None
    mode: str | None
    docker: str | None
    podman: str | None
    containerd: str | None


@lru_cache(maxsize=1024)  # a fleet has few kinds of hosts, and this is what stays of each to the end
def _one(found: Glance) -> Glance:
    return found


def glance(state: HostState) -> Glance:
    """Of a host's state; equal for two hosts it is one object."""
    gpus = state.gpus.listed.value
    details = state.gpus.details.value
    return _one(
        Glance(
            os=state.host.name.value,
            kernel=state.host.kernel,
            driver=show(state.driver.loaded.value) if state.driver.loaded.value else None,
            gpus=tuple(gpu.name for gpu in gpus)
            if gpus
            else tuple(sorted((state.gpus.proc.value or {}).values())),
            cards=tuple(
                Card(gpu.name, gpu.brand, gpu.architecture) for gpu in (details.gpus if details else ())
            ),
            toolkit=show(state.toolkit.version.value) if state.toolkit.version.value else None,
            mode=state.toolkit.mode() if state.toolkit.installed and state.toolkit.config.known else None,
            docker=show(state.docker.version.value) if state.docker.version.value else None,
            podman=show(state.podman.version.value) if state.podman.version.value else None,
            containerd=show(state.containerd.version.value) if state.containerd.version.value else None,
        )
    )
