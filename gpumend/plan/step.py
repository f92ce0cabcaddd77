"""The kinds of step of which a transaction is made: each knows what a person is told of it, and what the host is sent."""

from __future__ import annotations

import base64
import json
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from gpumend.state.cdi import SpecFile
from gpumend.state.snapshot import FileContent
from gpumend.text.edits import EditError


def absolute(path: str) -> str:
    """The path. Raises EditError for a relative one: a program that runs as root would look for it where it happens to
    stand."""
    if not posixpath.isabs(path):
        raise EditError(f"{path!r} is not an absolute path")
    return path


class Step:
    """One thing done on a host. do: the kind's name, in reports and for the host."""

    do: ClassVar[str]

    @property
    def where(self) -> str:
        """The path that it changes, or an empty text."""
        return ""

    def describe(self) -> str:
        """What it does, in one line."""
        raise NotImplementedError

    def fields(self) -> dict[str, Any]:
        """What the host needs to do it, as JSON values by name."""
        raise NotImplementedError

    def as_data(self) -> dict[str, Any]:
        """The step as the program on the host takes it."""
        return {"do": self.do, **self.fields()}


@dataclass(frozen=True)
class FileStep(Step):
    """A step that changes one file. before: SHA-256 of the bytes from which the plan was made, None where there was no file;
    the host refuses the step when it finds others."""

    path: str
    before: str | None

    def __post_init__(self) -> None:
        absolute(self.path)

    @property
    def where(self) -> str:
        return self.path

    def fields(self) -> dict[str, Any]:
        return {"path": self.path, "before": self.before}


def seen(content: FileContent | SpecFile | None) -> str | None:
    """What a file step's `before` is where the plan saw this content."""
    return content.sha256 if content else None


@dataclass(frozen=True)
class WriteFile(FileStep):
    """The file has these bytes. was: those that it had, None where it was not there or was not read."""

    do = "write"
    data: bytes
    was: bytes | None = None

    @classmethod
    def over(cls, path: str, content: FileContent | None, data: bytes) -> WriteFile:
        """The step where the plan saw `content`."""
        return cls(path, seen(content), data, content.data if content else None)

    def describe(self) -> str:
        return f"{self.path} is written"

    def fields(self) -> dict[str, Any]:
        return {**super().fields(), "data": base64.b64encode(self.data).decode("ascii")}


@dataclass(frozen=True)
class EditFile(FileStep):
    """Places of a file get other texts: (start, end, text) in characters, from the first on; in a text U+E000 START,END U+E001
    stands for these characters of the file. The file itself stays on the host. was, now: its text as far as it is known here."""

    do = "edit"
    edits: tuple[tuple[int, int, str], ...]
    was: bytes = b""
    now: bytes = b""

    def describe(self) -> str:
        return f"{self.path} is edited"

    def fields(self) -> dict[str, Any]:
        return {**super().fields(), "edits": [list(edit) for edit in self.edits]}


@dataclass(frozen=True)
class GenerateFile(FileStep):
    """What a command prints becomes the file: a CDI spec. keeps: what people had added to the old one, as JSON (rules/cdi/additions.py);
    added: the same in words."""

    do = "generate"
    argv: tuple[str, ...]
    keeps: str = ""
    added: tuple[str, ...] = ()

    def describe(self) -> str:
        kept = f", and what was added by hand stays: {', '.join(self.added)}" if self.added else ""
        return f"{self.path} <- {' '.join(self.argv)}{kept}"

    def fields(self) -> dict[str, Any]:
        keeps = {"keeps": json.loads(self.keeps)} if self.keeps else {}
        return {**super().fields(), "argv": list(self.argv), **keeps}


@dataclass(frozen=True)
class TriggerFile(FileStep):
    """A command has something else write the file: a CDI spec."""

    do = "trigger"
    argv: tuple[str, ...]

    def describe(self) -> str:
        return f"{self.path} <- {' '.join(self.argv)}"

    def fields(self) -> dict[str, Any]:
        return {**super().fields(), "argv": list(self.argv)}


@dataclass(frozen=True)
class RemoveFile(FileStep):
    """The file is in the run's backup alone."""

    do = "remove"

    def describe(self) -> str:
        return f"{self.path} moved into the run's backup"


