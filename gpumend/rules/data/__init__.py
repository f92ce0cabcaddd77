"""Tables that rules decide by, each row with its source. `python -m gpumend.rules.data.check` checks their shape."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any


@cache
def load(name: str) -> dict[str, Any]:
    """The table of this name: `cuda_driver_matrix`, `compat_branches` or `gpu_chips`."""
    found: dict[str, Any] = json.loads(
        files("gpumend.rules.data").joinpath(f"{name}.json").read_text("utf-8")
    )
    return found
