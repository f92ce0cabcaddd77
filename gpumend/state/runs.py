"""What gpumend itself left on the host: the journals of its runs."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from gpumend.state.reading import Reading
from gpumend.state.request import Glob, Request
from gpumend.state.snapshot import Snapshot
from gpumend.text.record import Record

DIRECTORY = "/var/lib/gpumend/runs"
PATTERN = f"{DIRECTORY}/*/*/journal.json"
# What of a journal leaves the host; the first alternative has one listed that holds none of it. What each step had in mind
# may be much, and a host may have a thousand runs.
SEARCH = r'\A|"(?:state|run|component|path)": "(?:[^"\\\n]|\\.)*"|"format": [^,\n}]+|"(?:steps|files)": \[|"watch": \{'

ACKNOWLEDGED = f"{DIRECTORY}/*/acknowledged"

# Whoever changes a host holds this file's lock, and says in it who he is (gpumend/payload/change/program.py).
LOCK, LOCKS = "/run/gpumend.lock", "/proc/locks"
# Whoever watches daemons that were restarted holds this one shared.
WATCH = "/run/gpumend.watch"

# In this order: the journals, who holds the lock, who watches, the journals' states once more. A transaction that says before and
# after that it works, while its run has neither lock, is not at work: one that lives ends its journal before it lets go, or has
# handed it to a watcher, who has its lock and has named itself by then.
STATE_AGAIN = r'"state": "((?:[^"\\\n]|\\.)*)"'
REQUEST = Request(
    globs=(
        Glob(PATTERN, read=False, search=SEARCH),
        Glob(LOCK),
        Glob(LOCKS, where=LOCK),  # the kernel takes 15 ms for it; without the lock's file nobody has it
        Glob(WATCH),
        Glob(PATTERN, read=False, search=STATE_AGAIN, again=True),
        Glob(ACKNOWLEDGED, read=False),
    )
)


class Journal(Record):
    """One component's transaction of one run. state: `working` until it ended, then `done`, `put_back`, `broken`; `watching`:
    its change is made and proven, and the daemon that was restarted has not been watched to the end yet.
    files: None where its format is newer than this gpumend: the host then refuses to put it back."""

    path: str
    run: str
    component: str
    state: str
    files: tuple[str, ...] | None

    @property
    def told(self) -> str:
        """Which files it is about, in words."""
        return "of a newer gpumend" if self.files is None else ", ".join(self.files) or "no file"


# The state of a run is that of its transactions that asks for most.
STATES = ("working", "watching", "broken", "done", "put_back")


class Run(Record):
    """All of one run on this host. state: a Journal's, or what a newer gpumend calls it."""

    name: str
    state: str
    journals: tuple[Journal, ...]
    acknowledged: bool


class Runs(Record):
    """acknowledged: runs that somebody has taken note of (`gpumend runs ack RUN`). at_work: the run that holds the host's
    lock just now, or an empty text. watched_by: the run of which a process watches daemons just now, or an empty text."""

    journals: Reading[tuple[Journal, ...]]
    acknowledged: frozenset[str] = frozenset()
    at_work: str = ""
    watched_by: str = ""

    def listed(self) -> tuple[Run, ...]:
        """The runs, the newest first. Raises Unread."""
        found: dict[str, list[Journal]] = {}
        for journal in self.journals.get() or ():
            found.setdefault(journal.run, []).append(journal)
        return tuple(
            Run(name, _worst({each.state for each in journals}), tuple(journals), name in self.acknowledged)
            for name, journals in sorted(found.items(), reverse=True)
        )

    def interrupted(self) -> tuple[Journal, ...]:
        """Transactions that never ended: killed, or the host went down; `watching`: with nobody to watch any more. One of a run that
        is at work is none: between two transactions of it, whose daemons are watched, nobody holds the lock. Raises Unread."""
        alive = (self.at_work, self.watched_by)
        return tuple(
            journal
            for journal in self.journals.get() or ()
            if journal.state in ("working", "watching") and journal.run not in alive
        )

    def broken(self) -> tuple[Journal, ...]:
        """Transactions that failed and could not be undone, nor acknowledged since, nor followed by one of the same
        component that ended well. A run's name begins with its time in UTC. Raises Unread."""
        journals = self.journals.get() or ()
        good = [(each.component, each.run) for each in journals if each.state == "done"]
        return tuple(
            journal
            for journal in journals
            if journal.state == "broken"
            and journal.run not in self.acknowledged
            and not any(component == journal.component and run > journal.run for component, run in good)
        )


def _worst(states: set[str]) -> str:
    return next((state for state in STATES if state in states), min(states))


def _journal(path: str, found: Sequence[str], again: Sequence[str]) -> Journal:
    """A journal of what SEARCH found in it, and STATE_AGAIN after that. The files and directories of which it tells are under
    the same key in either of its formats (gpumend/payload/change/journal.py); of a newer one nothing is known."""
    values: dict[str, list[Any]] = {}
    for text in filter(None, found):
        key, _, value = text.partition(": ")
        value = "null" if value in ("[", "{") else value  # it is there, and no more is asked of it
        values.setdefault(json.loads(key), []).append(json.loads(value))
    number = values.get("format", [1])[0]
    known = number in (1, 2)
    if known and ("files" if number == 1 else "steps") not in values:
        raise ValueError("a journal without steps")
    state = str(values["state"][0])
    state = again[0] if again and state == "working" else state
    return Journal(
        path=path,
        run=str(values["run"][0]),
        component=str(values["component"][0]),
        state="watching" if state == "working" and "watch" in values else state,
        files=tuple(map(str, values.get("path", ()))) if known else None,
    )


def holder(said: str, locks: str, kind: str = "WRITE") -> str:
    """The run that holds the lock: one that its file names, where the process it names has a lock of that kind
    (proc(5) locks: `1: FLOCK  ADVISORY  WRITE 4711 00:1a:23 0 EOF`). The text alone stays when its process has ended."""
    for run, pid in re.findall(r"(?m), run (\S+), pid (\d+)$", said) if said else ():
        if re.search(rf"(?m)^\d+: FLOCK +ADVISORY +{kind} {pid} ", locks):
            return str(run)
    return ""


def parse(snapshot: Snapshot) -> Runs:
    listed = snapshot.glob(PATTERN)
    if not listed.ok:
        return Runs(listed.without_value())
    found = []
    for path in listed.value or ():
        first, again = snapshot.found(path, SEARCH), snapshot.found(path, STATE_AGAIN)
        if first.absent or first.value == ():
            continue  # it went between the listing and the look, or came after the first: that says nothing of the others
        journal = first.map(lambda found, path=path, now=again.value or (): _journal(path, found, now))  # type: ignore[misc]
        if journal.value is None:
            return Runs(Reading(journal.status, None, path, journal.detail))
        found.append(journal.value)
    # One that is not seen leaves its run broken: told once too often, and never once too little.
    # Where neither can be read, what is working counts as interrupted: the host itself waits for the lock.
    locks = snapshot.text(LOCKS).value or ""
    at_work = holder(snapshot.text(LOCK).value or "", locks)
    watched_by = holder(snapshot.text(WATCH).value or "", locks, "READ")
    seen = snapshot.glob(ACKNOWLEDGED).value or ()
    return Runs(
        Reading.of(tuple(found), DIRECTORY),
        frozenset(path.split("/")[-2] for path in seen),
        at_work,
        watched_by,
    )
