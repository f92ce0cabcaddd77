"""Traces of who else keeps this host as it is: NVIDIA's GPU Operator, a cloud's image, a container manager, an image-based
system. Which of them is in charge of what is a table in gpumend/rules/managers.py."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from gpumend.state.reading import Reading
from gpumend.state.request import Glob, Request
from gpumend.state.snapshot import FileMeta, Snapshot
from gpumend.text.documents import toml
from gpumend.text.record import Record

# gpu-operator assets/state-container-toolkit: the toolkit's installation directory on the host, and the driver's root.
OPERATOR_TOOLKIT = "/usr/local/nvidia/toolkit"
OPERATOR_CONFIG = f"{OPERATOR_TOOLKIT}/.config/nvidia-container-runtime/config.toml"
OPERATOR_PROGRAMS = tuple(
    f"{OPERATOR_TOOLKIT}/{name}"
    for name in (
        "nvidia-container-runtime",
        "nvidia-container-runtime.real",
        "nvidia-ctk",
        "nvidia-cdi-hook",
        "nvidia-container-cli",
        "nvidia-container-runtime-hook",
    )
)
DRIVER_ROOT = "/run/nvidia/driver"
NIXOS_LIBRARIES = "/run/opengl-driver/lib"  # nixpkgs: hardware.graphics
UID_MAP, CONTAINER = "/proc/self/uid_map", "/run/systemd/container"
# systemd.io CONTAINER_INTERFACE: $container of init, which systemd copies to the file above; and what some managers mount.
INIT, NAMED = "/proc/1/environ", "/run/host/container-manager"
INIT_NAME = r"(?:^|\0)container=([\w-]{1,40})"
WHOLE = (0, 0, 2**32 - 1)  # user_namespaces(7): the initial namespace's map
# Directories by which a vendor's image is known.
MARKS = {
    "/run/ostree-booted": "ostree",  # ostree-boot(1)
    "/opt/azure/containers": "aks",  # Azure/AgentBaker parts/linux/cloud-init/artifacts
    "/etc/eks": "eks",  # awslabs/amazon-eks-ami files/
    "/home/kubernetes/bin": "gke",  # kubernetes/kubernetes cluster/gce/gci/configure.sh
}

REQUEST = Request(
    files=(UID_MAP, CONTAINER, NAMED, OPERATOR_CONFIG),
    stats=(
        OPERATOR_TOOLKIT,
        *OPERATOR_PROGRAMS,
        DRIVER_ROOT,
        *MARKS,
        *(f"{NIXOS_LIBRARIES}/{name}" for name in ("libcuda.so.1", "libnvidia-ml.so.1")),
    ),
    globs=(
        Glob(f"{DRIVER_ROOT}/dev/nvidia*", read=False),
        Glob(INIT, read=False, search=INIT_NAME),
    ),
)


class Traces(Record):
    """uid_map: of our own user namespace, as (inside, outside, count). container: systemd's word for what manages this
    container, absent on a machine. operator: the GPU Operator's programs by path; operator_config: its config.toml.
    driver_nodes: device nodes below the driver container's root. opengl: NixOS' driver libraries by soname.
    marks: what vendors' images have."""

    uid_map: Reading[tuple[tuple[int, ...], ...]]
    container: Reading[str]
    operator: Mapping[str, Reading[FileMeta]]
    operator_config: Reading[Mapping[str, Any]]
    driver_nodes: Reading[tuple[str, ...]]
    opengl: Mapping[str, Reading[FileMeta]]
    marks: tuple[str, ...]

    @property
    def user_namespace(self) -> bool | None:
        """Whether root here is not root of the kernel; None where nobody could tell."""
        found = self.uid_map.value
        return None if found is None else found != (WHOLE,)

    @property
    def lxc(self) -> bool:
        return (self.container.value or "").startswith("lxc")


def _uid_map(text: str) -> tuple[tuple[int, ...], ...]:
    rows = tuple(tuple(int(word) for word in line.split()) for line in text.splitlines())
    if not rows or any(len(row) != 3 for row in rows):
        raise ValueError("not a uid_map")
    return rows


def _container(snapshot: Snapshot) -> Reading[str]:
    found = snapshot.text(CONTAINER)
    if found.absent:
        found = snapshot.text(NAMED)
    if found.absent and (names := snapshot.found(INIT, INIT_NAME).value):
        found = Reading.of(names[0], INIT)
    return found.map(lambda text: re.sub(r"\s", "", text))


def parse(snapshot: Snapshot) -> Traces:
    return Traces(
        uid_map=snapshot.text(UID_MAP).map(_uid_map),
        container=_container(snapshot),
        operator={path: snapshot.stat(path) for path in OPERATOR_PROGRAMS},
        operator_config=snapshot.text(OPERATOR_CONFIG).map(toml),
        driver_nodes=snapshot.glob(f"{DRIVER_ROOT}/dev/nvidia*"),
        opengl={
            name: snapshot.stat(f"{NIXOS_LIBRARIES}/{name}") for name in ("libcuda.so.1", "libnvidia-ml.so.1")
        },
        marks=tuple(name for path, name in MARKS.items() if snapshot.stat(path).ok),
    )
