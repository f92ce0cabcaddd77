"""One value to set in one file."""

from __future__ import annotations

from typing import Any

from gpumend.text.record import Record

JsonValue = Any  # None, bool, int, float, str, list or dict of these: what JSON and TOML have in common


class EditError(ValueError):
    """The file cannot be edited without touching what is not ours. The text says why."""


class Edit(Record):
    """Set the value at `keys` in the file at `path`. The path's ending says the format: .toml or .json.

    Tables on the way are made where they are missing. A value of None is no value: TOML has none.
    """

    path: str
    keys: tuple[str, ...]
    value: JsonValue
