"""The NVIDIA Container Toolkit's packages on a host. Drivers are never installed, removed or upgraded."""

from __future__ import annotations

from collections.abc import Generator

from pyinfra.api.command import FunctionCommand
from pyinfra.api.operation import operation

from gpumend.rules.finding import Component
from gpumend.run.remote.component import component


@operation()
def toolkit_installed() -> Generator[FunctionCommand, None, None]:
    """The toolkit's packages are there in one version, the wanted one where one is named (`toolkit.version`).

    Only where `toolkit.install` is wanted, from the repositories that the host has, and only if that touches no driver
    package and removes nothing. Proven by what its programs answer; config.toml keeps its bytes.
    """
    yield from component(Component.PACKAGES)
