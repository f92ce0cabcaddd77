"""The report of a run that was not begun: whoever reads reports finds one all the same."""

from __future__ import annotations

import datetime
import time
from typing import Any

from gpumend.reports.document import VERSION, Exit
from gpumend.run.record import Run, new_id
from gpumend.text.mask import mask_all

# Deploys that are not an audit or a mend, and their kind of report.
KINDS = ("facts", "parity", "rollback")


def document(deploy: str, why: str, run: Run | None = None, mend: bool = False) -> dict[str, Any]:
    """No host, exit status 2, and why, masked. deploy: the name of what was to be run."""
    run = run or Run(new_id(), time.time())
    kind = deploy if deploy in KINDS else "mend" if mend else "audit"
    started = (
        {}
        if kind in KINDS
        else {
            "started": datetime.datetime.fromtimestamp(run.started, datetime.UTC).isoformat(
                timespec="seconds"
            ),
            "seconds": round(time.time() - run.started, 3),
        }
    )
    told = {
        "gpumend": VERSION,
        "run": run.id,
        "kind": kind,
        **started,
        "exit": int(Exit.USAGE),
        "error": why,
        "hosts": {},
    }
    return dict(mask_all(told))
