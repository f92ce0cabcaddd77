"""The report of a run that was not begun: whoever reads reports finds one all the same."""

from __future__ import annotations

import time
from typing import Any

from gpumend.reports.document import Exit, envelope
from gpumend.run.record import Run, new_id

# Deploys that are not an audit or a mend, and their kind of report.
KINDS = ("facts", "parity", "rollback", "acknowledge", "runs")


def document(deploy: str, why: str, run: Run | None = None, mend: bool = False) -> dict[str, Any]:
    """No host, exit status 2, and why, masked. deploy: the name of what was to be run."""
    run = run or Run(new_id(), time.time())
    kind = deploy if deploy in KINDS else "mend" if mend else "audit"
    pools: dict[str, Any] = {"parity": []} if kind == "parity" else {}
    return envelope(run, kind, Exit.USAGE, {}, error=why, **pools)
