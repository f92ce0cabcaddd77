"""A site's books of GPU allocations."""

from __future__ import annotations

from collections.abc import Generator

from pyinfra.api.command import FunctionCommand
from pyinfra.api.operation import operation

from gpumend.rules.finding import Component
from gpumend.run.remote.component import component


@operation()
def reconciled() -> Generator[FunctionCommand, None, None]:
    """No slot is held by a container that is not there, where `allocations.reconcile` is `release`: freed by the site's
    allocator, or in its state file under its lock, once that was seen twice, `grace` seconds apart.

    Nothing is freed while Docker's account of its containers is not whole, or a GPU does not answer.
    """
    yield from component(Component.ALLOCATIONS)
