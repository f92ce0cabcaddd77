"""The one table of the kinds of step on a host: stdlib only, Python 3.6 or newer."""

from typing import Any, Dict, List, Type

from gpumend.payload.change.allocation_steps import ReconcileAllocations
from gpumend.payload.change.cuda_steps import CudaDefault, CudaToolkitProof, HoldPackages, InstallRunfile
from gpumend.payload.change.driver_steps import (
    DriverPackages,
    DriverProof,
    EnableUnits,
    HoldDriver,
    ModuleStream,
    RenewInitramfs,
)
from gpumend.payload.change.file_steps import (
    EditFile,
    GenerateFile,
    RemoveFile,
    SetMode,
    TriggerFile,
    WriteFile,
)
from gpumend.payload.change.files import Refused
from gpumend.payload.change.package_steps import CudaCheck, NoteCheck, PackageStep, ToolkitProof
from gpumend.payload.change.repository_steps import IndexDirectory, TryRepository
from gpumend.payload.change.step import RunCommand, Step
from gpumend.payload.change.storage_steps import DirectoryTrial, DropIn, FuseReady

ALL_KINDS: List[Type[Step]] = [
    WriteFile,
    EditFile,
    GenerateFile,
    TriggerFile,
    RemoveFile,
    SetMode,
    DropIn,
    DirectoryTrial,
    FuseReady,
    RunCommand,
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
    ReconcileAllocations,
]
KINDS: Dict[str, Type[Step]] = {kind.kind: kind for kind in ALL_KINDS}


def step_kind(entry: Dict[str, Any]) -> Type[Step]:
    """The kind of a transaction's or a journal's step. Raises Refused where it is none."""
    kind = KINDS.get(entry["do"])
    if kind is None:
        raise Refused("no step is called %r here" % entry["do"])
    return kind
