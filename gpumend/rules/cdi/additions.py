"""What people have put into a spec that nvidia-ctk generates, and what of it a new one keeps."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from gpumend.rules.finding import Evidence
from gpumend.rules.rule import Context
from gpumend.state.cdi import Spec
from gpumend.text.pattern import Pattern
from gpumend.text.record import Record

# What nvidia-ctk writes (nct pkg/nvcdi: driver-nvml.go, common-nvml.go, wsl, csv). All else was put there by hand.
CTK_DEVICES = re.compile(r"all|\d+(:\d+)?|(gpu|mig)\d+(:\d+)?|(GPU|MIG)-[\w-]+|(igpu|dgpu)\d*")
CTK_MOUNTS = re.compile(
    r"nvidia|lib(cuda|nv|GLX|EGL|GLES|OpenCL|vdpau|nvcuvid)|cudadebugger|/wsl/|tegra|dxcore|glvnd|vulkan|/gbm/|egl_|firmware|"
    r"/X11/|persistenced|fabricmanager|nvsm|-mps"
)
# Where people keep what is theirs: of there a driver has libraries and NVIDIA's own programs alone.
PEOPLES = re.compile(r"/(srv|home|root|mnt|media|data|scratch|opt)/")
DRIVERS = Pattern(r"\.so(\.|$)|/nvidia-(smi|debugdump|persistenced|cuda-mps|imex)[\w-]*$")
CTK_NODES = re.compile(r"/dev/(nvidia|dri/|dxg|nvhost|nvmap|nvgpu|fb\d)")
CTK_ENV = ("NVIDIA_VISIBLE_DEVICES=", "NVIDIA_CTK_")
CTK_HOOKS = ("nvidia-ctk", "nvidia-cdi-hook", "ldconfig")
# nct cmd/nvidia-cdi-hook/commands: a hook that says one of these is nvidia-ctk's by another path.
CTK_SUBCOMMANDS = frozenset(
    (
        "create-symlinks", "update-ldcache", "chmod", "enable-cuda-compat", "disable-device-node-modification",
        "create-soname-symlinks", "cudacompat",
    )
)  # fmt: skip
LISTS = ("mounts", "env", "deviceNodes", "hooks")  # what a new spec can keep
TEXTS = {"mounts": "mount", "env": "env", "deviceNodes": "device node", "hooks": "hook"}


class Addition(Record):
    """text: for people, without values. device: whose it is, empty for every device's. field: one of LISTS, `devices`, or another
    that nothing keeps. value: as it stands in the file."""

    text: str
    device: str
    field: str
    value: Any


def additions(spec: Spec) -> list[Addition]:
    """All that stands in a spec and is none of nvidia-ctk's."""
    raw = spec.raw
    found = [Addition(f"annotation {name}", "", "annotations", name) for name in _labels(raw)]
    found += _of_edits(raw.get("containerEdits", {}), "")
    for device in raw.get("devices", ()):
        name = device["name"]
        if not CTK_DEVICES.fullmatch(name):
            found.append(Addition(f"device {name}", name, "devices", device))
            continue
        found += [Addition(f"annotation {key}", name, "annotations", key) for key in _labels(device)]
        found += _of_edits(device.get("containerEdits", {}), name)
    return found


def _labels(raw: Mapping[str, Any]) -> list[str]:
    return [name for name in raw.get("annotations", {}) if "nvidia.com" not in name]


def _of_edits(edits: Mapping[str, Any], device: str) -> Iterator[Addition]:
    for field, value in edits.items():
        if field in LISTS:
            yield from (
                Addition(f"{TEXTS[field]} {named(field, each)}", device, field, each)
                for each in value
                if not _nvidias(field, each)
            )
        elif field != "additionalGids" and value:
            yield Addition(field, device, field, value)


def named(field: str, value: Any) -> str:
    """What one entry of a list is called; of a variable its name alone."""
    if field == "env":
        return str(value).partition("=")[0]
    if field == "mounts":
        return str(value["hostPath"])
    return str((value.get("hostPath") or value["path"]) if field == "deviceNodes" else value["path"])


def _nvidias(field: str, value: Any) -> bool:
    """Whether nvidia-ctk writes such an entry."""
    name = named(field, value)
    if field == "env":
        return str(value).startswith(CTK_ENV)
    if field == "deviceNodes":
        return CTK_NODES.match(name) is not None
    if field == "hooks":
        return name.rpartition("/")[2] in CTK_HOOKS
    peoples = PEOPLES.match(name) is not None and not DRIVERS.search(name)
    return CTK_MOUNTS.search(name) is not None and not peoples


