"""CDI specs on a host."""

from __future__ import annotations

from collections.abc import Generator

from pyinfra.api.command import FunctionCommand
from pyinfra.api.operation import operation

from gpumend.rules.finding import Component
from gpumend.run.remote.component import component


@operation()
def spec_current() -> Generator[FunctionCommand, None, None]:
    """One spec defines this host's GPUs as they are now, and every engine here can load it.

    Written by nvidia-cdi-refresh where that exists, else by `nvidia-ctk cdi generate` into /etc/cdi/nvidia.yaml.
    Engines watch the directories: nothing is restarted.
    """
    yield from component(Component.CDI)
