"""docs/sources.md says what the rules say, and links every issue that it can."""

from __future__ import annotations

import re

import pytest

from gpumend.rules.judge import RULES
from gpumend.rules.sources import DOCUMENT, linked, repositories, with_table

TEXT = DOCUMENT.read_text(encoding="utf-8")
KNOWN = repositories(TEXT)


def test_the_table_is_made_of_the_rules() -> None:
    """Where it is not: python -m gpumend.rules.sources"""
    assert with_table(TEXT) == TEXT


def test_short_names_stand_for_repositories() -> None:
    assert KNOWN["nct"] == "NVIDIA/nvidia-container-toolkit"
    assert KNOWN["cdi"] == KNOWN["CDI"]


NCT = "https://github.com/NVIDIA/nvidia-container-toolkit"
LINKS = [
    ("nct#830", f"[nct#830]({NCT}/issues/830)"),
    ("nct PR#812 (1.17.3)", f"[nct PR#812]({NCT}/pull/812) (1.17.3)"),
    ("nct#830, PR#812", f"[nct#830]({NCT}/issues/830), [PR#812]({NCT}/pull/812)"),
    ("runc PR #3504, #3845: x", "[runc PR #3504](https://github.com/opencontainers/runc/pull/3504), [#3845](https://github.com/opencontainers/runc/pull/3845): x"),
    ("NVIDIA/enroot#106", "[NVIDIA/enroot#106](https://github.com/NVIDIA/enroot/issues/106)"),
    ("nobody#1", "nobody#1"),
    ("criu/fsnotify.c:284", "criu/fsnotify.c:284"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "expected"), LINKS)
def test_issue_numbers_become_links(source: str, expected: str) -> None:
    assert linked(source, KNOWN) == expected


def test_every_issue_that_a_rule_cites_is_a_link() -> None:
    bare = {
        code: re.findall(r"\S*#\d+", re.sub(r"\[[^\]]*\]\([^)]*\)", "", linked(rule.source, KNOWN)))
        for code, rule in RULES.items()
    }
    assert {code: found for code, found in bare.items() if found} == {}


# A title is a sentence: one of these is in it.
VERBS = re.compile(
    r"\b(is|are|was|were|has|have|does|do|can|may|runs|knows|reads?|names?|makes?|keeps?|works?|passes|fits?|takes?|uses?|"
    r"serves|discovers|defines?|finds?|loads?|started|starts|leaves?|says?|includes?|reboots|lies|stands?|calls?|gets?|asks?)\b"
)


@pytest.mark.parametrize("code", sorted(RULES))
def test_a_title_is_a_sentence_without_its_full_stop(code: str) -> None:
    title = RULES[code].title
    assert VERBS.search(title), f"{title!r}: say what is true when all is well (or add its verb)"
    assert not title.endswith(".")
