"""docs/gpumend.1 is what the commands say of themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpumend.cli import manual
from gpumend.cli.main import VERBS

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_what_the_commands_say() -> None:
    page = (ROOT / "docs/gpumend.1").read_text("utf-8")
    assert page == manual.page(), "python -m gpumend.cli.manual > docs/gpumend.1"
    assert all(f'.SS "gpumend {verb} ' in page for verb in VERBS)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("--plan", "\\-\\-plan"),
        (".nf", "\\&.nf"),
        ("'a", "\\&'a"),
        ("a\n.b", "a\n\\&.b"),
        ("C:\\x", "C:\\ex"),
    ],
)
def test_no_text_is_a_request_of_troffs(text: str, shown: str) -> None:
    assert manual.roff(text) == shown
