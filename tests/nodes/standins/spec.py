"""STAND-IN for tests: CDI specs as `nvidia-ctk cdi generate` writes them (captures/h100/cdi-h100.yaml) and as
the CDI cache reads them (captures/toolkit/cdi-list.txt; pkg/cdi/cache.go: strict, later directories win,
conflicts remove).
"""

from __future__ import annotations

import importlib
import json
import os
import re
from pathlib import Path
from typing import Any

from . import machine

KIND = "nvidia.com/gpu"
DEFAULT_DIRS = ("/etc/cdi", "/var/run/cdi")
HOOK = "/usr/bin/nvidia-cdi-hook"
VERSIONS = ("0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0")
HOOK_NAMES = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
FIELDS = {
    "spec": {"cdiVersion", "kind", "annotations", "devices", "containerEdits"},
    "device": {"name", "annotations", "containerEdits"},
    "edits": {"env", "deviceNodes", "netDevices", "hooks", "mounts", "intelRdt", "additionalGids"},
    "node": {"path", "hostPath", "type", "major", "minor", "fileMode", "permissions", "uid", "gid"},
    "hook": {"hookName", "path", "args", "env", "timeout"},
    "mount": {"hostPath", "containerPath", "type", "options"},
}

Json = dict[str, Any]


# -- writing ------------------------------------------------------------------------------------------------


def _node(path: str) -> Json | None:
    found = machine.device(path)
    if found is None:
        return None
    node: Json = {"path": path}
    if machine.at_least("1.19.0"):  # from then on the numbers are in the spec, and can be wrong
        node["major"] = found.major
        if found.minor:
            node["minor"] = found.minor
        node["fileMode"] = found.mode
        node["permissions"] = "rwm"
    return node


def _edits(paths: list[str], with_gids: bool) -> Json:
    edits: Json = {"deviceNodes": [node for path in paths if (node := _node(path))]}
    gids = sorted({found.gid for path in paths if (found := machine.device(path)) and found.gid})
    if with_gids and gids:
        edits["additionalGids"] = gids
    return edits


def _hook(*args: str) -> Json:
    return {
        "hookName": "createContainer",
        "path": HOOK,
        "args": ["nvidia-cdi-hook", *args],
        "env": ["NVIDIA_CTK_DEBUG=false"],
    }


def generate(flags: tuple[str, ...] = (), names: tuple[str, ...] = ("index", "uuid")) -> Json:
    """The spec of this machine as it is now; raises `machine.DriverError` where NVML would not initialise."""
    version = machine.driver()
    with_gids = machine.at_least("1.19.1") and "no-additional-gids-for-device-nodes" not in flags
    devices: list[Json] = []
    nodes: list[str] = []
    for index, (minor, uuid) in enumerate(machine.gpus()):
        nodes.append(f"/dev/nvidia{minor}")
        chosen = {"index": str(index), "uuid": uuid, "type-index": f"gpu{index}"}
        devices += [
            {"name": chosen[name], "containerEdits": _edits([f"/dev/nvidia{minor}"], with_gids)}
            for name in names
        ]
    devices.append({"name": "all", "containerEdits": _edits(nodes, with_gids)})
    common = _edits(list(machine.CONTROL_NODES), with_gids)
    library_dir = str(machine.LIBRARIES)
    links: list[str] = []
    for name in ("libcuda.so", "libnvidia-ml.so"):
        links += [
            "--link",
            f"{name}.1::{library_dir}/{name}",
            "--link",
            f"{name}.{version}::{library_dir}/{name}.1",
        ]
    hooks = [_hook("create-symlinks", *links)]
    if machine.at_least("1.17.5"):
        hooks.append(_hook("enable-cuda-compat", f"--host-driver-version={version}"))
    hooks.append(_hook("update-ldcache", "--directory", library_dir))
    if machine.at_least("1.18.0"):
        hooks.append(_hook("disable-device-node-modification"))
    mounts = [
        f"{library_dir}/libcuda.so.{version}",
        f"{library_dir}/libnvidia-ml.so.{version}",
        "/usr/bin/nvidia-smi",
    ]
    edits: Json = {
        "env": [f"NVIDIA_CTK_LIBCUDA_DIR={library_dir}", "NVIDIA_VISIBLE_DEVICES=void"],
        **common,
        "hooks": hooks,
        "mounts": [
            {
                "hostPath": path,
                "containerPath": path,
                "options": ["ro", "nosuid", "nodev", "rbind", "rprivate"],
            }
            for path in mounts
            if os.path.exists(path)
        ],
    }
    found: Json = {"cdiVersion": "", "kind": KIND, "devices": devices, "containerEdits": edits}
    found["cdiVersion"] = minimum_version(found)
    return found


def minimum_version(spec: Json) -> str:
    """The lowest CDI version that has every field of `spec`."""
    edits = [
        spec.get("containerEdits") or {},
        *(d.get("containerEdits") or {} for d in spec.get("devices") or []),
    ]
    if any("additionalGids" in edit for edit in edits):
        return "0.7.0"
    digit_first = any(str(device.get("name", ""))[:1].isdigit() for device in spec.get("devices") or [])
    host_path = any("hostPath" in node for edit in edits for node in edit.get("deviceNodes") or [])
    return "0.5.0" if digit_first or host_path else "0.3.0"


