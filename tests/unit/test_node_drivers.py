"""What tests of nodes put below the product's program on a host takes none of its names."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from gpumend.payload.source import change_text
from tests.nodes import crashes, faults

# Each takes the program's call away, and is called in its place.
MEANT = {"main"}


def names(text: str) -> set[str]:
    """The names that a program has at its top."""
    found = set()
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {
                each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)
            }
    return found


def test_a_driver_takes_no_name_of_the_program() -> None:
    given = set(re.findall(r'^\s+"([A-Z_]+)": ', Path(crashes.__file__).read_text("utf-8"), re.MULTILINE))
    drivers = names(crashes.DRIVER) | names(faults.SIGHT) | given
    assert {"DATA", "DATA_KEPT", "forked", "is_settled"} <= drivers
    assert drivers & names(change_text()) - MEANT == set()
