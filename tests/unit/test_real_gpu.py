"""The page of what a real GPU said, and when a claim of it counts as held."""

from __future__ import annotations

import datetime
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tests.gpu.page import written
from tests.gpu.scenarios import SCENARIOS, Row

PAGE = Path(__file__).resolve().parents[2] / "docs/real-gpu.md"


def row(**more: Any) -> Row:
    told = {
        "scenario": "s",
        "code": "GM404",
        "claim": "c",
        "way": "device",
        "claimed": False,
        "happened": False,
    }
    return Row(**{**told, "said": "no such | driver", **more})


@pytest.mark.parametrize(
    ("more", "holds"),
    [
        ({"because": "driver"}, True),
        ({"because": "another cause"}, False),
        ({"happened": True, "because": "driver"}, False),
        ({"claimed": True}, False),
        ({"claimed": True, "happened": True}, True),
    ],
)
def test_a_claim_holds_only_where_it_came_as_claimed(more: dict[str, Any], holds: bool) -> None:
    assert row(**more).holds is holds


def test_the_page_shows_what_contradicts() -> None:
    rows = [{**asdict(r), "holds": r.holds} for r in (row(because="driver"), row(claimed=True))]
    told = {
        "versions": {"GPU": "G"},
        "rows": rows,
        "absent": ["podman"],
        "cost": {"probe": "0.1 s"},
        "ever": [],
    }
    page = written(told, datetime.date(2026, 7, 15))
    assert "Seen on 2026-07-15" in page and "2, of which 1 hold" in page
    assert page.count("(contradicted)") == 1 and "no such \\| driver" in page
    assert "- podman" in page


def test_the_committed_page_has_no_contradiction() -> None:
    text = PAGE.read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if "| works |" in line or "| fails |" in line]
    assert len(rows) >= 15 and "contradicted)" not in text


def test_every_scenario_says_what_is_broken() -> None:
    assert all((scenario.__doc__ or "").strip() for scenario in SCENARIOS)