def _scalar(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    text = str(value)
    number = re.fullmatch(r"[-+]?[0-9][0-9_]*(\.[0-9]*)?", text)  # "0" stays a string, 0.5.0 is one anyway
    plain = re.fullmatch(r"(?:[\w./]|-(?=\S))[^\s#'\"{}\[\],&*!|>%@`]*", text) and not text.endswith(":")
    return text if plain and not number and text not in ("true", "false", "null") else json.dumps(text)


def _lines(value: object, column: int) -> list[str]:
    lines: list[str] = []
    # go-yaml's way: what is nested starts at the next multiple of four, also below a list item's second key.
    indent, deeper = " " * column, (column // 4 + 1) * 4
    if isinstance(value, dict):
        for key, inner in value.items():
            if isinstance(inner, (dict, list)) and inner:
                lines += [f"{indent}{key}:", *_lines(inner, deeper)]
            else:
                lines.append(
                    f"{indent}{key}: {_scalar(inner) if not isinstance(inner, (dict, list)) else '[]'}"
                )
    elif isinstance(value, list):
        for inner in value:
            if isinstance(inner, dict):
                first, *rest = _lines(inner, column + 2)
                lines += [f"{indent}- {first.lstrip()}", *rest]
            else:
                lines.append(f"{indent}- {_scalar(inner)}")
    return lines


def to_yaml(spec: Json) -> str:
    """Block YAML in the shape the real tool writes: a document mark, four spaces, lists indented."""
    return "---\n" + "\n".join(_lines(spec, 0)) + "\n"


# -- reading ------------------------------------------------------------------------------------------------


class SpecError(Exception):
    """A spec file the CDI cache would drop, with its reason."""


def _unknown(value: object, what: str) -> None:
    if isinstance(value, dict):
        for key in value:
            if key not in FIELDS[what]:
                raise SpecError(f'error unmarshaling JSON: while decoding JSON: json: unknown field "{key}"')


def load(path: Path) -> Json:
    """The spec in `path`; raises `SpecError` with the cache's text where it would be dropped."""
    yaml = importlib.import_module("yaml")  # here, because most runs of the stand-ins read no spec
    failed = f'failed to load CDI Spec failed to parse CDI Spec "{path}": failed to unmarshal CDI Spec: '
    try:
        spec = yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise SpecError(f"{failed}error converting YAML to JSON: yaml: {reason}") from error
    except OSError as error:
        raise SpecError(
            f'failed to load CDI Spec failed to read CDI Spec "{path}": {error.strerror}'
        ) from error
    if spec is None:
        raise SpecError(f'failed to load CDI Spec failed to parse CDI Spec "{path}", no Spec data')
    try:
        if not isinstance(spec, dict):
            raise SpecError(
                "error unmarshaling JSON: while decoding JSON: json: cannot unmarshal into specs.Spec"
            )
        _check_fields(spec)
    except SpecError as error:
        raise SpecError(failed + str(error)) from error
    try:
        _check(spec)
    except SpecError as error:
        raise SpecError(f"failed to load CDI Spec invalid CDI Spec: {error}") from error
    return spec


def _check_fields(spec: Json) -> None:
    _unknown(spec, "spec")
    for holder in [spec, *(spec.get("devices") or [])]:
        if holder is not spec:
            _unknown(holder, "device")
        edits = holder.get("containerEdits") or {}
        _unknown(edits, "edits")
        for field, what in (("deviceNodes", "node"), ("hooks", "hook"), ("mounts", "mount")):
            for entry in edits.get(field) or []:
                _unknown(entry, what)


def _check(spec: Json) -> None:
    version = str(spec.get("cdiVersion") or "")
    if version not in VERSIONS:
        raise SpecError(f'invalid version "{version}"')
    needed = minimum_version(spec)
    if VERSIONS.index(version) < VERSIONS.index(needed):
        raise SpecError(f"the spec version must be at least v{needed}")
    vendor, _, kind = str(spec.get("kind") or "").partition("/")
    if not vendor:
        raise SpecError("invalid vendor. empty name")
    if bad := re.search(r"[^\w.-]", kind):
        raise SpecError(f"invalid class. invalid character '{bad[0]}' in name \"{kind}\"")
    if not spec.get("devices"):
        raise SpecError("invalid spec, no devices")
    seen: set[str] = set()
    for device in spec["devices"]:
        name = str(device.get("name"))
        if name in seen:
            raise SpecError(f'invalid spec, multiple device "{name}"')
        seen.add(name)
        edits = device.get("containerEdits") or {}
        if not any(edits.values()):
            raise SpecError(f'failed add device "{name}": invalid device, empty device edits')
        for hook in edits.get("hooks") or []:
            if hook.get("hookName") not in HOOK_NAMES:
                reason = f'invalid hook name "{hook.get("hookName")}"'
                raise SpecError(f'failed add device "{name}": invalid device "{name}": {reason}')


class Registry:
    """All devices of the spec directories: {qualified name: (spec, device)}, and what was wrong, by file."""

    def __init__(self, directories: list[str]) -> None:
        self.devices: dict[str, tuple[Json, Json]] = {}
        self.errors: dict[str, list[str]] = {}
        origin: dict[str, tuple[int, str]] = {}
        conflicts: set[str] = set()
        for priority, directory in enumerate(directories):
            # A directory that is itself a link is not walked (filepath.Walk does not follow it).
            if os.path.islink(directory) or not os.path.isdir(directory):
                continue
            for path in sorted(Path(directory).iterdir()):
                if path.suffix not in (".yaml", ".json") or path.is_dir():
                    continue
                try:
                    spec = load(path)
                except SpecError as error:
                    self.errors.setdefault(str(path), []).append(str(error))
                    continue
                for device in spec["devices"]:
                    name = f"{spec['kind']}={device['name']}"
                    held = origin.get(name)
                    if held is not None and held[0] == priority:
                        text = f'conflicting device "{name}" (specs "{path}", "{held[1]}")'
                        for where in (str(path), held[1]):
                            self.errors.setdefault(where, []).append(text)
                        conflicts.add(name)
                        continue
                    origin[name] = (priority, str(path))
                    self.devices[name] = (spec, device)
        for name in conflicts:
            self.devices.pop(name, None)
