"""What will change the driver under the host: installed kernels, pending reboots, automatic upgrades."""

from __future__ import annotations

from typing import Any

from gpumend.run.remote.fact import StateFact
from gpumend.state.host_state import HostState


class RebootPending(StateFact[dict[str, Any]]):
    """Whether the distribution waits for a reboot, and the packages that ask for it."""

    def read(self, state: HostState) -> dict[str, Any] | None:
        return {
            "pending": state.drift.reboot.need(),
            "packages": list(state.drift.reboot_packages.get() or ()),
        }