def written_by_hand(text: str) -> list[str]:
    """What of a text that is no spec is none of nvidia-ctk's, as far as its lines tell: a person's slip keeps a whole file from being
    loaded."""
    found = [f"mount {path}" for path in _paths(text, "hostPath") if _theirs("mounts", path)]
    found += [
        f"{'device node' if path.startswith('/dev/') else 'hook'} {path}"
        for path in _paths(text, "path")
        if _theirs("hooks", path)
    ]
    names = re.findall(r"(?m)^[ \t]*-[ \t]*[\"']?([A-Za-z_]\w*)=", text)
    found += [f"env {name}" for name in names if not f"{name}=".startswith(CTK_ENV)]
    return list(dict.fromkeys(found))


def _paths(text: str, key: str) -> list[str]:
    return re.findall(rf"(?m)^[ \t]*(?:-[ \t]*)?[\"']?{key}[\"']?:[ \t]*[\"']?(/[^\s\"',]*)", text)


def _theirs(field: str, path: str) -> bool:
    return not CTK_NODES.match(path) and not _nvidias(field, {"hostPath": path, "path": path})


def hand_made(spec: Spec) -> list[Evidence]:
    """What stands in a spec and is none of nvidia-ctk's, each once."""
    texts = dict.fromkeys(found.text for found in additions(spec))
    return [Evidence(spec.path, f"{text}: not nvidia-ctk's") for text in texts]


def why_lost(context: Context, found: Addition) -> str:
    """Why a new spec cannot keep this; an empty text where it does. Raises Unread."""
    if found.field not in (*LISTS, "devices"):
        return "only mounts, env, device nodes, hooks and whole devices are kept"
    if found.field == "devices":
        edits = found.value.get("containerEdits", {})
        other = next((field for field in edits if field not in LISTS), "")
        if other or found.value.get("annotations"):
            return f"it has {other or 'annotations'}"
        entries = [(field, each) for field in LISTS for each in edits.get(field, ())]
    else:
        entries = [(found.field, found.value)]
        if found.device and found.device not in _expected(context):
            return f"it is device {found.device}'s, which a new spec has not"
    return next(filter(None, (_gone(context, field, each) for field, each in entries)), "")


def _expected(context: Context) -> set[str]:
    """Devices that a new spec has, as far as nvidia-smi says."""
    gpus = context.state.gpus.listed.get() or ()
    whole = [gpu for gpu in gpus if not gpu.mig]
    return {
        "all",
        *(str(gpu.index) for gpu in whole),
        *(gpu.uuid for gpu in whole),
        *(f"gpu{gpu.index}" for gpu in whole),
    }


def _gone(context: Context, field: str, value: Any) -> str:
    """What of an entry is not on this host any more, so that no container would start with it."""
    if field == "env":
        return ""
    name = named(field, value)
    if field == "hooks" and CTK_SUBCOMMANDS.intersection(value.get("args", ())):
        return f"{name} does nvidia-cdi-hook's work in its place"
    meta = context.state.cdi.mentioned[name].get()
    if meta is None:
        return f"{name} is not on this host"
    if field == "deviceNodes" and value.get("major"):
        numbers = (value["major"], value.get("minor", 0))
        return "" if meta.rdev == numbers else f"{name} has other numbers on this host"
    return ""


def strategies(spec: Spec) -> tuple[str, ...]:
    """The --device-name-strategy of `nvidia-ctk cdi generate` with which a spec was made, where it is not the default's: names like
    gpu0 are asked for by containers."""
    forms = {"index": r"\d+(:\d+)?", "uuid": r"(GPU|MIG)-.*", "type-index": r"(gpu|mig)\d+(:\d+)?"}
    found = tuple(
        form for form, text in forms.items() if any(re.fullmatch(text, name) for name in spec.devices)
    )
    return found if "type-index" in found else ()


def kept(context: Context, spec: Spec) -> str:
    """What a new spec keeps of this one, as the JSON that the host takes: {"devices": [device], "edits": {device: edits}}; an
    empty text where that is nothing."""
    devices: list[Any] = []
    edits: dict[str, dict[str, list[Any]]] = {}
    for found in additions(spec):
        if why_lost(context, found):
            continue
        if found.field == "devices":
            devices.append(found.value)
        else:
            edits.setdefault(found.device, {}).setdefault(found.field, []).append(found.value)
    return json.dumps({"devices": devices, "edits": edits}, sort_keys=True) if devices or edits else ""
