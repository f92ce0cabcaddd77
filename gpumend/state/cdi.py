"""CDI specs: the files in the spec directories, read as strictly as the engines read them.

Loader rules: tags.cncf.io/container-device-interface pkg/cdi (cache.go, spec.go, version.go) and SPEC.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from gpumend.state.reading import Reading
from gpumend.state.request import Glob, Request
from gpumend.state.snapshot import FileContent, FileMeta, Snapshot
from gpumend.text import plain_yaml
from gpumend.text.record import Record
from gpumend.text.shared import shared
from gpumend.text.version import Version, parse_version

DEFAULT_DIRS = ("/etc/cdi", "/var/run/cdi")  # pkg/cdi/spec-dirs.go: later has priority
KIND = "nvidia.com/gpu"
REFRESH_ENV = "/etc/nvidia-container-toolkit/nvidia-cdi-refresh.env"
# pkg/cdi/version.go, as of v1.1.0
SPEC_VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0")
# Fields by place and their types, from specs-go/config.go v1.1.0: the loader decodes strictly, so one more field or
# another type drops the whole file. A type in brackets is a list of it.
FIELDS: Mapping[str, Mapping[str, str]] = {
    "spec": {
        "cdiVersion": "text", "kind": "text", "annotations": "labels", "devices": "[device]", "containerEdits": "edits",
    },
    "device": {"name": "text", "annotations": "labels", "containerEdits": "edits"},
    "edits": {
        "env": "[text]", "deviceNodes": "[node]", "netDevices": "[net]", "hooks": "[hook]", "mounts": "[mount]",
        "intelRdt": "rdt", "additionalGids": "[uint32]",
    },
    "node": {
        "path": "text", "hostPath": "text", "type": "text", "major": "int64", "minor": "int64", "fileMode": "uint32",
        "permissions": "text", "uid": "uint32", "gid": "uint32",
    },
    "net": {"hostInterfaceName": "text", "name": "text"},
    "mount": {"hostPath": "text", "containerPath": "text", "options": "[text]", "type": "text"},
    "hook": {"hookName": "text", "path": "text", "args": "[text]", "env": "[text]", "timeout": "int64"},
    "rdt": {
        "closID": "text", "l3CacheSchema": "text", "memBwSchema": "text", "schemata": "[text]", "enableMonitoring": "bool",
    },
}  # fmt: skip
TEXTS = frozenset((str,))
INTEGERS = {"int64": (-(2**63), 2**63), "uint32": (0, 2**32)}
HOOK_NAMES = frozenset(
    {"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"}
)

LIBCUDA = re.compile(r"/libcuda\.so\.(\d+\.\d+(?:\.\d+)?)$")
# pkg/parser/parser.go: what vendor, class and device names may be
NO_NAME_CHARACTER = re.compile(r"[^A-Za-z0-9_.-]")
KIND_NAME = re.compile(r"[A-Za-z](.*[A-Za-z0-9])?")
DEVICE_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.:-]*[A-Za-z0-9])?")

REQUEST = Request(
    files=(REFRESH_ENV,),
    stats=DEFAULT_DIRS,
    globs=tuple(Glob(f"{directory}/*", mentioned=True) for directory in DEFAULT_DIRS),
    units=("nvidia-cdi-refresh.service", "nvidia-cdi-refresh.path"),
    unit_properties=(
        "LoadState",
        "ActiveState",
        "UnitFileState",
        "Result",
        "ExecMainStatus",
        "FragmentPath",
        "ActiveEnterTimestampMonotonic",
        "After",
    ),
)


class DeviceNode(Record):
    """host: the path on the host; inside: in the container. major and minor as written; an omitted one is 0 (Go's zero
    value)."""

    host: str
    inside: str
    major: int
    minor: int


class Edits(Record):
    nodes: tuple[DeviceNode, ...] = ()
    mounts: tuple[tuple[str, str], ...] = ()  # (host path, container path)
    hooks: tuple[tuple[str, ...], ...] = ()  # (path, *args)
    env: tuple[str, ...] = ()


class Spec(Record):
    """One loaded spec file. version: cdiVersion as written; needs: the least version its fields call for. edits: of every device
    and common. raw: all of the file, by the fields' names."""

    path: str
    kind: str
    version: Version
    needs: Version
    devices: Mapping[str, Edits]
    common: Edits
    edits: Edits
    raw: Mapping[str, Any] = {}

    def names(self) -> tuple[str, ...]:
        return tuple(f"{self.kind}={name}" for name in self.devices)

    def driver_version(self) -> Version | None:
        """The driver this spec was made for: libcuda's file name in its mounts, or the hook's own argument."""
        edits = self.edits
        for host, _ in edits.mounts:
            match = LIBCUDA.search(host)
            if match:
                return parse_version(match.group(1))
        for hook in edits.hooks:
            for word in hook:
                if word.startswith("--host-driver-version="):
                    return parse_version(word)
        return None


