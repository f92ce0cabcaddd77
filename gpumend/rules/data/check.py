"""Checks the shape of the tables: `python -m gpumend.rules.data.check` prints what is wrong with them and exits 1, or says ok.

What it can tell is form and order, not truth: a number is as good as the `source` beside it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any

from gpumend.rules.data import load

CUDA = re.compile(r"\d{2}\.\d{1,2}(\.\d{1,2})?")
DRIVER = re.compile(r"\d{3}\.\d{1,3}(\.\d{2})?")
CONFIDENCE = ("table", "quoted", "single", "unbundled", "unknown")
WORDS = ("compatible", "paired", "none")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def matrix(table: dict[str, Any]) -> Iterator[str]:
    """What is wrong with cuda_driver_matrix.json, one line each."""
    seen: set[str] = set()
    newest: tuple[int, ...] = (99,)
    for row in table["toolkits"]:
        name = str(row.get("toolkit"))
        if not CUDA.fullmatch(name):
            yield f"toolkits: {name}: not a CUDA release"
            continue
        if name in seen:
            yield f"toolkits: {name}: twice"
        seen.add(name)
        if _numbers(name) > newest:
            yield f"toolkits: {name}: not in order, newest first"
        newest = _numbers(name)
        if not str(row.get("source", "")).strip():
            yield f"toolkits: {name}: no source"
        if row.get("confidence") not in CONFIDENCE:
            yield f"toolkits: {name}: confidence is none of {', '.join(CONFIDENCE)}"
        for key in ("linux", "windows"):
            value = row.get(key, "")
            if value is not None and not DRIVER.fullmatch(value):
                yield f"toolkits: {name}: {key} {value!r} is no driver version and not null"
        if row.get("linux") is None and row.get("confidence") not in ("unbundled", "unknown"):
            yield f"toolkits: {name}: no Linux driver, but confidence {row.get('confidence')}"
    with_driver = [
        row for row in table["toolkits"] if row.get("linux") and CUDA.fullmatch(str(row["toolkit"]))
    ]
    for newer, older in zip(with_driver, with_driver[1:]):
        if _numbers(newer["linux"]) < _numbers(older["linux"]):
            yield f"toolkits: {newer['toolkit']} needs an older driver than {older['toolkit']}"
    majors = {_numbers(name)[0] for name in seen}
    known = {row.get("major") for row in table["minor_version"]}
    for major in sorted(majors - known):
        yield f"minor_version: no row for CUDA {major}"
    for row in table["minor_version"]:
        if not DRIVER.fullmatch(str(row.get("linux"))) or not str(row.get("source", "")).strip():
            yield f"minor_version: {row.get('major')}: no driver version or no source"
    for row in table["architectures"]:
        if not row.get("dropped") or not str(row.get("source", "")).strip():
            yield f"architectures: {row.get('cuda_major')}: no names or no source"


def branches(table: dict[str, Any]) -> Iterator[str]:
    """What is wrong with compat_branches.json, one line each."""
    columns: set[str] | None = None
    for row in table["packages"]:
        name = str(row.get("package"))
        if name != f"cuda-compat-{str(row.get('cuda')).replace('.', '-')}":
            yield f"packages: {name} is not the package of CUDA {row.get('cuda')}"
        if not str(row.get("source", "")).strip():
            yield f"packages: {name}: no source"
        columns = columns or set(row["branches"])
        if set(row["branches"]) != columns:
            yield f"packages: {name}: not the columns of the others"
        if wrong := sorted(set(row["branches"].values()) - set(WORDS)):
            yield f"packages: {name}: {', '.join(wrong)} is none of {', '.join(WORDS)}"
        # Forward compatibility is for older branches: the words go compatible, paired, none as branches rise.
        order = [WORDS.index(word) for _, word in sorted(row["branches"].items()) if word in WORDS]
        if order != sorted(order):
            yield f"packages: {name}: a branch is compatible above one that is not"
    for row in table["notes"]:
        if not DRIVER.fullmatch(str(row.get("library"))) or not row.get("branches") or not row.get("source"):
            yield f"notes: {row.get('library')}: no library version, branches or source"
    ids = [row.get("id") for row in table["brands"]]
    if ids != sorted(set(ids)):
        yield "brands: ids are not in order, or stand twice"
    listed = {device for row in table["notes"] for device in row["devices"]}
    allowed = {row["id"] for row in table["brands"] if row["compat"]}
    if listed != allowed:
        yield f"brands: compat is said of {sorted(allowed)}, the notes' devices are {sorted(listed)}"
    for row in table["brands"]:
        if not row.get("names") or not row.get("source"):
            yield f"brands: {row.get('id')}: no name or no source"


def floors(table: dict[str, Any]) -> Iterator[str]:
    """What is wrong with security_floors.json, one line each."""
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", str(table.get("as_of"))):
        yield "as_of: no date"
    seen: dict[tuple[str, str], tuple[int, ...]] = {}
    for row in table["floors"]:
        name = f"floors: {row.get('component')} {row.get('branch')}".rstrip()
        if not re.fullmatch(r"\d+(\.\d+)+", str(row.get("minimum"))):
            yield f"{name}: minimum is no version"
            continue
        if not str(row.get("source", "")).strip() or not re.fullmatch(r"\d{4}-\d{2}", str(row.get("date"))):
            yield f"{name}: no source or no date"
        number, key = _numbers(row["minimum"]), (row["component"], row["branch"])
        if row["branch"] and not f"{row['minimum']}.".startswith(f"{row['branch']}."):
            yield f"{name}: {row['minimum']} is of another branch"
        if key in seen and number >= seen[key]:
            yield f"{name}: not in order, newest first"
        seen[key] = number
    for row in table["broken_toolkits"]:
        if not re.fullmatch(r"\d+\.\d+\.\d+", str(row.get("version"))) or not row.get("source"):
            yield f"broken_toolkits: {row.get('version')}: no version or no source"
        elif _numbers(str(row.get("fixed"))) <= _numbers(row["version"]):
            yield f"broken_toolkits: {row['version']}: fixed in {row['fixed']}"


def chips(table: dict[str, Any]) -> Iterator[str]:
    """What is wrong with gpu_chips.json, one line each."""
    before = 0
    for row in table["chips"]:
        first, last = int(str(row["first"]), 16), int(str(row["last"]), 16)
        name = f"{row['first']}-{row['last']}"
        if not before < first <= last:
            yield f"chips: {name}: not in order, or part of another range"
        before = last
        if row["modules"] not in ("proprietary", "both", "open"):
            yield f"chips: {name}: modules is none of proprietary, both, open"
        if not str(row.get("architecture", "")).strip() or not str(row.get("source", "")).strip():
            yield f"chips: {name}: no architecture or no source"


def drivers(table: dict[str, Any]) -> Iterator[str]:
    """What is wrong with drivers.json, one line each."""
    last: dict[tuple[str, str], int] = {}
    for row in table["packages"]:
        key, name = (row["origin"], row["id"]), f"packages: {row['origin']} {row['id']} {row['first']}"
        if not last.get(key, 0) < row["first"] <= row["last"]:
            yield f"{name}: not in order, or part of another row"
        last[key] = row["last"]
        if row["origin"] not in ("nvidia", "distribution") or not (row["open"] or row["proprietary"]):
            yield f"{name}: no origin, or no packages"
        if row["builds"] and not row.get("headers"):
            yield f"{name}: the host builds its modules, of which it has no headers"
        if not str(row.get("source", "")).strip():
            yield f"{name}: no source"
    for row in table["boards"]:
        if row["fabric"] not in ("own", "subnet", "rack") or not str(row.get("source", "")).strip():
            yield f"boards: {row['first']}: no kind of fabric, or no source"


def problems() -> list[str]:
    """Everything that is wrong with the tables; empty where they are whole."""
    found = [f"cuda_driver_matrix.json: {line}" for line in matrix(load("cuda_driver_matrix"))]
    found += [f"compat_branches.json: {line}" for line in branches(load("compat_branches"))]
    found += [f"gpu_chips.json: {line}" for line in chips(load("gpu_chips"))]
    found += [f"drivers.json: {line}" for line in drivers(load("drivers"))]
    return found + [f"security_floors.json: {line}" for line in floors(load("security_floors"))]


def main() -> int:
    found = problems()
    sys.stdout.write("\n".join(found or ["ok"]) + "\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
