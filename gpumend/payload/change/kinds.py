"""The one table of the kinds of step on a host: stdlib only, Python 3.6 or newer."""

from typing import Any, Dict, List, Type

from gpumend.payload.change.allocation_steps import allocation_kinds
from gpumend.payload.change.file_steps import (
    EditFile,
    GenerateFile,
    RemoveFile,
    SetMode,
    TriggerFile,
    WriteFile,
)
from gpumend.payload.change.files import Refused
from gpumend.payload.change.package_kinds import package_kinds
from gpumend.payload.change.step import RunCommand, Step
from gpumend.payload.change.storage_steps import DirectoryTrial, DropIn, FuseReady

FILE_KINDS: List[Type[Step]] = [
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
]
KINDS: Dict[str, Type[Step]] = {kind.kind: kind for kind in FILE_KINDS}


def step_kind(entry: Dict[str, Any]) -> Type[Step]:
    """The kind of a transaction's or a journal's step. Raises Refused where it is none. Those of packages and of allocations are
    only then compiled (gpumend/payload/source.py) when it is none of the others."""
    for more in (package_kinds, allocation_kinds):
        if entry["do"] not in KINDS:
            KINDS.update((kind.kind, kind) for kind in more())
    kind = KINDS.get(entry["do"])
    if kind is None:
        raise Refused("no step is called %r here" % entry["do"])
    return kind
