"""Every finding has a page for `gpumend explain`, every page has a rule, and docs/sources.md knows them all."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from gpumend.rules.judge import RULES

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs" / "findings"
SOURCES = ROOT / "docs" / "sources.md"
HEADINGS = (
    "## What you see",
    "## Why",
    "## How gpumend knows",
    "## What mend does",
    "## By hand",
    "## Sources",
)
WIDTH = 100


def yielded() -> set[str]:
    """The codes that the rules' modules give to a Finding, read from their source: some never come up in a test."""
    return {
        keyword.value.value
        for path in (ROOT / "gpumend" / "rules").rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "Finding"
        for keyword in call.keywords
        if keyword.arg == "code"
        and isinstance(keyword.value, ast.Constant)
        and isinstance(keyword.value.value, str)
    }


CODES = sorted(yielded() | set(RULES))


def read(code: str) -> str:
    return (PAGES / f"{code}.md").read_text(encoding="utf-8")


def sections(text: str) -> dict[str, str]:
    """What stands under each heading of the second level."""
    parts = re.split(r"(?m)^(## .*)$", text)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_the_reading_of_sources_finds_codes() -> None:
    assert {"GM001", "GM204", "GM304", "GM309", "GM415"} <= yielded()


def test_every_code_that_is_yielded_has_a_rule() -> None:
    assert yielded() <= set(RULES)


def test_there_is_a_page_for_every_code_and_no_other() -> None:
    assert sorted(path.name for path in PAGES.iterdir()) == [f"{code}.md" for code in CODES]


@pytest.mark.parametrize("code", CODES)
def test_title_begins_with_the_code(code: str) -> None:
    assert re.fullmatch(rf"# {code}: \S.*", read(code).splitlines()[0])


@pytest.mark.parametrize("code", CODES)
def test_headings_are_the_same_in_the_same_order(code: str) -> None:
    assert tuple(re.findall(r"(?m)^#{2,} .*$", read(code))) == HEADINGS


@pytest.mark.parametrize("code", CODES)
def test_no_section_is_empty(code: str) -> None:
    assert [heading for heading, text in sections(read(code)).items() if not text.strip()] == []


@pytest.mark.parametrize("code", CODES)
def test_lines_fit_a_terminal(code: str) -> None:
    assert [line for line in read(code).splitlines() if len(line) > WIDTH] == []


@pytest.mark.parametrize("code", CODES)
def test_codes_that_a_page_refers_to_exist(code: str) -> None:
    assert set(re.findall(r"\bGM\d{3}\b", read(code))) <= set(CODES)


def test_sources_list_every_code_once_and_sorted() -> None:
    listed = re.findall(r"(?m)^\| (GM\d{3}) \| \S.* \| \S.* \|$", SOURCES.read_text(encoding="utf-8"))
    assert listed == CODES
