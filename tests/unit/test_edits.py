"""Edits of JSON and TOML: the value is set, and every byte that is not its own stays.

The texts are made piece by piece, in every style that people write, so it is known where a value stands.
"""

from __future__ import annotations

import copy
import datetime
import json
import math
import tomllib
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gpumend.text.documents import copied
from gpumend.text.edits import Edit, EditError, apply
from tests.unit.build import fixture

KEYS = st.sampled_from(
    ["features", "cdi", "runtimes", "nvidia", "path", "log-opts", "a", "ü", "with space", 'q"uote']
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=5)
PATHS = st.lists(KEYS, min_size=1, max_size=3).map(tuple)


def put(document: dict[str, Any], keys: tuple[str, ...], value: Any) -> dict[str, Any] | None:
    """The document with the value set; None where something on the way is no object."""
    found = copy.deepcopy(document)
    here = found
    for key in keys[:-1]:
        here = here.setdefault(key, {})
        if not isinstance(here, dict):
            return None
    here[keys[-1]] = value
    return found


def same(one: Any, other: Any) -> bool:
    """Equal with types: True is not 1, 1 is not 1.0."""
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    return type(one) is type(other) and bool(one == other)


def kept(before: str, after: str) -> tuple[str, str]:
    """(what was taken out, what was put in): the least span in which the two differ."""
    start = 0
    while start < min(len(before), len(after)) and before[start] == after[start]:
        start += 1
    end = 0
    while end < min(len(before), len(after)) - start and before[-1 - end] == after[-1 - end]:
        end += 1
    return before[start : len(before) - end], after[start : len(after) - end]


# --- JSON


