"""Sending a transaction to a host and taking its answer: one exec each way."""

from __future__ import annotations

import base64
import getpass
import json
import re
import socket
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from facts.host_state import probe_source, request
from facts.remote import must_be_whole, run_program
from facts.snapshot import AnswerError, Snapshot
from rules.finding import Component
from rules.plan import Transaction

if TYPE_CHECKING:
    from pyinfra.api.host import Host

TIMEOUT = 1200  # seconds; the program bounds each of its own waits, this bounds a dead connection
# The program's parts, each after those whose names it needs at once.
PARTS = (
    "files",
    "journal",
    "packaging",
    "engine",
    "inner",
    "trial",
    "services",
    "crio_daemon",
    "undo",
    "transaction",
    "program",
)
# Their texts go along, so the imports that they have of each other do not.
OWN_IMPORT = re.compile(
    rf"^from (?:facts\.probe|operations\.(?:{'|'.join(PARTS)})) import (?:\([^)]*\)|.*)\n", re.MULTILINE
)


@dataclass(frozen=True)
class Outcome:
    """How a transaction ended, in the words of operations/program.py. lost: containers that did not come back."""

    status: str
    detail: str = ""
    files: tuple[str, ...] = ()
    told: str = ""
    lost: tuple[str, ...] = field(default_factory=tuple)

    @property
    def good(self) -> bool:
        return self.status in ("unchanged", "changed", "pending")


@cache
def program_source() -> str:
    """The probe's text, and below it what changes things, as one program without a call."""
    parts = (files("operations").joinpath(f"{name}.py").read_text(encoding="ascii") for name in PARTS)
    return "\n".join([probe_source(), *(OWN_IMPORT.sub("", part) for part in parts)])


def program(wanted: dict[str, Any]) -> str:
    """The program that goes over stdin: it runs the transaction, probes again and prints both."""
    return (
        f"{program_source()}\n"
        f"main_transaction(json.loads({json.dumps(wanted)!r}), lambda: probe(json.loads({json.dumps(request())!r})))\n"
    )


def who() -> str:
    """user@controller, for the lock and the journal on the host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "uid unknown"
    return f"{user}@{socket.gethostname()}"


def as_data(transaction: Transaction, run: str, restarts: str, watch: int = 6) -> dict[str, Any]:
    """A transaction as the program's JSON. watch: seconds that a daemon has to live after its restart."""
    return {
        "verb": "recover" if transaction.component is Component.RECOVER else "apply",
        "run": run,
        "who": who(),
        "component": str(transaction.component),
        "restarts": restarts,
        "watch": watch,
        "steps": [
            {
                "do": step.do,
                "path": step.path,
                "before": step.before,
                "data": base64.b64encode(step.data).decode("ascii") if step.data is not None else None,
                "mode": step.mode,
                "argv": list(step.argv),
            }
            for step in transaction.steps
        ],
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


def parse_answer(text: str) -> tuple[Outcome, Snapshot]:
    """The program's whole output; raises AnswerError where it is not one answer."""
    try:
        raw = json.loads(text)
        result = raw["result"]
        outcome = Outcome(
            status=str(result["status"]),
            detail=str(result.get("detail") or ""),
            files=tuple(map(str, result.get("files", ()))),
            told=str(result.get("told") or ""),
            lost=tuple(map(str, result.get("lost", ()))),
        )
        return outcome, Snapshot.from_output(json.dumps(raw["snapshot"]))
    except (ValueError, KeyError, TypeError) as error:
        raise AnswerError(f"the transaction's answer is not one of ours: {error}") from None


def send(host: Host, wanted: dict[str, Any]) -> tuple[Outcome, Snapshot]:
    """Run the program on a host in one exec. Raises RemoteError or AnswerError where it did not answer, AuditOnly where
    it may not be sent."""
    must_be_whole(host)
    return parse_answer(run_program(host, program(wanted), timeout=TIMEOUT))
