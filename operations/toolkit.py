"""The NVIDIA Container Toolkit on a host."""

from __future__ import annotations

from collections.abc import Generator

from pyinfra.api.command import FunctionCommand
from pyinfra.api.operation import operation

from gpumend.rules.finding import Component
from gpumend.run.remote.component import component


@operation()
def runtime_config() -> Generator[FunctionCommand, None, None]:
    """config.toml has this host's ldconfig and the wanted mode; every other byte of it is as it was.

    Read at every container start, so nothing is restarted (container-toolkit api/config/v1).
    """
    yield from component(Component.TOOLKIT)


@operation()
def apt_sources() -> Generator[FunctionCommand, None, None]:
    """One APT source file names NVIDIA's repository; superseded ones lie in the run's backup (libnvidia-container#194)."""
    yield from component(Component.APT)
