"""The order of components stands once, in `Component`: whatever repeats it is held to it."""

from __future__ import annotations

import ast
from pathlib import Path

from gpumend.plan.plan import BUILDERS
from gpumend.rules.finding import Component

ROOT = Path(__file__).resolve().parents[2]


def calls(function: ast.AST) -> list[ast.Call]:
    """The calls that stand as statements of their own, in their order."""
    found = [
        node.value
        for node in ast.walk(function)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    ]
    return sorted(found, key=lambda call: call.lineno)


def functions(path: Path) -> dict[str, ast.FunctionDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_everything_runs_the_operations_in_the_order_of_their_components() -> None:
    """pyinfra orders operations by the line of their call: they are written out, and proven last."""
    function = functions(ROOT / "deploys" / "everything.py")["in_order"]
    assert [ast.unparse(call.func) for call in calls(function)] == [*Component, "proof.containers"]


def test_each_component_has_the_operation_that_it_is_named_for() -> None:
    """An operation's own component is the one of its name."""
    for component in Component:
        module, name = component.split(".")
        function = functions(ROOT / "operations" / f"{module}.py")[name]
        assert f"Component.{component.name}" in ast.unparse(function)


def test_each_component_has_its_builder() -> None:
    assert set(BUILDERS) == set(Component)
