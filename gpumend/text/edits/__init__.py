"""Edits of configuration files that leave every other byte as it was."""

from __future__ import annotations

from gpumend.text.edits.apply import apply, apply_lines
from gpumend.text.edits.edit import Edit, EditError, JsonValue

__all__ = ["Edit", "EditError", "JsonValue", "apply", "apply_lines"]
