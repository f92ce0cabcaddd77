"""One value to set in one file, and the new bytes that a list of such edits gives."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

JsonValue = Any  # None, bool, int, float, str, list or dict of these: what JSON and TOML have in common


class EditError(ValueError):
    """The file cannot be edited without touching what is not ours. The text says why."""


@dataclass(frozen=True)
class Edit:
    """Set the value at `keys` in the file at `path`. The path's ending says the format: .toml or .json.

    Tables on the way are made where they are missing. A value of None is no value: TOML has none.
    """

    path: str
    keys: tuple[str, ...]
    value: JsonValue


def apply(path: str, before: bytes | None, edits: Iterable[Edit]) -> bytes:
    """The file's bytes with the edits made; `before` is None where there is no file yet.

    Unchanged values change nothing: the very bytes come back. Raises EditError where the file is not valid, is not
    UTF-8, or would not come back byte for byte outside the values that are set.
    """
    from rules.edits import json_text, toml_text

    try:
        text = (before or b"").decode("utf-8")
    except UnicodeDecodeError as error:
        raise EditError(f"{path}: not UTF-8 at byte {error.start}") from None
    editor = toml_text if path.endswith(".toml") else json_text
    for edit in edits:
        try:
            text = editor.set_value(text, edit.keys, edit.value)
        except EditError as error:
            raise EditError(f"{path}: {error}") from None
    return text.encode("utf-8")


def apply_lines(path: str, before: bytes | None, edits: Iterable[Edit]) -> bytes:
    """As `apply` for a TOML file, by its lines (rules/edits/toml_lines.py). Raises EditError."""
    from rules.edits import toml_lines

    try:
        text = (before or b"").decode("utf-8")
    except UnicodeDecodeError as error:
        raise EditError(f"{path}: not UTF-8 at byte {error.start}") from None
    for edit in edits:
        try:
            text = toml_lines.set_value(text, edit.keys, edit.value)
        except EditError as error:
            raise EditError(f"{path}: {error}") from None
    return text.encode("utf-8")