@st.composite
def json_texts(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """An object, and a text of it in some style: indented or on one line, LF or CRLF, with or without a BOM."""
    value = draw(OBJECTS)
    indent = draw(st.sampled_from([None, 0, 1, 2, 4, "\t"]))
    separators = draw(st.sampled_from([(",", ":"), (", ", ": "), (",", " : ")]))
    text = json.dumps(value, indent=indent, separators=separators, ensure_ascii=draw(st.booleans()))
    text = text.replace("\n", draw(st.sampled_from(["\n", "\r\n", "\n\n", "\n  "])))
    text = (
        draw(st.sampled_from(["", "\ufeff", "\n", " \t"]))
        + text
        + draw(st.sampled_from(["", "\n", "\r\n", "  \n"]))
    )
    return text, value


def edit_json(text: str, keys: tuple[str, ...], value: Any) -> str:
    return apply(
        "/etc/docker/daemon.json", text.encode(), [Edit("/etc/docker/daemon.json", keys, value)]
    ).decode()


def read_json(text: str) -> Any:
    return json.loads(text.removeprefix("\ufeff"))


@given(json_texts(), PATHS, VALUES)
@example(('{"features": {"cdi": 1}}', {"features": {"cdi": 1}}), ("features", "cdi"), True)
@example(('{"a": 1}', {"a": 1}), ("a",), 1.0)
@example(("{}", {}), ("a",), "x")
@example(("{ }", {}), ("a", "cdi"), True)
@example(('{"a": {}, "cdi": 0}', {"a": {}, "cdi": 0}), ("a", "nvidia"), True)
@example(('{\n\t"a": {"cdi": [1,\n2]}\n}', {"a": {"cdi": [1, 2]}}), ("a", "nvidia"), {"path": "/x"})
def test_json_sets_the_value_and_nothing_else(
    made: tuple[str, dict[str, Any]], keys: tuple[str, ...], value: Any
) -> None:
    text, document = made
    expected = put(document, keys, value)
    if expected is None:
        with pytest.raises(EditError, match="is not an object"):
            edit_json(text, keys, value)
        return
    after = edit_json(text, keys, value)
    assert same(read_json(after), expected)
    assert edit_json(after, keys, value) == after, "a second time changes nothing"
    if same(read_json(text), expected):
        assert after == text, "what is there already changes nothing"
    assert (
        after.count("\r\n") == after.count("\n")
        or "\r\n" not in text
        or text.count("\n") != text.count("\r\n")
    )


@given(json_texts(), PATHS, VALUES, VALUES)
def test_json_an_edit_is_one_span(
    made: tuple[str, dict[str, Any]], keys: tuple[str, ...], old: Any, value: Any
) -> None:
    """A new member is pure insertion; of an old one, nothing but its value is replaced."""
    text, document = made
    if put(document, keys, value) is None:
        return
    here: Any = document
    for key in keys:
        here = here.get(key, ...) if isinstance(here, dict) else ...
    if here is ...:  # not there: nothing but white space inside braces may go
        taken, _ = kept(text, edit_json(text, keys, value))
        assert taken.strip() == ""
        return
    # There: put a value of our own in, where we then know it stands.
    marked = edit_json(text, keys, "@@@here@@@")
    head, _, tail = marked.partition('"@@@here@@@"')
    after = edit_json(marked, keys, value)
    assert after.startswith(head) and after.endswith(tail)
    assert edit_json(after, keys, old).startswith(head) and edit_json(after, keys, old).endswith(tail)


STYLES: list[tuple[str, str, str]] = [
    # id, before, after setting features.cdi = true
    ("empty", "", '{\n    "features": {\n        "cdi": true\n    }\n}\n'),
    ("empty-object", "{}\n", '{\n    "features": {\n        "cdi": true\n    }\n}\n'),
    ("four-spaces", '{\n    "a": 1\n}\n', '{\n    "a": 1,\n    "features": {\n        "cdi": true\n    }\n}\n'),
    ("two-spaces", '{\n  "a": 1\n}', '{\n  "a": 1,\n  "features": {\n    "cdi": true\n  }\n}'),
    ("tabs", '{\n\t"a": 1\n}\n', '{\n\t"a": 1,\n\t"features": {\n\t\t"cdi": true\n\t}\n}\n'),
    ("crlf", '{\r\n  "a": 1\r\n}\r\n', '{\r\n  "a": 1,\r\n  "features": {\r\n    "cdi": true\r\n  }\r\n}\r\n'),
    ("one-line", '{"a": 1}', '{"a": 1, "features": {"cdi": true}}'),
    ("replace", '{\n  "features": {"cdi": false, "x": 1.0}\n}\n', '{\n  "features": {"cdi": true, "x": 1.0}\n}\n'),
    ("beside-others", '{\n  "features": {\n    "x": 1e3\n  }\n}\n', '{\n  "features": {\n    "x": 1e3,\n    "cdi": true\n  }\n}\n'),
    ("into-empty", '{\n  "features": {}\n}\n', '{\n  "features": {\n    "cdi": true\n  }\n}\n'),
    ("bom", '\ufeff{"a": 1}', '\ufeff{"a": 1, "features": {"cdi": true}}'),
    ("number-spelling", '{"a": 1.50e+2, "b": "\\u00e4"}', '{"a": 1.50e+2, "b": "\\u00e4", "features": {"cdi": true}}'),
]  # fmt: skip


@pytest.mark.parametrize(("before", "after"), [row[1:] for row in STYLES], ids=[row[0] for row in STYLES])
def test_json_keeps_the_files_style(before: str, after: str) -> None:
    assert edit_json(before, ("features", "cdi"), True) == after


INVALID_JSON = [
    "[]", '"x"', "1", "{", '{"a": 1,}', '{"a": 1} x', '{"a": 1}{}', "{'a': 1}", '{"a": 1 "b": 2}', "// c\n{}", '{"a"}',
    '{"features": {}, "features": {}}', '{"features": {"cdi": 1, "cdi": 2}}', '{"features": []}', '{"features": null}',
    '{"a": "\n"}', '{"a": ' + "[" * 100_000, "\x00", '{"a": ' + "9" * 5000 + "}", '{"features": ' + "9" * 5000 + "}",
]  # fmt: skip


@pytest.mark.parametrize("text", INVALID_JSON, ids=range(len(INVALID_JSON)))
def test_json_refuses_what_it_cannot_edit(text: str) -> None:
    with pytest.raises(EditError):
        edit_json(text, ("features", "cdi"), True)


@given(st.binary(max_size=40) | st.text(alphabet='{}[]":, \n\\u0ea1truefalsn-.', max_size=40).map(str.encode))
def test_json_any_bytes_give_an_edit_error_or_json(data: bytes) -> None:
    try:
        after = apply("/x.json", data, [Edit("/x.json", ("features", "cdi"), True)])
    except EditError:
        return
    assert read_json(after.decode())["features"]["cdi"] is True


# --- TOML

BARE = st.sampled_from(["mode", "ldconfig", "root", "x", "no-cgroups"])
TABLES = [
    "nvidia-container-cli",
    "nvidia-container-runtime",
    "nvidia-container-runtime.modes.cdi",
    "features",
    "my-own.table",
]
TOML_VALUES = st.one_of(
    st.booleans().map(lambda v: ("true" if v else "false", v)),
    st.integers(-(2**40), 2**40).map(lambda v: (str(v), v)),
    st.sampled_from([("0x1F", 31), ("1_000", 1000), ("1e3", 1000.0), ("'literal'", "literal"), ('"""m\nl"""', "m\nl")]),
    st.sampled_from([('["a", "b"]', ["a", "b"]), ("[\n  1, # one\n  2,\n]", [1, 2]), ("[]", []), ("{ a = 1 }", {"a": 1})]),
    st.text(alphabet="abc @/.äö", max_size=8).map(lambda v: (json.dumps(v, ensure_ascii=False), v)),
)  # fmt: skip
COMMENTS = st.sampled_from(["", "  # why", "# tight", "\t#\ttabs"])
LOOSE = st.sampled_from(["", "", "\n", "# a comment\n", '#mode = "auto"\n', "   \n"])


@st.composite
def toml_texts(draw: st.DrawFn) -> str:
    """A valid TOML text: keys at the top, then tables in any order, comments and blank lines anywhere."""

    def rows() -> str:
        keys = draw(st.lists(BARE, unique=True, max_size=3))
        made = ""
        for key in keys:
            indent, sign = draw(st.sampled_from(["", "  "])), draw(st.sampled_from([" = ", "=", "  =  "]))
            made += draw(LOOSE) + indent + key + sign + draw(TOML_VALUES)[0] + draw(COMMENTS) + "\n"
        return made + draw(LOOSE)

    text = rows()
    for table in draw(st.lists(st.sampled_from(TABLES), unique=True, max_size=4)):
        text += draw(LOOSE) + f"[{table}]{draw(COMMENTS)}\n" + rows()
    if draw(st.booleans()):
        text = text.removesuffix("\n")
    if draw(st.booleans()):
        text = text.replace("\n", "\r\n")
    return text


TOML_KEYS = st.sampled_from(
    [
        ("nvidia-container-runtime", "mode"),
        ("nvidia-container-cli", "ldconfig"),
        ("nvidia-container-cli", "no-cgroups"),
        ("nvidia-container-runtime", "modes", "cdi", "default-kind"),
        ("features", "x"),
        ("mode",),
    ]
)
TOML_NEW = st.sampled_from([True, False, "cdi", "@/sbin/ldconfig.real", ["a", "b"], [], 7, "q\"uo'te\\"])


def edit_toml(text: str, keys: tuple[str, ...], value: Any) -> str:
    return apply("/config.toml", text.encode(), [Edit("/config.toml", keys, value)]).decode()


@given(toml_texts(), TOML_KEYS, TOML_NEW)
@example(
    "[nvidia-container-cli]\nx = 1\n[nvidia-container-runtime.modes.cdi]\nx = 1\n",
    ("nvidia-container-runtime", "mode"),
    "cdi",
)
@example(
    "[nvidia-container-runtime.modes.cdi]\n[x]\n[nvidia-container-runtime]\n",
    ("nvidia-container-runtime", "mode"),
    "cdi",
)
@example("x = 1", ("nvidia-container-runtime", "mode"), "cdi")
@example("[features]\n\n[nvidia-container-cli]\n", ("features", "x"), True)
@example("[features] # why\n# own comment\n\n\n[nvidia-container-cli]\n", ("features", "x"), True)
@example("mode = 1\n", ("mode",), True)
@example("mode = [1]\n", ("mode",), [True])
@example(
    "[nvidia-container-cli]\nx = 1\n\n# of the next table\n[features]\n",
    ("nvidia-container-cli", "ldconfig"),
    "x",
)
def test_toml_sets_the_value_and_nothing_else(text: str, keys: tuple[str, ...], value: Any) -> None:
    document = tomllib.loads(text)
    expected = put(document, keys, value)
    if expected is None:
        with pytest.raises(EditError):
            edit_toml(text, keys, value)
        return
    try:
        after = edit_toml(text, keys, value)
    except EditError:
        return  # a text it cannot edit is refused, never spoilt
    found = tomllib.loads(after)
    assert found == expected
    here: Any = found
    for key in keys:
        here = here[key]
    assert same(here, value)
    assert edit_toml(after, keys, value) == after, "a second time changes nothing"
    taken, _ = kept(text, after)
    here = document
    for key in keys:
        here = here.get(key, ...) if isinstance(here, dict) else ...
    if here is ...:
        assert taken.strip() == "", f"took out {taken!r}"
    elif not (same(here, value)):
        assert "#" not in taken or isinstance(here, list), f"took out {taken!r}"
        assert len(taken) <= len(text) and taken in text
        assert "\n" not in taken.strip("\r\n") or isinstance(here, (list, str)), f"took out {taken!r}"


@given(toml_texts(), TOML_KEYS, TOML_NEW)
def test_toml_most_texts_can_be_edited(text: str, keys: tuple[str, ...], value: Any) -> None:
    """Refusing is safe, but a common file must not be refused: ours have no table twice and no odd order."""
    if put(tomllib.loads(text), keys, value) is not None:
        edit_toml(text, keys, value)


DEFAULT = fixture("config.default.toml")
TOML_STYLES: list[tuple[str, str, tuple[str, ...], Any, str]] = [
    ("default-mode", DEFAULT, ("nvidia-container-runtime", "mode"), "cdi", DEFAULT.replace('mode = "auto"', 'mode = "cdi"')),
    ("default-ldconfig", DEFAULT, ("nvidia-container-cli", "ldconfig"), "@/sbin/ldconfig.real", DEFAULT.replace('"@/sbin/ldconfig"', '"@/sbin/ldconfig.real"')),
    ("comment-of-the-line", 'mode = "a"  # because\n', ("mode",), "b", 'mode = "b"  # because\n'),
    ("spacing-of-the-line", "  mode   =   1\n", ("mode",), 2, "  mode   =   2\n"),
    ("crlf", '[a]\r\nmode = "x"\r\n', ("a", "mode"), "y", '[a]\r\nmode = "y"\r\n'),
    ("dotted", 'a.mode = "x"\n', ("a", "mode"), "y", 'a.mode = "y"\n'),
    ("inline", 'a = {mode = "x", z = 1}\n', ("a", "mode"), "y", 'a = {mode = "y", z = 1}\n'),
    ("quoted-key", '"mode" = "x"\n', ("mode",), "y", '"mode" = "y"\n'),
    ("new-key", "[a]\nx = 1\n\n[b]\n", ("a", "mode"), "y", '[a]\nx = 1\nmode = "y"\n\n[b]\n'),
    ("new-table", "[a]\nx = 1\n", ("b", "mode"), "y", '[a]\nx = 1\n\n[b]\nmode = "y"\n'),
    ("empty-file", "", ("b", "mode"), "y", '[b]\nmode = "y"\n'),
]  # fmt: skip


@pytest.mark.parametrize(
    ("before", "keys", "value", "after"),
    [row[1:] for row in TOML_STYLES],
    ids=[row[0] for row in TOML_STYLES],
)
def test_toml_keeps_the_files_style(before: str, keys: tuple[str, ...], value: Any, after: str) -> None:
    assert edit_toml(before, keys, value) == after


INVALID_TOML = [
    "mode = \n", "mode", "[a\n", "a = 1\na = 2\n", "[a]\n[a]\n", 'mode = "x\n', "a = 1 b = 2\n", "\x00", "mode = 'x", "= 1\n",
    "a = 2026-13-45\n", "mode = 1\n[mode]\n", "nvidia = 1\n[nvidia.x]\n", "a = [1,\n", "a = {b = 1\n", "mode = tru\n",
    "\ufeffa = 1\n", "a = 1\r\rb = 2\n",
]  # fmt: skip


@pytest.mark.parametrize("text", INVALID_TOML, ids=range(len(INVALID_TOML)))
def test_toml_refuses_what_it_cannot_edit(text: str) -> None:
    with pytest.raises(tomllib.TOMLDecodeError):
        tomllib.loads(text)
    with pytest.raises(EditError):
        edit_toml(text, ("mode",), "cdi")


@pytest.mark.parametrize("text", ["a = 1\n", "a = [1]\n", "[[a]]\n", 'a = "x"\n'])
def test_toml_refuses_a_way_through_what_is_no_table(text: str) -> None:
    with pytest.raises(EditError):
        edit_toml(text, ("a", "mode"), "cdi")


def test_toml_nested_too_deep() -> None:
    with pytest.raises(EditError):
        edit_toml("a = " + "[" * 20_000, ("mode",), "cdi")


@given(st.binary(max_size=40) | st.text(alphabet="[]{}=\"'#., \r\nabmode0-:Tx_", max_size=40).map(str.encode))
def test_toml_any_bytes_give_an_edit_error_or_toml(data: bytes) -> None:
    keys = ("nvidia-container-runtime", "mode")
    try:
        after = apply("/x.toml", data, [Edit("/x.toml", keys, "cdi")])
    except EditError:
        return
    before = tomllib.loads(data.decode())
    assert tomllib.loads(after.decode()) == put(before, keys, "cdi")


# --- both


@pytest.mark.parametrize("path", ["/x.json", "/x.toml"])
def test_bytes_that_are_no_text_are_refused_with_path_and_place(path: str) -> None:
    with pytest.raises(EditError, match=f"{path}: not UTF-8 at byte 2"):
        apply(path, b"a \xff", [Edit(path, ("a",), 1)])


@pytest.mark.parametrize(("path", "text"), [("/x.json", '{"b": 1}\n'), ("/x.toml", "b = 1\n")])
def test_edits_add_up(path: str, text: str) -> None:
    after = apply(
        path,
        text.encode(),
        [Edit(path, ("a", "x"), True), Edit(path, ("a", "y"), "z"), Edit(path, ("b",), 2)],
    )
    found = json.loads(after) if path.endswith("json") else tomllib.loads(after.decode())
    assert found == {"b": 2, "a": {"x": True, "y": "z"}}


@pytest.mark.parametrize("path", ["/x.json", "/x.toml"])
def test_no_file_yet_is_an_empty_one(path: str) -> None:
    edits = [Edit(path, ("a", "x"), True)]
    assert apply(path, None, edits) == apply(path, b"", edits)


def test_what_is_copied_is_changed_alone() -> None:
    before: dict[str, Any] = {"a": [{"b": 1}], "c": {"d": (2,)}, "e": datetime.date(2026, 7, 15)}
    after = copied(before)
    assert after == before
    after["a"][0]["b"] = after["c"]["d"] = 3
    assert before == {"a": [{"b": 1}], "c": {"d": (2,)}, "e": datetime.date(2026, 7, 15)}
