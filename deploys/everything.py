"""Every concern of a GPU host, for the deploys that are about all of them."""

from operations import (
    allocations,
    cdi,
    compose,
    containerd,
    crio,
    cuda,
    docker,
    driver,
    engine,
    grit,
    packages,
    podman,
    proof,
    repositories,
    runs,
    storage,
    toolkit,
)


def in_order() -> None:
    """The host of this context is as wanted. All operations are registered where a host needs one: what one puts right may
    call for a later one. The order is the one in which each can rely on the one before: the toolkit's programs before
    what calls them, a spec before the mode that needs it, both before Docker is told.

    One that fails does not end the others' turn: what builds on it waits by itself (gpumend/plan/needs.py), and the report
    has the exit status."""
    runs.recovered(_ignore_errors=True)
    toolkit.apt_sources(_ignore_errors=True)
    repositories.trusted(_ignore_errors=True)
    driver.installed(_ignore_errors=True)
    engine.installed(_ignore_errors=True)
    packages.toolkit_installed(_ignore_errors=True)
    driver.ready(_ignore_errors=True)
    cuda.toolkit(_ignore_errors=True)
    cuda.compat(_ignore_errors=True)
    cdi.spec_current(_ignore_errors=True)
    toolkit.runtime_config(_ignore_errors=True)
    grit.config(_ignore_errors=True)
    containerd.config(_ignore_errors=True)
    crio.config(_ignore_errors=True)
    podman.spec_directories(_ignore_errors=True)
    docker.daemon_config(_ignore_errors=True)
    storage.docker_root(_ignore_errors=True)
    storage.dind(_ignore_errors=True)
    allocations.reconciled(_ignore_errors=True)
    compose.requests(_ignore_errors=True)
    proof.containers(_ignore_errors=True)
