"""The program that is sent to a host: its parts as one text, which has to stand by itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from importlib.resources import files
from pathlib import Path

import pytest

from gpumend.payload.source import CHANGE, LATER, PROBE, change_text
from gpumend.payload.source import change_source as program_source


def top_level(text: str) -> list[str]:
    """What a module gives names to, imports left out."""
    found: list[str] = []
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.append(node.name)
        elif isinstance(node, ast.Assign):
            found += [target.id for target in node.targets if isinstance(target, ast.Name)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.append(node.target.id)
    return found


def imports(name: str) -> list[str]:
    """The other parts that a part imports from, as the list has them."""
    text = files("gpumend.payload").joinpath(f"{name.replace('.', '/')}.py").read_text()
    modules = [node.module or "" for node in ast.parse(text).body if isinstance(node, ast.ImportFrom)]
    return [
        module.removeprefix("gpumend.payload.") for module in modules if module.startswith("gpumend.payload.")
    ]


def imported_names(part: str) -> list[tuple[str, str]]:
    """(part, name) of all that a part takes from others."""
    text = files("gpumend.payload").joinpath(f"{part.replace('.', '/')}.py").read_text()
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
    return [
        ((node.module or "").removeprefix("gpumend.payload."), alias.name)
        for node in nodes
        for alias in node.names
    ]


def test_a_part_stands_below_those_that_it_imports() -> None:
    """So there is no circle, and a name that is needed at once is there."""
    order = (*PROBE, *CHANGE)
    for number, name in enumerate(order):
        assert set(imports(name)) <= set(order[:number]), name


def test_every_part_is_in_the_list() -> None:
    """Once; `source` is the list itself, and of a package's own modules only a docstring may go along."""
    directory = Path(__file__).resolve().parents[2] / "gpumend/payload"
    there = [".".join(path.relative_to(directory).with_suffix("").parts) for path in directory.rglob("*.py")]
    parts = [name for name in there if name != "source" and name.rpartition(".")[2] != "__init__"]
    assert sorted(parts) == sorted(name for name in (*PROBE, *CHANGE) if not name.endswith(".__init__"))


def test_no_part_takes_another_parts_name() -> None:
    directory = files("gpumend.payload")
    texts = [directory.joinpath(f"{name.replace('.', '/')}.py").read_text() for name in (*PROBE, *CHANGE)]
    names = Counter(name for text in texts for name in top_level(text))
    assert [name for name, count in names.items() if count > 1] == []


def test_every_name_is_there() -> None:
    """Also those that only a function uses when it is called: an import of a part is cut out, its text must be there."""
    argv = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821", "-"]
    done = subprocess.run(argv, input=change_text(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_of_what_is_compiled_later_only_its_functions_are_named() -> None:
    """Any other name would be missing on a host until one of them was called."""
    parts = (*PROBE, *CHANGE)
    for group in LATER.values():
        assert set(group) <= set(parts)
        for part in set(parts) - set(group):
            taken = {(module, name) for module, name in imported_names(part) if module in group}
            assert taken <= {(module, name) for module, names in group.items() for name in names}, part


@pytest.mark.parametrize(
    ("call", "there"),
    [
        pytest.param('step_kind({"do": "write"})', "", id="a-file"),
        pytest.param('step_kind({"do": "package"})', "PackageStep", id="packages"),
        pytest.param(
            'step_kind({"do": "allocations"})', "PackageStep ReconcileAllocations", id="allocations"
        ),
        pytest.param("finish({})", "PackageStep", id="what-an-earlier-run-left"),
        pytest.param('ledger({"state": ""}, {}, 1)', "ReconcileAllocations", id="the-ledger"),
    ],
)
def test_what_few_need_is_compiled_where_it_is_called(call: str, there: str) -> None:
    text = f"""
try:
    {call}
except (Refused, TypeError, KeyError, AttributeError):
    pass
print(*(name for name in ("PackageStep", "ReconcileAllocations") if name in globals()))
"""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-"],
        input=program_source() + text, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.stdout.strip(), done.stderr) == (there, "")


def test_it_imports_nothing_of_the_project() -> None:
    imported = {
        node.module for node in ast.walk(ast.parse(change_text())) if isinstance(node, ast.ImportFrom)
    }
    assert [name for name in imported if name and name.partition(".")[0] == "gpumend"] == []


def test_python_3_6_can_read_it() -> None:
    ast.parse(change_text(), feature_version=(3, 6))


def test_its_definitions_alone_do_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-"],
        input=program_source(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("", "")
