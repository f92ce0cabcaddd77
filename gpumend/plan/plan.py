"""From findings to transactions: what exactly is done on a host, one transaction a component.

Audit shows a plan and mend sends it: they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gpumend.plan import (
    allocations,
    apt,
    cdi,
    compose,
    containerd,
    crio,
    cuda,
    cuda_toolkit,
    docker,
    driver,
    driver_packages,
    engine,
    grit,
    packages,
    podman,
    recover,
    repositories,
    storage,
    toolkit,
)
from gpumend.plan.step import PackageStep
from gpumend.plan.transaction import Plan, Transaction
from gpumend.rules.finding import Change, Component, Finding
from gpumend.rules.rule import Context
from gpumend.state.reading import Unread
from gpumend.text.edits import EditError

# A component's changes become its one transaction. Raises EditError or Unread where they cannot.
Builder = Callable[[Context, tuple[str, ...], list[Change]], Transaction]
BUILDERS: Mapping[Component, Builder] = {
    Component.RECOVER: recover.build,
    Component.APT: apt.build,
    Component.REPOSITORIES: repositories.build,
    Component.DRIVER_PACKAGES: driver_packages.build,
    Component.ENGINE: engine.build,
    Component.PACKAGES: packages.build,
    Component.DRIVER: driver.build,
    Component.CUDA_TOOLKIT: cuda_toolkit.build,
    Component.CUDA: cuda.build,
    Component.CDI: cdi.build,
    Component.TOOLKIT: toolkit.build,
    Component.GRIT: grit.build,
    Component.CONTAINERD: containerd.build,
    Component.CRIO: crio.build,
    Component.PODMAN: podman.build,
    Component.DOCKER: docker.build,
    Component.DOCKER_STORAGE: storage.build_outer,
    Component.STORAGE: storage.build_inner,
    Component.ALLOCATIONS: allocations.build,
    Component.COMPOSE: compose.build,
}


def plan(context: Context, findings: tuple[Finding, ...]) -> Plan:
    """The transactions that put the findings' changes into effect. Pure; raises nothing."""
    transactions, blocked = [], {}
    # An interrupted run is put back first, by itself: what the others would change is known only after it.
    recovers = any(f.change and f.change.component is Component.RECOVER for f in findings)
    for component in Component:
        mine = [finding for finding in findings if finding.change and finding.change.component is component]
        if not mine or (recovers and component is not Component.RECOVER):
            continue
        changes = [finding.change for finding in mine if finding.change]
        codes = tuple(dict.fromkeys(finding.code for finding in mine))
        try:
            made = BUILDERS[component](context, codes, changes)
            if why := futile(context, made):
                blocked[component] = why
            else:
                transactions.append(made)
        except (EditError, Unread) as error:
            blocked[component] = str(error)
    return Plan(tuple(transactions), blocked)


def futile(context: Context, made: Transaction) -> str:
    """Why it is known before that the host will refuse a transaction; an empty text where it is not."""
    others = " ".join(context.state.packages.unfinished())
    if others and any(isinstance(step, PackageStep) and step.manager == "apt" for step in made.steps):
        return (
            f"apt would finish {others} as well, which is not ours (GM008): `dpkg --configure {others}` first"
        )
    return ""
