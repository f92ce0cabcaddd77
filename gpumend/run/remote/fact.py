"""Single pyinfra facts over the one HostState: `pyinfra inventory.py fact facts.driver.DriverVersion`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from pyinfra.api.exceptions import FactProcessError
from pyinfra.api.facts import FactBase

from gpumend.run.remote.asking import host_state
from gpumend.run.remote.connection import RemoteError
from gpumend.state.reading import Unread
from gpumend.text.mask import mask, mask_all

if TYPE_CHECKING:
    from pyinfra.api.host import Host
    from pyinfra.api.state import State

    from gpumend.state.host_state import HostState

T = TypeVar("T")


class StateFact(FactBase[T | None], Generic[T]):
    """A fact that is one part of HostState.

    The host is probed once, however many facts are asked for (pyinfra has no fact cache of its own). A part that
    could not be read fails this host with the reason, and does not touch the others.
    """

    abstract = True
    _found: HostState | None = None
    _error = ""

    def check_preconditions(self, state: State, host: Host) -> None:
        """pyinfra's hook before `command`: it is given the host, which `process` is not."""
        try:
            self._found = host_state(host)
        except RemoteError as error:
            self._error = str(error)

    def command(self) -> str:
        return "echo"

    def process(self, output: list[str]) -> T | None:
        if self._found is None:
            raise FactProcessError(self._error)
        try:
            # what pyinfra prints of a fact is masked by nobody after this
            found: T | None = mask_all(self.read(self._found))
        except (Unread, ValueError) as error:  # ValueError: a file that its daemon would not take
            raise FactProcessError(mask(str(error))) from None
        return found

    def read(self, state: HostState) -> T | None:
        """The value as JSON can show it (masked before it is shown), or None where the host has none; raises Unread where
        nobody knows."""
        raise NotImplementedError
