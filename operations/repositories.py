"""Repositories of packages on a host."""

from __future__ import annotations

from collections.abc import Generator

from pyinfra.api.command import FunctionCommand
from pyinfra.api.operation import operation

from gpumend.rules.finding import Component
from gpumend.run.remote.component import component


@operation()
def trusted() -> Generator[FunctionCommand, None, None]:
    """The repositories that the desired state names are the host's, each with the key of the wanted fingerprint and no other.

    Each is asked by itself first, with its key alone: what does not answer, or is signed by another, is never added.
    """
    yield from component(Component.REPOSITORIES)
