"""Docker on a host."""

from __future__ import annotations

from collections.abc import Generator

from pyinfra.api.command import FunctionCommand
from pyinfra.api.operation import operation

from gpumend.rules.finding import Component
from gpumend.run.remote.component import component


@operation()
def daemon_config() -> Generator[FunctionCommand, None, None]:
    """daemon.json has the nvidia runtime and CDI as wanted, and the running dockerd has taken them on; every other
    byte of the file is as it was.

    Reloaded where that suffices; restarted at most once, and only as `restarts` allows.
    """
    yield from component(Component.DOCKER)
