"""CUDA on a host: toolkits, what libraries were built for, forward compatibility, CUPTI, what images name."""

from __future__ import annotations

from gpumend.run.remote.fact import StateFact
from gpumend.state.host_state import HostState
from gpumend.text.version import show


class CudaPackages(StateFact[list[dict[str, object]]]):
    """Packages that say something about CUDA: name, version, role, and the CUDA they are of or were built for."""

    def read(self, state: HostState) -> list[dict[str, object]] | None:
        return [
            {
                "name": found.name,
                "version": found.version,
                "role": found.role,
                "cuda": ".".join(map(str, found.cuda)) if found.cuda else None,
            }
            for found in state.cuda.packages.get() or ()
        ]


class CudaToolkits(StateFact[list[dict[str, object]]]):
    """Toolkit directories: path, version and what told it, how it was installed, whether /usr/local/cuda leads there."""

    def read(self, state: HostState) -> list[dict[str, object]] | None:
        return [
            {
                "path": tree.path,
                "version": ".".join(map(str, tree.version)) if tree.version else None,
                "version_source": tree.version_source,
                "version_json": tree.version_json,
                "nvcc": tree.nvcc,
                "how": tree.how,
                "active": tree.path == state.cuda.active.value,
                "cupti": next(
                    (
                        found.state(tree.version[0] if tree.version else None)
                        for found in state.cuda.cupti
                        if found.tree == tree.path
                    ),
                    "absent",
                ),
            }
            for tree in state.cuda.trees
        ]


class CudaCompat(StateFact[list[dict[str, object]]]):
    """Compat directories: the library's version, its CUDA, what its ELF note says, and who has it on the library path."""

    def read(self, state: HostState) -> list[dict[str, object]] | None:
        return [
            {
                "directory": compat.directory,
                "version": show(compat.driver),
                "cuda": ".".join(map(str, compat.cuda)) if compat.cuda else None,
                "package": compat.package,
                "driver_branches": list(compat.note.value.branches) if compat.note.value else None,
                "active_for": [
                    {"scope": found.scope, "unit": found.unit, "source": found.source}
                    for found in state.cuda.activations
                    if found.directory == compat.directory
                ],
            }
            for compat in state.cuda.compats
        ]
