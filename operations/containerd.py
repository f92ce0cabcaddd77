"""containerd on a host."""

from __future__ import annotations

from collections.abc import Generator

from pyinfra.api.command import FunctionCommand
from pyinfra.api.operation import operation

from gpumend.rules.finding import Component
from gpumend.run.remote.component import component


@operation()
def config() -> Generator[FunctionCommand, None, None]:
    """The running containerd has the runtimes, the cgroup driver and the CDI settings that are wanted, in the files that
    it reads; every other byte of them is as it was.

    The whole new configuration goes through `containerd config dump` before it replaces anything. Restarted at most once,
    only where its own files changed, and only where a restart keeps every shim: the same processes run afterwards.
    """
    yield from component(Component.CONTAINERD)