class SpecError(ValueError):
    """The loader would drop this file. The text is the engines' own wording."""


class SpecFile(Record):
    """A file in a spec directory: its metadata and the spec, or why no engine loads it. unread: we could not, so that what
    engines make of it is not known."""

    path: str
    meta: FileMeta
    spec: Reading[Spec]
    sha256: str | None = None
    data: bytes | None = None
    unread: bool = False

    @property
    def directory(self) -> str:
        return self.path.rpartition("/")[0]


class Cdi(Record):
    """files: what engines would load (*.yaml, *.json), in order. ignored: other files there (`.yml`).

    mentioned: metadata of the paths that the specs name. refresh: nvidia-cdi-refresh.service (toolkit >= 1.18).
    """

    files: Reading[tuple[SpecFile, ...]]
    ignored: tuple[str, ...]
    directories: Mapping[str, Reading[FileMeta]]
    mentioned: Mapping[str, Reading[FileMeta]]
    refresh: Reading[Mapping[str, str]]
    refresh_path: Reading[Mapping[str, str]]
    refresh_env_file: Reading[FileContent]

    @property
    def refresh_env(self) -> Reading[str]:
        return self.refresh_env_file.map(lambda content: content.text())

    def resolve(self, dirs: Sequence[str] = DEFAULT_DIRS) -> Resolution:
        """What an engine that reads `dirs` (later has priority) makes of the files; raises Unread."""
        chosen: dict[str, tuple[int, SpecFile]] = {}
        conflicts: dict[str, tuple[str, ...]] = {}
        for file in self.files.need():
            if file.directory not in dirs or file.spec.value is None:
                continue
            priority = list(dirs).index(file.directory)
            for name in file.spec.value.names():
                before = chosen.get(name)
                if before is not None and before[0] == priority:
                    conflicts[name] = tuple(
                        dict.fromkeys((*conflicts.get(name, (before[1].path,)), file.path))
                    )
                elif before is None or before[0] < priority:
                    chosen[name] = (priority, file)
        # cache.go removes a conflicting device for good, even where a directory of higher priority defines it.
        devices = {name: file for name, (_, file) in chosen.items() if name not in conflicts}
        return Resolution(devices, conflicts)


class Resolution(Record):
    """devices: qualified name -> the file that defines it for the engine. conflicts: name -> files."""

    devices: Mapping[str, SpecFile]
    conflicts: Mapping[str, tuple[str, ...]]

    def gpus(self) -> tuple[str, ...]:
        return tuple(name for name in self.devices if name.startswith(f"{KIND}="))

    def in_use(self) -> tuple[SpecFile, ...]:
        """The files that define at least one device after precedence, each once."""
        return tuple({file.path: file for file in self.devices.values()}.values())


def _refused(raw: Any, kind: str, what: str) -> SpecError:
    return SpecError(f"json: cannot unmarshal {type(raw).__name__} into {what} of type {kind}")


def _decode(raw: Any, kind: str, what: str) -> Any:
    """A value as Go's decoder takes it for a field of this type; raises SpecError where it would not. None is Go's zero
    value, field names are case-insensitive, and sigs.k8s.io/yaml makes a text of a number where a text is due."""
    if kind in FIELDS:
        return _struct(raw, kind, what)
    if kind.startswith("["):
        if not isinstance(raw, list):
            raise _refused(raw, kind, what)
        inner = kind[1:-1]
        if inner == "text" and TEXTS.issuperset(map(type, raw)):  # as most are
            return raw
        if inner not in FIELDS:
            return [_scalar(item, inner, what) for item in raw]
        if None in raw and inner != "device":
            raise SpecError(f"null in {what}")  # a pointer in Go: the loader panics, and the engine with it
        return [_struct({} if item is None else item, inner, what) for item in raw]
    if kind == "labels":
        if not isinstance(raw, dict):
            raise _refused(raw, kind, what)
        return {str(key): _scalar(value, "text", what) for key, value in raw.items()}
    return _scalar(raw, kind, what)


