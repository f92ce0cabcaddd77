"""YAML as programs write it, nvidia-ctk for one: block mappings and lists of scalars on one line each, and nothing else.

What is read here is what every YAML parser makes of it; a text with anything else in it is left to PyYAML. Loading that costs as
much as starting Python does, and an agent has it without its C parser, which takes 20 ms for a spec of 17 KB.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

# What no parser takes for anything but a text, but for WORDS: a word, a path, an option, a version.
TEXT = r"(?:[A-Za-z/_]|--[A-Za-z]|\.\.?/)[\w./@=+,:-]*(?<!:)|\d+\.\d+\.\d+"
# One match a line of the text, whose end is in it: (indent, dash, key, text, number, quoted with its quotes).
PLAIN_LINES = re.compile(
    rf'(?m)^( *)(- (?! ))?(?:([A-Za-z][\w./-]{{0,99}}):(?: |$))?(?:({TEXT})|(0|[1-9]\d{{0,17}})|("[ !#-\[\]-~]*")|)\n',
    re.ASCII,
)
# What YAML 1.1 or 1.2 takes for something else, in any case of its letters.
WORDS = frozenset(("true", "false", "yes", "no", "on", "off", "y", "n", "null"))
Row = tuple[
    int, str, str, Any
]  # (column, dash, key, value), each empty where the line has none; a value is None then
MAX_LINES, MAX_COLUMN = 20_000, 100  # beyond these gpumend/text/yaml_limits.py has to look


def read(text: str) -> dict[str, Any] | None:
    """The mapping that the text is; None where it is not as plain as that."""
    lines = text.split("\n")
    if lines.pop() or not lines or len(lines) > MAX_LINES:
        return None
    if lines[0] == "---":
        del lines[0]
    # Each GPU and each mount has mostly the same lines: of a spec's two thirds are there again.
    distinct = dict.fromkeys(lines)
    found = PLAIN_LINES.findall("\n".join(distinct) + "\n")
    if not lines or len(found) != len(distinct):  # there is a line with something else
        return None
    indents, _, keys, texts, _, _ = zip(*found)
    if len(max(indents)) > MAX_COLUMN or not WORDS.isdisjoint(map(str.lower, {*keys, *texts})):
        return None
    rows = {
        line: (len(indent), dash, key, plain or (int(number) if number else quoted[1:-1] if quoted else None))
        for line, (indent, dash, key, plain, number, quoted) in zip(distinct, found)
    }
    return _tree(map(rows.__getitem__, lines))


def _tree(rows: Iterable[Row]) -> dict[str, Any] | None:
    """What these lines are; None where one of them does not stand where something of its kind may stand."""
    top: dict[str, Any] = {}
    column, block = 0, top  # type: int, dict[str, Any] | list[Any]
    around: list[
        tuple[int, dict[str, Any] | list[Any]]
    ] = []  # the blocks that this one is in, and their columns
    due = ""  # a key of this block whose value has not come yet
    for at, dash, key, value in rows:
        if due:
            # It is in this line, or begins there. Some programs write a list at the column of its key.
            if at < column or (at == column and not dash) or not isinstance(block, dict):
                return None
            if not dash and not key:
                if value is None:
                    return None
                block[due], due = value, ""
                continue
            around.append((column, block))
            below: dict[str, Any] | list[Any] = [] if dash else {}
            block[due], due = below, ""
            column, block = at, below
        else:
            while column > at or (column == at and not dash and isinstance(block, list)):
                if not around:
                    return None
                column, block = around.pop()
            if column != at:
                return None
        if dash:
            if not isinstance(block, list):
                return None
            if not key:
                if value is None:
                    return None
                block.append(value)
                continue
            around.append((column, block))
            item: dict[str, Any] = {}
            block.append(item)
            column, block = at + len(dash), item
        if not key or not isinstance(block, dict) or key in block:
            return None
        block[key] = value
        if value is None:
            due = key
    return None if due else top
