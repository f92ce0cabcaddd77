"""What is read as plain YAML is what PyYAML and the engines' own rules make of the same text; all else is left to them."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gpumend.state.snapshot import Snapshot
from gpumend.text import go_yaml
from gpumend.text.plain_yaml import MAX_COLUMN, MAX_LINES, read
from tests.unit.build import FIXTURES, healthy

SPEC = (FIXTURES / "h100" / "cdi-h100.yaml").read_text(encoding="utf-8")
LINES = SPEC.splitlines(keepends=True)
# Beginnings and ends of lines, as they are written and as they nearly are.
INDENTS = st.sampled_from(
    ["", "  ", "    ", "      ", "- ", "  - ", "    - ", "   ", "-   ", "- - ", "\t", "-", "? "]
)
KEYS = st.sampled_from(
    [
        "a: ",
        "b: ",
        "name: ",
        "a:",
        "b:",
        "",
        "a : ",
        '"a": ',
        "yes: ",
        "No:",
        "1: ",
        "<<: ",
        "nvidia.com/gpu: ",
        "a:b: ",
    ]
)
VALUES = st.sampled_from(
    [
        "", "x", "/dev/nvidia0", "--link", "../lib.so::/usr/lib/x.so", "0.5.0", "0", "195", "007", "0x1f", "1_000", "1.5", "1e3",
        "-1", "9" * 18, "9" * 19, "1:2", "2026-07-15", "true", "Yes", "off", "NULL", "~", "null", ".inf", "y", "=", "x:", "x: y",
        "x #y", "x#y", "# x", '"0"', '""', '"a\\n"', '"é"', "'x'", "é", "[]", "{}", "[a]", "&a x", "*a", "!!str x", "|", ">",
        "@x", "`x`", "%x", "x\u2028y", "x\x85y", "x y", "x ", "x,y", "NVIDIA_VISIBLE_DEVICES=void", "...", "---", "x\r", "x\0",
        "GPU-ddcfa932-2616-cecb-a95e-350855afb5ab", "_1", "e1", "a=b:c", "/:", "n", "ON", "x" * 2000,
    ]
)  # fmt: skip
TEXTS = st.lists(st.tuples(INDENTS, KEYS, VALUES).map("".join), max_size=8).flatmap(
    lambda lines: st.sampled_from(
        ["\n".join(lines) + "\n", "---\n" + "\n".join(lines) + "\n", "\n".join(lines)]
    )
)


def agreed(text: str) -> Any:
    """What it is read as, where that is what the others read; both refuse it otherwise."""
    found = read(text)
    if found is not None:
        assert found == go_yaml.load(text), text
        assert found == yaml.safe_load(text), text
    return found


SCALARS = st.sampled_from(["x", "/dev/nvidia0", "--link", "0.5.0", "0", "195", '"0"', '""', "a=b:c", "../x"])
TREES = st.dictionaries(
    st.sampled_from("abcde"),
    st.recursive(
        SCALARS,
        lambda below: (
            st.lists(below, min_size=1, max_size=3)
            | st.dictionaries(st.sampled_from("abcde"), below, min_size=1, max_size=3)
        ),
        max_leaves=8,
    ),
    min_size=1,
    max_size=4,
)


def written(tree: Any, right: int, lists_right: bool) -> list[str]:
    """A tree in lines: what is below a key this much to the right of it, and lists there or at the key's column."""
    lines = []
    if isinstance(tree, str):
        return [tree]
    if isinstance(tree, list):
        for item in tree:
            first, *rest = written(item, right, lists_right)
            lines += [f"- {first}", *(f"  {line}" for line in rest)]
        return lines
    for key, value in tree.items():
        if isinstance(value, str):
            lines.append(f"{key}: {value}")
        else:
            indent = " " * (right if lists_right or isinstance(value, dict) else 0)
            lines += [f"{key}:", *(indent + line for line in written(value, right, lists_right))]
    return lines


def nested(tree: Any) -> bool:
    """Whether a list stands right in a list, which is `- - `: no program that is read here writes that."""
    if isinstance(tree, dict):
        return any(nested(value) for value in tree.values())
    return isinstance(tree, list) and any(isinstance(item, list) or nested(item) for item in tree)


@given(TEXTS)
def test_what_is_read_is_what_others_read(text: str) -> None:
    agreed(text)


@given(TREES, st.integers(1, 5), st.booleans())
def test_a_tree_of_plain_scalars_is_plain_in_every_layout(tree: Any, right: int, lists_right: bool) -> None:
    text = "\n".join(written(tree, right, lists_right)) + "\n"
    assert (agreed(text) is None) == nested(tree)


@given(
    TREES, st.integers(1, 5), st.booleans(), st.integers(0, 30), INDENTS, st.sampled_from(["a: ", "b:", ""]), VALUES
)  # fmt: skip
def test_a_line_among_others_changes_what_it_changes_for_others(
    tree: Any, right: int, lists_right: bool, at: int, indent: str, key: str, value: str
) -> None:
    lines = written(tree, right, lists_right)
    lines.insert(at % (len(lines) + 1), indent + key + value)
    agreed("\n".join(lines) + "\n")


@given(st.lists(st.integers(0, len(LINES) - 1), max_size=12), st.sampled_from(LINES), st.integers(0, 8))
def test_a_real_spec_whose_lines_moved_is_read_as_others_do(where: list[int], line: str, cut: int) -> None:
    lines = [*LINES]
    for number in where:
        lines[number] = lines[number][cut:] if number % 2 else line
    agreed("".join(lines))


def specs() -> dict[str, str]:
    """What nvidia-ctk wrote on real hosts, in both of its layouts."""
    l4 = Snapshot(healthy().answer()).file("/var/run/cdi/nvidia.yaml").need().text()
    at_column = yaml.safe_dump(yaml.safe_load(SPEC), default_flow_style=False, sort_keys=False)
    return {"h100": SPEC, "l4": l4, "lists at the column of their key": at_column.replace("'", '"')}


@pytest.mark.parametrize("text", specs().values(), ids=specs())
def test_what_programs_write_is_plain(text: str) -> None:
    found = agreed(text)
    assert found is not None and len(found["devices"]) > 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "---\n",
        "x\n",
        "- a\n",
        "a: 1",  # cut off, perhaps
        "a: 1\na: 2\n",
        "a:\n",
        "a:\nb: 1\n",
        "a: 1\n  b: 2\n",
        "a:\n    b: 1\n  c: 2\n",
        "a:\n- b\n  - c\n",
        "a: b\n  c\n",
        "a:\n  - b\n    c\n",
        "a: 1\n---\nb: 2\n",
        "a: 1\n...\n",
        " a: 1\n",
        "a: " + "9" * 5000 + "\n",
        "a: yes\n",
        "a:\n"
        + "".join(f"{'  ' * depth}a:\n" for depth in range(1, MAX_COLUMN))
        + "  " * MAX_COLUMN
        + "a: 1\n",
        "a: 1\n" * (MAX_LINES + 1),
        "{}\n",
        '{"a": 1}\n',
    ],
)
def test_all_else_is_left_to_a_parser(text: str) -> None:
    assert read(text) is None
