"""Tables that rules decide by, each row with its source. `python -m gpumend.rules.data.check` checks their shape."""

from __future__ import annotations

import datetime
import json
from functools import cache
from typing import Any


@cache
def load(name: str) -> dict[str, Any]:
    """The table of this name: `cuda_driver_matrix`, `compat_branches`, `gpu_chips` or `security_floors`."""
    # As pkgutil.get_data reads it, also out of an agent's one file: pkgutil and importlib.resources take longer to load.
    loader: Any = __spec__.loader
    found: dict[str, Any] = json.loads(loader.get_data(f"{__path__[0]}/{name}.json"))
    return found


KEPT = 90  # days for which a table of versions is taken as it is


def old(today: datetime.date) -> str:
    """One line for a run's summary where the table of versions is older than KEPT days; else empty."""
    as_of = datetime.date.fromisoformat(load("security_floors")["as_of"])
    days = (today - as_of).days
    if days <= KEPT:
        return ""
    return (
        f"What is known of vulnerable versions is of {as_of}, {days} days old: a newer gpumend may know more."
    )
