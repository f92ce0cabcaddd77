"""The NVIDIA driver, where it is wanted, and what it needs around it. It is never removed, loaded or reloaded."""

from __future__ import annotations

from collections.abc import Generator

from pyinfra.api.command import FunctionCommand
from pyinfra.api.operation import operation

from gpumend.rules.finding import Component
from gpumend.run.remote.component import component


@operation()
def installed() -> Generator[FunctionCommand, None, None]:
    """The driver that `driver` names is installed for the next boot, where that is opted in to: packages, headers, nouveau off,
    modules and services at boot, held. Nothing is removed, and nothing reboots."""
    yield from component(Component.DRIVER_PACKAGES)


@operation()
def ready() -> Generator[FunctionCommand, None, None]:
    """The driver's libraries are in the dynamic linker's cache, and its control device nodes exist."""
    yield from component(Component.DRIVER)
