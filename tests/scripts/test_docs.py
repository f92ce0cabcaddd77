"""docs/: what is made is what it is made from, guides lead where they say, and the site builds without a warning."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gpumend import schemas
from gpumend.cli.main import VERBS
from gpumend.places import PAGES
from gpumend.reports.document import Exit
from gpumend.schemas import reference
from gpumend.schemas.wanted import check
from gpumend.text import symptoms

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
GUIDES = sorted((DOCS / "guides").glob("*.md"))
CODE = re.compile(r"GM\d{3}")


def test_the_reference_is_the_schemas() -> None:
    assert reference.DOCUMENT.read_text("utf-8") == reference.page(), "python -m gpumend.schemas.reference"
    for key in schemas.load("wanted")["properties"]:
        assert f"`{key}`" in reference.page() or f"## {key}" in reference.page()


@pytest.fixture(scope="module")
def index() -> symptoms.Index:
    return symptoms.Index(symptoms.read(PAGES))


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)
def test_a_guide_names_what_its_text_leads_to(guide: Path, index: symptoms.Index) -> None:
    text = guide.read_text("utf-8")
    named = set(CODE.findall(text))
    assert all((PAGES / f"{code}.md").exists() for code in named)
    quoted = re.findall(r"(?s)```\n(.*?)```", text)[0]
    for line in filter(None, quoted.splitlines()):
        found = {match.page.code for match in index.rank(line)[:3]}
        assert found & named, f"{line}: {sorted(found)}"


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")) + GUIDES, ids=lambda path: path.stem)
def test_a_desired_state_in_a_page_is_valid(page: Path) -> None:
    for text in re.findall(r"gpumend='(\{.*?\})'", page.read_text("utf-8")):
        if "..." not in text:
            check(json.loads(text))


def test_each_incident_has_its_guide_and_the_start_page_all_of_them() -> None:
    start = (DOCS / "index.md").read_text("utf-8")
    assert len(GUIDES) >= 5
    assert [guide.name for guide in GUIDES if f"guides/{guide.name}" not in start] == []


def test_the_start_page_leads_to_every_page() -> None:
    start = (DOCS / "index.md").read_text("utf-8")
    inner = {"index.md", "adding-a-cuda-release.md"}  # the second is for who works on gpumend
    assert [
        page.name for page in DOCS.glob("*.md") if page.name not in inner and f"({page.name})" not in start
    ] == []


def test_readme_names_every_verb_and_every_concern() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert [verb for verb in VERBS if f"gpumend {verb}" not in text] == []
    alone = [
        path.name for path in (ROOT / "deploys").glob("*.py") if "begin(concern=" in path.read_text("utf-8")
    ]
    assert (
        alone
        and [name for name in alone if f"`{name}`" not in text and f"`deploys/{name}`" not in text] == []
    )


def test_both_tables_of_exit_statuses_have_the_same_ones() -> None:
    rows = [
        re.findall(r"^\| (\d) \|", (ROOT / page).read_text("utf-8"), re.M)
        for page in ("README.md", "docs/json-and-ci.md")
    ]
    assert rows[0] == rows[1] == [str(int(status)) for status in sorted(Exit)]


def test_the_site_builds_without_a_warning_and_needs_nobody_else(tmp_path: Path) -> None:
    argv = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "--site-dir",
        str(tmp_path / "site"),
    ]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    page = (tmp_path / "site/index.html").read_text("utf-8")
    assert re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(?:https?:)?//', page) == []
    assert (tmp_path / "site/search/search_index.json").exists(), "searched offline"
