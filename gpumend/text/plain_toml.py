"""TOML as programs write it, nvidia-ctk for one: tables, keys with values of one line, and comments, and nothing else.

What is read here is what every TOML parser makes of it; a text with anything else in it is left to tomllib, which is written in
Python and takes ten times as long.
"""

from __future__ import annotations

import re
from typing import Any

STRING = r"\"[ !#-\[\]-~]*\"|'[ -&(-~]*'"
PART = rf"[A-Za-z0-9_-]+|{STRING}"
# One match a line of the text, whose end is in it: (table, key, string, bool, integer, list of strings); all empty where the line is
# empty or a comment.
PLAIN_LINES = re.compile(
    rf"(?m)^[ \t]*(?:(?:#[^\x00-\x08\x0a-\x1f\x7f]*)?|\[((?:{PART})(?:\.(?:{PART}))*)\]"
    rf"|([A-Za-z0-9_-]+)[ ]?=[ ]?(?:({STRING})|(true|false)|(0|-?[1-9][0-9]{{0,17}})|(\[(?:(?:{STRING})(?:,[ ]?(?:{STRING}))*)?\])))\n"
)
PARTS, STRINGS = re.compile(PART), re.compile(STRING)
MAX_LINES = 20_000


def read(text: str) -> dict[str, Any] | None:
    """The document that the text is; None where it is not as plain as that, or where it is none."""
    if not text.endswith("\n"):
        text += "\n"
    lines = PLAIN_LINES.findall(text)
    if len(lines) > MAX_LINES or len(lines) != text.count("\n"):  # there is a line with something else
        return None
    top: dict[str, Any] = {}
    table, tables = top, set()
    for name, key, string, word, number, strings in lines:
        if name:
            parts = tuple(_bare(part) for part in PARTS.findall(name))
            if parts in tables:
                return None
            tables.add(parts)
            table = top
            for part in parts:
                table = table.setdefault(part, {})
                if not isinstance(table, dict):
                    return None
        elif key:
            if key in table:
                return None
            table[key] = (
                string[1:-1]
                if string
                else int(number)
                if number
                else word == "true"
                if word
                else [item[1:-1] for item in STRINGS.findall(strings)]
            )
    return top


def _bare(part: str) -> str:
    return part[1:-1] if part[0] in "\"'" else part
