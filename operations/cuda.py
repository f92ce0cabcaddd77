"""CUDA on a host. The driver itself is never installed, removed or upgraded."""

from __future__ import annotations

from collections.abc import Generator

from pyinfra.api.command import FunctionCommand
from pyinfra.api.operation import operation

from gpumend.rules.finding import Component
from gpumend.run.remote.component import component


@operation()
def toolkit() -> Generator[FunctionCommand, None, None]:
    """The toolkit that `cuda_toolkit` names is there, by packages or by NVIDIA's runfile, and where that is wanted held and the
    host's default. No package of the driver comes along, and nothing is removed."""
    yield from component(Component.CUDA_TOOLKIT)


@operation()
def compat() -> Generator[FunctionCommand, None, None]:
    """Who is to run a newer CUDA than the driver brings has cuda-compat first on its library path, and nobody has one
    that the driver has outgrown.

    The package comes by apt or dnf, and only if that touches no driver package and removes nothing. Proven by cuInit
    with and without it. Nothing is restarted: a service gets it when it is next started.
    """
    yield from component(Component.CUDA)
