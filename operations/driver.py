"""What the NVIDIA driver needs around it. The driver itself is never installed, removed or reloaded."""

from __future__ import annotations

from collections.abc import Generator

from pyinfra.api.command import FunctionCommand
from pyinfra.api.operation import operation

from gpumend.rules.finding import Component
from gpumend.run.remote.component import component


@operation()
def ready() -> Generator[FunctionCommand, None, None]:
    """The driver's libraries are in the dynamic linker's cache, and its control device nodes exist."""
    yield from component(Component.DRIVER)
