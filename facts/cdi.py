"""CDI specs: the files in the spec directories, read as strictly as the engines read them."""

from __future__ import annotations

from gpumend.run.remote.fact import StateFact
from gpumend.state.host_state import HostState


class CdiDevices(StateFact[dict[str, str]]):
    """Every CDI device an engine with the default directories resolves, and the file that defines it."""

    def read(self, state: HostState) -> dict[str, str] | None:
        return {name: file.path for name, file in state.cdi.resolve().devices.items()}


class CdiSpecs(StateFact[list[dict[str, object]]]):
    """Every file in the spec directories: path, kind, version and devices, or why engines drop it."""

    def read(self, state: HostState) -> list[dict[str, object]] | None:
        return [
            {
                "path": file.path,
                "kind": file.spec.value.kind,
                "version": ".".join(map(str, file.spec.value.version)),
                "devices": list(file.spec.value.devices),
            }
            if file.spec.value is not None
            else {"path": file.path, "error": file.spec.detail}
            for file in state.cdi.files.need()
        ]
