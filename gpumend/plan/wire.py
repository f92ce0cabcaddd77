"""A transaction as the JSON that the program on the host takes."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from gpumend.plan.transaction import Transaction
from gpumend.rules.finding import Component


def digest(transaction: Transaction) -> str:
    """SHA-256 of all that a transaction would do, whoever does it in whichever run: equal as long as the host and what is wanted
    of it are the same."""
    data = as_data(transaction, "", "", "")
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode("ascii")).hexdigest()


def as_data(transaction: Transaction, run: str, restarts: str, author: str, watch: int = 6) -> dict[str, Any]:
    """A transaction as the program's JSON. watch: seconds that a daemon has to live after its restart."""
    return {
        "verb": "recover" if transaction.component is Component.RECOVER else "apply",
        "run": run,
        "who": author,
        "component": str(transaction.component),
        "restarts": restarts,
        "watch": watch,
        "steps": [step.as_data() for step in transaction.steps],
        "service": list(transaction.service) if transaction.service else None,
        "validate": list(transaction.validate),
        "tree": [[name, base64.b64encode(data).decode("ascii")] for name, data in transaction.tree],
        "expect": list(transaction.expect),
        "proofs": [
            {"path": list(proof.path), "needs": proof.needs, "value": proof.value, "engine": proof.engine}
            for proof in transaction.proofs
        ],
        "inner": [
            {
                "unit": daemon.unit,
                "container": daemon.container,
                "drivers": list(daemon.drivers),
                "by_hand": daemon.by_hand,
            }
            for daemon in transaction.inner
        ],
        "must_restart": transaction.must_restart,
        "journals": list(transaction.journals),
        "settle": [list(argv) for argv in transaction.settle],
        "package_wait": transaction.package_wait,
    }
