"""Set a value in a TOML text by its lines: every other byte stays because nothing else is written.

tomlkit writes some files back otherwise once a table is added below one that is nested and indented, as Debian's
config.toml of containerd is (tomlkit 0.15.2). Here a table that is missing comes at the end of the file, and the result
is compared with what it should mean.
"""

from __future__ import annotations

import json
import re
from typing import Any

from gpumend.text.backports import tomllib
from gpumend.text.documents import copied
from gpumend.text.edits.edit import EditError, JsonValue
from gpumend.text.pattern import Pattern
from gpumend.text.record import Record

Keys = tuple[str, ...]


class Item(Record):
    """A table's header (`value` False) or a key with its value, on the lines `start` up to `end` (exclusive)."""

    keys: Keys
    start: int
    end: int
    value: bool


def path_of(nested: dict[str, Any]) -> Keys:
    """The keys of a table in which each level has one."""
    found: list[str] = []
    here: Any = nested
    while isinstance(here, dict) and len(here) == 1:
        key, here = next(iter(here.items()))
        found.append(key)
    return tuple(found)


def scan(lines: list[str]) -> list[Item]:
    """The headers and keys of a valid TOML text, in order, with the whole path of each. Tables of arrays have none."""
    found: list[Item] = []
    table: Keys | None = ()
    at = 0
    while at < len(lines):
        row = lines[at].strip()
        if not row or row.startswith("#"):
            at += 1
        elif row.startswith("[["):
            table = None
            at += 1
        elif row.startswith("["):
            header = re.match(r"\[(.*)\]\s*(?:#.*)?$", row)
            table = path_of(tomllib.loads(f"[{header.group(1)}]")) if header else None
            if table is not None:
                found.append(Item(table, at, at + 1, False))
            at += 1
        else:
            end = _value_end(lines, at)
            if table is not None:
                key = path_of(tomllib.loads(f"{_split(lines[at])[0]} = 0"))
                found.append(Item((*table, *key), at, end, True))
            at = end
    return found


TOKEN = Pattern(r'"""|\'\'\'|"(?:[^"\\]|\\.)*"|\'[^\']*\'|[\[\]{}#]')
# Where a string of several lines ends: up to two quotes more are its own (TOML 1.0, String).
CLOSE = {'"""': Pattern(r'\\.|("{3,5})'), "'''": Pattern(r"('{3,5})")}


def _value_end(lines: list[str], start: int) -> int:
    """The line after the value of a key that stands on line `start`. Reads each character once: the text is valid TOML."""
    depth, open_ = 0, ""
    text = _split(lines[start])[1]
    for number in range(start, len(lines)):
        depth, open_ = _nesting(text if number == start else lines[number], depth, open_)[:2]
        if not depth and not open_:
            return number + 1
    raise EditError(f"line {start + 1} cannot be read")


def _nesting(text: str, depth: int, open_: str) -> tuple[int, str, int]:
    """How deep in brackets, and in which string of several lines, the line ends that began so; and where its comment
    begins (its length where it has none)."""
    at = 0
    while at < len(text):
        if open_:
            ends = (match for match in CLOSE[open_].finditer(text, at) if match.group(1))
            close = next(ends, None)
            if close is None:
                break
            at, open_ = close.end(), ""
            continue
        match = TOKEN.search(text, at)
        if match is None:
            break
        at = match.end()
        token = match.group()
        if token == "#":
            return depth, "", match.start()
        if token in CLOSE:
            open_ = token
        else:
            depth += (token in "[{") - (token in "]}")
    return depth, open_, len(text)


def _split(line: str) -> tuple[str, str]:
    """A line's key with what stands before the value, and the rest."""
    match = re.match(r"""(\s*(?=\S)(?:[A-Za-z0-9_.\s-]|"(?:[^"\\]|\\.)*"|'[^']*')+?)(?<!\s)(\s*=\s*)""", line)
    if match is None:
        raise EditError(f"{line.strip()!r} cannot be read")
    return match.group(1), line[match.end(1) :]


