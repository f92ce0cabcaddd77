"""Every concern of a GPU host, for the deploys that are about all of them."""

from operations import (
    cdi,
    containerd,
    crio,
    cuda,
    docker,
    driver,
    grit,
    packages,
    podman,
    proof,
    runs,
    storage,
    toolkit,
)


def in_order() -> None:
    """The host of this context is as wanted. All operations are registered where a host needs one: what one puts right may
    call for a later one. The order is the one in which each can rely on the one before: the toolkit's programs before
    what calls them, a spec before the mode that needs it, both before Docker is told."""
    runs.recovered()
    toolkit.apt_sources()
    packages.toolkit_installed()
    driver.ready()
    cuda.compat()
    cdi.spec_current()
    toolkit.runtime_config()
    grit.config()
    containerd.config()
    crio.config()
    podman.spec_directories()
    docker.daemon_config()
    storage.docker_root()
    storage.dind()
    proof.containers()
