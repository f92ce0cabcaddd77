"""GRIT on a host."""

from __future__ import annotations

from collections.abc import Generator

from pyinfra.api.command import FunctionCommand
from pyinfra.api.operation import operation

from gpumend.rules.finding import Component
from gpumend.run.remote.component import component


@operation()
def config() -> Generator[FunctionCommand, None, None]:
    """grit.toml names a runtime that injects the GPU, and the node's cgroup driver; every other byte of it is as it was.

    Read at every container start, so nothing is restarted (kaito-project/grit readRuntimeOptions).
    """
    yield from component(Component.GRIT)
