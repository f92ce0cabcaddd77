"""Names of many hosts in few characters."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumend.text.ranges import compress, natural


def numbered(prefix: str, numbers: range, width: int, suffix: str = "") -> list[str]:
    return [f"{prefix}{number:0{width}}{suffix}" for number in numbers]


TABLE = [
    pytest.param(numbered("gpu", range(1, 31), 2), ["gpu[01-30]"], id="padded"),
    pytest.param(numbered("gpu", range(8, 13), 0), ["gpu[8-12]"], id="not-padded"),
    pytest.param(["gpu1", "gpu2", "gpu7"], ["gpu[1-2,7]"], id="gap"),
    pytest.param(["gpu07"], ["gpu07"], id="one"),
    pytest.param(["login", "@local", "gpu2", "gpu1"], ["@local", "gpu[1-2]", "login"], id="others"),
    pytest.param(numbered("gpu", range(1, 4), 2, ".example.net"), ["gpu[01-03].example.net"], id="domain"),
    pytest.param(numbered("192.0.2.", range(9, 12), 0), ["192.0.2.[9-11]"], id="addresses"),
    pytest.param(["rack1-gpu1", "rack1-gpu2", "rack2-gpu1"], ["rack1-gpu[1-2]", "rack2-gpu1"], id="racks"),
    pytest.param(["gpu9", "gpu09", "gpu10"], ["gpu[9,09-10]"], id="both-widths"),
    pytest.param(["gpu1b", "gpu2b"], ["gpu[1-2]b"], id="letter-after"),
    pytest.param(["a[1]", "a 2", "a,3"], ["a 2", "a,3", "a[1]"], id="special"),
    pytest.param([], [], id="none"),
]


@pytest.mark.parametrize(("names", "wanted"), TABLE)
def test_compressed(names: list[str], wanted: list[str]) -> None:
    assert compress(names) == wanted
    assert compress(reversed(names)) == wanted, "whatever the order"


def expanded(text: str) -> list[str]:
    found = re.fullmatch(r"([^\[]*)\[([\d,-]+)\](.*)", text)
    if not found:
        return [text]
    names = []
    for part in found.group(2).split(","):
        first, _, last = part.partition("-")
        names += numbered(
            found.group(1), range(int(first), int(last or first) + 1), len(first), found.group(3)
        )
    return names


@given(
    st.lists(
        st.from_regex(r"\A[a-c]{0,2}-?[0-9]{0,3}(\.x[0-9])?\Z") | st.sampled_from(["10.0.0.1", "10.0.0.2"])
    )
)
def test_what_is_compressed_says_the_same_names(names: list[str]) -> None:
    assert sorted(name for text in compress(names) for name in expanded(text)) == sorted(set(names))


@given(st.lists(st.text()))
def test_any_names_are_kept_and_sorted(names: list[str]) -> None:
    assert len(compress(names)) <= len(set(names))
    sorted(names, key=natural)
