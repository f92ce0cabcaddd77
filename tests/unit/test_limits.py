"""Texts that would take the run of all hosts down: refused in time, and nothing that people write is."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from gpumend.state.cdi import SpecError, load
from gpumend.text.documents import toml
from gpumend.text.edits import Edit, EditError, apply, apply_lines
from gpumend.text.edits.apply import LARGEST_TOML
from gpumend.text.edits.toml_lines import set_value
from gpumend.text.limits import check_toml
from gpumend.text.yaml_limits import check_yaml
from tests.unit.build import FIXTURES


@pytest.mark.parametrize(
    "text", ["[" * 200_000, "{a: " * 200_000, "- " * 200_000, "? " * 200_000], ids=["[", "{", "-", "?"]
)
def test_a_deep_spec_does_not_end_the_process(text: str) -> None:
    """PyYAML's C composer ended it by SIGSEGV: in a process of its own, to see that."""
    program = "import sys; from gpumend.state.cdi import SpecError, load\ntry: load('/x.yaml', sys.stdin.read())\nexcept SpecError as e: print(e)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=text,
        capture_output=True,
        text=True,
        cwd=FIXTURES.parent.parent,
    )
    # The reason is libyaml's own from 0.2.6 on, which counts the depth itself: its words are not ours to assert.
    assert done.returncode == 0 and done.stdout.startswith("not YAML: "), done.stderr[-500:]


def test_aliases_that_multiply_are_refused_as_go_yaml_does() -> None:
    text = (
        "cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n- &d\n  name: a\n  containerEdits:\n    hooks:\n    - &h\n"
        "      hookName: createContainer\n      path: /x\n      args: ["
        + "a, " * 3000
        + "a]\n"
        + "    - *h\n" * 3000
        + "- *d\n" * 3000
    )
    began = time.process_time()
    with pytest.raises(SpecError, match="excessive aliasing"):
        load("/x.yaml", text)
    assert time.process_time() - began < 5


def test_an_anchor_that_holds_itself_is_refused() -> None:
    with pytest.raises(SpecError, match="contains itself"):
        load("/x.yaml", "&a\ncdiVersion: 0.5.0\ncontainerEdits: *a\n")


def test_aliases_as_people_use_them_pass() -> None:
    device = "  containerEdits: &edits\n    deviceNodes:\n    - path: /dev/null\n"
    more = "".join(f"- name: d{number}\n  containerEdits: *edits\n" for number in range(64))
    spec = load("/x.yaml", f"cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n- name: all\n{device}{more}")
    assert len(spec.devices) == 65


@pytest.mark.parametrize(
    "key", [".".join(["a"] * 20_000), ".".join(['"a"'] * 20_000), " . ".join(["a"] * 20_000)]
)
@pytest.mark.parametrize("form", ["{} = 1\n", "[{}]\n", "x = {{ {} = 1 }}\n"])
def test_a_key_of_thousands_of_parts_is_refused_at_once(key: str, form: str) -> None:
    began = time.process_time()
    with pytest.raises(ValueError, match="more than 100 parts"):
        toml(form.format(key))
    assert time.process_time() - began < 2


@pytest.mark.parametrize("path", sorted(FIXTURES.rglob("*.toml*")), ids=lambda path: path.name)
def test_real_files_pass(path: str) -> None:
    with open(path, encoding="utf-8") as handle:  # noqa: PTH123
        check_toml(handle.read())
    check_yaml((FIXTURES / "h100" / "cdi-h100.yaml").read_text())


@pytest.mark.parametrize(
    "text",
    [
        "a = [\n" + "  1,\n" * 20_000 + "]\n",
        'a = """\n' + "x\n" * 50_000 + '"""\n',
        'mode = "' + "#" * 100_000 + '"\n',
    ],
    ids=["array", "string", "hashes"],
)
def test_an_edit_reads_each_line_once(text: str) -> None:
    """It took the square of a value's lines: minutes for these."""
    began = time.process_time()
    assert "cdi" in set_value(text, ("mode",), "cdi")
    assert time.process_time() - began < 10


@pytest.mark.parametrize(
    "text",
    [
        "a = [ # ]\n  ']', \"]\", # [\n]\n",
        'a = """x\\""" ] """"\n',
        "a = '''\n[\n'''''\n",
        'a = { b = "}" } # {\n',
        'a = ""\n',
    ],
)
def test_where_a_value_ends(text: str) -> None:
    after = apply_lines(
        "/x.toml", (text + "mode = 1 # why\n").encode(), [Edit("/x.toml", ("mode",), 2)]
    ).decode()
    assert after == text + "mode = 2 # why\n"


@pytest.mark.parametrize("make", [apply, apply_lines])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a = " + "9" * 5000, "not valid TOML|Exceeds the limit"),
        ("a = " + "[" * 20_000, "."),
        ("#" * (LARGEST_TOML + 1), "larger than .* KiB"),
        ("a." * 200 + "b = 1\n", "more than 100 parts"),
    ],
)
def test_what_cannot_be_edited_is_an_edit_error(make: object, text: str, words: str) -> None:
    with pytest.raises(EditError, match=words):
        make("/x.toml", text.encode(), [Edit("/x.toml", ("mode",), "cdi")])  # type: ignore[operator]


@pytest.mark.parametrize("number", ["9" * 5000, "0x" + "f" * 5000, "1" + ":1" * 5000])
def test_a_number_of_thousands_of_digits_is_a_reason(number: str) -> None:
    with pytest.raises(SpecError):
        load("/x.yaml", f"cdiVersion: 0.5.0\nkind: {number}\n")
