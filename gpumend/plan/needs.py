"""Which component builds on which: after one that failed, what builds on it waits, and all else goes on."""

from __future__ import annotations

from collections.abc import Mapping

from gpumend.rules.finding import Component

# Beyond what the new state of the host itself shows, by which each component is judged and planned anew before its turn: a
# runtime without its program is not wanted of any engine.
NEEDS: Mapping[Component, tuple[Component, ...]] = {
    Component.REPOSITORIES: (Component.APT,),  # apt takes no package while its sources contradict each other
    Component.DRIVER_PACKAGES: (Component.REPOSITORIES,),
    Component.ENGINE: (Component.REPOSITORIES,),
    Component.PACKAGES: (Component.REPOSITORIES,),
    Component.CDI: (Component.DRIVER,),  # it is written of the nodes that are there
    Component.TOOLKIT: (Component.CDI,),  # a spec before the mode that needs it
    Component.CONTAINERD: (Component.GRIT,),
    Component.CRIO: (Component.TOOLKIT,),
    Component.DOCKER_STORAGE: (Component.DOCKER,),
    Component.STORAGE: (Component.DOCKER, Component.DOCKER_STORAGE),
    Component.COMPOSE: (Component.TOOLKIT, Component.DOCKER),  # which form works is theirs to say
}
# What neither installs nor restarts anything but its own daemon, and so may be done while those before it are watched.
OVERLAPPING = frozenset(
    (Component.GRIT, Component.CONTAINERD, Component.CRIO, Component.PODMAN, Component.DOCKER)
)
# A transaction that ended so has done what it was for, or is about to have.
GOOD = ("unchanged", "changed", "pending", "watching")
# The host is not known well enough after them for anything further.
LAST = ("broken", "running", "lost")


def held(which: Component, ended: Mapping[Component, str]) -> str:
    """Why a component is not tried in this run, by how those before it ended; an empty text where it is."""
    for component, status in ended.items():
        if status in LAST:
            return f"nothing more is changed here after {component}, which ended {status}"
    for needed in NEEDS.get(which, ()):
        status = ended.get(needed, GOOD[0])
        if status not in GOOD:
            return f"it builds on {needed}, which ended {status}"
        if why := held(needed, ended):
            return why
    return ""
