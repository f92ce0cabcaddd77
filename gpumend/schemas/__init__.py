"""JSON Schemas of the wanted state and of the report."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any


@cache
def load(name: str) -> dict[str, Any]:
    """The schema of this name: `wanted` or `report`."""
    found: dict[str, Any] = json.loads(
        files("gpumend.schemas").joinpath(f"{name}.schema.json").read_text("utf-8")
    )
    return found
