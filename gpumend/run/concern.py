"""What a run is about, where it is not about everything: the concerns of the deploys that are about one."""

from __future__ import annotations

from dataclasses import dataclass

from gpumend.rules.finding import Component, Finding


@dataclass(frozen=True)
class Concern:
    """components: what its deploy changes. codes: how the codes of its findings begin."""

    name: str
    components: frozenset[Component]
    codes: tuple[str, ...]

    def has(self, finding: Finding) -> bool:
        return finding.code.startswith(self.codes) or bool(
            finding.change and finding.change.component in self.components
        )


# Every concern looks at the run itself, and puts back an interrupted one.
COMMON = "GM0"


def _concern(name: str, components: tuple[Component, ...], *codes: str) -> Concern:
    return Concern(name, frozenset((Component.RECOVER, *components)), (COMMON, *codes))


# One row a deploy: the operations that it calls, and the codes of what they are about.
CONCERNS = {
    concern.name: concern
    for concern in (
        _concern(
            "driver",
            (Component.APT, Component.REPOSITORIES, Component.DRIVER_PACKAGES, Component.DRIVER),
            *("GM1", "GM210", "GM230", "GM231", "GM232"),
        ),
        _concern("toolkit", (Component.APT, Component.TOOLKIT), "GM2"),
        _concern(
            "packages",
            (Component.APT, Component.REPOSITORIES, Component.PACKAGES),
            *("GM203", "GM210", "GM212", "GM213", "GM23"),
        ),
        _concern("repositories", (Component.APT, Component.REPOSITORIES), "GM210", "GM230", "GM231", "GM232"),
        _concern("engine", (Component.APT, Component.REPOSITORIES, Component.ENGINE), "GM210", "GM23"),
        _concern("cdi", (Component.CDI,), "GM3"),
        _concern("docker", (Component.DOCKER,), "GM4"),
        _concern("containerd", (Component.CONTAINERD,), "GM50", "GM51"),
        _concern("grit", (Component.GRIT, Component.CONTAINERD), "GM52", "GM53"),
        _concern("podman", (Component.PODMAN,), "GM54"),
        _concern("crio", (Component.TOOLKIT, Component.CRIO), "GM55"),
        _concern("cuda", (Component.CUDA_TOOLKIT, Component.CUDA), "GM6"),
        _concern("storage", (Component.DOCKER_STORAGE, Component.STORAGE), "GM7"),
        _concern("compose", (Component.COMPOSE,), "GM9"),
        _concern("allocations", (Component.ALLOCATIONS,), "GM8"),
    )
}
