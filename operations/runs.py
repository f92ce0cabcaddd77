"""gpumend's own runs on a host."""

from __future__ import annotations

from collections.abc import Generator

from pyinfra.api.command import FunctionCommand
from pyinfra.api.operation import operation

from operations.component import component
from rules.finding import Component


@operation()
def recovered() -> Generator[FunctionCommand, None, None]:
    """No run is left half done: the files of an interrupted one are as they were before it."""
    yield from component(Component.RECOVER)
