"""What is done on a host: a transaction a component, its steps, and what proves it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gpumend.plan.step import Step
from gpumend.rules.finding import Component, Risk


@dataclass(frozen=True)
class Proof:
    """What the host must show afterwards. path: keys into what `engine` says of itself: docker by `docker info`, crictl
    by `crictl info` of containerd, where there is a crictl to ask, crio by `crio status config`. A key or value that must
    be there.
    needs: whether it can only come true after a `reload` or a `restart`. value: what must stand there, where that matters.
    """

    path: tuple[str, ...]
    needs: str = ""
    value: str = ""
    engine: str = "docker"


@dataclass(frozen=True)
class InnerDaemon:
    """A Docker inside a container: the unit that starts it, and the drivers of which it must have one afterwards.
    by_hand: where no unit does, what starts it anew."""

    unit: str
    container: str
    drivers: tuple[str, ...]
    by_hand: str = ""


@dataclass(frozen=True)
class Transaction:
    """All of one component's change on one host. service: (unit, reload|restart); gate: why a restart would wait now.

    codes: the findings it puts right. validate: argv with `{staged}` for the staged file, judged by its exit status.
    tree: files of a directory that `validate` names `{tree}`: the configuration as it will be, whole. expect: regular
    expressions that the validator's output has to match then.
    inner: Dockers inside of containers whose units are restarted and proven. must_restart: where the restart has to wait,
    nothing is changed.
    settle: commands after which changed files count, run again when they are put back. package_wait: seconds that the
    package manager's lock is waited for.
    """

    component: Component
    codes: tuple[str, ...]
    steps: tuple[Step, ...] = ()
    service: tuple[str, str] | None = None
    gate: str = ""
    validate: tuple[str, ...] = ()
    proofs: tuple[Proof, ...] = ()
    journals: tuple[str, ...] = ()
    inner: tuple[InnerDaemon, ...] = ()
    must_restart: bool = False
    settle: tuple[tuple[str, ...], ...] = ()
    package_wait: int = 60
    tree: tuple[tuple[str, bytes], ...] = ()
    expect: tuple[str, ...] = ()

    @property
    def risk(self) -> Risk:
        return Risk(self.service[1]) if self.service else Risk.NONE


@dataclass(frozen=True)
class Plan:
    """Transactions in the order they run; blocked: components that cannot be planned, with the reason."""

    transactions: tuple[Transaction, ...] = ()
    blocked: Mapping[Component, str] = field(default_factory=dict)

    def get(self, component: Component) -> Transaction | None:
        return next((found for found in self.transactions if found.component is component), None)
