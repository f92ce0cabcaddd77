"""How a transaction ended, as its program on the host told it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from gpumend.plan.needs import GOOD
from gpumend.state.snapshot import AnswerError, Snapshot


@dataclass(frozen=True)
class Outcome:
    """How a transaction ended, in the report's words. notified: how the service was told of it, `reload` or `restart`.
    not_restarted: containers that did not come back. watched: how transactions of this run ended whose daemons were watched, by
    component: a status and why. looked: whether the host was looked at after it."""

    status: str
    detail: str = ""
    files: tuple[str, ...] = ()
    notified: str = ""
    not_restarted: tuple[str, ...] = field(default_factory=tuple)
    watched: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    looked: bool = True

    @property
    def good(self) -> bool:
        return self.status in GOOD


# Words of programs (gpumend/payload/change/program.py) that the report has better ones for; it takes either.
STATUS = {"moved": "conflict"}


def parse_answer(text: str, look: bool = True) -> tuple[Outcome, Snapshot]:
    """The program's whole output; raises AnswerError where it is not one answer. look: as it was asked for; an answer without a look
    at the host has a snapshot of which nothing is known."""
    try:
        raw = json.loads(text)
        result = raw["result"]
        outcome = Outcome(
            status=STATUS.get(str(result["status"]), str(result["status"])),
            detail=str(result.get("detail") or ""),
            files=tuple(map(str, result.get("files", ()))),
            notified=str(result.get("notified") or result.get("told") or ""),
            not_restarted=tuple(map(str, result.get("not_restarted") or result.get("lost", ()))),
            watched={
                str(component): (str(status), str(why))
                for component, (status, why) in result.get("watched", {}).items()
            },
            looked=look or raw["snapshot"] is not None,
        )
        return outcome, Snapshot.from_output(json.dumps(raw["snapshot"])) if outcome.looked else Snapshot({})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise AnswerError(f"the transaction's answer is not one of ours: {error}") from None
