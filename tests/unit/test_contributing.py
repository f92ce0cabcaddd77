"""CONTRIBUTING.md and docs/ say what is so: every path that they name is there, and the rule of the example is one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpumend.rules.finding import Finding, Status
from gpumend.rules.judge import judge
from gpumend.rules.rule import RULES
from gpumend.rules.wanted import Wanted
from tests.unit.build import TODAY, healthy

ROOT = Path(__file__).resolve().parents[2]
PAGES = (
    "CONTRIBUTING.md",
    "README.md",
    "docs/architecture.md",
    "docs/security.md",
    "docs/reports.md",
    "docs/sudo.md",
    "docs/getting-started.md",
    "docs/hosts.md",
    "docs/json-and-ci.md",
    "docs/upgrades.md",
    "docs/agent.md",
    "docs/scale.md",
    "docs/real-gpu.md",
    "docs/desired-state.md",
    "docs/new-nodes.md",
)
NAMED = re.compile(r"`((?:gpumend|tests|docs|deploys|facts|operations|tools|group_data)/[\w./-]*)`")
EXAMPLES = ("docs/findings/GM999.md", "group_data/training.py")


@pytest.mark.parametrize("page", PAGES)
def test_every_path_that_a_page_names_is_there(page: str) -> None:
    named = set(NAMED.findall((ROOT / page).read_text("utf-8"))) - set(EXAMPLES)
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


SECURITY = (ROOT / "docs/security.md").read_text("utf-8")
TESTS = re.compile(r"`(tests/[\w./-]+)(?:::(\w+))?`")


def claims(text: str) -> list[str]:
    """The paragraphs, items and rows of a page's sections, but for the last, which says what is not claimed."""
    sections = text.split("\n## ")[1:-1]
    blocks = [block for section in sections for block in re.split(r"\n\n|\n(?=- )", section)[1:]]
    tables = [row for block in blocks if block.startswith("|") for row in block.splitlines()[2:]]
    return [block for block in blocks if block.strip() and not block.startswith("|")] + tables


@pytest.mark.parametrize("claim", claims(SECURITY), ids=lambda claim: str(claim)[:40])
def test_each_claim_of_security_names_a_test_that_is_there(claim: str) -> None:
    """A file of tests, or one test in it."""
    named = TESTS.findall(claim)
    assert named, claim
    for path, function in named:
        text = (ROOT / path).read_text("utf-8") if (ROOT / path).is_file() else ""
        assert (
            re.search(rf"(?m)^def {function or 'test_'}", text)
            or (ROOT / path).is_dir()
            or path.endswith("attacks.py")
        ), (path, function)


def test_the_page_makes_claims() -> None:
    assert len(claims(SECURITY)) > 30


def test_the_pages_name_paths() -> None:
    assert len(NAMED.findall((ROOT / "CONTRIBUTING.md").read_text("utf-8"))) > 20


@pytest.fixture
def example() -> Iterator[str]:
    """The rule of the example is registered, and gone afterwards."""
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    exec(re.findall(r"(?s)```python\n(.*?)```", text)[0], {})
    yield "GM999"
    del RULES["GM999"]


def test_the_rule_of_the_example_judges(example: str) -> None:
    state = healthy().state()
    nameless = state._replace(host=state.host._replace(kernel=""))

    def found(of: object) -> list[Finding]:
        verdict = judge(of, Wanted(), "gpu1", TODAY)  # type: ignore[arg-type]
        return [finding for finding in verdict.findings if finding.code == example]

    assert found(state) == []
    assert [finding.status for finding in found(nameless)] == [Status.WARN]


@pytest.mark.parametrize("target", ["quick", "unit", "nodes", "test", "lock", "test-newest"])
def test_make_has_what_the_page_names(target: str) -> None:
    assert re.search(rf"(?m)^{target}:", (ROOT / "Makefile").read_text("utf-8"))
