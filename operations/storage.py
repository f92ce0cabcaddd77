"""Storage of Docker, and of the Dockers inside of containers."""

from __future__ import annotations

from collections.abc import Generator

from pyinfra.api.command import FunctionCommand
from pyinfra.api.operation import operation

from gpumend.rules.finding import Component
from gpumend.run.remote.component import component


@operation()
def dind() -> Generator[FunctionCommand, None, None]:
    """Each Docker inside a container that is named in `dind.containers` has storage that works: a directory of its own on
    ext4 or xfs, fuse-overlayfs with its device, or vfs. The host's own Docker is not touched.

    Its unit is restarted only as `restarts` allows.
    """
    yield from component(Component.STORAGE)


@operation()
def docker_root() -> Generator[FunctionCommand, None, None]:
    """The host's own Docker has the wanted storage driver and root, proven by its own word; else everything is as before.

    Refused while that would hide images, containers or another driver's data, unless `allow_storage_switch` is set.
    Nothing is deleted.
    """
    yield from component(Component.DOCKER_STORAGE)
