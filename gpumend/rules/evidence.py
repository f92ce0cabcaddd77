"""Where a key stands in a file: evidence as `file:line`, and what is there."""

from __future__ import annotations

import re

from gpumend.rules.finding import Evidence
from gpumend.state.snapshot import FileContent
from gpumend.text.backports import tomllib
from gpumend.text.edits import EditError
from gpumend.text.edits.toml_lines import scan


def place(path: str, number: int | None) -> str:
    """`file:line`; the file alone where the line is not known."""
    return f"{path}:{number}" if number else path


def standing(path: str, content: FileContent | None, key: str | tuple[str, ...], text: str) -> Evidence:
    """What stands in a file, by its line. key: the path of a key or table of TOML, or one key of any file."""
    data = content.data.decode("utf-8", "replace") if content else ""
    return Evidence(place(path, line(data, key) if isinstance(key, str) else where(data, key)), text)


def line(text: str, key: str) -> int | None:
    """The number of the line that sets a key, from 1, or None."""
    for number, content in enumerate(text.splitlines(), 1):
        if re.match(rf"\s*\"?{re.escape(key)}\"?\s*[=:]", content):
            return number
    return None


def where(text: str, keys: tuple[str, ...]) -> int | None:
    """The number of the line, from 1, on which a TOML text has the table or the key of this path, or the first below it."""
    try:
        items = scan(text.splitlines())
    except (EditError, tomllib.TOMLDecodeError):
        return None
    found = next((item for item in items if item.keys == keys), None)
    found = found or next((item for item in items if item.keys[: len(keys)] == keys), None)
    return found.start + 1 if found else None


def line_of(detail: str) -> int | None:
    """The line that tomllib's message names: `Cannot declare ('a',) twice (at line 4, column 3)`."""
    found = re.search(r"at line (\d+)", detail)
    return int(found.group(1)) if found else None
