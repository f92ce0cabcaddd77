"""podman on a host."""

from __future__ import annotations

from collections.abc import Generator

from pyinfra.api.command import FunctionCommand
from pyinfra.api.operation import operation

from operations.component import component
from rules.finding import Component


@operation()
def spec_folders() -> Generator[FunctionCommand, None, None]:
    """podman finds CDI specs in both folders. It reads its configuration at every start: nothing is restarted."""
    yield from component(Component.PODMAN)
