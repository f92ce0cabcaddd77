"""HostState: everything about one host, from one exec of the probe."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from facts import (
    audit_program,
    cdi,
    containerd,
    crio,
    criu,
    cuda,
    docker,
    drift,
    driver,
    gpu,
    grit,
    host,
    nvml,
    packages,
    podman,
    runs,
    storage,
    toolkit,
)
from facts.remote import INSTALL, RemoteError, audit_only, run_audit_program, run_program
from facts.request import merge
from facts.snapshot import AnswerError, Snapshot

if TYPE_CHECKING:
    from pyinfra.api.host import Host

PROBE_TIMEOUT = 180  # seconds; the probe bounds each of its own waits, this bounds a dead connection
SUBSYSTEMS = (
    host, driver, drift, gpu, packages, cuda, toolkit, cdi, docker, containerd, crio, podman, grit, criu, runs,
    storage,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class HostState:
    """One host at one moment: a dataclass a subsystem, each part tagged with how it was read."""

    host: host.HostFacts
    driver: driver.Driver
    drift: drift.Drift
    gpus: gpu.Gpus
    packages: packages.Packages
    cuda: cuda.Cuda
    toolkit: toolkit.Toolkit
    cdi: cdi.Cdi
    docker: docker.Docker
    kubernetes: containerd.Kubernetes  # before `containerd`: from there on that name is the field
    containerd: containerd.Containerd
    crio: crio.Crio
    podman: podman.Podman
    grit: grit.Grit
    criu: criu.Criu
    runs: runs.Runs
    storage: storage.Storage


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
        driver=driver.parse(snapshot),
        drift=drift.parse(snapshot),
        gpus=gpu.parse(snapshot),
        packages=packages.parse(snapshot),
        cuda=cuda.parse(snapshot),
        toolkit=toolkit.parse(snapshot),
        cdi=cdi.parse(snapshot),
        docker=docker.parse(snapshot),
        containerd=containerd.parse(snapshot),
        kubernetes=containerd.parse_kubernetes(snapshot),
        crio=crio.parse(snapshot),
        podman=podman.parse(snapshot),
        grit=grit.parse(snapshot),
        criu=criu.parse(snapshot),
        runs=runs.parse(snapshot),
        storage=storage.parse(snapshot),
    )


@cache
def request() -> dict[str, Any]:
    """What all subsystems ask of the probe."""
    return {**merge(module.REQUEST for module in SUBSYSTEMS), "packed": True}


@cache
def probe_source() -> str:
    """The probe's source text without a call to it."""
    return files("facts").joinpath("probe.py").read_text(encoding="ascii")


@cache
def probe_program() -> str:
    """The program that goes over stdin: the probe and the call with this request."""
    return f"{probe_source()}\nmain(json.loads({json.dumps(request())!r}))\n"


@cache
def installed_program() -> str:
    """The same as a file for the hosts: what `deploys/audit_rule.py` installs."""
    return audit_program.text(probe_source(), request())


def answer_of(host: Host) -> Snapshot:
    """The host's answer, in one exec. Raises RemoteError or AnswerError."""
    if not audit_only(host):
        return Snapshot.from_output(run_program(host, probe_program(), timeout=PROBE_TIMEOUT))
    snapshot = Snapshot.from_output(run_audit_program(host, timeout=PROBE_TIMEOUT))
    if snapshot.answer.get("program") != audit_program.identity(probe_source(), request()):
        raise RemoteError(
            f"{audit_program.PATH} on this host is another version's; this one's is put there by: {INSTALL}"
        )
    return snapshot


def complete(host: Host, state: HostState) -> HostState:
    """The state of this very machine with what NVML says of its GPUs, where nvidia-smi is not there to be asked."""
    if host.name != "@local" or state.gpus.details.ok:
        return state
    found = nvml.read()
    return replace(state, gpus=replace(state.gpus, details=found)) if found.ok else state


# By inventory and host name: `host` may be pyinfra's context proxy, whose identity says nothing.
_read: WeakKeyDictionary[Any, dict[str, HostState]] = WeakKeyDictionary()


def host_state(host: Host) -> HostState:
    """A host's state, read once a run, in one exec. Raises RemoteError, with the host's own words, where it gave none."""
    known = _read.setdefault(host.inventory, {})
    if host.name not in known:
        try:
            known[host.name] = complete(host, parse(answer_of(host)))
        except AnswerError as error:
            raise RemoteError(str(error)) from None
    return known[host.name]


def remember(host: Host, state: HostState) -> None:
    """Take a newer state, as a transaction's answer brings it."""
    _read.setdefault(host.inventory, {})[host.name] = state
