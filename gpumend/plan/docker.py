"""dockerd's daemon.json."""

from __future__ import annotations

from gpumend.plan.changes import edited, edits_of
from gpumend.plan.transaction import Proof, Transaction
from gpumend.rules.engines import docker_config as docker
from gpumend.rules.finding import Change, Component
from gpumend.rules.rule import Context
from gpumend.rules.storage.restarts import by_hand, restart_gate


def validator(context: Context) -> tuple[str, ...]:
    """dockerd's own check of a daemon.json, where it has one."""
    able = (context.state.docker.version.value or (0,)) >= docker.VALIDATE_SINCE
    return ("dockerd", "--validate", "--config-file", "{staged}") if able else ()


def build(context: Context, codes: tuple[str, ...], changes: list[Change]) -> Transaction:
    state = context.state.docker
    content, edits = state.content.get(), edits_of(changes)
    steps = edited(state.config_path, content, edits) if edits else ()
    services = [change.service for change in changes if change.service]
    service = docker.RESTART if docker.RESTART in services else docker.RELOAD
    proofs = []
    if "runtime" in docker.wanted_paths(context) and "GM403" in codes:
        proofs.append(Proof(("Runtimes", "nvidia"), needs="reload"))
    if "GM404" in codes or "GM405" in codes:
        proofs.append(Proof(("CDISpecDirs",), needs="restart"))
    return Transaction(
        Component.DOCKER,
        codes,
        steps,
        service=service,
        gate=restart_gate(context) if service == docker.RESTART else by_hand(context, "reload"),
        validate=validator(context) if steps else (),
        proofs=tuple(proofs),
    )
