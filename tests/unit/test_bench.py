"""`make bench` says what has become dearer since the table that is committed."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from tests.bench.report import ratios, worse

COMMITTED = json.loads((Path(__file__).parents[2] / "docs" / "bench.json").read_text())


def test_the_committed_table_has_every_ratio_and_is_no_worse_than_itself() -> None:
    assert len(ratios(COMMITTED)) == 7
    assert worse(COMMITTED, COMMITTED) == []


@pytest.mark.parametrize(("factor", "told"), [(0.5, 0), (1.1, 0), (2, 4)])
def test_what_has_become_dearer_is_told(factor: float, told: int) -> None:
    now = copy.deepcopy(COMMITTED)
    for row in now["rows"]:
        if row["program"] == "gpumend audit" or (row["program"], row["hosts"]) == (
            "gpumend audit, replayed",
            200,
        ):
            row["wall"], row["cpu"] = row["wall"] * factor, row["cpu"] * factor
    assert len(worse(now, COMMITTED)) == told


def test_a_machine_that_is_slower_throughout_is_no_loss() -> None:
    now = copy.deepcopy(COMMITTED)
    for row in now["rows"]:
        row["wall"], row["cpu"] = row["wall"] * 3, row["cpu"] * 3
    assert worse(now, COMMITTED) == []