def _struct(raw: Any, kind: str, what: str) -> dict[str, Any]:
    """The fields of one of FIELDS' types."""
    if not isinstance(raw, dict):
        raise _refused(raw, kind, what)
    fields = FIELDS[kind]
    found: dict[str, Any] = {}
    for key, value in raw.items():
        if key in fields:
            name = key
        else:
            name = next((name for name in fields if name.lower() == str(key).lower()), None)
            if name is None:
                raise SpecError(f'json: unknown field "{key}"')
        inner = fields[name]
        if inner == "text" and type(value) is str:  # as most are
            found[name] = value
        elif value is not None:
            found[name] = _decode(value, inner, name)
    return found


def _scalar(raw: Any, kind: str, what: str) -> Any:
    if kind == "text" and raw is None:
        return ""
    if kind == "text" and isinstance(raw, (str, int, float)):
        return str(raw).lower() if isinstance(raw, bool) else str(raw)
    if kind == "bool" and (raw is None or isinstance(raw, bool)):
        return bool(raw)
    if kind in INTEGERS and not isinstance(raw, (bool, str)):
        number = 0 if raw is None else raw
        least, beyond = INTEGERS[kind]
        if isinstance(number, (int, float)) and number == number // 1 and least <= number < beyond:
            return int(number)
    raise _refused(raw, kind, what)


def _environment(edits: Mapping[str, Any]) -> tuple[str, ...]:
    for word in edits.get("env", ()):
        if "=" not in word[1:]:
            raise SpecError(f'invalid environment variable "{word}"')
    return tuple(edits.get("env", ()))


def _edits(edits: Mapping[str, Any]) -> Edits:
    """Decoded edits, validated (container-edits.go Validate)."""
    env = _environment(edits)
    nodes, mounts, hooks = [], [], []
    for node in edits.get("deviceNodes", ()):
        path = node.get("path", "")
        if not path:
            raise SpecError("invalid (empty) device path")
        if node.get("type", "") not in ("", "b", "c", "u", "p"):
            raise SpecError(f'device "{path}": invalid type "{node["type"]}"')
        if node.get("permissions", "").strip("rwm"):
            raise SpecError(f'device "{path}": invalid permissions "{node["permissions"]}"')
        nodes.append(
            DeviceNode(node.get("hostPath") or path, path, node.get("major", 0), node.get("minor", 0))
        )
    for hook in edits.get("hooks", ()):
        if hook.get("hookName") not in HOOK_NAMES:
            raise SpecError(f'invalid hook name "{hook.get("hookName", "")}"')
        if not hook.get("path"):
            raise SpecError("invalid hook, empty path")
        _environment(hook)
        hooks.append((hook["path"], *hook.get("args", ())))
    for mount in edits.get("mounts", ()):
        pair = (mount.get("hostPath", ""), mount.get("containerPath", ""))
        if not all(pair):
            raise SpecError("invalid mount, empty host or container path")
        mounts.append(pair)
    closid = edits.get("intelRdt", {}).get("closID", "")
    if closid != "/" and (len(closid.encode()) >= 4096 or closid in (".", "..") or set(closid) & set("/\n")):
        raise SpecError("invalid ClosID")
    for field in ("hostInterfaceName", "name"):
        named = [device.get(field, "") for device in edits.get("netDevices", ())]
        if "" in named or len(set(named)) != len(named):
            raise SpecError(f"invalid linux net device, empty or duplicate {field}")
    return Edits(tuple(nodes), tuple(mounts), tuple(hooks), env)


def _is_empty(edits: Mapping[str, Any]) -> bool:
    return "intelRdt" not in edits and not any(edits.values())


