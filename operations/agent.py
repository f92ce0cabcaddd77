"""The agent on a host: it judges itself, by a timer."""

from __future__ import annotations

from collections.abc import Generator

from pyinfra.api.command import FunctionCommand
from pyinfra.api.operation import operation

from gpumend.run.remote import agent


@operation()
def installed(program: bytes, config: str) -> Generator[FunctionCommand, None, None]:
    """The agent is on the host, with this configuration, and its timer runs; another version's is replaced. Raises nothing:
    what could not be done is said, and fails this host alone."""
    yield from agent.installed(program, config)


@operation()
def uninstalled() -> Generator[FunctionCommand, None, None]:
    """No file of the agent is on the host, and nothing of it runs."""
    yield from agent.gone()
