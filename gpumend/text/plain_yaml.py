"""YAML as programs write it, nvidia-ctk for one: block mappings and lists of scalars on one line each, and nothing else.

What is read here is what every YAML parser makes of it; a text with anything else in it is left to PyYAML. Loading that costs as
much as starting Python does, and an agent has it without its C parser, which takes 20 ms for a spec of 17 KB.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import product
from typing import Any

# What no parser takes for anything but a text, but for WORDS: a word, a path, an option, a version. Characters are spelt out: with a
# class among them, as \w, re looks at one after the other in place of a table.
TEXT = r"(?:[A-Za-z/_]|--[A-Za-z]|\.\.?/)[A-Za-z0-9_./@=+,:-]*(?<!:)|\d+\.\d+\.\d+"
# One match a line of the text, whose end is in it: (indent, dash, key, text, number, quoted with its quotes).
PLAIN_LINES = re.compile(
    rf'(?m)^( *)(- (?! ))?(?:([A-Za-z][A-Za-z0-9_./-]{{0,99}}):(?: |$))?(?:({TEXT})|(0|[1-9]\d{{0,17}})|("[ !#-\[\]-~]*")|)\n',
    re.ASCII,
)
# What YAML 1.1 or 1.2 takes for something else, in any case of its letters.
WORDS = frozenset(
    "".join(letters)
    for word in ("true", "false", "yes", "no", "on", "off", "y", "n", "null")
    for letters in product(*zip(word, word.upper()))
)
Row = tuple[str, str, str, str, str, str]  # as PLAIN_LINES has it
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
    found: list[Row] = PLAIN_LINES.findall("\n".join(distinct) + "\n")
    if not lines or len(found) != len(distinct):  # there is a line with something else
        return None
    indents, _, keys, texts, _, _ = zip(*found)
    if len(max(indents)) > MAX_COLUMN or not (WORDS.isdisjoint(keys) and WORDS.isdisjoint(texts)):
        return None
    return _tree(map(dict(zip(distinct, found)).__getitem__, lines))


def _tree(rows: Iterable[Row]) -> dict[str, Any] | None:
    """What these lines are; None where one of them does not stand where something of its kind may stand."""
    top: dict[str, Any] = {}
    block: Any = top
    column, is_list = 0, False  # of the block
    around: list[tuple[int, Any, bool]] = []  # the blocks that this one is in, as (column, block, is_list)
    due = ""  # a key of this block whose value has not come yet
    for indent, dash, key, word, number, quoted in rows:
        at = len(indent)
        value = word or (int(number) if number else quoted[1:-1] if quoted else None)
        if due:
            # It is in this line, or begins there. Some programs write a list at the column of its key.
            if at < column or (at == column and not dash):
                return None
            if not dash and not key:
                if value is None:
                    return None
                block[due], due = value, ""
                continue
            around.append((column, block, is_list))
            is_list = bool(dash)
            below: Any = [] if is_list else {}
            block[due] = below
            column, block, due = at, below, ""
        else:
            while column > at or (is_list and column == at and not dash):
                if not around:
                    return None
                column, block, is_list = around.pop()
            if column != at:
                return None
        if dash:
            if not is_list:
                return None
            if not key:
                if value is None:
                    return None
                block.append(value)
                continue
            around.append((column, block, True))
            item: dict[str, Any] = {}
            block.append(item)
            column, block, is_list = at + len(dash), item, False
        if not key or is_list or key in block:
            return None
        block[key] = value
        if value is None:
            due = key
    return None if due else top
