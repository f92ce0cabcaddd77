"""The container engines. Who asks which engines there are, and what each is like, asks this table.

A row says how an engine is found, which specs it loads and where from, how containers get the GPU through it, what holds
a change of it back, what its change is, and what proves it. A new engine is one row, beside what it is made of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gpumend.rules.engines import containerd_config, crio, docker_config, podman
from gpumend.rules.engines.trial import Trial
from gpumend.rules.finding import Component
from gpumend.rules.rule import Context
from gpumend.state.containerd import Cri
from gpumend.state.host_state import HostState
from gpumend.state.reading import Reading
from gpumend.text.record import Record
from gpumend.text.version import Version, show

Reads = tuple[tuple[Version, Version], ...]


def _never(_: Context) -> bool:
    return False


def _nothing(_: Context) -> str:
    return ""


def _nobody(_: Context) -> Mapping[str, tuple[str, ...]]:
    return {}


def _no_runtimes(_: Context) -> Mapping[str, str]:
    return {}


def _no_ways(_: Context) -> list[str]:
    return []


def _no_trials(_: Context, must: bool) -> list[Trial]:
    return []


class Engine(Record):
    """One engine. What is not said is not so: an engine that is only reported needs a name, a version and what it reads.

    name: in this table, and in `prove.engines`. program: the name that is shown with its version.
    version: of the one that is here; absent where none is.
    reads: the newest cdiVersion that it loads, by the version from which on it does (pkg/cdi CurrentVersion, as vendored
    at those tags); without an entry it has no CDI.
    loads_specs: whether it loads specs on this host. needs_spec: for whom a spec has to be here, and the directories that
    are looked in.
    systemd_runtimes: its runtimes whose containers' cgroups systemd keeps, as shown, with their programs. told_to_systemd:
    the ways by which devices stand in a container's config.json and systemd is told of them.
    hold_back: why its configuration is not changed here. component: the transaction that changes it. unit: the service that
    is reloaded or restarted. stops_containers: whether a restart of it now stops running containers.
    cri: what its CRI plugin has, for one that serves pods by containerd; serves: whether it is the one that does here.
    trials: the containers that prove it, and whether each must work.

    Functions of a context raise Unread where what they need could not be read.
    """

    name: str
    program: str
    version: Callable[[HostState], Reading[Version]]
    reads: Reads = ()
    loads_specs: Callable[[Context], bool] = _never
    needs_spec: Callable[[Context], Mapping[str, tuple[str, ...]]] = _nobody
    systemd_runtimes: Callable[[Context], Mapping[str, str]] = _no_runtimes
    told_to_systemd: Callable[[Context], list[str]] = _no_ways
    hold_back: Callable[[Context], str] = _nothing
    component: Component | None = None
    unit: str = ""
    stops_containers: Callable[[Context], bool] = _never
    cri: Callable[[HostState], Cri] | None = None
    serves: Callable[[HostState], bool] = lambda _: False
    trials: Callable[[Context, bool], list[Trial]] = _no_trials

    def newest_readable(self, version: Version) -> Version | None:
        """The newest cdiVersion that this version of it loads; None where it has no CDI at all."""
        return next((spec for since, spec in reversed(self.reads) if version >= since), None)


def _embedded(state: HostState) -> bool:
    return state.kubernetes.k3s is not None and state.kubernetes.k3s.embedded


def _k3s_version(state: HostState) -> Reading[Version]:
    k3s = state.kubernetes.k3s
    return k3s.version if k3s is not None and k3s.embedded else Reading.none("k3s")


def _k3s_cri(state: HostState) -> Cri:
    assert state.kubernetes.k3s is not None
    return state.kubernetes.k3s.cri()


# read at the tags 1.7.0, .13, .16, .20, .24, .27, 2.0.0, .5, 2.1.0, 2.3.0: in between the older one's is taken
CONTAINERD_READS: Reads = (
    ((1, 7), (0, 5, 0)),
    ((1, 7, 13), (0, 6, 0)),
    ((1, 7, 16), (0, 7, 0)),
    ((1, 7, 27), (0, 8, 0)),
    ((2, 0, 5), (1, 0, 0)),
    ((2, 3), (1, 1, 0)),
)

ENGINES = (
    Engine(
        name="docker",
        program="docker",
        version=lambda state: state.docker.version,
        reads=(
            ((25, 0), (0, 6, 0)),
            ((26, 1), (0, 7, 0)),
            ((27, 4), (0, 8, 0)),
            ((28, 2), (1, 0, 0)),
            ((29, 2), (1, 1, 0)),
        ),
        loads_specs=docker_config.loads_specs,
        needs_spec=docker_config.needs_spec,
        told_to_systemd=docker_config.told_to_systemd,
        hold_back=docker_config.hold_back,
        component=Component.DOCKER,
        unit=docker_config.RESTART[0],
        stops_containers=lambda context: context.state.docker.may_run_containers,
        trials=docker_config.trials,
    ),
    Engine(
        name="podman",
        program="podman",
        version=lambda state: state.podman.version,
        reads=(
            ((4, 1), (0, 4, 0)),
            ((4, 3), (0, 5, 0)),
            ((4, 7), (0, 6, 0)),
            ((5, 1), (0, 7, 0)),
            ((5, 2), (0, 8, 0)),
            ((5, 5), (1, 0, 0)),
        ),
        loads_specs=lambda context: True,
        needs_spec=podman.needs_spec,
        hold_back=podman.hold_back,
        component=Component.PODMAN,
        trials=podman.trials,
    ),
    Engine(
        name="containerd",
        program="containerd",
        version=lambda state: state.containerd.version,
        reads=CONTAINERD_READS,
        loads_specs=containerd_config.has_containerd,
        systemd_runtimes=containerd_config.systemd_runtimes,
        told_to_systemd=containerd_config.told_to_systemd,
        hold_back=containerd_config.hold_back,
        component=Component.CONTAINERD,
        unit=containerd_config.RESTART[0],
        cri=lambda state: state.containerd.cri(),
        serves=lambda state: not _embedded(state),
        trials=containerd_config.trials,
    ),
    Engine(  # the containerd that k3s or RKE2 brings; its template is changed by GRIT's rules alone
        name="k3s",
        program="containerd",
        version=_k3s_version,
        reads=CONTAINERD_READS,
        loads_specs=containerd_config.k3s_loads_specs,
        systemd_runtimes=containerd_config.k3s_systemd_runtimes,
        hold_back=containerd_config.hold_back,
        cri=_k3s_cri,
        serves=_embedded,
    ),
    Engine(
        name="crio",
        program="crio",
        version=lambda state: state.crio.version,
        reads=(
            ((1, 24), (0, 3, 0)),
            ((1, 25), (0, 5, 0)),
            ((1, 28), (0, 6, 0)),
            ((1, 30), (0, 7, 0)),
            ((1, 31), (0, 8, 0)),
            ((1, 33), (1, 0, 0)),
            ((1, 35), (1, 1, 0)),
        ),
        loads_specs=crio.loads_specs,
        systemd_runtimes=crio.systemd_runtimes,
        hold_back=crio.hold_back,
        component=Component.CRIO,
        unit=crio.RESTART[0],
    ),
)


def newest_readable(name: str, version: Version) -> Version | None:
    """The newest cdiVersion that this version of an engine loads; None where it has no CDI at all. Raises KeyError."""
    return {engine.name: engine for engine in ENGINES}[name].newest_readable(version)


def readers(context: Context) -> dict[str, Version]:
    """Engines on this host that load CDI specs, with the newest cdiVersion each can read. A Docker whose CDI nobody
    wants, a containerd that serves Docker alone, and a CRI-O that does not run are none of them. Raises Unread."""
    found = {}
    for engine in ENGINES:
        version = engine.version(context.state).get() if engine.loads_specs(context) else None
        readable = engine.newest_readable(version) if version else None
        if version and readable:
            found[f"{engine.program} {show(version)}"] = readable
    return found


def serving(state: HostState) -> Engine:
    """The containerd that serves pods here, or would."""
    return next(engine for engine in ENGINES if engine.serves(state))


def stopped_by_restart(context: Context, component: Component, service: tuple[str, str] | None) -> bool:
    """Whether a change of this component restarts an engine whose running containers stop then."""
    return any(
        engine.component is component and engine.stops_containers(context)
        for engine in ENGINES
        if service is not None and service[1] == "restart"
    )
