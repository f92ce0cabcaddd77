"""What a component does to put a finding right: one class a kind, with what that kind needs.

A named tuple equals any tuple of the same values: `kind` keeps apart what has no other field, or the same ones.
"""

from __future__ import annotations

from typing import Union

from gpumend.text.edits import Edit
from gpumend.text.record import Record


class SetValues(Record):
    """Values in files are set."""

    edits: tuple[Edit, ...]
    kind: str = "SetValues"


class TellDaemon(Record):
    """No file is changed: the daemon has not read what is there."""

    kind: str = "TellDaemon"


class RecoverRun(Record):
    """An interrupted run is put back. journal: the path of its journal."""

    journal: str
    kind: str = "RecoverRun"


class RemoveFiles(Record):
    """Files are moved into the run's backup."""

    paths: tuple[str, ...]
    kind: str = "RemoveFiles"


class SetMode(Record):
    """A file has the mode with which it is written."""

    path: str
    kind: str = "SetMode"


class GenerateSpec(Record):
    """The CDI spec is written anew."""

    kind: str = "GenerateSpec"


class RefreshLinkerCache(Record):
    """ldconfig has run."""

    kind: str = "RefreshLinkerCache"


class RunModprobe(Record):
    """nvidia-modprobe has made the device nodes."""

    kind: str = "RunModprobe"


class MakeControlNodes(Record):
    """nvidia-ctk has made the control device nodes."""

    kind: str = "MakeControlNodes"


class LinkCharDevices(Record):
    """The device nodes have their links in /dev/char, now and at every boot."""

    kind: str = "LinkCharDevices"


class InstallPackages(Record):
    """The toolkit's packages are there in one version. verb: `install` or `downgrade`; targets: names or `NAME=VERSION`;
    version: empty for the newest. least: no version below this one is installed, nor one of `broken`."""

    verb: str
    targets: tuple[str, ...]
    version: str
    least: str = ""
    broken: tuple[str, ...] = ()
    kind: str = "InstallPackages"


class AddRepository(Record):
    """A wanted repository is among the host's, with its key. name: as in the desired state."""

    name: str
    kind: str = "AddRepository"


class InstallEngine(Record):
    """A container engine's packages are there, and it answers. proof: what is asked then."""

    targets: tuple[str, ...]
    proof: tuple[str, ...]
    kind: str = "InstallEngine"


class InstallDriver(Record):
    """A driver is installed, for the next boot. targets: packages; pinning: one that comes first; names: those that have to be
    there; files: paths of gpumend's own; units: that start at boot. upgrade: whether another driver becomes this one. manager: who
    installs them; stream: of NVIDIA's module that dnf takes them from; headers: of the running kernel, which come
    along. Of `a|b` in a name the first that there is is meant."""

    branch: int
    version: str = ""
    flavour: str = ""
    targets: tuple[str, ...] = ()
    pinning: str = ""
    names: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    hold: bool = False
    upgrade: bool = False
    manager: str = "apt"
    stream: str = ""
    headers: tuple[str, ...] = ()
    kind: str = "InstallDriver"


class InstallCuda(Record):
    """A CUDA toolkit is there. manager: of its packages, `targets`, or empty; runfile: (path, SHA-256), or nothing. hold: names
    that are held; path: its directory; default: whether /usr/local/cuda leads there; compiler: whether nvcc has to be there."""

    release: str
    path: str
    manager: str = ""
    verb: str = "install"
    targets: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    runfile: tuple[str, str] | None = None
    hold: tuple[str, ...] = ()
    default: bool = False
    compiler: bool = False
    kind: str = "InstallCuda"


class ActivateCompat(Record):
    """cuda-compat is installed and on the library path of those who need it."""

    kind: str = "ActivateCompat"


class DeactivateCompat(Record):
    """cuda-compat that harms is on no library path."""

    kind: str = "DeactivateCompat"


class RemoveCompat(Record):
    """cuda-compat that the driver has outgrown is on no library path, and its package gone."""

    kind: str = "RemoveCompat"


class ForgetCompat(Record):
    """What gpumend put on a library path and nobody asks for any more is gone."""

    kind: str = "ForgetCompat"


class AddTemplateTable(Record):
    """k3s' template has GRIT's table."""

    kind: str = "AddTemplateTable"


class SetSpecDirectories(Record):
    """podman reads both directories of CDI specs."""

    kind: str = "SetSpecDirectories"


class InnerStorage(Record):
    """The Docker in a container has storage that works."""

    container: str
    kind: str = "InnerStorage"


class FuseDevice(Record):
    """/dev/fuse is there, now and at every boot."""

    kind: str = "FuseDevice"


class ReleaseAllocation(Record):
    """A container that is not there holds no slot any more, once that was seen twice."""

    slot: str
    container: str
    kind: str = "ReleaseAllocation"


class SetMetadataAside(Record):
    """A metadata file of a container that is not there is in the run's backup, once that was seen twice."""

    file: str
    container: str
    kind: str = "SetMetadataAside"


class RewriteRequests(Record):
    """Services of a compose project ask for their GPUs in another form. project: its name and directory."""

    project: tuple[str, str]
    form: str
    kind: str = "RewriteRequests"


class RecreateServices(Record):
    """Services of a compose project run as their files say."""

    project: tuple[str, str]
    services: tuple[str, ...]
    kind: str = "RecreateServices"


# The component's builder in gpumend/plan knows the kinds of its own component.
Action = Union[
    SetValues,
    TellDaemon,
    RecoverRun,
    RemoveFiles,
    SetMode,
    GenerateSpec,
    RefreshLinkerCache,
    RunModprobe,
    MakeControlNodes,
    LinkCharDevices,
    InstallPackages,
    AddRepository,
    InstallEngine,
    InstallDriver,
    InstallCuda,
    ActivateCompat,
    DeactivateCompat,
    RemoveCompat,
    ForgetCompat,
    AddTemplateTable,
    SetSpecDirectories,
    InnerStorage,
    FuseDevice,
    ReleaseAllocation,
    SetMetadataAside,
    RewriteRequests,
    RecreateServices,
]
