"""Compose projects on a host."""

from __future__ import annotations

from collections.abc import Generator

from pyinfra.api.command import FunctionCommand
from pyinfra.api.operation import operation

from gpumend.rules.finding import Component
from gpumend.run.remote.component import component


@operation()
def requests() -> Generator[FunctionCommand, None, None]:
    """The services of compose projects ask for their GPUs in the wanted form, for the same GPUs; every other byte of their files is
    as it was. Containers are made anew only with compose.recreate = "allow"."""
    yield from component(Component.COMPOSE)
