"""What a component does to put a finding right: one class a kind, with what that kind needs."""

from __future__ import annotations

from dataclasses import dataclass

from gpumend.text.edits import Edit


class Action:
    """A kind of change. The component's builder in gpumend/plan knows the kinds of its own component."""


@dataclass(frozen=True)
class SetValues(Action):
    """Values in files are set."""

    edits: tuple[Edit, ...]


@dataclass(frozen=True)
class TellDaemon(Action):
    """No file is changed: the daemon has not read what is there."""


@dataclass(frozen=True)
class RecoverRun(Action):
    """An interrupted run is put back. journal: the path of its journal."""

    journal: str


@dataclass(frozen=True)
class RemoveFiles(Action):
    """Files are moved into the run's backup."""

    paths: tuple[str, ...]


@dataclass(frozen=True)
class SetMode(Action):
    """A file has the mode with which it is written."""

    path: str


@dataclass(frozen=True)
class GenerateSpec(Action):
    """The CDI spec is written anew."""


@dataclass(frozen=True)
class RefreshLinkerCache(Action):
    """ldconfig has run."""


@dataclass(frozen=True)
class RunModprobe(Action):
    """nvidia-modprobe has made the device nodes."""


@dataclass(frozen=True)
class MakeControlNodes(Action):
    """nvidia-ctk has made the control device nodes."""


@dataclass(frozen=True)
class LinkCharDevices(Action):
    """The device nodes have their links in /dev/char, now and at every boot."""


@dataclass(frozen=True)
class InstallPackages(Action):
    """The toolkit's packages are there in one version. verb: `install` or `downgrade`; targets: names or `NAME=VERSION`;
    version: empty for the newest."""

    verb: str
    targets: tuple[str, ...]
    version: str


@dataclass(frozen=True)
class ActivateCompat(Action):
    """cuda-compat is installed and on the library path of those who need it."""


@dataclass(frozen=True)
class DeactivateCompat(Action):
    """cuda-compat that harms is on no library path."""


@dataclass(frozen=True)
class RemoveCompat(Action):
    """cuda-compat that the driver has outgrown is on no library path, and its package gone."""


@dataclass(frozen=True)
class ForgetCompat(Action):
    """What gpumend put on a library path and nobody asks for any more is gone."""


@dataclass(frozen=True)
class AddTemplateTable(Action):
    """k3s' template has GRIT's table."""


@dataclass(frozen=True)
class SetSpecDirectories(Action):
    """podman reads both directories of CDI specs."""


@dataclass(frozen=True)
class InnerStorage(Action):
    """The Docker in a container has storage that works."""

    container: str


@dataclass(frozen=True)
class FuseDevice(Action):
    """/dev/fuse is there, now and at every boot."""


@dataclass(frozen=True)
class ReleaseAllocation(Action):
    """A container that is not there holds no slot any more, once that was seen twice."""

    slot: str
    container: str


@dataclass(frozen=True)
class SetMetadataAside(Action):
    """A metadata file of a container that is not there is in the run's backup, once that was seen twice."""

    file: str
    container: str


@dataclass(frozen=True)
class RewriteRequests(Action):
    """Services of a compose project ask for their GPUs in another form. project: its name and directory."""

    project: tuple[str, str]
    form: str


@dataclass(frozen=True)
class RecreateServices(Action):
    """Services of a compose project run as their files say."""

    project: tuple[str, str]
    services: tuple[str, ...]