def render(value: JsonValue) -> str:
    """A value as TOML writes it on one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(map(render, value)) + "]"
    if isinstance(value, (int, str)):
        return json.dumps(value, ensure_ascii=False)
    raise EditError(f"{value!r} has no place in a line of TOML")


def _name(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key, ensure_ascii=False)


def _get(table: Any, keys: Keys) -> Any:
    for key in keys:
        table = table.get(key) if isinstance(table, dict) else None
    return table


def _replaced(line: str, old: Any, value: JsonValue) -> str:
    """The line with the value's text exchanged; its comment stays."""
    key, rest = _split(line)
    sign = re.match(r"\s*=\s*", rest)
    assert sign is not None
    text = rest[sign.end() :]
    value_text = text[: _nesting(text, 0, "")[2]]
    try:
        if tomllib.loads(f"x = {value_text}") == {"x": old}:
            tail = text[len(value_text.rstrip()) :]
            return key + rest[: sign.end()] + render(value) + tail
    except tomllib.TOMLDecodeError:
        pass
    raise EditError(f"{line.strip()!r} cannot be read")


def set_value(text: str, keys: Keys, value: JsonValue) -> str:
    """The text with keys[0].keys[1]... = value; a table that is missing comes at the end. Raises EditError for invalid
    TOML, for a value that stands over several lines, and where the result would mean anything but that one change."""
    try:
        before = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: a number of thousands of digits
        raise EditError(f"not valid TOML: {error}") from None
    old = _get(before, keys)
    if old is not None and json.dumps(old, default=str) == json.dumps(value):
        return text
    newline = "\r\n" if "\r\n" in text else "\n"
    lines = text.split(newline)
    if lines and lines[-1] == "":
        lines.pop()
    items = scan(lines)
    own = next((item for item in items if item.value and item.keys == keys), None)
    if own is not None:
        if own.end != own.start + 1:
            raise EditError(f"{'.'.join(keys)} stands over several lines")
        lines[own.start] = _replaced(lines[own.start], old, value)
    else:
        _insert(lines, items, keys, value)
    # a file that ends without a newline, and gets no new line, still does
    after = newline.join(lines) + ("" if own is not None and not text.endswith(newline) else newline)
    _check(before, after, keys, value)
    return after


def _insert(lines: list[str], items: list[Item], keys: Keys, value: JsonValue) -> None:
    table, row = keys[:-1], f"{_name(keys[-1])} = {render(value)}"
    header = next((item for item in items if not item.value and item.keys == table), None)
    siblings = [item for item in items if item.value and item.keys[:-1] == table]
    if header is not None or not table:
        after = max((item.end for item in siblings), default=header.end if header else 0)
        like = lines[siblings[-1].start] if siblings else (lines[header.start] + "  " if header else "")
        indent = re.match(r"[ \t]*", like)
        margin = indent.group() if indent and siblings else ""
        if not siblings and header is not None:
            above = re.match(r"[ \t]*", lines[header.start])
            margin = (above.group() if above else "") + "  "
        lines.insert(after, margin + row)
        return
    if lines and lines[-1].strip():
        lines.append("")
    lines.extend((f"[{'.'.join(map(_name, table))}]", f"  {row}"))


def _check(before: dict[str, Any], after: str, keys: Keys, value: JsonValue) -> None:
    wanted: dict[str, Any] = copied(before)
    here = wanted
    for key in keys[:-1]:
        here = here.setdefault(key, {})
        if not isinstance(here, dict):
            raise EditError(f"{key} is not a table")
    here[keys[-1]] = value
    try:
        found = tomllib.loads(after)
    except tomllib.TOMLDecodeError as error:
        raise EditError(f"{'.'.join(keys)} cannot be added: {error}") from None
    if json.dumps(found, sort_keys=True, default=str) != json.dumps(wanted, sort_keys=True, default=str):
        raise EditError(f"{'.'.join(keys)} cannot be set without changing something else")
