"""What is read as plain TOML is what tomllib makes of the same text; all else is left to it."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumend.state.snapshot import Snapshot
from gpumend.text.plain_toml import MAX_LINES, read
from tests.unit.build import FIXTURES, healthy

# Lines as they are written and as they nearly are.
KEYS = st.sampled_from(
    ["a", "b", "c", "a-b", "0", "a.b", '"a"', "'a'", "a b", "", "-", "_", "A", "true", "é", "a\t", " a"]
)
EQUALS = st.sampled_from([" = ", "=", " =", "= ", "  =  ", " : ", " ", "\t=\t"])
VALUES = st.sampled_from(
    [
        '"x"', '""', "''", "'x'", '"a # b"', '"a\\n"', '"a\\"', '"""x"""', '"é"', "'\"'", "\"'\"", '"', "true", "false", "True",
        "truefalse", "0", "1", "-1", "+1", "-0", "01", "1_0", "0x1", "1.5", "1e3", "inf", "nan", "9" * 18, "9" * 19, "1979-05-27",
        "07:32:00", "[]", "[ ]", '["a"]', '["a", "b"]', '["a","b"]', '["a",]', '["a", \'b\']', '["a" "b"]', '["a",, "b"]', "[1, 2]",
        '[["a"]]', "[", "{}", "{a = 1}", "", "x", '"x" # why', '"x" ', '"x"\r', '"\t"', '"\x00"', '"\u2028"', "# x", '"a", "b"',
    ]
)  # fmt: skip
HEADERS = st.sampled_from(
    [
        "[a]", "[b]", "[a.b]", "[a.b.c]", '[a."b"]', '["a.b"]', "['a']", "[a.'b'.c]", "[[a]]", "[ a ]", "[a ]", "[]", "[a.]", "[.a]",
        "[a..b]", "[a] # why", "[a]]", '[a"b"]', '["a"\'b\']', "[a", "  [a]", "[0]", "[-]", "[é]", '["é"]', '["\\u0061"]', '[""]', "['']",
    ]
)  # fmt: skip
OTHERS = st.sampled_from(
    ["", " ", "\t", "#", "# x", "  # é", "#\t", "#\x00", "#\x7f", "#\r", "\r", "#\u2028x", "\ufeff", "x"]
)
LINES = st.tuples(KEYS, EQUALS, VALUES).map("".join) | HEADERS | OTHERS
PLAIN = st.sampled_from(
    ["[a]", "[b]", "[a.b]", '["a"]', "[a.b.c]", "a = 1", "b = true", 'c = "x"', 'b = ["x"]', "", "# x"]
)
TEXTS = st.lists(LINES, max_size=6) | st.lists(PLAIN, max_size=8)


def agreed(text: str) -> Any:
    """What it is read as, where that is what tomllib reads: also 1 and true are two values."""
    found = read(text)
    if found is not None:
        assert repr(found) == repr(tomllib.loads(text)), text
    return found


@given(TEXTS.map("\n".join), st.sampled_from(["", "\n"]))
def test_what_is_read_is_what_tomllib_reads(text: str, end: str) -> None:
    agreed(text + end)


@given(st.lists(PLAIN, max_size=8).map("\n".join))
def test_a_plain_text_is_read_unless_it_is_none(text: str) -> None:
    try:
        expected = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        expected = None
    assert read(text) == expected


def configs() -> dict[str, str]:
    """What nvidia-ctk and containerd wrote on real hosts."""
    found = {path.name: path.read_text(encoding="utf-8") for path in sorted(FIXTURES.rglob("*.toml"))}
    toolkit = Snapshot(healthy().answer()).file("/etc/nvidia-container-runtime/config.toml").need().text()
    return {**found, "toolkit": toolkit}


@pytest.mark.parametrize("text", configs().values(), ids=configs())
def test_a_real_file_is_read_as_tomllib_reads_it(text: str) -> None:
    agreed(text)


def test_what_the_toolkit_writes_is_plain() -> None:
    found = agreed(configs()["toolkit"])
    assert found["nvidia-container-runtime"]["modes"]["cdi"]["spec-dirs"] == ["/etc/cdi", "/var/run/cdi"]


def test_no_end_of_lines_is_read() -> None:
    assert read("\n" * MAX_LINES) == {}
    assert read("\n" * (MAX_LINES + 1)) is None
