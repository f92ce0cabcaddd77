"""os-release(5) is read as a shell reads it."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumend.state.host import os_release


@given(st.text(alphabet="ab0.-_ \"'\\#$;`\t=é\u00a0\x1f", max_size=8).map(str.strip))
def test_a_value_is_what_a_shell_makes_of_it(value: str) -> None:
    expected: dict[str, str] | None
    found: dict[str, str] | None
    try:
        expected = {"A": "".join(shlex.split(value)[:1])}
    except ValueError:
        expected = None
    try:
        found = dict(os_release(f"A={value}\n"))
    except ValueError:
        found = None
    assert found == expected


def test_all_lines_but_comments_count() -> None:
    text = "# of a distribution\n\nID=ubuntu\nPRETTY_NAME=\"Ubuntu 24.04 LTS\"\nID_LIKE='debian'\nVARIANT=\n"
    assert os_release(text) == {
        "ID": "ubuntu",
        "PRETTY_NAME": "Ubuntu 24.04 LTS",
        "ID_LIKE": "debian",
        "VARIANT": "",
    }


def test_a_line_that_is_no_assignment_is_refused() -> None:
    with pytest.raises(ValueError, match="no assignment"):
        os_release("ID=debian\nno line of os-release\n")
