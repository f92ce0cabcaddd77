"""CRI-O on a host."""

from __future__ import annotations

from collections.abc import Generator

from pyinfra.api.command import FunctionCommand
from pyinfra.api.operation import operation

from gpumend.rules.finding import Component
from gpumend.run.remote.component import component


@operation()
def config() -> Generator[FunctionCommand, None, None]:
    """The running CRI-O has the nvidia runtime, the default runtime and the spec directories that are wanted; every other byte
    of its files is as it was.

    The whole new configuration goes through `crio config` before it replaces anything. Restarted at most once, for a
    reload shows new runtimes and does not start pods with them; every conmon, and with it every container, runs on.
    """
    yield from component(Component.CRIO)
