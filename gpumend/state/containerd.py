"""containerd: the daemon, and its configuration as it merges it.

What a version makes of its files was measured with `containerd config dump` of 1.6.20, 1.7.24 and 2.1.9, and read in
cmd/containerd/server/config/config.go of 2.0, 2.2 and 2.3: `merge`.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from gpumend.state.cdi import DEFAULT_DIRS
from gpumend.state.flavours import FLAVOURS, KUBELET_CONFIGS, KUBELET_PKI
from gpumend.state.reading import Reading, Unread
from gpumend.state.request import Command, Glob, Request
from gpumend.state.snapshot import NOT_ASKED, FileContent, FileMeta, Output, Process, Snapshot
from gpumend.text.documents import copied, toml
from gpumend.text.record import Record
from gpumend.text.version import Version, parse_version

CONFIG = "/etc/containerd/config.toml"
# A node's own containerd under another name, beside its settings for it: kubernetes/kops nodeup containerd.
OTHER_CONFIGS: Mapping[str, str] = {"/etc/containerd/config-kops.toml": "kOps"}
# Directories of drop-ins: nvidia-ctk's and 2.2's default import (containerd defaults/defaults_unix.go), and config.d of guides.
DROP_INS = ("/etc/containerd/conf.d/*.toml", "/etc/containerd/config.d/*.toml")
SHIMS = ("containerd-shim-runc-v2", "containerd-shim-runc-v1", "containerd-shim-grit-v1")
V2_PLUGIN = "io.containerd.grpc.v1.cri"
V3_PLUGIN = "io.containerd.cri.v1.runtime"
OVERLAY = "io.containerd.snapshotter.v1.overlayfs"
IMAGES = "io.containerd.cri.v1.images"  # of version 3: has the snapshotter, which before was the CRI's own
# Before, a drop-in that has a plugin's table replaces it whole (v1.7.34 mergeConfig; v2.0.0 has it no more: a21e379b6).
MERGES_KEYS: Version = (2, 0)
# From then on each file is converted by itself, and a drop-in above the root is refused (v2.3.0 LoadConfigWithPlugins).
CONVERTS_EACH: Version = (2, 3)
JOINS_GLOBS: Version = (
    1,
    7,
)  # before, a relative import with a star is below the daemon's own directory, `/`
# The newest `version` that a containerd takes. 1.6 takes any number and reads it as 2 (measured with 1.6.20).
NEWEST_CONFIG: tuple[tuple[Version, int], ...] = (((1, 7), 2), ((2, 0), 3), ((2, 3), 4))
# A kubelet that is no process now, also where nobody has given it a file.
KUBELETS = ("/usr/bin/kubelet", "/usr/local/bin/kubelet", "/opt/bin/kubelet")
# Of these one is there where somebody uses containerd's CRI, for which alone it is asked what it makes of its files: 50 ms of CPU.
CRI_USERS = (
    "kubelet",
    *(name for found in FLAVOURS for name in found.processes),
    *(found.directory for found in FLAVOURS),
    *KUBELETS,
    *KUBELET_CONFIGS,
    KUBELET_PKI,
    "/etc/containerd/grit.toml",
)
# Reads only: with roots that do not exist it makes none (measured with 1.6.20, 1.7.24, 2.1.9).
BINARY_NAME = re.compile(rb"""(?m)^[ \t]*BinaryName[ \t]*=[ \t]*["'](/[^"'\n]+)""")
DUMP = Command(("containerd", "config", "dump"), timeout=10)


REQUEST = Request(
    files=(CONFIG, *OTHER_CONFIGS),
    stats=KUBELETS,
    globs=tuple(Glob(pattern, mentioned=True) for pattern in (CONFIG, *DROP_INS)),
    programs=("containerd", "ctr", "containerd-shim-grit-v1", "runc", "crun", "crictl"),
    commands={
        "containerd": Command(("containerd", "--version"), timeout=5, by_docker=True),
        "containerd-config": DUMP._replace(where_one=CRI_USERS),
        "runc": Command(("runc", "--version"), timeout=5, by_docker=True),
    },
    processes=("containerd", *SHIMS),
    units=("containerd.service",),
    unit_properties=(
        "LoadState",
        "ActiveState",
        "MainPID",
        "ExecStart",
        "KillMode",
        "Delegate",
        "RequiredBy",
        "BoundBy",
        "ConsistsOf",
        "LimitNOFILESoft",
    ),
)


def request(raw: Mapping[str, Any]) -> dict[str, Any]:
    """What is asked of the probe besides, where the desired state has runtimes for containerd or GRIT; else nothing."""
    containerd, grit = raw.get("containerd"), raw.get("grit")
    runtimes = containerd.get("runtimes", "auto") if isinstance(containerd, Mapping) else "auto"
    if runtimes == "auto" and not grit:
        return {}
    return {"commands": {"containerd-config": DUMP.entry()}}


class ConfigError(ValueError):
    """containerd would not start with these files. path: which; the text has its line and column where known."""

    def __init__(self, path: str, detail: str) -> None:
        super().__init__(f"{path}: {detail}")
        self.path = path
        self.detail = detail


class Runtime(Record):
    """One entry of the CRI plugin's `runtimes`."""

    name: str
    type: str
    options: Mapping[str, Any]
    pod_annotations: tuple[str, ...] = ()
    container_annotations: tuple[str, ...] = ()
    snapshotter: str = ""

    @property
    def binary(self) -> str:
        """The OCI runtime it calls; empty for the shim's default, `runc` in its PATH."""
        return str(self.options.get("BinaryName") or "")

    @property
    def systemd_cgroup(self) -> bool:
        return self.options.get("SystemdCgroup") is True


class Cri(Record):
    """What a containerd's CRI plugin has. enabled: not among disabled_plugins. enable_cdi: None where this version has
    no such key. snapshotter: of new containers, empty where not named. overlay_options: `mount_options` of the snapshotter
    overlayfs, which are added to each of its mounts. restores: CreateContainer may restore a checkpoint, where that has to be
    switched on; criu: `enable_criu`, None where it is not named."""

    runtimes: Mapping[str, Runtime]
    default: str
    enabled: bool = True
    enable_cdi: bool | None = None
    cdi_spec_dirs: tuple[str, ...] = DEFAULT_DIRS
    snapshotter: str = ""
    overlay_options: tuple[str, ...] = ()
    restores: bool = False
    criu: bool | None = None


class Containerd(Record):
    """The containerd that runs as a service of its own.

    path: the file it reads. files: that file and its drop-ins, in the order in which they are merged. dump: what
    `containerd config dump` makes of /etc/containerd/config.toml. shims: the running ones, of any containerd here.
    binaries: metadata of the programs that the files name as BinaryName.
    """

    version: Reading[Version]
    runc: Reading[Version]
    process: Reading[Process]
    path: str
    files: Mapping[str, Reading[FileContent]]
    dump: Reading[Mapping[str, Any]]
    unit: Reading[Mapping[str, str]]
    shims: Reading[tuple[Process, ...]]
    grit_shim: Reading[FileMeta]
    programs: Mapping[str, Reading[FileMeta]] = {}
    binaries: Mapping[str, Reading[FileMeta]] = {}

    @property
    def installed(self) -> bool:
        return self.version.ok or self.process.ok

    @property
    def content(self) -> Reading[FileContent]:
        return self.files[self.path]

    def parsed(self) -> dict[str, Mapping[str, Any]]:
        """Each file that it reads as TOML, in the order in which it reads them; what nothing imports is not among them.
        Raises ConfigError for one that is no TOML, Unread for one nobody could read."""
        version = self.version.value or MERGES_KEYS
        found: dict[str, Mapping[str, Any]] = {}
        waiting = [self.path]
        while waiting:
            path = waiting.pop(0)
            if path in found or self.files[path].get() is None:
                continue
            found[path] = loads(path, self.files[path])
            waiting += matching(imports_of(path, found[path], version), self.files)
        return found

    def unheeded(self) -> tuple[str, ...]:
        """Files in the directories of drop-ins that nothing imports; raises as `parsed` does."""
        read = self.parsed()
        return tuple(path for path, content in self.files.items() if content.ok and path not in read)

    def cri(self) -> Cri:
        """What its CRI plugin has: by its own account where it gives one, else as `merge` puts its files together.

        Raises Unread, and ConfigError where it would not start.
        """
        if self.dump.ok and self.path == CONFIG:
            return cri_of(self.dump.need())
        parsed = self.parsed()
        for pattern in unread_imports(parsed, self.version.need()):
            raise Unread(Reading.fail(pattern, NOT_ASKED))
        return cri_of(merge(self.version.need(), self.path, parsed))


def loads(path: str, content: Reading[FileContent]) -> Mapping[str, Any]:
    """A file as TOML; raises ConfigError naming line and column."""
    try:
        return toml(content.need().text())
    except (ValueError, RecursionError) as error:
        raise ConfigError(path, str(error) or type(error).__name__) from None


def config_version(raw: Mapping[str, Any]) -> int:
    """A file's `version`; one without counts as 1 (containerd docs/man/containerd-config.toml.5.md)."""
    found = raw.get("version", 1)
    return found if isinstance(found, int) and not isinstance(found, bool) and found > 0 else 1


def newest_config(version: Version) -> int | None:
    """The newest file `version` that a containerd takes; None where it takes any."""
    return next((number for since, number in reversed(NEWEST_CONFIG) if version >= since), None)


def imports_of(path: str, raw: Mapping[str, Any], version: Version) -> tuple[str, ...]:
    """The patterns of a file's `imports`, absolute: a relative one is beside the file (resolveImports)."""
    listed = raw.get("imports")
    here = posixpath.dirname(path)
    found = []
    for item in listed if isinstance(listed, list) else ():
        if isinstance(item, str):
            directory = "/" if "*" in item and version < JOINS_GLOBS else here
            found.append(posixpath.normpath(posixpath.join(directory, item)))
    return tuple(found)


def matching(patterns: Sequence[str], names: Iterable[str]) -> list[str]:
    """The names that each pattern means, sorted by pattern."""
    return [
        name
        for pattern in patterns
        for name in sorted(found for found in names if fnmatchcase(found, pattern))
    ]


def unread_imports(parsed: Mapping[str, Mapping[str, Any]], version: Version) -> tuple[str, ...]:
    """What a file imports from places that the probe does not read."""
    return tuple(
        pattern
        for path, raw in parsed.items()
        for pattern in imports_of(path, raw, version)
        if pattern not in parsed
        and not (pattern.endswith(".toml") and f"{posixpath.dirname(pattern)}/*.toml" in DROP_INS)
    )


def counting_version(version: Version, files: Iterable[Mapping[str, Any]]) -> int:
    """The `version` by which a containerd takes its files, given in the order in which it reads them.

    It is the last that a file names (mergeConfig): before 2.0 a drop-in of version 1 has the root's newer names ignored,
    from 2.0 on a drop-in of version 3 keeps a root of version 2 from being converted. Without any it is 1 before 2.0,
    and the newest from then on.
    """
    named = [config_version(raw) for raw in files if config_version(raw) > 1 or raw.get("version") == 1]
    if version < (2, 0):
        return named[-1] if named else 1
    named = [
        number for number in named if number > 1
    ]  # those of version 1 are converted to what was before them
    newest = newest_config(version) or 3
    if version >= CONVERTS_EACH:
        return max([newest, *named])
    return named[-1] if named else newest


def deep_merge(into: dict[str, Any], other: Mapping[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            deep_merge(into[key], value)
        else:
            into[key] = copied(value)


def _converted(newer: dict[str, Any], older: Mapping[str, Any]) -> None:
    """The CRI's table of version 2 becomes version 3's, as far as that does not say it: a runtime beside others under the
    newer name is lost (plugins/cri/runtime migrateConfig)."""
    for key, value in older.items():
        if key == "containerd" and isinstance(value, Mapping):
            into = newer.setdefault("containerd", {})
            for name, part in value.items() if isinstance(into, dict) else ():
                into.setdefault(name, copied(part))
        else:
            newer.setdefault(key, copied(value))


def merge(version: Version, path: str, parsed: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The files that a containerd reads, in that order, as it merges them: in the form of its own dump.

    The CRI runtime settings come out under the name that this version has for them; what a file says under a name that
    this version ignores is left out. Before 2.0 a drop-in's table of a plugin replaces the whole table; from then on
    keys are merged. Measured; tests/nodes/test_containerd.py holds the two together.
    """
    name = V3_PLUGIN if version >= (2, 0) else V2_PLUGIN
    counts = counting_version(version, parsed.values())
    section: dict[str, Any] = {}
    older: dict[str, Any] = {}
    images: dict[str, Any] = {}
    overlay: dict[str, Any] = {}
    disabled: list[str] = []
    for file, raw in parsed.items():
        plugins = raw.get("plugins")
        plugins = plugins if isinstance(plugins, Mapping) else {}
        disabled.extend(_texts(raw.get("disabled_plugins")))
        if version >= (2, 0) and isinstance(plugins.get(IMAGES), Mapping):
            deep_merge(images, plugins[IMAGES])
        if version >= (1, 7) and isinstance(
            plugins.get(OVERLAY), Mapping
        ):  # 1.6.20 does not know mount_options
            overlay = {} if version < MERGES_KEYS and file != path else overlay
            deep_merge(overlay, plugins[OVERLAY])
        newer: dict[str, Any] = {}
        for known in names_read(version, counts, config_version(raw)):
            part = plugins.get(known)
            if not isinstance(part, Mapping):
                continue
            if version < MERGES_KEYS:
                section = copied(dict(part))
            else:
                deep_merge(newer if known == V3_PLUGIN else older, part)
        if version >= CONVERTS_EACH:
            _converted(newer, older)
            older = {}
        deep_merge(section, newer)
    _converted(section, older)
    _defaults(version, section)
    return {
        "version": 3 if version >= (2, 0) else 2,
        "disabled_plugins": disabled,
        "plugins": {name: section, IMAGES: images, OVERLAY: overlay},
    }


def _defaults(version: Version, section: dict[str, Any]) -> None:
    """What containerd has where no file says it. Before 2.0 the default `runc` is there only while no file names a
    runtime: one that names `nvidia` alone takes it away, and the CRI plugin then does not load (measured)."""
    if version >= (1, 7):
        section.setdefault("enable_cdi", version >= (2, 0))
    containerd = section.setdefault("containerd", {})
    runtimes = containerd.setdefault("runtimes", {}) if isinstance(containerd, dict) else None
    if isinstance(runtimes, dict) and (version >= (2, 0) or not runtimes):
        runtimes.setdefault("runc", {"runtime_type": "io.containerd.runc.v2"})


def names_read(version: Version, counts: int, own: int) -> tuple[str, ...]:
    """The plugin names that count in a file whose `version` is `own`, where `counts` is the one that counts for all."""
    if version < (2, 0):
        return ("cri",) if counts < 2 else (V2_PLUGIN,)
    older = ("cri", V2_PLUGIN) if own < 2 else (V2_PLUGIN,)
    if version >= CONVERTS_EACH:
        return (*older, V3_PLUGIN) if own < 4 else (V3_PLUGIN,)
    # A file without a version, alone, gets the newest and no conversion: "Ignoring unknown key in TOML for plugin".
    return (*older, V3_PLUGIN) if counts < 3 else (V3_PLUGIN,)


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(str(item) for item in value) if isinstance(value, list) else ()


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def cri_of(dump: Mapping[str, Any]) -> Cri:
    """The CRI plugin's settings in containerd's dump, of version 2 or 3; without them the defaults hold."""
    plugins = _table(dump.get("plugins"))
    section = _table(plugins.get(V3_PLUGIN)) or _table(plugins.get(V2_PLUGIN))
    containerd = _table(section.get("containerd"))
    images = _table(plugins.get(IMAGES))
    runtimes = {
        str(name): Runtime(
            str(name),
            str(found.get("runtime_type") or ""),
            _table(found.get("options")),
            _texts(found.get("pod_annotations")),
            _texts(found.get("container_annotations")),
            str(found.get("snapshotter") or ""),
        )
        for name, found in _table(containerd.get("runtimes")).items()
        if isinstance(found, Mapping)
    }
    disabled = set(_texts(dump.get("disabled_plugins")))
    cdi = section.get("enable_cdi")
    dirs = _texts(section.get("cdi_spec_dirs"))
    return Cri(
        runtimes,
        str(containerd.get("default_runtime_name") or "runc"),
        not disabled & {"cri", V2_PLUGIN, V3_PLUGIN, f"{V2_PLUGIN}.cri"},
        cdi if isinstance(cdi, bool) else None,
        dirs or DEFAULT_DIRS,
        str(images.get("snapshotter") or containerd.get("snapshotter") or ""),
        _texts(_table(plugins.get(OVERLAY)).get("mount_options")),
        section.get("enable_experimental_restore_via_create") is True,
        found if isinstance(found := section.get("enable_criu"), bool) else None,
    )


def flag(process: Process | None, *names: str) -> str:
    """The value of a flag on a process's command line, `--name value` or `--name=value`; empty where it is not there."""
    return flag_of(process.argv[1:] if process else (), *names)


def flag_of(words: Sequence[str], *names: str) -> str:
    """As `flag`, of the words themselves."""
    for number, word in enumerate(words):
        name, sign, value = word.partition("=")
        if name in names:
            return value if sign else (words[number + 1] if number + 1 < len(words) else "")
    return ""


def dump_of(output: Reading[Output]) -> Reading[Mapping[str, Any]]:
    """What `containerd config dump` prints, as data."""
    return output.map(lambda found: toml(found.out))


def first_process(found: Reading[tuple[Process, ...]], test: Any = None) -> Reading[Process]:
    """The first process that passes a test; absent where none does."""
    if not found.known:
        return found.without_value()
    process = next((item for item in found.value or () if test is None or test(item)), None)
    return Reading.of(process, "/proc") if process else Reading.none("/proc", "no such process")


def _service(snapshot: Snapshot) -> Containerd:
    directories = tuple(found.directory for found in FLAVOURS)
    process = first_process(
        snapshot.daemons("containerd"),
        lambda item: not flag(item, "-c", "--config").startswith(directories) and not _child(item),
    )
    path = flag(process.value, "-c", "--config") or CONFIG
    files: dict[str, Reading[FileContent]] = {path: snapshot.file(path)}
    for pattern in DROP_INS:
        listed = snapshot.glob(pattern)
        if not listed.known:
            files[pattern] = listed.without_value()
        files.update((name, snapshot.file(name)) for name in listed.value or ())
    shims: list[Process] = []
    for name in SHIMS:
        shims.extend(snapshot.processes(name).value or ())
    listed_shims = snapshot.processes(SHIMS[0])
    return Containerd(
        version=snapshot.succeeded("containerd").map(lambda found: parse_version(found.out)),
        # Its later lines have the versions of other things: of the OCI spec, of Go.
        runc=snapshot.succeeded("runc").map(lambda found: parse_version(found.out.partition("\n")[0])),
        process=process,
        path=path,
        files=files,
        dump=dump_of(snapshot.succeeded("containerd-config")),
        unit=snapshot.unit("containerd.service"),
        shims=Reading.of(tuple(shims), "/proc") if listed_shims.ok else listed_shims.without_value(),
        grit_shim=snapshot.program("containerd-shim-grit-v1"),
        programs={name: snapshot.program(name) for name in ("ctr", "crictl", "runc", "crun")},
        binaries={name: snapshot.stat(name) for name in _binaries(files.values())},
    )


def _binaries(files: Iterable[Reading[FileContent]]) -> set[str]:
    return {
        name.decode("ascii", "replace")
        for content in files
        for name in BINARY_NAME.findall(content.value.data if content.value else b"")
    }


def _child(process: Process) -> bool:
    """dockerd's own containerd, which no kubelet talks to (moby: --config /var/run/docker/containerd/containerd.toml)."""
    return "/docker/containerd/" in flag(process, "-c", "--config")


def parse(snapshot: Snapshot) -> Containerd:
    return _service(snapshot)
