"""The part of the program on a host that settles interrupted runs: stdlib only, Python 3.6 or newer."""

import re
from typing import Any, Dict

from gpumend.payload.change.files import Refused
from gpumend.payload.change.journal import ROOT, Journal
from gpumend.payload.change.undo import Answer, newest_first, undo_all
from gpumend.payload.change.unfinished import finish
from gpumend.payload.change.watch import close_watches, ended_watches
from gpumend.payload.change.watched import is_watched


def recover(wanted: Dict[str, Any]) -> Answer:
    """Interrupted runs are put back, newest first. A restart that this takes is made as `restarts` allows. What was done and
    proven, and not watched to its end, is watched now: it stays where its daemon lives."""
    for path in wanted["journals"]:
        if not re.match(re.escape(ROOT) + r"/runs/[\w.-]+/[\w.-]+/journal\.json$", path):
            raise Refused("%s is no journal" % path)
    found = newest_first(Journal.load(path) for path in wanted["journals"])
    watched = [journal for journal in found if is_watched(journal.record)]
    interrupted = [
        journal for journal in found if journal.record["state"] == "working" and journal not in watched
    ]
    waits = finish(interrupted, wanted["restarts"])
    if waits:
        return {"status": "pending", "detail": waits}
    answer = undo_all(interrupted, wanted["restarts"], "put back as before the interrupted run")
    for run_id in sorted(set(str(journal.record["run"]) for journal in watched), reverse=True):
        close_watches(run_id, wanted["restarts"], True)
        answer = with_watches(answer, run_id, bool(interrupted))
    return answer


def with_watches(answer: Answer, run_id: str, undid: bool) -> Answer:
    """The answer, and how the watches of a run have ended."""
    told = [answer["detail"]] if undid or answer["status"] not in ("changed", "unchanged") else []
    status = "changed" if answer["status"] == "unchanged" else answer["status"]
    for component, (ended, why) in sorted(ended_watches(run_id).items()):
        if ended == "broken":
            status = "broken"
        told.append("%s of run %s %s" % (component, run_id, TOLD.get(ended, ended)) + (why and ": %s" % why))
    return dict(answer, status=status, detail="; ".join(told))


TOLD = {
    "changed": "stays: its daemon lives",
    "put_back": "was put back",
    "broken": "could not be put back",
}
