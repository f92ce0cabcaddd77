"""The host itself: distribution, kernel, what kind of machine it is, SELinux."""

from __future__ import annotations

from gpumend.run.remote.fact import StateFact
from gpumend.state.host_state import HostState


class OsName(StateFact[str]):
    """The distribution's name, as os-release gives it: `Debian GNU/Linux 13 (trixie)`."""

    def read(self, state: HostState) -> str | None:
        return state.host.name.get()
