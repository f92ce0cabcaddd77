"""A site's books of GPU allocations, where the desired state names them."""

from __future__ import annotations

from typing import Any

from gpumend.payload import allocations as ledger
from gpumend.run.remote.fact import StateFact
from gpumend.state.host_state import HostState


class Allocations(StateFact[dict[str, Any]]):
    """Who holds which slot by the books, and what each container of Docker's was granted; None where no books are named."""

    def read(self, state: HostState) -> dict[str, Any] | None:
        look = state.allocations.look.get()
        if look is None:
            return None
        found = dict(look)
        return {
            "allocations": ledger.entries_of(found),
            "grants": {
                each["names"][0]: ledger.asked_for(each) for each in found["docker"].get("containers", ())
            },
            "unknown": ledger.unknowns(found),
            "waits": ledger.waits(found, 0),
        }
