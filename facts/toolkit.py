"""The NVIDIA Container Toolkit: its programs, its config.toml, and the host's ldconfig that it calls."""

from __future__ import annotations

from gpumend.run.remote.fact import StateFact
from gpumend.state.host_state import HostState


class ToolkitVersion(StateFact[str]):
    """nvidia-ctk's version, `1.17.8`; None where the toolkit is not installed."""

    def read(self, state: HostState) -> str | None:
        version = state.toolkit.version.get()
        return ".".join(str(part) for part in version) if version else None


class LdconfigPath(StateFact[str]):
    """nvidia-container-cli.ldconfig of config.toml; None where it is not set."""

    def read(self, state: HostState) -> str | None:
        return state.toolkit.ldconfig()


class RuntimeMode(StateFact[str]):
    """nvidia-container-runtime.mode of config.toml: auto, cdi, legacy, csv or jit-cdi."""

    def read(self, state: HostState) -> str | None:
        return state.toolkit.mode()
