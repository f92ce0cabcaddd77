"""What the GPUs are, by NVML, where the program runs on the host itself: the same answer as nvidia-smi -q gives, less
the memory.

Hosts that are reached over SSH need no Python package: there nvidia-smi is asked (gpumend/state/gpu.py).
"""

from __future__ import annotations

import os
from typing import Any

from gpumend.state.gpu import NODES, Detail, Details
from gpumend.state.reading import Reading
from gpumend.text.version import parse_version

# nvmlBrandType_t (nvidia-ml-py 13.615.71), as nvidia-smi -q writes them; gpumend/rules/data/compat_branches.json has the sources.
BRANDS = {
    0: "Unknown", 1: "Quadro", 2: "Tesla", 3: "NVS", 4: "Grid", 5: "GeForce", 6: "Titan", 7: "NVIDIA Virtual Applications",
    8: "NVIDIA Virtual PC", 9: "NVIDIA Virtual Compute Server", 10: "NVIDIA RTX Virtual Workstation",
    11: "NVIDIA Cloud Gaming", 12: "Quadro RTX", 13: "NVIDIA RTX", 14: "NVIDIA", 15: "GeForce RTX", 16: "Titan RTX",
}  # fmt: skip
# nvmlDeviceArchitecture_t
ARCHITECTURES = {
    2: "Kepler", 3: "Maxwell", 4: "Pascal", 5: "Volta", 6: "Turing", 7: "Ampere", 8: "Ada Lovelace", 9: "Hopper",
    10: "Blackwell", 13: "Rubin",
}  # fmt: skip


def _text(raw: Any) -> str:
    return raw.decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw)


def _asked(nvml: Any, name: str, handle: Any) -> Any:
    """An answer about one GPU; None where this GPU or this driver does not know the question."""
    try:
        return getattr(nvml, name)(handle)
    except nvml.NVMLError as error:
        if error.value in (nvml.NVML_ERROR_NOT_SUPPORTED, nvml.NVML_ERROR_FUNCTION_NOT_FOUND):
            return None
        raise


def _detail(nvml: Any, index: int) -> Detail:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    mig = _asked(nvml, "nvmlDeviceGetMigMode", handle)
    return Detail(
        name=_text(nvml.nvmlDeviceGetName(handle)),
        brand=BRANDS.get(_asked(nvml, "nvmlDeviceGetBrand", handle), ""),
        architecture=ARCHITECTURES.get(_asked(nvml, "nvmlDeviceGetArchitecture", handle), ""),
        mig=None if mig is None else bool(mig[0]),
        mig_pending=None if mig is None else bool(mig[1]),
    )


def read(nvml: Any = None) -> Reading[Details]:
    """Every GPU's brand, architecture and MIG mode, and the driver's version. `nvml` is the pynvml module.

    Absent where the library or the device nodes are not there: NVML, like nvidia-smi, would otherwise make the nodes.
    """
    if nvml is None:
        if missing := [path for path in NODES if not os.path.exists(path)]:  # noqa: PTH110
            return Reading.none("NVML", f"no {missing[0]}")
        import pynvml as nvml  # type: ignore[import-untyped,no-redef]
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        text = str(error)
        if error.value in (nvml.NVML_ERROR_LIBRARY_NOT_FOUND, nvml.NVML_ERROR_DRIVER_NOT_LOADED):
            return Reading.none("NVML", text)
        return Reading.fail("NVML", text)
    try:
        cuda = nvml.nvmlSystemGetCudaDriverVersion_v2()
        return Reading.of(
            Details(
                tuple(_detail(nvml, index) for index in range(nvml.nvmlDeviceGetCount())),
                parse_version(_text(nvml.nvmlSystemGetDriverVersion())),
                (cuda // 1000, cuda % 1000 // 10),
            ),
            "NVML",
        )
    except (nvml.NVMLError, ValueError) as error:
        return Reading.fail("NVML", str(error))
    finally:
        nvml.nvmlShutdown()
