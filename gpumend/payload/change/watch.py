"""The part of the program on a host that watches the daemons of several transactions to their end: stdlib only, Python 3.6 or newer.

A transaction is `done` once the daemon that it restarted has lived for as long as is asked for, from its own start on, and still
shows what proves it. Where it has not, the transaction is undone, and before it those of its run that came after it.
"""

import time
from typing import Any, Dict, List, Optional

from gpumend.payload.change.files import Failed
from gpumend.payload.change.inner import main_start
from gpumend.payload.change.journal import Journal, journals
from gpumend.payload.change.services import Service, main_process, prove, service_of
from gpumend.payload.change.undo import newest_first, undo
from gpumend.payload.change.watched import watching
from gpumend.payload.probe.processes import boot_id

ENDED_AS = {"done": "changed", "working": "watching"}  # of a journal's state, for the report


def watch_of(service: Service, seconds: float, proofs: List[Dict[str, Any]]) -> Dict[str, Any]:
    """What a journal keeps of a daemon that is to be watched: whoever reads it can go on. No word in it is one that the probe
    looks for in a journal (gpumend/state/runs.py)."""
    return {
        "unit": service.unit,
        "main": service.main,
        "boot": boot_id(),
        "seconds": seconds,
        "proofs": proofs,
        "told": service.told,
    }


def outcome_of(journal: Journal, wait: bool) -> Optional[str]:
    """Why a watched daemon has not lived as long as it has to; an empty text where it has; None where it has yet to, and nobody
    waits for that. Where the host was started anew meanwhile, it is watched from that start on."""
    watch = journal.record["watch"]
    daemon = service_of(watch["unit"], journal)
    daemon.told = watch["told"]
    daemon.main = watch["main"] if watch["boot"] == boot_id() else main_process(watch["unit"])
    lives = main_process(watch["unit"]) == daemon.main
    if lives and not wait and time.monotonic() < main_start(watch["unit"]) + watch["seconds"]:
        return None
    try:
        daemon.outlives(watch["seconds"])
        prove(watch["proofs"], "restart")
    except Failed as failed:
        return str(failed)
    return ""


def undo_from(journal: Journal, why: str, restarts: str) -> None:
    """A transaction whose daemon did not live is undone, and before it those of its run that came after it. Their journals say
    why."""
    run_id = journal.record["run"]
    after = [each for each in journals(run_id) if each.number >= journal.number]
    for each in newest_first(each for each in after if each.record["state"] != "put_back"):
        mine = each.number == journal.number
        told = (
            why if mine else "%s, which came before it, was put back: %s" % (journal.record["component"], why)
        )
        each.record["why"] = told
        problems, held = undo(each, restarts, "allow")
        more = [held] if held else problems
        if more:
            each.record["why"] = "%s; then: %s" % (told, "; ".join(more))
            each.strict = False
            each.write()


def close_watches(run_id: str, restarts: str, wait: bool) -> None:
    """The watches of a run are over, each from its own restart on; those that are over by now, where nobody is to wait. Who calls
    this holds the host's lock."""
    for journal in watching(run_id):
        why = outcome_of(journal, wait)
        if why:
            undo_from(journal, why, restarts)
            return
        if why is not None:
            journal.record["running"] = {}  # a rollback days later does not start them
            journal.strict = (
                False  # where that cannot be written it is still watched, and the next run ends it
            )
            journal.end("done")


def ended_watches(run_id: str) -> Dict[str, List[str]]:
    """By component, of this run's transactions that were watched or taken back for one that was: how it ended, and why."""
    found = {}
    for journal in journals(run_id):
        record = journal.record
        if "watch" in record or "why" in record:
            status = ENDED_AS.get(record["state"], record["state"])
            found[str(record["component"])] = [str(status), str(record.get("why", ""))]
    return found


def failed_watch(run_id: str) -> str:
    """Why nothing more is changed by a run: a daemon did not live through its watch. An empty text where that is not so."""
    failed = [
        journal.record
        for journal in journals(run_id)
        if "why" in journal.record and "watch" in journal.record
    ]
    return "".join("%s was put back: %s" % (record["component"], record["why"]) for record in failed[:1])
