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
SHARED = f"2: FLOCK  ADVISORY  READ {PID + 7} 00:1a:24 0 EOF\n"
READS = len(merge([runs.REQUEST])["globs"])

# What a transaction does, in its order (gpumend/payload/change/program.py), and what the kernel does where it is killed.
LIFE = ("locks", "names itself", "works", "is done", "lets go")
KILLED = ("locks", "names itself", "works", "lets go")
# One whose daemon is watched by a process of its own; and where that is killed.
WATCHED = (
    "locks and names itself",
    "works",
    "is watched",
    "watcher locks",
    "watcher names itself",
    "lets go to it",
    "is done",
    "lets go",
)
UNWATCHED = (*WATCHED[:6], "lets go")


def happens(root: Path, event: str) -> None:
    def write(path: str, text: str) -> None:
        (root / path.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
        (root / path.lstrip("/")).write_text(text)

    def journal(state: str, **more: object) -> None:
        found = {"run": RUN, "component": "docker.daemon_config", "state": state, "files": [], **more}
        write(JOURNAL, json.dumps(found, indent=1, sort_keys=True))

    if event == "locks":
        if not (root / runs.LOCK.lstrip("/")).exists():
            write(runs.LOCK, "")
        write(runs.LOCKS, LOCKED % PID)
    elif event == "names itself":
        write(runs.LOCK, f"ops@desk, run {RUN}, pid {PID}\n")
    elif event == "locks and names itself":
        happens(root, "locks")
        happens(root, "names itself")
    elif event == "works":
        journal("working")
    elif event == "is watched":
        journal("working", watch={"unit": "docker.service", "proofs": [{"path": ["Runtimes"]}]})
    elif event == "watcher locks":
        write(runs.LOCKS, LOCKED % PID + SHARED)
    elif event == "watcher names itself":
        write(runs.WATCH, f"ops@desk, run {RUN}, pid {PID + 7}\n")
    elif event == "lets go to it":
        write(runs.LOCKS, SHARED)
    elif event == "is done":
        journal("done")
    elif event == "lets go":
        write(runs.LOCKS, LOCKED % (PID + 1))


def interrupted(root: Path, events: Sequence[str], before: Sequence[int], fresh: bool = False) -> bool:
    """What is told where events[i] happens before read number before[i], and after all of them where that is READS. fresh: no run
    has been there since the boot."""
    said = "ops@desk, run before, pid 4\n"
    for path, text in ((runs.LOCKS, ""), *(() if fresh else ((runs.LOCK, said), (runs.WATCH, said)))):
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


@pytest.mark.parametrize("life", [LIFE, WATCHED], ids=["not-watched", "watched"])
def test_the_first_run_since_the_boot_is_never_told_as_interrupted(
    tmp_path: Path, life: tuple[str, ...]
) -> None:
    """Who has the lock is not looked at where its file is not there."""
    for number, before in enumerate(combinations_with_replacement(range(READS + 1), len(life))):
        assert not interrupted(tmp_path / str(number), life, before, fresh=True), before


def test_who_has_the_lock_is_looked_at_where_its_file_is_there(tmp_path: Path) -> None:
    assert interrupted(tmp_path, KILLED, [0] * len(KILLED), fresh=True)


def test_a_run_that_was_killed_before_the_first_read_is_told(tmp_path: Path) -> None:
    assert interrupted(tmp_path, KILLED, [0] * len(KILLED))


def test_a_run_whose_daemon_is_watched_is_not_told(tmp_path: Path) -> None:
    """Nobody holds the host's lock between two transactions."""
    for count in range(len(WATCHED) + 1):
        events = WATCHED[:count]
        assert not interrupted(tmp_path / str(count), events, [0] * len(events)), events


def test_a_run_whose_daemon_is_watched_is_never_told(tmp_path: Path) -> None:
    """Whatever of its life lies between two reads, its end among it."""
    for number, before in enumerate(combinations_with_replacement(range(READS + 1), len(WATCHED))):
        assert not interrupted(tmp_path / str(number), WATCHED, before), before


@pytest.mark.parametrize("alive", [PID + 7, PID + 8])
def test_any_watcher_of_a_run_stands_for_it(alive: int) -> None:
    said = "".join(f"ops@desk, run {RUN}, pid {pid}\n" for pid in (PID + 7, PID + 8))
    locks = f"2: FLOCK  ADVISORY  READ {alive} 00:1a:24 0 EOF\n"
    assert runs.holder(said, locks, "READ") == RUN
    assert runs.holder(said, locks) == ""


def test_a_watch_that_ends_while_the_host_is_read_is_not_told(tmp_path: Path) -> None:
    for when in range(READS + 1):
        before = [0] * 6 + [when, when]
        assert not interrupted(tmp_path / str(when), WATCHED, before), when


def test_a_watcher_that_was_killed_is_told_as_what_it_was(tmp_path: Path) -> None:
    assert interrupted(tmp_path, UNWATCHED, [0] * len(UNWATCHED))


def test_watches_are_told_from_other_states() -> None:
    hits = [
        '"watch": {',
        f'"run": "{RUN}"',
        '"component": "docker.daemon_config"',
        '"state": "working"',
        '"files": [',
    ]
    assert runs._journal(JOURNAL, hits, ()).state == "watching"
    assert runs._journal(JOURNAL, hits, ("done",)).state == "done"
    assert runs._journal(JOURNAL, hits[1:], ()).state == "working"
