"""CUDA on a host: toolkits, what libraries were built for, forward compatibility, CUPTI, what images name.

Each is a fact of its own and they are never merged into one "CUDA version": a host may have toolkit 12.6, a TensorRT
built for 12.5, the distribution's nvcc 11.5 and a driver that serves 13.0, all at once (report 003).
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from gpumend.state import cupti, driver
from gpumend.state import packages as package_facts
from gpumend.state.cupti import Cupti
from gpumend.state.docker import whole
from gpumend.state.reading import Reading, Status
from gpumend.state.request import Command, Glob, Request
from gpumend.state.snapshot import FileContent, FileMeta, Snapshot
from gpumend.text.pattern import Pattern
from gpumend.text.record import Record
from gpumend.text.shared import shared
from gpumend.text.version import Version, parse_version

T = TypeVar("T")

ROOTS = ("/usr/local/cuda*", "/opt/cuda*")  # NVIDIA's packages and runfile; Arch and --toolkitpath
NOTE = ".note.cuda.fwd_compatibility"
NOTE_OWNER = b"NVIDIA Corporation"
LIBRARY_PATH = "LD_LIBRARY_PATH"
OURS = "gpumend-cuda-compat.conf"  # how the files that we write end
DROPIN_GLOB = f"/etc/systemd/system/*.service.d/*-{OURS}"

# Only assignments of LD_LIBRARY_PATH leave the host, and assignments of nothing, which clear it (systemd.exec(5)).
UNIT_LINES = (
    r"(?m)^[ \t]*(?:Default)?Environment[ \t]*=(?:[^\n]*\\\n){0,40}(?:[^\n]*?[\s\"'])??(LD_LIBRARY_PATH=[^\s\"'\\]*)"
    r"|^[ \t]*(Environment[ \t]*=)[ \t]*$"
)
LOGIN_LINES = r"(?m)^[ \t]*(?:export[ \t]+)?(LD_LIBRARY_PATH=[^\n#;]*)"
UNIT_DIRECTORIES = (
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
)
UNIT_GLOBS = tuple(
    f"{directory}/{name}"
    for directory in UNIT_DIRECTORIES
    for name in ("*.service", "*.service.d/*.conf", "service.d/*.conf")
)
MANAGER_GLOBS = ("/etc/systemd/system.conf", "/etc/systemd/system.conf.d/*.conf")
LOGIN_GLOBS = ("/etc/environment", "/etc/profile", "/etc/bash.bashrc", "/etc/profile.d/*.sh")
LINKER_GLOB = "/etc/ld.so.conf.d/*.conf"


def _below(*names: str, **options: Any) -> tuple[Glob, ...]:
    return tuple(Glob(f"{root}/{name}", **options) for root in ROOTS for name in names)


REQUEST = Request(
    files=("/etc/ld.so.conf",),
    globs=(
        *(Glob(root, read=False) for root in ROOTS),
        *_below("version.json", "version.txt"),
        *_below("bin/nvcc", "bin/cuda-uninstaller", "lib64/libcudart.so.*.*", read=False),
        *_below("compat/libcuda.so.*.*", "compat_orin/libcuda.so.*.*", read=False, section=NOTE),
        *_below(*cupti.HEADERS, *cupti.LIBRARIES, read=False),
        *cupti.GLOBS,
        Glob(LINKER_GLOB),
        Glob(DROPIN_GLOB),
        *(
            Glob(pattern, read=False, search=UNIT_LINES, holds="Environment")
            for pattern in (*UNIT_GLOBS, *MANAGER_GLOBS)
        ),
        *(Glob(pattern, read=False, search=LOGIN_LINES, holds="LD_LIBRARY_PATH") for pattern in LOGIN_GLOBS),
    ),
    programs=("nvcc",),
    commands={
        "nvcc": Command(("/usr/local/cuda/bin/nvcc", "--version"), timeout=10),
        "ldconfig": driver.REQUEST.commands["ldconfig"],
    },
)


# --- packages: the name tells, and where it does not, one tag of the version


class Package(Record):
    """An installed package that says something about CUDA.

    role: toolkit (of one CUDA release) | rolling_meta (floats to the newest) | library (of one release) | compat |
    built_for (a library beside CUDA: `cuda` is what it was built for, and may be a major alone) | distro_toolkit (the
    distribution's own) | distro_library | driver | none (says nothing: repositories, configuration, tools).
    """

    name: str
    version: str
    role: str
    cuda: Version | None = None


ANY = ("",)
DRIVERS = (
    "cuda-drivers", "nvidia-", "libnvidia-", "libcuda1", "libnvcuvid1", "libnvoptix1", "libxnvctrl", "linux-", "xserver-xorg-",
    "firmware-nvidia-", "kmod-", "akmod-", "dkms-", "xorg-x11-drv-", "libnvsdm",
)  # fmt: skip
# (role, how such a name begins, pattern). First match wins. Group 1 is the part that the name itself tells: `12-9`, `12`. A Pattern
# is compiled where a name begins like that: the driver's and a distribution's packages many hosts have not.
# Sources: reference strings of real hosts (tests/fixtures/cuda_package_strings.json) and NVIDIA's and Debian's package lists.
ROLES: tuple[tuple[str, tuple[str, ...], Pattern | re.Pattern[str]], ...] = (
    # cuda-repo-ubuntu2204-12-4-local, cudnn-local-repo-...: name a version, install none
    ("none", ANY, re.compile(r"(?s).*-(?:repo(?:-.*)?|keyring|config-common|driver-pinning(?:-.*)?)")),
    ("none", ("nvidia-", "libnvidia-"), Pattern(
        r"(?:lib)?nvidia-(?:container|docker|ctk|nsight|prime|l4t|jetpack|gds|fs|visual-profiler|profiler).*")),
    ("compat", ("cuda-compat",), re.compile(r"cuda-compat(?:-[a-z]+)*-(\d+-\d+)")),
    ("distro_toolkit", ("nvidia-cuda-",), Pattern(r"nvidia-cuda-(?:toolkit|dev)(?:-gcc)?")),
    ("none", ("nvidia-cuda-",), Pattern(r"nvidia-cuda-.*")),
    ("driver", DRIVERS, Pattern(
        r"cuda-drivers(?:-.*)?|nvidia-(?:driver|headless|dkms|kernel|open|utils|compute-utils|modprobe|persistenced|smi"
        r"|settings|firmware|fabricmanager|imex|tesla|legacy|alternative|gfx|vulkan|egl|opencl|libopencl1|detect|xconfig)(?:[-.\d].*)?"
        r"|nvidia-gfxG\d.*|nvidia-(?:compute|gl|video)-G\d.*|libnvidia-.*|libcuda1(?:-.*)?|libnvcuvid1|libnvoptix1|libxnvctrl.*"
        r"|linux-(?:modules|objects|signatures)-nvidia-.*|xserver-xorg-video-nvidia.*|firmware-nvidia-.*|(?:a?kmod|dkms)-nvidia.*"
        r"|xorg-x11-drv-nvidia.*|libnvsdm.*")),
    ("built_for", ANY, re.compile(r".*-cuda-?(\d+(?:-\d+)?)")),  # libcudnn9-cuda-12, cudnn9-cuda-12-6, libcutensor2-cuda-13
    ("rolling_meta", ("cuda",), re.compile(
        r"cuda(?:-(?:toolkit|runtime|libraries|libraries-dev(?:el)?|tools|compiler|minimal-build))?(?:-\d+)?")),
    ("toolkit", ("cuda-",), re.compile(r"cuda-(?:[a-z][a-z0-9+]*-)*(\d+-\d+)")),
    ("library", ("lib", "gds-tools"), re.compile(r"(?:lib(?:cu|npp|nv)[a-z0-9+]*|gds-tools)(?:-[a-z][a-z0-9+]*)*-(\d+-\d+)")),
    ("distro_library", ("libcu", "libnv", "libnpp", "libaccinj"), Pattern(
        r"lib(?:cudart|cublas|cublaslt|cufft|cufftw|curand|cusolver|cusolvermg|cusparse|cupti|nvrtc|nvblas|nvjpeg"
        r"|nppc?|npp[a-z]+|nvtoolsext|nvvm|accinj|cuinj|cudadevrt|nvrtc-builtins|nvjitlink|nvfatbin)(?:64-)?(?:[\d.]|-dev|-doc)+")),
)  # fmt: skip
BUILT_TAG = re.compile(
    r"[+.~_-]cuda(\d+)\.(\d+)"
)  # deb `-1+cuda12.2`, rpm cuDNN `-1.cuda12.2`, rpm NCCL `-1+cuda12.9`


@shared(4096, 200)
def classify(name: str, version: str) -> Package:
    """What a package says about CUDA. Total: any name and version give an answer, and `none` is one."""
    bare = name.partition(":")[0]  # dpkg's binary:Package may end in the architecture
    for role, beginnings, pattern in ROLES:
        match = pattern.fullmatch(bare) if bare.startswith(beginnings) else None
        if match is None:
            continue
        told = match.group(1) if match.re.groups else None
        if told:
            return Package(name, version, role, tuple(map(int, told.split("-"))))
        if role in ("distro_toolkit", "distro_library", "rolling_meta"):
            return Package(name, version, role, _two_parts(version, distribution=role.startswith("distro")))
        return Package(name, version, role)
    tag = BUILT_TAG.search(version)
    if tag:
        return Package(name, version, "built_for", (int(tag.group(1)), int(tag.group(2))))
    return Package(name, version, "none")


def _two_parts(version: str, distribution: bool) -> Version | None:
    """`13.1.1-1` -> 13.1. Debian writes the library's own number first and CUDA's after the tilde:
    `11.5.117~11.5.1-1ubuntu1`, and the SONAME in the name (libcudart11.0) is no release."""
    plain = re.sub(r"^\d+:", "", version)
    if distribution and (after := re.search(r"~(\d+\.\d.*)", plain)):  # not of ~deb12u1, ~bpo12+1
        plain = after.group(1)
    match = re.match(r"(\d+)\.(\d+)", plain)
    return (int(match.group(1)), int(match.group(2))) if match else None


# --- forward compatibility


class Note(Record):
    """What a compat libcuda says of itself in its ELF note: its CUDA, the driver branches that it runs on, and the
    devices (which look like NVML's brand ids)."""

    cuda: Version
    branches: tuple[int, ...]
    devices: tuple[int, ...]


class Compat(Record):
    """A directory with a compat libcuda. driver: the version of the library, which is a driver version. cuda: by its note,
    else by the directory's name. package: that it came from, as its name tells."""

    directory: str
    library: str
    driver: Version
    cuda: Version | None
    note: Reading[Note]
    package: str | None = None


class Activation(Record):
    """Who gets a compat directory on the library path. scope: `host` (the dynamic linker), `service` (unit), `manager`
    (all services), `login`. source: the file that says so. ours: whether gpumend wrote it. text: the directory as written."""

    directory: str
    scope: str
    source: str
    text: str
    unit: str = ""
    ours: bool = False


def elf_note(data: bytes) -> Note:
    """The note in its section's bytes (elf(5): name size, description size, type, both padded to 4); raises ValueError
    for one that is not NVIDIA's or not whole. `{"format":1,"CUDA version":"13.0","driver":[535,...],"device":[1,...]}`"""
    for order in "<>":
        try:
            name_size, size, _ = struct.unpack_from(f"{order}III", data)
        except struct.error:
            raise ValueError("an ELF note shorter than its header") from None
        start = 12 + (name_size + 3) // 4 * 4
        if start + size <= len(data) and data[12 : 12 + name_size].rstrip(b"\0") == NOTE_OWNER:
            break
    else:
        raise ValueError("not a note of NVIDIA Corporation")
    raw = json.loads(data[start : start + size].rstrip(b"\0").decode("utf-8"))
    fields = {str(key).lower(): value for key, value in raw.items()}
    return Note(
        parse_version(str(fields["cuda version"])),
        tuple(int(branch) for branch in fields.get("driver", ())),
        tuple(int(device) for device in fields.get("device", ())),
    )


# --- toolkits


class Tree(Record):
    """A toolkit's directory. version: two parts, and version_source what told it. how: `packages`, `runfile` (its
    uninstaller is there), `both`, or `unowned` (copied, or a runfile whose uninstaller is gone)."""

    path: str
    version: Version | None
    version_source: str
    nvcc: bool
    version_json: bool
    how: str


class Image(Record):
    """A local image that names CUDA. env: allow-listed names only."""

    id: str
    names: tuple[str, ...]
    env: Mapping[str, str]

    def label(self) -> str:
        return self.names[0] if self.names else self.id


class Cuda(Record):
    """active: where /usr/local/cuda leads; dangling: where it leads when nothing is there. nvcc: of the active toolkit, by
    its own word, or by the toolkit's files where root does not execute it (it lies where a user can change it).
    path_nvcc: the nvcc that root's PATH finds. library_paths: LD_LIBRARY_PATH by unit, ours aside. linker_files: ld.so.conf and its
    directory; dropins: units' drop-ins that gpumend wrote. looked: whether every place that these come from was read."""

    packages: Reading[tuple[Package, ...]]
    trees: tuple[Tree, ...]
    active: Reading[str]
    dangling: str | None
    nvcc: Reading[Version]
    path_nvcc: Reading[str]
    compats: tuple[Compat, ...]
    activations: tuple[Activation, ...]
    library_paths: Mapping[str, str]
    cupti: tuple[Cupti, ...]
    images: Reading[tuple[Image, ...]]
    linker_files: Mapping[str, FileContent]
    dropins: Mapping[str, FileContent]
    looked: Reading[bool]

    def of_role(self, *roles: str) -> tuple[Package, ...]:
        """Installed packages with one of these roles; raises Unread where the package database could not be read."""
        return tuple(found for found in self.packages.get() or () if found.role in roles)

    def active_compats(self) -> tuple[tuple[Compat, Activation], ...]:
        """Compat directories that somebody gets, with who and by what; raises Unread where not every place was read."""
        self.looked.get()
        return tuple(
            (compat, activation)
            for compat in self.compats
            for activation in self.activations
            if activation.directory == compat.directory
        )


def cuda_version_json(text: str) -> Version:
    """version.json's `.cuda.version`, two parts: it can be `12.1.20230222`. Raises ValueError."""
    found = json.loads(text)
    return parse_version(str(found["cuda"]["version"]))[:2]


class _Noting(Snapshot):
    """A snapshot that keeps the first thing asked of it that could not be read."""

    def __init__(self, answer: Mapping[str, Any]) -> None:
        super().__init__(answer)
        self.looked: Reading[bool] = Reading.of(True, "CUDA's directories, linker and unit files")

    def _noted(self, reading: Reading[T]) -> Reading[T]:
        if not reading.known and self.looked.ok:
            self.looked = reading.without_value()
        return reading

    def stat(self, path: str) -> Reading[FileMeta]:
        return self._noted(super().stat(path))

    def file(self, path: str) -> Reading[FileContent]:
        found = super().file(path)
        return self._noted(found) if self.unread(path) else found

    def glob(self, pattern: str) -> Reading[tuple[str, ...]]:
        return self._noted(super().glob(pattern))

    def found(self, path: str, search: str = "") -> Reading[tuple[str, ...]]:
        return self._noted(super().found(path, search))

    def section(self, path: str) -> Reading[bytes]:
        return self._noted(super().section(path))


class _Directories:
    """Toolkit directories by their real path: /usr/local/cuda and cuda-13 are links to cuda-13.0."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.real: dict[str, str] = {}
        for root in ROOTS:
            for path in snapshot.glob(root).value or ():
                meta = snapshot.stat(path).value
                if meta is not None and meta.kind == "dir":
                    self.real[path] = meta.real or path
        self.trees = tuple(dict.fromkeys(self.real.values()))

    def resolve(self, path: str) -> str:
        """A path below a toolkit's directory with the directory's links followed, without a slash at the end."""
        if "//" in path:
            path = re.sub(r"/{2,}", "/", path)
        path = path.rstrip("/")
        for link in sorted(self.real, key=len, reverse=True):
            if path == link or path.startswith(f"{link}/"):
                return self.real[link] + path[len(link) :]
        return path

    def paths(self, snapshot: Snapshot, *names: str) -> Iterable[tuple[str, str]]:
        """(real path of the directory, path found) of everything below the directories by these patterns, each file once."""
        seen = set()
        for root in ROOTS:
            for name in names:
                for path in snapshot.glob(f"{root}/{name}").value or ():
                    real = self.resolve(path)
                    directory = next((tree for tree in self.trees if real.startswith(f"{tree}/")), None)
                    if directory is not None and real not in seen:
                        seen.add(real)
                        yield directory, path


def _trees(snapshot: Snapshot, directories: _Directories, packaged: set[Version]) -> tuple[Tree, ...]:
    nvcc = {directory for directory, _ in directories.paths(snapshot, "bin/nvcc")}
    uninstallers = {directory for directory, _ in directories.paths(snapshot, "bin/cuda-uninstaller")}
    cudart = dict(directories.paths(snapshot, "lib64/libcudart.so.*.*"))
    versions: dict[str, tuple[Version, str]] = {}
    for directory, path in directories.paths(snapshot, "version.json"):
        if found := snapshot.text(path).map(cuda_version_json).value:
            versions[directory] = (found, path)
    for directory, path in directories.paths(snapshot, "version.txt"):
        if directory not in versions and (found := snapshot.text(path).map(parse_version).value):
            versions[directory] = (found[:2], path)
    result = []
    for directory in directories.trees:
        named = re.search(r"/cuda-(\d+\.\d+)$", directory)
        library = re.search(r"libcudart\.so\.(\d+\.\d+)", cudart.get(directory, ""))
        version, source = versions.get(directory, (None, ""))
        if version is None and named:
            version, source = parse_version(named.group(1)), directory
        elif version is None and library:
            version, source = parse_version(library.group(1)), cudart[directory]
        if directory not in nvcc and directory not in cudart and directory not in versions:
            continue  # a directory that only compat, or nothing, was installed into
        owned = version in packaged and directory.startswith("/usr/local/cuda-")
        how = (
            ("both" if owned else "runfile")
            if directory in uninstallers
            else "packages"
            if owned
            else "unowned"
        )
        has_json = any(found[1].endswith(".json") for name, found in versions.items() if name == directory)
        result.append(Tree(directory, version, source, directory in nvcc, has_json, how))
    return tuple(result)


def _compats(snapshot: Snapshot, directories: _Directories, names: Iterable[str]) -> tuple[Compat, ...]:
    found: dict[str, Compat] = {}
    for tree, path in directories.paths(snapshot, "compat/libcuda.so.*.*", "compat_orin/libcuda.so.*.*"):
        number = re.search(r"\.so\.(\d+\.\d+(?:\.\d+)?)$", path)
        meta = snapshot.stat(path).value
        if number is None or meta is None or meta.link:
            continue
        note = snapshot.section(path).map(elf_note)
        named = re.search(r"/cuda-(\d+)\.(\d+)$", tree)
        cuda = (
            note.value.cuda if note.value else (int(named.group(1)), int(named.group(2))) if named else None
        )
        package = f"cuda-compat-{cuda[0]}-{cuda[1]}" if cuda else ""
        real = directories.resolve(path)
        compat = Compat(
            real.rpartition("/")[0],
            real,
            parse_version(number.group(1)),
            cuda,
            note,
            next((name for name in names if name.partition(":")[0] == package), None),
        )
        old = found.get(compat.directory)
        if old is None or old.driver < compat.driver:
            found[compat.directory] = compat
    return tuple(found.values())


def _library_paths(snapshot: Snapshot) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """(scope, unit) -> (file, LD_LIBRARY_PATH as set there), in the order in which systemd applies them: the unit's own
    file, then drop-ins by name, /etc before /run before /usr (systemd.unit(5)); the last one holds."""
    fragments: dict[str, str] = {}
    dropins: dict[str, dict[str, str]] = {}
    for pattern in UNIT_GLOBS:
        for path in snapshot.glob(pattern).value or ():
            directory, name = path.rsplit("/", 1)
            if directory.endswith(".d"):
                dropins.setdefault(directory.rpartition("/")[2].removesuffix(".d"), {}).setdefault(name, path)
            else:
                fragments.setdefault(name, path)
    found: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for unit in sorted({*fragments, *dropins} - {"service"}):
        ordered = [fragments[unit]] if unit in fragments else []
        mine = {**dropins.get("service", {}), **dropins.get(unit, {})}
        ordered += [mine[name] for name in sorted(mine)]
        found["service", unit] = _assignments(snapshot, ordered)
    if "service" in dropins:
        found["manager", ""] = _assignments(snapshot, dropins["service"].values())
    for scope, patterns in (("manager", MANAGER_GLOBS), ("login", LOGIN_GLOBS)):
        for pattern in patterns:
            for path in snapshot.glob(pattern).value or ():
                found.setdefault((scope, ""), []).extend(_assignments(snapshot, [path], scope == "login"))
    return found


def _assignments(snapshot: Snapshot, paths: Iterable[str], login: bool = False) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for path in paths:
        for text in snapshot.found(path, LOGIN_LINES if login else UNIT_LINES).value or ():
            if text.startswith(LIBRARY_PATH):
                found.append((path, text.partition("=")[2].strip().strip("\"'")))
            else:
                found.clear()  # `Environment=` clears what was set so far
    return found


def _activations(
    snapshot: Snapshot, directories: _Directories, compats: Iterable[Compat]
) -> tuple[Activation, ...]:
    known = {compat.directory for compat in compats}
    found = []
    for path in (*(snapshot.glob(LINKER_GLOB).value or ()), "/etc/ld.so.conf"):
        for line in (snapshot.text(path).value or "").splitlines():
            text = line.partition("#")[0].strip()
            if directories.resolve(text) in known:
                found.append(
                    Activation(directories.resolve(text), "host", path, text, ours=path.endswith(OURS))
                )
    for (scope, unit), assigned in snapshot.once(_library_paths).items():
        last = assigned[-1:] if scope == "service" else assigned
        for path, value in last:
            for text in value.split(":"):
                if directories.resolve(text) in known:
                    found.append(
                        Activation(directories.resolve(text), scope, path, text, unit, path.endswith(OURS))
                    )
    return tuple(found)


def _cupti(
    snapshot: Snapshot, directories: _Directories, cache: Reading[Mapping[str, tuple[str, ...]]]
) -> tuple[Cupti, ...]:
    on_path = [
        part
        for assigned in snapshot.once(_library_paths).values()
        for _, value in assigned
        for part in value.split(":")
        if part.startswith("/")
    ]
    toolkits = directories.paths(snapshot, *cupti.HEADERS, *cupti.LIBRARIES)
    return cupti.found(snapshot, toolkits, directories.resolve, cache, on_path)


def _contents(snapshot: Snapshot, paths: Iterable[str]) -> dict[str, FileContent]:
    read = {path: snapshot.file(path).value for path in paths}
    return {path: content for path, content in read.items() if content is not None}


def _image(raw: Mapping[str, Any]) -> Image:
    return Image(str(raw["id"]), tuple(map(str, raw.get("names") or ())), raw.get("env") or {})


def _nvcc(told: Reading[Version], trees: Iterable[Tree], active: Reading[FileMeta]) -> Reading[Version]:
    """What nvcc said of itself, or where it said nothing what the files of its toolkit say."""
    path = active.value and (active.value.real or active.value.path)
    tree = next((found for found in trees if found.path == path and found.nvcc), None)
    if told.known or tree is None or tree.version is None:
        return told
    return Reading.of(tree.version, tree.version_source)


def nvcc_version(text: str) -> Version:
    """`Cuda compilation tools, release 13.0, V13.0.88`; raises ValueError."""
    match = re.search(r"release (\d+)\.(\d+)", text)
    if match is None:
        raise ValueError("no release in `nvcc --version`")
    return int(match.group(1)), int(match.group(2))


def parse(snapshot: Snapshot) -> Cuda:
    installed = snapshot.once(package_facts.parse).installed
    packages = installed.map(
        lambda found: tuple(
            package
            for name, version in sorted(found.items())
            if (package := classify(name, version)).role != "none"
        )
    )
    if packages.absent:
        packages = Reading.of((), packages.source)
    active = snapshot.stat("/usr/local/cuda")
    if active.status is Status.FAILED:  # the glob did not list it
        active = Reading.none("/usr/local/cuda")
    dangling = snapshot.dangling("/usr/local/cuda")
    nvcc, path_nvcc, docker = snapshot.succeeded("nvcc"), snapshot.program("nvcc"), snapshot.docker
    cache: Reading[Mapping[str, tuple[str, ...]]] = snapshot.succeeded("ldconfig").map(
        lambda found: driver.ldconfig_cache(found.out)
    )
    snapshot = noting = _Noting(snapshot.answer)  # from here on, one place that was not read counts for all
    directories = _Directories(snapshot)
    owned = {
        found.cuda for found in packages.value or () if found.role in ("toolkit", "library") and found.cuda
    }
    compat_names = [found.name for found in packages.value or () if found.role == "compat"]
    compats = _compats(snapshot, directories, compat_names)
    linker = (*(snapshot.glob(LINKER_GLOB).value or ()), "/etc/ld.so.conf")
    trees = _trees(snapshot, directories, owned)
    return Cuda(
        packages=packages,
        trees=trees,
        active=active.map(lambda meta: meta.real or meta.path),
        dangling=dangling,
        nvcc=_nvcc(nvcc.map(lambda output: nvcc_version(output.out)), trees, active),
        path_nvcc=path_nvcc.map(lambda meta: meta.real or meta.path),
        compats=compats,
        activations=_activations(snapshot, directories, compats),
        library_paths={
            unit: values[-1]
            for (scope, unit), assigned in snapshot.once(_library_paths).items()
            if scope == "service" and (values := [text for path, text in assigned if not path.endswith(OURS)])
        },
        cupti=_cupti(snapshot, directories, cache),
        images=whole(docker, "images").map(
            lambda found: tuple(_image(raw) for raw in found.get("images", ()))
        ),
        linker_files=_contents(snapshot, linker),
        dropins=_contents(snapshot, snapshot.glob(DROPIN_GLOB).value or ()),
        looked=noting.looked,
    )
