"""The engine paths on which a container is started for proof, where the wanted state names an image for it."""

from __future__ import annotations

from dataclasses import dataclass

from gpumend.rules.engines.containerd_config import NVIDIA, cri, readable, wanted_runtimes
from gpumend.rules.engines.docker_config import wanted_paths
from gpumend.rules.engines.podman import has_podman
from gpumend.rules.rule import Context
from gpumend.state.cdi import DEFAULT_DIRS
from gpumend.text.version import Version

CTR_DEVICES_SINCE: Version = (
    2,
    0,
)  # ctr run --device with a CDI name: containerd cmd/ctr/commands/run/run_unix.go
ALL = ("--env", "NVIDIA_VISIBLE_DEVICES=all", "--env", "NVIDIA_DRIVER_CAPABILITIES=compute,utility")
DEVICE = ("--device", "nvidia.com/gpu=all")
DOCKER = {
    "runtime": ("--runtime=nvidia", *ALL),
    "device": DEVICE,
    "gpus": ("--gpus", "all"),
}


@dataclass(frozen=True)
class Trial:
    """One container to start. options: of the engine's `run`. must: whether it fails where there is nothing to start it
    with; otherwise that is told, and proves nothing."""

    path: str
    engine: str
    options: tuple[str, ...]
    must: bool


def trials(context: Context) -> tuple[Trial, ...]:
    """Every path by which containers of this host can ask for the GPU, as far as `prove.engines` names its engine.

    CRI-O, and containerd behind a kubelet, take pods only, and a kubelet deletes pods that are not its own (kubernetes.io,
    debugging nodes with crictl): they are proven by what they say of themselves.
    """
    named = context.wanted.prove_engines
    found = [Trial(path, "docker", DOCKER[path], True) for path in wanted_paths(context)]
    if has_podman(context) and context.state.cdi.resolve(DEFAULT_DIRS).gpus():
        found.append(Trial("podman device", "podman", DEVICE, named is not None))
    if readable(context) and NVIDIA in wanted_runtimes(context):
        found.extend(_containerd(context, named is not None))
    return tuple(each for each in found if named is None or each.engine in named)


def _containerd(context: Context, must: bool) -> list[Trial]:
    # ctr knows no runtimes of the CRI plugin: it is given the program that the registered one calls.
    registered = cri(context).runtimes.get(NVIDIA)
    found = []
    if registered is not None and registered.binary:
        options = ("--runc-binary", registered.binary, *ALL)
        found.append(Trial("containerd runtime", "containerd", options, must))
    resolved = context.state.cdi.resolve(DEFAULT_DIRS).gpus()
    if (context.state.containerd.version.value or (0,)) >= CTR_DEVICES_SINCE and resolved:
        found.append(Trial("containerd device", "containerd", DEVICE, must))
    return found
