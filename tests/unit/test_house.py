"""The house keeps its floors: an import goes down or stays in its room, and none hides in a function without a word."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from gpumend.payload.source import CHANGE, PROBE
from tests.unit.build import healthy

ROOT = Path(__file__).resolve().parents[2]
# Each room and its floor. `places` says where things lie, and lies below all of them.
FLOORS = {
    "gpumend.places": 0,
    "gpumend.text": 1, "gpumend.payload": 1, "gpumend.schemas": 1,
    "gpumend.state": 2,
    "gpumend.rules": 3,
    "gpumend.plan": 4,
    "gpumend.run": 5,
    "gpumend.reports": 6, "facts": 6, "operations": 6,
    "gpumend.agent": 7, "gpumend.deploy": 7,
    "deploys": 8, "gpumend.cli": 8,
}  # fmt: skip
# An agent on a host has these rooms without what talks to hosts, and nothing that is compiled.
ALONE = (
    "gpumend.text", "gpumend.payload", "gpumend.state", "gpumend.rules", "gpumend.plan", "gpumend.run.local",
)  # fmt: skip
NOT_ALONE = {"pyinfra", "pyinfra_cli", "paramiko", "jsonschema", "gevent"}
# Each costs a good part of what starting Python does, and an agent judges its host every few minutes (tests/bench/imports.py).
COSTLY = {"yaml", "_hashlib", "pkgutil", "copy", "dataclasses", "inspect", "importlib.resources", "tomlkit"}
THIN = 80
# The programs sent to hosts are taken together as texts (gpumend/payload/source.py) and import nothing of ours on a host.
SENT = ("gpumend.payload.change", "gpumend.payload.probe")


def modules() -> dict[str, Path]:
    """Every module of the house by its dotted name; a package by its own."""
    found = {}
    for top in ("gpumend", "facts", "operations", "deploys"):
        for path in (ROOT / top).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def read(module: str) -> str:
    return MODULES[module].read_text(encoding="utf-8")


def room(module: str) -> str | None:
    """The room of a module, None for what is none of ours."""
    return next((name for name in FLOORS if module == name or module.startswith(f"{name}.")), None)


def named(node: ast.AST) -> Iterator[str]:
    """The modules that one statement imports: of `from package import name` the module, where `name` is one."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
        for alias in node.names:
            inside = f"{node.module}.{alias.name}"
            yield inside if inside in MODULES else node.module


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def statements(
    node: ast.AST, inside: bool = False, types: bool = False
) -> Iterator[tuple[ast.stmt, bool, bool]]:
    """(import, whether it is in a function, whether only for types) of a tree."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, inside, types
        function = inside or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from statements(child, function, types or is_for_types(child))


@cache
def imports(module: str) -> tuple[tuple[str, ast.stmt, bool, bool], ...]:
    """(name, statement, whether it is in a function, whether only for types) of each import of a module."""
    tree = ast.parse(read(module))
    return tuple(
        (name, statement, inside, types)
        for statement, inside, types in statements(tree)
        for name in named(statement)
    )


def within(module: str, rooms: tuple[str, ...]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in rooms)


def test_every_module_has_a_room() -> None:
    nowhere = [name for name in MODULES if room(name) is None]
    assert nowhere == ["gpumend"]


def test_an_import_goes_down_or_stays_in_its_room() -> None:
    up = [
        f"{module}:{statement.lineno}: {name}"
        for module in MODULES
        if (here := room(module))
        for name, statement, _, _ in imports(module)
        if (there := room(name)) and there != here and FLOORS[there] >= FLOORS[here]
    ]
    assert up == []


def test_no_import_circles() -> None:
    """Types count, too: what two modules need of each other belongs below both."""
    edges = {
        module: {name for name, *_ in imports(module) if name in MODULES and name != module}
        for module in MODULES
        if not within(module, SENT)
    }
    # A package's own __init__ is imported with each of its modules and names some of them: that is no circle of contents.
    edges = {
        module: {name for name in found if not module.startswith(f"{name}.")}
        for module, found in edges.items()
    }
    done: set[str] = set()
    circles: list[str] = []

    def walk(module: str, path: tuple[str, ...]) -> None:
        if module in path:
            circles.append(" -> ".join((*path[path.index(module) :], module)))
            return
        if module in done:
            return
        for name in sorted(edges.get(module, ())):
            walk(name, (*path, module))
        done.add(module)

    for module in sorted(edges):
        walk(module, ())
    assert circles == []


def test_a_name_stands_once_in_a_program_for_hosts() -> None:
    """Its modules' texts are one text there: of two of one name the later is everybody's."""
    found: dict[str, list[str]] = {}
    for name in dict.fromkeys((*PROBE, *CHANGE)):
        module = f"gpumend.payload.{name}"
        for node in ast.parse(read(module)).body if module in MODULES else ():
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                names = [node.name]
            for each in names:
                found.setdefault(each, []).append(module)
    assert {each: where for each, where in found.items() if len(set(where)) > 1} == {}


def says_why(lines: list[str], number: int) -> bool:
    """Whether the line of an import, or the one above its block of imports, has a comment."""
    if " # " in lines[number - 1]:
        return True
    above = number - 2
    while not lines[above].strip() or re.match(r"\s+(from|import) ", lines[above]):
        above -= 1
    return lines[above].strip().startswith("# ")


def test_an_import_inside_a_function_says_why() -> None:
    silent = []
    for module in MODULES:
        lines = read(module).splitlines()
        silent += [
            f"{module}:{statement.lineno}: {lines[statement.lineno - 1].strip()}"
            for statement in {statement for _, statement, inside, _ in imports(module) if inside}
            if not says_why(lines, statement.lineno)
        ]
    assert silent == []


def test_what_an_agent_has_names_nothing_that_talks_to_hosts() -> None:
    named_here = [
        f"{module}:{statement.lineno}: {name}"
        for module in MODULES
        if within(module, ALONE)
        for name, statement, _, _ in imports(module)
        if name.partition(".")[0] in NOT_ALONE
    ]
    assert named_here == []


def test_what_an_agent_has_loads_nothing_that_talks_to_hosts() -> None:
    """All of it imported in one new process: nothing comes in by a detour either."""
    names = sorted(name for name in MODULES if within(name, ALONE) and not within(name, SENT))
    program = (
        f"import importlib, sys\nfor name in {names!r}: importlib.import_module(name)\n"
        f"print(*sorted({NOT_ALONE!r} & {{name.partition('.')[0] for name in sys.modules}}))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ran.stdout.split() == []


def test_a_class_of_values_is_a_record() -> None:
    """A NamedTuple compiles what it is made of when it is loaded, and an agent loads 160 (gpumend/text/record.py)."""
    others = [
        module
        for module in MODULES
        if module != "gpumend.text.record" and re.search(r"\bNamedTuple\b|\bnamedtuple\b", read(module))
    ]
    assert others == []


def test_a_healthy_host_is_judged_without_what_is_costly_to_load() -> None:
    program = (
        "import datetime, json, sys\n"
        "from gpumend.rules.judge import judge\n"
        "from gpumend.rules.wanted import parse\n"
        "from gpumend.state import host_state\n"
        "from gpumend.state.snapshot import Snapshot\n"
        "state = host_state.parse(Snapshot(json.load(sys.stdin)))\n"
        "judge(state, parse({}), 'host', datetime.date(2026, 7, 15))\n"
        f"print(state.cdi.files.value[0].spec.status, *sorted({COSTLY!r} & {{*sys.modules}}))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(healthy().answer()),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.split() == ["ok"]


def test_what_pyinfra_calls_is_thin() -> None:
    lengths = {
        module: len(read(module).splitlines())
        for module in MODULES
        if within(module, ("facts", "operations", "deploys"))
    }
    assert {module: length for module, length in lengths.items() if length > THIN} == {}
