"""HostState: everything about one host, from one exec of the probe."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from facts import cdi, cuda, docker, drift, driver, engines, gpu, host, packages, runs, toolkit
from facts.remote import RemoteError, run_program
from facts.request import merge
from facts.snapshot import AnswerError, Snapshot

if TYPE_CHECKING:
    from pyinfra.api.host import Host

PROBE_TIMEOUT = 180  # seconds; the probe bounds each of its own waits, this bounds a dead connection
SUBSYSTEMS = (host, driver, drift, gpu, packages, cuda, toolkit, cdi, docker, engines, runs)


@dataclass(frozen=True)
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
    engines: engines.Engines
    runs: runs.Runs


def parse(snapshot: Snapshot) -> HostState:
    """The probe's answer as HostState; raises nothing for what a host may hold: it is tagged instead."""
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
        engines=engines.parse(snapshot),
        runs=runs.parse(snapshot),
    )


@cache
def request() -> dict[str, Any]:
    """What all subsystems ask of the probe."""
    return merge(module.REQUEST for module in SUBSYSTEMS)


@cache
def probe_source() -> str:
    """The probe's source text without a call to it."""
    return files("facts").joinpath("probe.py").read_text(encoding="ascii")


@cache
def probe_program() -> str:
    """The program that goes over stdin: the probe and the call with this request."""
    return f"{probe_source()}\nmain(json.loads({json.dumps(request())!r}))\n"


# By inventory and host name: `host` may be pyinfra's context proxy, whose identity says nothing.
_read: WeakKeyDictionary[Any, dict[str, HostState]] = WeakKeyDictionary()


def host_state(host: Host) -> HostState:
    """A host's state, read once a run, in one exec. Raises RemoteError, with the host's own words, where it gave none."""
    known = _read.setdefault(host.inventory, {})
    if host.name not in known:
        output = run_program(host, probe_program(), timeout=PROBE_TIMEOUT)
        try:
            known[host.name] = parse(Snapshot.from_output(output))
        except AnswerError as error:
            raise RemoteError(str(error)) from None
    return known[host.name]


def remember(host: Host, state: HostState) -> None:
    """Take a newer state, as a transaction's answer brings it."""
    _read.setdefault(host.inventory, {})[host.name] = state
