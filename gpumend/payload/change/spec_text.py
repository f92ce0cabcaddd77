"""A generated CDI spec with what people had added to the old one: stdlib only, Python 3.6 or newer."""

import json
import re
from typing import Any, Dict, List

from gpumend.payload.change.files import Failed


def with_additions(text: str, keeps: Dict[str, Any]) -> str:
    """The spec of this JSON text with these devices and edits besides, as YAML. Raises Failed where they do not fit."""
    try:
        spec = json.loads(text)
        devices = dict((device["name"], device) for device in spec["devices"])
    except (ValueError, KeyError, TypeError):
        raise Failed("the generated spec is not JSON as asked for")
    for device in keeps["devices"]:
        if device["name"] in devices:
            raise Failed("the new spec has a device %s of its own" % device["name"])
        spec["devices"].append(device)
    for name, edits in sorted(keeps["edits"].items()):
        if name and name not in devices:
            raise Failed("the new spec has no device %s, to which people have added" % name)
        owner = devices[name] if name else spec
        merge_edits(owner.setdefault("containerEdits", {}), edits)
    version = [int(part) for part in re.findall(r"\d+", str(spec.get("cdiVersion")))]
    if version < [0, 5, 0]:  # what people have added may call for it
        spec["cdiVersion"] = "0.5.0"
    return "---\n" + "\n".join(yaml_lines(spec)) + "\n"


def merge_edits(edits: Dict[str, Any], more: Dict[str, List[Any]]) -> None:
    """The edits have these entries, each once. Raises Failed where two of one name differ."""
    for field, entries in more.items():
        there = edits.setdefault(field, [])
        for entry in entries:
            same = [each for each in there if entry_name(field, each) == entry_name(field, entry)]
            if field != "hooks" and same and entry not in same:
                raise Failed("the new spec has another %s for %s" % (field, entry_name(field, entry)))
            if entry not in there:
                there.append(entry)


def entry_name(field: str, entry: Any) -> str:
    """By what an entry is known in the container."""
    if field == "env":
        return str(entry).split("=")[0]
    return str(entry["containerPath" if field == "mounts" else "path"])


def yaml_lines(value: Any) -> List[str]:
    """A value of JSON as lines of YAML; its texts as JSON has them, paths without quotes."""
    if isinstance(value, dict) and value:
        lines = []
        for key, each in value.items():
            nested = isinstance(each, (dict, list)) and each
            lines.extend(["%s:" % key] if nested else ["%s: %s" % (key, yaml_scalar(each))])
            lines.extend("    " + line for line in (yaml_lines(each) if nested else []))
        return lines
    if isinstance(value, list) and value:
        lines = []
        for each in value:
            first, rest = "- ", yaml_lines(each)
            for line in rest:
                lines.append(first + line)
                first = "  "
        return lines
    return [yaml_scalar(value)]


def yaml_scalar(value: Any) -> str:
    if isinstance(value, str) and re.match(r"/[A-Za-z0-9_./-]*$", value):
        return value
    return json.dumps(value)