@dataclass(frozen=True)
class SetMode(FileStep):
    """The file has these permission bits."""

    do = "mode"
    mode: int = 0o644

    def describe(self) -> str:
        return f"{self.path} gets mode {self.mode:04o}"

    def fields(self) -> dict[str, Any]:
        return {**super().fields(), "mode": self.mode}


@dataclass(frozen=True)
class DropIn(Step):
    """A drop-in has a unit's `docker run` for a container with these options. Its bytes are made on the host, for they may
    hold what the unit holds."""

    do = "dropin"
    path: str
    unit: str
    container: str
    options: tuple[str, ...]

    def __post_init__(self) -> None:
        absolute(self.path)
        absolute(self.unit)

    @property
    def where(self) -> str:
        return self.path

    def describe(self) -> str:
        return f"{self.path}: the `docker run` of {self.unit} with {' '.join(self.options)}"

    def fields(self) -> dict[str, Any]:
        options = list(self.options)
        return {"path": self.path, "unit": self.unit, "container": self.container, "options": options}


@dataclass(frozen=True)
class DirectoryTrial(Step):
    """The directory is there, and an overlay was mounted in it for trial. mode: of one that is made."""

    do = "directory"
    path: str
    mode: int

    def __post_init__(self) -> None:
        absolute(self.path)

    @property
    def where(self) -> str:
        return self.path

    def describe(self) -> str:
        return f"{self.path} is made, and an overlay mounted in it for trial"

    def fields(self) -> dict[str, Any]:
        return {"path": self.path, "mode": self.mode}


