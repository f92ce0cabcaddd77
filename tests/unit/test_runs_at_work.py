"""A run that works while the host is read: whatever it does between two reads, it was not interrupted; one that was killed was."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import combinations_with_replacement
from pathlib import Path

import pytest

from gpumend.payload.probe.look import Tree
from gpumend.state import runs
from gpumend.state.request import merge
from gpumend.state.snapshot import Snapshot

RUN, PID = "20260101T000000Z-abcd", 4711
JOURNAL = f"{runs.DIRECTORY}/{RUN}/docker.daemon_config/journal.json"
LOCKED = "1: FLOCK  ADVISORY  WRITE %d 00:1a:23 0 EOF\n"
READS = len(merge([runs.REQUEST])["globs"])

# What a transaction does, in its order (gpumend/payload/change/program.py), and what the kernel does where it is killed.
LIFE = ("locks", "names itself", "works", "is done", "lets go")
KILLED = ("locks", "names itself", "works", "lets go")


def happens(root: Path, event: str) -> None:
    def write(path: str, text: str) -> None:
        (root / path.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
        (root / path.lstrip("/")).write_text(text)

    def journal(state: str) -> None:
        write(
            JOURNAL,
            json.dumps({"run": RUN, "component": "docker.daemon_config", "state": state, "files": []}),
        )

    if event == "locks":
        write(runs.LOCKS, LOCKED % PID)
    elif event == "names itself":
        write(runs.LOCK, f"ops@desk, run {RUN}, pid {PID}\n")
    elif event == "works":
        journal("working")
    elif event == "is done":
        journal("done")
    elif event == "lets go":
        write(runs.LOCKS, LOCKED % (PID + 1))


def interrupted(root: Path, events: Sequence[str], before: Sequence[int]) -> bool:
    """What is told where events[i] happens before read number before[i], and after all of them where that is READS."""
    for path, text in ((runs.LOCKS, ""), (runs.LOCK, "ops@desk, run before, pid 4\n")):
        (root / path.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
        (root / path.lstrip("/")).write_text(text)
    tree = Tree(merge([runs.REQUEST]), str(root))
    reads = [source for section, _, source in tree.sources if section == "globs"]
    assert len(reads) == READS
    for number, read in enumerate(reads):
        for event in (event for event, when in zip(events, before, strict=True) if when == number):
            happens(root, event)
        tree.keep(read())
    return bool(runs.parse(Snapshot(tree.answer)).interrupted())


@pytest.mark.parametrize(
    "before",
    list(combinations_with_replacement(range(READS + 1), len(LIFE))),
    ids=lambda at: "".join(map(str, at)),
)
def test_a_run_that_ends_well_is_never_told_as_interrupted(tmp_path: Path, before: tuple[int, ...]) -> None:
    assert not interrupted(tmp_path, LIFE, before)


def test_a_run_that_was_killed_before_the_first_read_is_told(tmp_path: Path) -> None:
    assert interrupted(tmp_path, KILLED, [0] * len(KILLED))
