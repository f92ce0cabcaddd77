"""The GPUs of a host: from nvidia-smi where it may be asked, else from /proc and PCI."""

from __future__ import annotations

from gpumend.run.remote.fact import StateFact
from gpumend.state.host_state import HostState


class GpuList(StateFact[list[dict[str, object]]]):
    """The host's GPUs as nvidia-smi lists them: index, name, uuid, mig."""

    def read(self, state: HostState) -> list[dict[str, object]] | None:
        listed = state.gpus.listed.get()
        if listed is None:
            return None
        return [{"index": g.index, "name": g.name, "uuid": g.uuid, "mig": list(g.mig)} for g in listed]
