"""Dockerfiles and .dockerignore files are read as BuildKit reads them.

tests/fixtures/dockerfiles/parser/parsed.json is what the PyPI package `dockerfile` 3.4.0, which wraps BuildKit's own parser, made
of the files beside it.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumend.text import dockerignore
from gpumend.text.dockerfile import DockerfileError, expand, parse, split

PARSER = Path(__file__).resolve().parents[1] / "fixtures" / "dockerfiles" / "parser"
PARSED = json.loads((PARSER / "parsed.json").read_text("utf-8"))


@pytest.mark.parametrize("name", sorted(PARSED))
def test_instructions_are_those_of_buildkit(name: str) -> None:
    found = parse((PARSER / name).read_bytes().decode())
    mine = [
        {
            "name": item.name,
            "line": item.line,
            "end": item.end,
            "flags": [f"--{key}={value}" for key, value in item.flags],
            "heredocs": [[heredoc.name, heredoc.text] for heredoc in item.heredocs],
        }
        for item in found.instructions
    ]
    theirs = [{key: row[key] for key in mine[0]} for row in PARSED[name]]
    assert mine == theirs
    for item, row in zip(found.instructions, PARSED[name], strict=True):
        if row["json"]:
            assert item.array == tuple(row["value"])
        elif item.name not in ("ONBUILD", "HEALTHCHECK"):
            assert "".join(item.value.split()).replace("=", "") == "".join(
                "".join(row["value"]).split()
            ).replace("=", "")


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("FROM a\nFOO b\n", 2, "unknown instruction: FOO"),
        ("FROM a\nRUN <<EOF\nx\n", 2, "unterminated heredoc EOF"),
        ("RUN x\n", 1, "no build stage"),
        ("ARG A=1\n", 1, "no FROM"),
        ("", 1, "no FROM"),
        ("FROM a\n\nCMD\n", 3, "CMD requires"),
        ("# escape=x\nFROM a\n", 1, "invalid escape token"),
    ],
)
def test_what_cannot_be_built_is_said_with_its_line(text: str, line: int, said: str) -> None:
    with pytest.raises(DockerfileError, match=said) as error:
        parse(text)
    assert error.value.line == line


@given(st.text(max_size=300))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse("FROM a\n" + text)
    except DockerfileError as error:
        assert error.line >= 1


WORDS = [
    ("$A", "a", ()), ("${A}", "a", ()), ("x${A}y", "xay", ()), ("${NONE:-w}", "w", ()), ("${NONE-w}", "w", ()),
    ("${EMPTY:-w}", "w", ()), ("${EMPTY-w}", "", ()), ("${A:+w}", "w", ()), ("${NONE:-${A}}", "a", ()),
    ("'$A'", "$A", ()), ('"$A"', "a", ()), (r"\$A", "$A", ()), ("$NONE/x", "/x", ("NONE",)), ("${GIVEN}", "", ("GIVEN",)),
    ("${V%.*}", "12.4", ()), ("${V%%.*}", "12", ()), ("${V#*.}", "4.1", ()), ("${V##*.}", "1", ()), ("${V/./-}", "12-4.1", ()),
    ("${V//./-}", "12-4-1", ()),
]  # fmt: skip


@pytest.mark.parametrize(("word", "text", "missing"), WORDS)
def test_variables_are_filled_in(word: str, text: str, missing: tuple[str, ...]) -> None:
    found = expand(word, {"A": "a", "EMPTY": "", "GIVEN": None, "V": "12.4.1"})
    assert (found.text, found.missing) == (text, missing)


def test_words_keep_their_quotes() -> None:
    assert list(split("A=1 B=\"x y\" C='z z' D=a\\ b")) == ["A=1", 'B="x y"', "C='z z'", r"D=a\ b"]


IGNORED = [
    ("node_modules", "node_modules/a", True), ("node_modules", "x/node_modules/a", False), ("**/node_modules", "x/node_modules/a", True),
    ("*.md", "README.md", True), ("*.md", "docs/x.md", False), ("**/*.md", "docs/x.md", True), ("/app", "app/main.py", True),
    ("app/", "app/main.py", True), ("*\n!app", "app/main.py", False), ("!app\n*", "app/main.py", True), ("*\n!app/main.py", "app/other.py", True),
    ("# app", "app/main.py", False), ("a?c", "abc", True), ("[ab]x", "bx", True), ("./app", "app/x", True), ("app/*", "app/x/y", True),
]  # fmt: skip


@pytest.mark.parametrize(("text", "path", "out"), IGNORED)
def test_the_last_pattern_that_matches_counts(text: str, path: str, out: bool) -> None:
    assert (dockerignore.parse(text).excluded(path) is not None) is out


def test_a_pattern_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="bracket"):
        dockerignore.parse("a[b")
