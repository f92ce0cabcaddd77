"""pyinfra loads this before it connects to any inventory (entry point `pyinfra.connectors`): where a deploy of ours is about to
run, with somebody's own inventory or with host names, pyinfra is prepared for it as inventory.py prepares it for ours.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyinfra.api.exceptions import InventoryError
from pyinfra.connectors.base import BaseConnector
from pyinfra.context import ctx_state

from gpumend.places import PROJECT


class GpumendConnector(BaseConnector):
    """No connector: hosts of hosts.toml are named by `gpumend audit NAME` or `--limit NAME`."""

    handles_execution = False

    @staticmethod
    def make_names_data(name: str | None) -> Iterator[tuple[str, dict[str, Any], list[str]]]:
        raise InventoryError(
            "@gpumend: hosts of hosts.toml are named by `gpumend audit NAME`, or `--limit NAME`"
        )


# Imported only for a deploy of ours: any pyinfra of this environment loads this module, and has to stay as it is.
OURS = PROJECT / "deploys"
if ctx_state.isset() and any(
    word.endswith(".py") and Path(word).resolve().parent == OURS for word in sys.argv[1:]
):
    from gpumend.deploy import guard

    guard.install(ctx_state.get())
