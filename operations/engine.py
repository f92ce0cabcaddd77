"""The container engine of a host."""

from __future__ import annotations

from collections.abc import Generator

from pyinfra.api.command import FunctionCommand
from pyinfra.api.operation import operation

from gpumend.rules.finding import Component
from gpumend.run.remote.component import component


@operation()
def installed() -> Generator[FunctionCommand, None, None]:
    """An engine of the wanted kind (`engine`) is there and answers; one that was there is as it was."""
    yield from component(Component.ENGINE)
