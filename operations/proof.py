"""The proof in a container, where the wanted state names an image for it."""

from __future__ import annotations

from collections.abc import Generator

from pyinfra.api.command import FunctionCommand
from pyinfra.api.operation import operation

from gpumend.run.remote import proof


@operation()
def containers() -> Generator[FunctionCommand, None, None]:
    """After a change, a container on each wanted engine path calls cuInit and gets 0; else the whole run is undone."""
    yield from proof.containers()
