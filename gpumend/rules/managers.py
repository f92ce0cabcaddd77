"""Who else keeps this host as it is, and what is theirs.

One table answers both: whether a manager is here, and which components mend leaves to it. What is held back is told with
its name; `allow_managed` in the wanted state lets mend go on.
"""

from __future__ import annotations

from collections.abc import Callable

from gpumend.rules.finding import Component, Finding
from gpumend.rules.rule import Context
from gpumend.state.host_state import HostState
from gpumend.state.manager import DRIVER_ROOT
from gpumend.text.record import Record

PODS = frozenset({Component.CONTAINERD, Component.CRIO})
# What comes of packages.
INSTALLED = frozenset({Component.PACKAGES, Component.REPOSITORIES, Component.ENGINE})
TOOLKIT = INSTALLED | {Component.APT, Component.TOOLKIT}
# What a system whose /etc comes from one description has made anew at its next switch.
DESCRIBED = frozenset(Component) - {Component.RECOVER, Component.STORAGE}


class Manager(Record):
    """name: in `allow_managed`. title: in sentences. here: how it is recognised. owns: what it writes, or would break on.
    source: where that is from."""

    name: str
    title: str
    here: Callable[[HostState], bool]
    owns: frozenset[Component]
    source: str


def operators_toolkit(state: HostState) -> bool:
    return any(reading.ok for reading in state.manager.operator.values())


def operators_driver(state: HostState) -> bool:
    """Whether the driver's libraries lie in a driver container's root, mounted on the host."""
    return any(found.path.startswith(f"{DRIVER_ROOT}/") for found in state.driver.libraries.value or ())


def _named(*names: str) -> Callable[[HostState], bool]:
    return lambda state: state.host.distribution.value in names


def _marked(name: str) -> Callable[[HostState], bool]:
    return lambda state: name in state.manager.marks


MANAGERS: tuple[Manager, ...] = (
    Manager(
        "gpu-operator",
        "NVIDIA's GPU Operator",
        lambda state: operators_toolkit(state) or operators_driver(state),
        TOOLKIT | PODS | {Component.CDI, Component.DOCKER},
        "gpu-operator assets/state-container-toolkit, state-driver; docs.nvidia.com GPU Operator",
    ),
    Manager(
        "driver-container",
        "the GPU Operator's driver container",
        operators_driver,
        frozenset({Component.DRIVER, Component.DRIVER_PACKAGES, Component.CUDA}),
        "gpu-operator assets/state-driver; gpu-driver-container",
    ),
    Manager(
        "snap",
        "the Docker snap",
        lambda state: state.docker.snap,
        INSTALLED | {Component.DOCKER, Component.DOCKER_STORAGE},
        "docker-snap#357, #180",
    ),
    Manager("nixos", "NixOS", _named("nixos"), DESCRIBED, "NixOS/nixpkgs#337873, #322400"),
    Manager("guix", "Guix System", _named("guix"), DESCRIBED, "guix.gnu.org manual: System Configuration"),
    Manager(
        "bottlerocket",
        "Bottlerocket",
        _named("bottlerocket"),
        DESCRIBED,
        "bottlerocket-os/bottlerocket README: read-only root, settings by its API",
    ),
    Manager(
        "gke",
        "GKE's node image",
        lambda state: state.host.distribution.value == "cos" or "gke" in state.manager.marks,
        TOOLKIT
        | PODS
        | {Component.DRIVER, Component.DRIVER_PACKAGES, Component.CUDA, Component.CUDA_TOOLKIT},
        "cloud.google.com container-optimized-os docs: security (read-only root, stateless /etc)",
    ),
    Manager(
        "aks",
        "AKS' node image",
        _marked("aks"),
        PODS | INSTALLED | {Component.DRIVER_PACKAGES},
        "Azure/AgentBaker",
    ),
    Manager(
        "eks",
        "EKS' node image",
        _marked("eks"),
        PODS | INSTALLED | {Component.DRIVER_PACKAGES},
        "awslabs/amazon-eks-ami nodeadm",
    ),
    Manager(
        "ostree",
        "an ostree image",
        _marked("ostree"),
        INSTALLED | {Component.DRIVER_PACKAGES, Component.CUDA, Component.CUDA_TOOLKIT},
        "ostree-boot(1); rpm-ostree(1): /usr is read-only",
    ),
    Manager(
        "wsl2",
        "WSL2",
        lambda state: state.host.wsl2,
        frozenset({Component.DRIVER, Component.DRIVER_PACKAGES}),
        "docs.nvidia.com CUDA on WSL: Windows has the driver",
    ),
    Manager(
        "jetson",
        "JetPack",
        lambda state: state.host.tegra,
        frozenset({Component.PACKAGES, Component.DRIVER, Component.DRIVER_PACKAGES, Component.CUDA_TOOLKIT}),
        "docs.nvidia.com Jetson Linux",
    ),
)


def managers(context: Context) -> tuple[Manager, ...]:
    """Everybody who keeps something on this host."""
    return tuple(found for found in MANAGERS if found.here(context.state))


def manager_of(context: Context, component: Component) -> Manager | None:
    """Who keeps a component on this host, and has not been overruled."""
    allowed = context.wanted.allow_managed
    return next(
        (found for found in managers(context) if component in found.owns and found.name not in allowed), None
    )


def is_described(context: Context) -> bool:
    """Whether the whole system is made from one description, so that packages and /etc are not the place to change."""
    return any(found.owns == DESCRIBED for found in managers(context))


def plugin_injects(context: Context) -> bool:
    """Whether the cloud's own device plugin gives pods the driver's directory and nodes, without NVIDIA's toolkit: GKE's
    (GoogleCloudPlatform/container-engine-accelerators cmd/nvidia_gpu)."""
    return not context.state.toolkit.installed and any(found.name == "gke" for found in managers(context))


def hold(findings: list[Finding], context: Context) -> list[Finding]:
    """The findings without the changes to what somebody else keeps on this host."""

    def held(finding: Finding) -> Finding:
        keeper = manager_of(context, finding.change.component) if finding.change else None
        if keeper is None:
            return finding
        refused = f"{keeper.title} keeps this here: change it there, or name {keeper.name!r} in allow_managed"
        return finding._replace(change=None, refused=refused)

    return [held(finding) for finding in findings]