@dataclass(frozen=True)
class FuseReady(Step):
    """/dev/fuse is there."""

    do = "fuse"

    def describe(self) -> str:
        return "/dev/fuse is made ready: modprobe fuse"

    def fields(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class RunCommand(Step):
    """A command has run, with exit status 0."""

    do = "run"
    argv: tuple[str, ...]

    def describe(self) -> str:
        return f"run {' '.join(self.argv)}"

    def fields(self) -> dict[str, Any]:
        return {"argv": list(self.argv)}


@dataclass(frozen=True)
class WrittenByPackage:
    """A file that a package's scripts write as they please, and that keeps its bytes. before: as a file step's."""

    path: str
    before: str | None

    def __post_init__(self) -> None:
        absolute(self.path)


@dataclass(frozen=True)
class PackageStep(Step):
    """A package manager has done this. verb: `install`, `downgrade` or `remove`; targets: `NAME` or `NAME=VERSION`.
    least, broken: versions that the toolkit's packages are not to come in."""

    do = "package"
    manager: str
    verb: str
    targets: tuple[str, ...]
    keeps: WrittenByPackage | None = None
    least: str = ""
    broken: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        return self.keeps.path if self.keeps else ""

    def describe(self) -> str:
        kept = " (its archive is kept in the run's backup first)" if self.verb == "remove" else ""
        return " ".join((self.manager, self.verb, *self.targets)) + kept

    def fields(self) -> dict[str, Any]:
        kept = {"path": self.keeps.path, "before": self.keeps.before} if self.keeps else {}
        limits = {"least": self.least, "broken": list(self.broken)} if self.least or self.broken else {}
        return {"manager": self.manager, "verb": self.verb, "targets": list(self.targets), **limits, **kept}


@dataclass(frozen=True)
class IndexDirectory(FileStep):
    """The file is an index of the packages in a directory, which has to be root's alone; each package stands in it with its
    SHA-256."""

    do = "index"
    directory: str

    def __post_init__(self) -> None:
        absolute(self.path)
        absolute(self.directory)

    def describe(self) -> str:
        return f"{self.path} <- the packages in {self.directory}"

    def fields(self) -> dict[str, Any]:
        return {**super().fields(), "directory": self.directory}


@dataclass(frozen=True)
class TryRepository(Step):
    """A repository answers, and what it answers is signed by this key: asked before any file of it is there. Then its files are,
    and the package manager has its lists. address: for people; source: the text of its source file; index: a directory whose
    index is made here, local: one that has to be root's alone; empty where there is none."""

    do = "repository"
    name: str
    manager: str
    address: str
    path: str
    source: str
    keyring: str
    key: bytes
    index: str = ""
    local: str = ""
    fingerprint: str = ""

    def __post_init__(self) -> None:
        for path in (self.path, self.keyring, *filter(None, (self.index, self.local))):
            absolute(path)

    def describe(self) -> str:
        return f"ask {self.address} by itself, with its key alone; then fetch its lists"

    def fields(self) -> dict[str, Any]:
        key = base64.b64encode(self.key).decode("ascii")
        names = ("name", "manager", "address", "source", "keyring", "index", "local", "fingerprint")
        return {**{name: getattr(self, name) for name in names}, "source_file": self.path, "key": key}


@dataclass(frozen=True)
class InstallRunfile(Step):
    """NVIDIA's runfile has installed its toolkit, and nothing else. sha256: of the file, before it is executed."""

    do = "runfile"
    file: str
    sha256: str
    path: str

    def __post_init__(self) -> None:
        absolute(self.file)
        absolute(self.path)

    def describe(self) -> str:
        return f"{self.file} (SHA-256 {self.sha256[:12]}...) --silent --toolkit --toolkitpath={self.path}"

    def fields(self) -> dict[str, Any]:
        return {"file": self.file, "sha256": self.sha256, "tree": self.path}


@dataclass(frozen=True)
class CudaDefault(Step):
    """/usr/local/cuda leads to this toolkit."""

    do = "cuda_default"
    path: str

    def __post_init__(self) -> None:
        absolute(self.path)

    def describe(self) -> str:
        return f"/usr/local/cuda leads to {self.path}"

    def fields(self) -> dict[str, Any]:
        return {"tree": self.path}


@dataclass(frozen=True)
class HoldPackages(Step):
    """apt leaves these packages as they are."""

    do = "hold"
    names: tuple[str, ...]

    def describe(self) -> str:
        return f"apt-mark hold {' '.join(self.names)}"

    def fields(self) -> dict[str, Any]:
        return {"names": list(self.names)}


@dataclass(frozen=True)
class CudaToolkitProof(Step):
    """A toolkit's packages or its tree are there, and say that they are of the release."""

    do = "cuda_toolkit"
    release: str
    path: str
    manager: str
    names: tuple[str, ...]
    compiler: bool
    default: bool

    def __post_init__(self) -> None:
        absolute(self.path)

    def describe(self) -> str:
        return f"prove it by what lies in {self.path}"

    def fields(self) -> dict[str, Any]:
        told = ("release", "manager", "compiler", "default")
        return {**{name: getattr(self, name) for name in told}, "tree": self.path, "names": list(self.names)}


@dataclass(frozen=True)
class ToolkitProof(Step):
    """The toolkit's packages and programs say that they are of one version; of this one, where it is not empty."""

    do = "toolkit"
    manager: str
    version: str

    def describe(self) -> str:
        return "prove it by what its packages and `nvidia-ctk --version` say"

    def fields(self) -> dict[str, Any]:
        return {"manager": self.manager, "version": self.version}


@dataclass(frozen=True)
class NoteCheck(Step):
    """The libcuda in a directory says in an ELF section that it is for the driver."""

    do = "note"
    directory: str
    section: str
    driver: str

    def __post_init__(self) -> None:
        absolute(self.directory)

    def describe(self) -> str:
        return f"check that the libcuda in {self.directory} is for driver {self.driver}"

    def fields(self) -> dict[str, Any]:
        return {"directory": self.directory, "section": self.section, "driver": self.driver}


@dataclass(frozen=True)
class CudaCheck(Step):
    """cuInit says that CUDA works. how: `plain`, with nothing on the library path; `with` the directory on it; as the whole
    `host` has it. version: the least that is served, as cuDriverGetVersion gives it."""

    do = "cuda"
    how: str = "plain"
    directory: str = ""
    version: int = 0

    def __post_init__(self) -> None:
        if self.directory:
            absolute(self.directory)

    def describe(self) -> str:
        return "prove it by cuInit, with and without it"

    def fields(self) -> dict[str, Any]:
        return {"how": self.how, "directory": self.directory, "version": self.version}


@dataclass(frozen=True)
class ReconcileAllocations(Step):
    """Allocations of containers that are not there are freed, and their metadata is in the run's backup, by the host's own
    looks: what it sees for the first time waits. spec: of a look; entries: (slot, container); orphans: metadata files."""

    do = "allocations"
    spec: Mapping[str, Any]
    entries: tuple[tuple[str, str], ...]
    orphans: tuple[str, ...]
    lock: str
    log: str
    allocator: tuple[str, ...]
    monitors: tuple[str, ...]
    grace: int
    max_release: int

    def __post_init__(self) -> None:
        for path in filter(None, (self.lock, self.log)):
            absolute(path)

    def describe(self) -> str:
        how = (
            f"by {' '.join(self.allocator)}" if self.allocator else f"in {self.spec['state']}, under its lock"
        )
        told = [f"release slot {slot} of {name} {how}" for slot, name in self.entries]
        return "; ".join([*told, *(f"set {name} aside" for name in self.orphans)])

    def fields(self) -> dict[str, Any]:
        return {
            "spec": dict(self.spec),
            "entries": [list(entry) for entry in self.entries],
            "orphans": list(self.orphans),
            "lock": self.lock,
            "log": self.log,
            "allocator": list(self.allocator),
            "monitors": list(self.monitors),
            "grace": self.grace,
            "max_release": self.max_release,
        }


@dataclass(frozen=True)
class ModuleStream(WriteFile):
    """dnf takes the driver from this stream of NVIDIA's module; nothing is written where no repository has that module."""

    do = "module_stream"
    stream: str = ""

    def describe(self) -> str:
        return f"dnf module enable nvidia-driver:{self.stream}, where repositories have that module ({self.path})"

    def fields(self) -> dict[str, Any]:
        return {**super().fields(), "stream": self.stream}


@dataclass(frozen=True)
class DriverPackages(PackageStep):
    """A driver's packages are there in one version of a branch, and nothing was removed. pinning: a package that comes first, by
    itself; version: exact, or empty; upgrade: whether the driver that is there becomes this one; in_use: `allow` where
    that may be while somebody has the GPU open. stream: whether a module stream is enabled before; headers: of the running
    kernel, which come along. Of `a|b` the first that there is is meant."""

    do = "driver"
    branch: int = 0
    version: str = ""
    pinning: str = ""
    upgrade: bool = False
    in_use: str = ""
    stream: bool = False
    headers: tuple[str, ...] = ()

    def describe(self) -> str:
        first = f"{self.manager} {self.verb} {self.pinning}; then " if self.pinning else ""
        return " ".join((first + super().describe(), *self.headers))

    def fields(self) -> dict[str, Any]:
        told = ("branch", "version", "pinning", "upgrade", "in_use", "stream")
        return {
            **super().fields(),
            **{name: getattr(self, name) for name in told},
            "headers": list(self.headers),
        }


@dataclass(frozen=True)
class RenewInitramfs(Step):
    """The initramfs of each kernel has been written anew. first: this stands before the files that it takes in, for when they
    go again."""

    do = "initramfs"
    first: bool = False

    def describe(self) -> str:
        return (
            "the initramfs is kept in step with what follows" if self.first else "update-initramfs -u -k all"
        )

    def fields(self) -> dict[str, Any]:
        return {"first": self.first}


@dataclass(frozen=True)
class EnableUnits(Step):
    """Units start at boot; none is started now."""

    do = "enable"
    units: tuple[str, ...]

    def describe(self) -> str:
        return f"systemctl enable {' '.join(self.units)}"

    def fields(self) -> dict[str, Any]:
        return {"units": list(self.units)}


@dataclass(frozen=True)
class HoldDriver(Step):
    """The manager leaves all of the driver's packages as they are."""

    do = "hold_driver"
    manager: str

    def describe(self) -> str:
        words = {"apt": "apt-mark hold", "dnf": "dnf versionlock add", "zypper": "zypper addlock"}
        return f"{words[self.manager]} each package of the driver"

    def fields(self) -> dict[str, Any]:
        return {"manager": self.manager}


@dataclass(frozen=True)
class DriverProof(Step):
    """The driver's packages are of one version, and the running kernel has its module, of this flavour."""

    do = "driver_proof"
    manager: str
    branch: int
    version: str
    names: tuple[str, ...]
    flavour: str

    def describe(self) -> str:
        who = "dpkg" if self.manager == "apt" else "rpm"
        return f"prove it by what {who} says, and modinfo of the module for the running kernel"

    def fields(self) -> dict[str, Any]:
        told = {name: getattr(self, name) for name in ("manager", "branch", "version", "flavour")}
        return {**told, "names": list(self.names)}
