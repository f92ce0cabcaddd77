"""YAML as programs write it, nvidia-ctk for one: block mappings and lists of scalars on one line each, and nothing else.

What is read here is what every YAML parser makes of it; a text with anything else in it is left to PyYAML. Loading that costs as
much as starting Python does, and an agent has it without its C parser, which takes 20 ms for a spec of 17 KB.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from gpumend.text.record import Record

# What no parser takes for anything but a text, but for WORDS: a word, a path, an option, a version.
TEXT = r"(?:[A-Za-z/_]|--[A-Za-z]|\.\.?/)(?:[\w./@=+,:-]*[\w./@=+,-])?|\d+\.\d+\.\d+"
PLAIN_LINE = re.compile(
    rf'( *)(- (?! ))?(?:([A-Za-z][\w./-]{{0,99}}):(?: |$))?(?:({TEXT})|(0|[1-9]\d{{0,17}})|"([ !#-\[\]-~]*)")?',
    re.ASCII,
)
# What YAML 1.1 or 1.2 takes for something else, in any case of its letters.
WORDS = frozenset(("true", "false", "yes", "no", "on", "off", "y", "n", "null"))
MAX_LINES, MAX_COLUMN = 20_000, 100  # beyond these gpumend/text/yaml_limits.py has to look
DASH = "-"


class _Row(Record):
    """What begins at a column: a dash, `key: value`, `key:`, or a value that is an item of a list."""

    column: int
    key: str | None
    value: str | int | None


class _NotPlain(Exception):
    """There is something else in the text."""


def read(text: str) -> dict[str, Any] | None:
    """The mapping that the text is; None where it is not as plain as that."""
    try:
        rows = list(_rows(text))
        found, end = _below(rows, 0)
    except _NotPlain:
        return None
    return found if isinstance(found, dict) and rows[0].column == 0 and end == len(rows) else None


def _rows(text: str) -> Iterator[_Row]:
    lines = text.split("\n")
    if lines.pop() or not lines or len(lines) > MAX_LINES:
        raise _NotPlain
    for line in lines[1:] if lines[0] == "---" else lines:
        match = PLAIN_LINE.fullmatch(line)
        if match is None:
            raise _NotPlain
        indent, dash, key, text, number, quoted = match.groups()
        column = len(indent)
        if column > MAX_COLUMN or (text or "").lower() in WORDS or (key or "").lower() in WORDS:
            raise _NotPlain
        if dash:
            yield _Row(column, DASH, None)
            column += len(dash)
        yield _Row(column, key, int(number) if number else quoted if text is None else text)


def _below(rows: list[_Row], at: int) -> tuple[Any, int]:
    """What begins at a row, and the row that follows it."""
    if at == len(rows):
        raise _NotPlain
    _, key, value = rows[at]
    if key == DASH:
        return _list(rows, at)
    if key is not None:
        return _mapping(rows, at)
    if value is None:
        raise _NotPlain
    return value, at + 1


def _list(rows: list[_Row], at: int) -> tuple[list[Any], int]:
    column = rows[at].column
    found = []
    while at < len(rows) and rows[at].column == column and rows[at].key == DASH:
        item, at = _below(rows, at + 1)
        found.append(item)
    return found, at


def _mapping(rows: list[_Row], at: int) -> tuple[dict[str, Any], int]:
    column = rows[at].column
    found: dict[str, Any] = {}
    while at < len(rows) and rows[at].column == column and rows[at].key != DASH:
        _, key, value = rows[at]
        at += 1
        if key is None or key in found:
            raise _NotPlain
        if value is None:
            # Some programs write a list at the column of its key.
            if at == len(rows) or rows[at].column < column + (rows[at].key != DASH):
                raise _NotPlain
            value, at = _below(rows, at)
        found[key] = value
    return found, at
