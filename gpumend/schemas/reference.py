"""docs/desired-state.md, made from the schema: `python -m gpumend.schemas.reference` writes it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gpumend import schemas

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "desired-state.md"
HEAD = """\
# Desired state

One host data key, `gpumend`: in `group_data/all.py` beside the hosts file, in a group's file, in an entry of the hosts file, or by
`--data gpumend='{...}'`. Each of these overrides single keys of the ones before. An unknown key or a value that is not allowed is exit
status 2 before anything connects (`gpumend check`).

This page is made from `gpumend/schemas/wanted.schema.json` (`python -m gpumend.schemas.reference`).

"""


def allowed(rule: Mapping[str, Any]) -> str:
    """What may stand there, in few words."""
    if "oneOf" in rule:
        return " or ".join(allowed(each) for each in rule["oneOf"])
    if "enum" in rule:
        return ", ".join(f"`{json.dumps(value)}`" for value in rule["enum"])
    if "const" in rule:
        return f"`{json.dumps(rule['const'])}`"
    kind = rule.get("type")
    if kind == "array":
        return f"a list of {allowed(rule.get('items', {}))}"
    if kind == "integer":
        low, high = rule.get("minimum"), rule.get("maximum")
        return (
            f"a number{f' from {low}' if low is not None else ''}{f' to {high}' if high is not None else ''}"
        )
    if kind == "string":
        return "a date, as 2027-03-31" if rule.get("format") == "date" else "text"
    return {"boolean": "true or false", "object": "a table"}.get(str(kind), "anything")


def keys(schema: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """A part for each table, a row for each key in it; tables below come after it."""
    below = []
    head = "| key | allowed | default | meaning |\n| --- | --- | --- | --- |"
    rows = []
    for key, rule in schema["properties"].items():
        inner = rule if "properties" in rule else rule.get("items", {})
        if "properties" in inner:
            below.append((f"{above}{key}{'' if inner is rule else '[]'}", rule, inner))
            continue
        default = f"`{json.dumps(rule['default'])}`" if "default" in rule else ""
        needed = " (needed)" if key in schema.get("required", ()) else ""
        meaning = " ".join(rule.get("description", "").split())
        cells = (f"`{above}{key}`{needed}", allowed(rule), default, meaning)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    if rows:
        yield "\n".join((head, *rows)) + "\n"
    for name, rule, inner in below:
        yield f"## {name}\n"
        if rule.get("description"):
            yield " ".join(rule["description"].split()) + "\n"
        yield from keys(inner, f"{name}.")


def page() -> str:
    return HEAD + "\n".join(keys(schemas.load("wanted")))


if __name__ == "__main__":
    DOCUMENT.write_text(page(), "utf-8")
