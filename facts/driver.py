"""The NVIDIA driver: as loaded module, as user-space libraries, as packages. Kept apart, never merged."""

from __future__ import annotations

from gpumend.run.remote.fact import StateFact
from gpumend.state.host_state import HostState
from gpumend.text.version import show


class DriverVersion(StateFact[str]):
    """The loaded driver's version, `550.163.01`; None where no NVIDIA module is loaded."""

    def read(self, state: HostState) -> str | None:
        version = state.driver.loaded.get()
        return show(version) if version else None