def _walk_edits(raw: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield raw.get("containerEdits") or {}
    for device in raw.get("devices") or ():
        yield device.get("containerEdits") or {}


def least_version(raw: Mapping[str, Any]) -> Version:
    """The least cdiVersion that a spec's fields call for (pkg/cdi/version.go: requiresVXYZ)."""
    least: Version = (0, 3, 0)
    kind = str(raw.get("kind", ""))
    for device in raw.get("devices") or ():
        if str(device.get("name", ""))[:1].isdigit():
            least = max(least, (0, 5, 0))
        if device.get("annotations"):
            least = max(least, (0, 6, 0))
    if raw.get("annotations") or "." in kind.partition("/")[2]:
        least = max(least, (0, 6, 0))
    for edits in _walk_edits(raw):
        if any((mount or {}).get("type") for mount in edits.get("mounts") or ()):
            least = max(least, (0, 4, 0))
        if any((node or {}).get("hostPath") for node in edits.get("deviceNodes") or ()):
            least = max(least, (0, 5, 0))
        if edits.get("intelRdt") is not None or edits.get("additionalGids"):
            least = max(least, (0, 7, 0))
        if edits.get("netDevices"):
            least = max(least, (1, 1, 0))
        rdt = edits.get("intelRdt") or {}
        if rdt.get("schemata") is not None or rdt.get("enableMonitoring"):
            least = max(least, (1, 1, 0))
    return least


@shared(256)
def load(path: str, text: str) -> Spec:
    """A spec file as the CDI loader takes it; raises SpecError with the loader's reason where it drops it."""
    raw: Any = plain_yaml.read(text)
    if raw is None:
        # It loads PyYAML, which costs as much as starting Python, and nvidia-ctk writes nothing that calls for it.
        from gpumend.text import go_yaml

        try:
            raw = go_yaml.load(text)
        except ValueError as error:
            raise SpecError(f"not YAML: {error}") from None
    if raw is None:
        raise SpecError("no Spec data")
    try:
        spec = _decode(raw, "spec", "Spec")
    except SpecError:
        raise
    except ValueError as error:  # a number of thousands of digits
        raise SpecError(str(error)) from None
    version = spec.get("cdiVersion", "").removeprefix("v")
    if version not in SPEC_VERSIONS:
        raise SpecError(f'invalid version "{spec.get("cdiVersion", "")}"')
    least = least_version(spec)
    if parse_version(version) < least:
        raise SpecError(f"the spec version must be at least v{'.'.join(map(str, least))}")
    kind = spec.get("kind", "")
    vendor, slash, name = kind.partition("/")
    if not slash:
        raise SpecError(f'invalid kind "{kind}"')
    for part, what in ((vendor, "vendor"), (name, "class")):
        if not part:
            raise SpecError(f"invalid {what}. empty name")
        bad = NO_NAME_CHARACTER.search(part)
        if bad:
            raise SpecError(f"invalid {what}. invalid character '{bad.group()}' in name \"{part}\"")
        if not KIND_NAME.fullmatch(part):
            raise SpecError(
                f'invalid {what}. "{part}", should start with letter and end with a letter or digit'
            )
    common = _edits(spec.get("containerEdits", {}))
    devices: dict[str, Edits] = {}
    for device in spec.get("devices", ()):
        device_name = device.get("name", "")
        if not DEVICE_NAME.fullmatch(device_name):
            raise SpecError(f'invalid device name "{device_name}"')
        if device_name in devices:
            raise SpecError(f'invalid spec, multiple device "{device_name}"')
        if _is_empty(device.get("containerEdits", {})):
            raise SpecError(f'invalid device "{device_name}", empty device edits')
        devices[device_name] = _edits(device["containerEdits"])
    if not devices:
        raise SpecError("invalid spec, no devices")
    edits = Edits(*(tuple(chain.from_iterable(parts)) for parts in zip(common, *devices.values())))
    return Spec(path, kind, parse_version(version), least, devices, common, edits, spec)


def parse(snapshot: Snapshot) -> Cdi:
    files: list[SpecFile] = []
    ignored: list[str] = []
    unread: Reading[Any] | None = None
    for directory in DEFAULT_DIRS:
        listed = snapshot.glob(f"{directory}/*")
        if not listed.ok:
            unread = unread or listed
        for path in listed.value or ():
            meta = snapshot.stat(path)
            if meta.value is not None and meta.value.kind == "dir":
                continue
            if not path.endswith((".yaml", ".json")):
                ignored.append(path)
                continue
            content = snapshot.file(path)
            if content.absent:
                continue  # it went between the listing and the look
            spec = content.map(lambda found: load(found.path, found.text()))
            found = content.value
            files.append(
                SpecFile(
                    path,
                    meta.value or FileMeta(path, "other"),
                    spec,
                    found.sha256 if found else None,
                    found.data if found else None,
                    snapshot.unread(path),
                )
            )
    mentioned = {
        name: snapshot.stat(name)
        for file in files
        if file.spec.value is not None
        for name in _paths(file.spec.value)
    }
    return Cdi(
        files=unread.without_value() if unread else Reading.of(tuple(files), ", ".join(DEFAULT_DIRS)),
        ignored=tuple(ignored),
        directories={directory: snapshot.stat(directory) for directory in DEFAULT_DIRS},
        mentioned=mentioned,
        refresh=snapshot.unit("nvidia-cdi-refresh.service"),
        refresh_path=snapshot.unit("nvidia-cdi-refresh.path"),
        refresh_env_file=snapshot.file(REFRESH_ENV),
    )


def _paths(spec: Spec) -> set[str]:
    edits = spec.edits
    return (
        {node.host for node in edits.nodes}
        | {host for host, _ in edits.mounts}
        | {hook[0] for hook in edits.hooks}
    )
