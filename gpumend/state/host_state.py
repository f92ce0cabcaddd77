"""HostState: everything about one host, from one exec of the probe."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from gpumend.state import (
    allocations,
    cdi,
    compose,
    containerd,
    crio,
    criu,
    cuda,
    cuinit,
    docker,
    drift,
    driver,
    driver_packages,
    fabric,
    gpu,
    gpus_flag,
    grit,
    host,
    kubernetes,
    machine,
    manager,
    modules,
    nodes,
    packages,
    podman,
    repositories,
    runs,
    storage,
    toolkit,
)
from gpumend.state.request import merge, with_twins
from gpumend.state.snapshot import AnswerError, Snapshot
from gpumend.text.record import Record

SUBSYSTEMS = (
    host, manager, driver, drift, gpu, packages, cuda, toolkit, cdi, docker, compose, gpus_flag, containerd, kubernetes, crio,
    podman, grit, criu, runs, storage, machine, nodes, modules, fabric, cuinit,
)  # fmt: skip


class HostState(Record):
    """One host at one moment: a named tuple a subsystem, each part tagged with how it was read."""

    host: host.HostFacts
    manager: manager.Traces
    driver: driver.Driver
    drift: drift.Drift
    gpus: gpu.Gpus
    packages: packages.Packages
    cuda: cuda.Cuda
    toolkit: toolkit.Toolkit
    cdi: cdi.Cdi
    docker: docker.Docker
    compose: compose.Compose
    gpus_flag: gpus_flag.GpusFlag
    containerd: containerd.Containerd
    kubernetes: kubernetes.Kubernetes
    crio: crio.Crio
    podman: podman.Podman
    grit: grit.Grit
    criu: criu.Criu
    runs: runs.Runs
    storage: storage.Storage
    machine: machine.Machine
    nodes: nodes.Nodes
    modules: modules.Modules
    fabric: fabric.Fabric
    cuinit: cuinit.CuInit
    allocations: allocations.Allocations
    repositories: repositories.Repositories
    driver_packages: driver_packages.DriverPackages


def parse(snapshot: Snapshot) -> HostState:
    """The probe's answer as HostState; raises nothing for what a host may hold: it is tagged instead.

    Raises AnswerError where the answer is not as the probe writes it.
    """
    try:
        return _parse(snapshot)
    except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError) as error:
        raise AnswerError(f"the probe's answer is not whole: {type(error).__name__}: {error}") from error


def _parse(snapshot: Snapshot) -> HostState:
    return HostState(
        host=host.parse(snapshot),
        manager=manager.parse(snapshot),
        driver=driver.parse(snapshot),
        drift=drift.parse(snapshot),
        gpus=gpu.parse(snapshot),
        packages=snapshot.once(packages.parse),
        cuda=cuda.parse(snapshot),
        toolkit=toolkit.parse(snapshot),
        cdi=cdi.parse(snapshot),
        docker=snapshot.once(docker.parse),
        compose=compose.parse(snapshot),
        gpus_flag=gpus_flag.parse(snapshot),
        containerd=containerd.parse(snapshot),
        kubernetes=kubernetes.parse(snapshot),
        crio=crio.parse(snapshot),
        podman=podman.parse(snapshot),
        grit=grit.parse(snapshot),
        criu=criu.parse(snapshot),
        runs=runs.parse(snapshot),
        storage=storage.parse(snapshot),
        machine=machine.parse(snapshot),
        nodes=nodes.parse(snapshot),
        modules=modules.parse(snapshot),
        fabric=fabric.parse(snapshot),
        cuinit=cuinit.parse(snapshot),
        allocations=allocations.parse(snapshot),
        repositories=repositories.parse(snapshot),
        driver_packages=driver_packages.parse(snapshot),
    )


@cache
def request(ask_cuda: bool = True, besides: str = "") -> dict[str, Any]:
    """What all subsystems ask of the probe. ask_cuda: whether CUDA may be asked on this host (wanted state, `ask_cuda`).
    besides: JSON of what only this host's desired state calls for (`besides_of`)."""
    asked = {**merge(module.REQUEST for module in SUBSYSTEMS), "packed": True}
    if not ask_cuda:
        asked["commands"][cuinit.NAME] = {**asked["commands"][cuinit.NAME], "never": True}
    for key, value in (json.loads(besides) if besides else {}).items():
        asked[key] = _both(asked.get(key), value)
    return {**asked, "globs": with_twins(asked["globs"])}


def asked_of(raw: Mapping[str, Any]) -> tuple[bool, str]:
    """What of the probe's request a desired state decides, as `request` takes it: whether CUDA may be asked (not where
    `ask_cuda` is anything but `auto`), and what it calls for besides."""
    return raw.get("ask_cuda", "auto") == "auto", besides_of(raw)


def besides_of(raw: Mapping[str, Any]) -> str:
    """What a desired state calls for besides, as JSON; empty where that is nothing."""
    found: dict[str, Any] = {}
    for part in (
        allocations.request(raw.get(allocations.KEY)),
        compose.request(raw.get(compose.KEY)),
        repositories.request(raw),
        containerd.request(raw),
        driver_packages.request(raw),
    ):
        for key, value in part.items():
            found[key] = _both(found.get(key), value)
    return json.dumps(found, sort_keys=True) if found else ""


def _both(have: Any, more: Any) -> Any:
    """Lists and tables add up; of anything else there is one."""
    if isinstance(have, list) and isinstance(more, list):
        return [*have, *(item for item in more if item not in have)]
    return {**have, **more} if isinstance(have, dict) and isinstance(more, dict) else more
