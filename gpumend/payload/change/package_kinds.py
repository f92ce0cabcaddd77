"""The kinds of step that change packages, repositories, drivers and CUDA: stdlib only, Python 3.6 or newer."""

from typing import List, Type

from gpumend.payload.change.cuda_steps import CudaDefault, CudaToolkitProof, HoldPackages, InstallRunfile
from gpumend.payload.change.driver_steps import (
    DriverPackages,
    DriverProof,
    EnableUnits,
    HoldDriver,
    ModuleStream,
    RenewInitramfs,
)
from gpumend.payload.change.package_steps import CudaCheck, NoteCheck, PackageStep, ToolkitProof
from gpumend.payload.change.repository_steps import IndexDirectory, TryRepository
from gpumend.payload.change.step import Step


def package_kinds() -> List[Type[Step]]:
    return [
        IndexDirectory,
        TryRepository,
        PackageStep,
        ModuleStream,
        DriverPackages,
        RenewInitramfs,
        EnableUnits,
        HoldDriver,
        DriverProof,
        InstallRunfile,
        HoldPackages,
        CudaDefault,
        CudaToolkitProof,
        ToolkitProof,
        NoteCheck,
        CudaCheck,
    ]
