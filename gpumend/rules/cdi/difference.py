"""What differs between two specs for a container: devices, mounts, device nodes, variables and hooks, not lines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from gpumend.rules.cdi.additions import CTK_ENV, CTK_HOOKS, named
from gpumend.state.cdi import KIND, Cdi, Spec, SpecFile
from gpumend.text.version import show

MOST = 12  # lines that are told; the old file is in the run's backup


Entry = tuple[str, str]  # (device, or empty for every device's; what it is, or empty for the device itself)


def difference(old: Spec, new: Spec) -> list[str]:
    """`- ` goes, `+ ` comes, `~ ` is another; what a new driver renames comes last, and what it renames alike is one line."""
    then, now = dict(_entries(old)), dict(_entries(new))
    versions = tuple(map(show, filter(None, (old.driver_version(), new.driver_version()))))
    head = []
    if len(set(versions)) == 2:
        moved = sum(versions[0] in f"{key[1]} {value}" for key, value in then.items())
        head.append(f"~ driver {versions[0]} -> {versions[1]}: {moved} entries")
        then, now = _renamed(then, versions[0]), _renamed(now, versions[1])
    lines = [*_one_sided("-", then, now), *_one_sided("+", now, then)]
    lines += [
        f"~ {_name(key)}{_change(key[1], value, now[key])}"
        for key, value in then.items()
        if key[1] and key in now and now[key] != value
    ]
    return head + sorted(lines, key=lambda line: any(version in line for version in (*versions, VERSION)))


VERSION = "<driver>"  # in place of a version that has another on the other side


def _renamed(entries: Mapping[Entry, str], version: str) -> dict[Entry, str]:
    return {
        (device, text.replace(version, VERSION)): value.replace(version, VERSION)
        for (device, text), value in entries.items()
    }


def _one_sided(sign: str, here: Mapping[Entry, str], there: Mapping[Entry, str]) -> Iterator[str]:
    """What one side has alone; of a whole device its nodes say enough."""
    for device, text in here:
        if (device, text) in there or (text and device and (device, "") not in there):
            continue
        yield f"{sign} {_name((device, text))}{'' if text else here[device, text]}"


def _name(key: Entry) -> str:
    return f"device {key[0]}{': ' if key[1] else ''}{key[1]}" if key[0] else key[1]


def _change(text: str, old: str, new: str) -> str:
    """How an entry changed. Values of variables and arguments of people's hooks may be secrets."""
    if text.startswith("env ") and not f"{text[4:]}=".startswith(CTK_ENV):
        return ": another value"
    if text.startswith("hook ") and "/" in text.partition(" ")[2][:1]:
        return ": other arguments"
    return f": {old or 'none'} -> {new or 'none'}"


def _entries(spec: Spec) -> Iterator[tuple[Entry, str]]:
    """All in a spec, and how each is."""
    raw = spec.raw
    yield from ((("", text), how) for text, how in _of_edits(raw.get("containerEdits", {})))
    for device in raw.get("devices", ()):
        name, edits = device["name"], device.get("containerEdits", {})
        nodes = ", ".join(named("deviceNodes", node) for node in edits.get("deviceNodes", ()))
        yield (name, ""), f" ({nodes})" if nodes else ""
        yield from (((name, text), how) for text, how in _of_edits(edits))


def _of_edits(edits: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for mount in edits.get("mounts", ()):
        inside = mount["containerPath"]
        where = "" if inside == mount["hostPath"] else f" at {inside}"
        yield f"mount {mount['hostPath']}{where}", ",".join(mount.get("options", ()))
    for node in edits.get("deviceNodes", ()):
        numbers = f"{node['major']}:{node.get('minor', 0)}" if node.get("major") else "no numbers"
        rest = {key: node[key] for key in sorted(node) if key not in ("path", "hostPath", "major", "minor")}
        yield f"device node {named('deviceNodes', node)}", f"{numbers} {_plain(rest)}".rstrip()
    for text in edits.get("env", ()):
        name, _, value = text.partition("=")
        yield f"env {name}", value
    for hook in edits.get("hooks", ()):
        yield from _of_hook(hook)
    for field in ("netDevices", "intelRdt", "additionalGids"):
        if edits.get(field):
            yield field, json.dumps(edits[field], sort_keys=True)


def _plain(values: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={oct(value) if key == 'fileMode' else value}" for key, value in values.items())


def _of_hook(hook: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Of nvidia-ctk's hooks each option by itself: a new driver has others."""
    words = [word for word in hook.get("args", ())[1:] if word]
    if hook["path"].rpartition("/")[2] not in CTK_HOOKS:
        yield f"hook {hook['path']}", " ".join(words)
        return
    while words and words[0] == "hook":  # nvidia-ctk hook create-symlinks
        words.pop(0)
    name = f"hook {words[0] if words else hook['path']}"
    yield name, hook["path"]
    yield from ((f"{name} {word}", "") for word in words[1:] if not word.startswith("-") or "=" in word)


def told(before: Cdi, after: Cdi) -> str:
    """What a change of the spec files changed for containers, in one text."""
    old, new = _gpus(before), _gpus(after)
    parts = []
    for path, file in old.items():
        other = new.get(path) or (next(iter(new.values())) if len(new) == 1 else None)
        if other is None or other.sha256 == file.sha256 or not (file.spec.value and other.spec.value):
            continue
        lines = difference(file.spec.value, other.spec.value)
        more = f"; and {len(lines) - MOST} more" if len(lines) > MOST else ""
        parts.append(f"{path}, old to new: {'; '.join(lines[:MOST]) or 'the same for containers'}{more}")
    return "; ".join(parts)


def _gpus(cdi: Cdi) -> dict[str, SpecFile]:
    return {
        file.path: file
        for file in cdi.files.value or ()
        if file.spec.value is not None and file.spec.value.kind == KIND
    }
