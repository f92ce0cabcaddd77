"""Set a value in a TOML text with tomlkit, which keeps comments, order and white space."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError

from gpumend.text.edits.edit import EditError, JsonValue


def set_value(text: str, keys: tuple[str, ...], value: JsonValue) -> str:
    """The text with keys[0].keys[1]... = value. Raises EditError for invalid TOML, or where a table on the way
    is something else, or where tomlkit would not write the text back as it was."""
    try:
        document = tomlkit.parse(text)
        written = tomlkit.dumps(document)
    except TOMLKitError as error:
        raise EditError(f"not valid TOML: {error}") from None
    if written != text:
        raise EditError("tomlkit does not write this file back byte for byte")
    table: Any = document
    for key in keys[:-1]:
        if key not in table:
            table[key] = tomlkit.table()
        table = table[key]
        if not isinstance(table, MutableMapping):
            raise EditError(f"{key} is not a table")
    last = keys[-1]
    if last in table:
        old = table[last]
        if repr(old.unwrap() if hasattr(old, "unwrap") else old) == repr(
            value
        ):  # 1 and true are equal to Python
            return text
        new = tomlkit.item(value)
        trivia = getattr(old, "trivia", None)
        if trivia is not None:  # keep the line's own comment and spacing
            new.trivia.comment_ws, new.trivia.comment = trivia.comment_ws, trivia.comment
        table[last] = new
    else:
        table[last] = value
    return tomlkit.dumps(document)
