"""podman on a host."""

from __future__ import annotations

from collections.abc import Generator

from pyinfra.api.command import FunctionCommand
from pyinfra.api.operation import operation

from gpumend.rules.finding import Component
from gpumend.run.remote.component import component


@operation()
def spec_directories() -> Generator[FunctionCommand, None, None]:
    """podman finds CDI specs in both directories. It reads its configuration at every start: nothing is restarted."""
    yield from component(Component.PODMAN)
