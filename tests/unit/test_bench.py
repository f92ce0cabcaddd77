"""`make bench` says what has become dearer since the table that is committed, and compares only what was measured together."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from tests.bench.__main__ import kept, label
from tests.bench.report import ratios, table, targets, together, worse

COMMITTED = json.loads((Path(__file__).parents[2] / "docs" / "bench.json").read_text())


def test_the_committed_table_has_every_ratio_and_is_no_worse_than_itself() -> None:
    assert len(ratios(COMMITTED)) == 9
    assert worse(COMMITTED, COMMITTED) == []


@pytest.mark.parametrize(("factor", "told"), [(0.5, 0), (1.1, 0), (2, 5)])
def test_what_has_become_dearer_is_told(factor: float, told: int) -> None:
    now = copy.deepcopy(COMMITTED)
    for row in now["rows"]:
        replayed = row["program"] in ("gpumend audit, replayed", "gpumend audit, drifted, replayed")
        if row["program"] == "gpumend audit" or (replayed and row["hosts"] == 200):
            row["wall"], row["cpu"] = row["wall"] * factor, row["cpu"] * factor
            if "machine" in row:
                row["machine"] *= factor
    assert len(worse(now, COMMITTED)) == told


def test_a_machine_that_is_slower_throughout_is_no_loss() -> None:
    now = copy.deepcopy(COMMITTED)
    for row in now["rows"]:
        row["wall"], row["cpu"] = row["wall"] * 3, row["cpu"] * 3
    assert worse(now, COMMITTED) == []


def row(program: str, run: str, wall: float, hosts: int = 50) -> dict[str, Any]:
    return {"program": program, "run": run, "wall": wall, "cpu": wall, "memory": 1.0, "execs": hosts, "hosts": hosts, "rtt": 0, "runs": 1}  # fmt: skip


def test_a_ratio_is_of_the_newest_run_that_has_both() -> None:
    rows = [row("a", "A", 1), row("b", "A", 2), row("a", "B", 3), row("b", "B", 12), row("a", "C", 5)]
    assert [each["wall"] for each in together({"rows": rows}, ("b", 50), ("a", 50))] == [12, 3]
    assert together({"rows": rows}, ("b", 50), ("a", 200)) == []
    only = {"rows": [row("a", "A", 1), row("b", "B", 2)]}
    assert together(only, ("a", 50), ("b", 50)) == []


def test_an_older_run_stays_whole_as_long_as_something_of_it_is_nowhere_else() -> None:
    older = [row("a", "A", 1), row("b", "A", 2)]
    some, rest = [row("a", "B", 3)], [row("b", "C", 4)]
    assert kept(older, some) == older + some
    assert kept(older + some, rest) == some + rest
    assert kept(some + rest, [row("a", "D", 1), row("b", "D", 2)]) == [row("a", "D", 1), row("b", "D", 2)]


def test_the_page_says_of_each_row_which_run_it_is_of() -> None:
    now = copy.deepcopy(COMMITTED)
    now["rows"].append({**row("gpumend audit", "Z: 2026-11-30, commit abc", 7), "machine": 25.0})
    text = table(now)
    assert "Run Z: 2026-11-30, commit abc." in text
    assert "| Z | 0 | 50 | gpumend audit | 1 | 7.00 | 1.00 | 7.00 | 140.0 | 1 | 500 | 1.0 |" in text


def test_a_hosts_share_of_a_fleet_of_5000_is_told() -> None:
    now = copy.deepcopy(COMMITTED)
    now["fake"] = [
        {"hosts": hosts, "wall": 1.0, "cpu": cpu, "memory": memory, "asked": asked, "first": 9.0, "last": 9.5}
        for hosts, cpu, memory, asked in (
            (1, 1.0, 60, 0.0),
            (1000, 11.0, 70, 9.0),
            (4000, 43.0, 130, 38.0),
            (5000, 54.0, 148, 47.5),
        )
    ]  # before and after they are asked: 1, 2, 5 and 6.5 s
    told = {what: value for what, _, value, _ in targets(now)}
    assert told["CPU of a host among the last of 5,000 (@fake) against one among the first"] == pytest.approx(
        (9.5 + 1.5) / (9.0 + 1.0)
    )
    assert told["memory that one of them takes"] == pytest.approx(78 / 4000 * 1024)


def test_a_run_has_a_letter_of_its_own() -> None:
    older = [{}, {"run": "E: a day"}, {"run": "C: a day"}]
    assert [label(rows)[:3] for rows in ([], older[:1], older)] == ["A: ", "B: ", "F: "]
