"""What `make` rests on: a lock that has everything, nothing imported that is not declared, and stages of which none is left out."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
OF_OTHER_PYTHONS = {"_sha256", "_sha2"}  # CPython's own: until 3.11, and from 3.12 on
OURS = {"gpumend", "facts", "operations", "deploys", "group_data", "tests"}
LOCKED = dict(
    re.findall(r"^([\w.-]+)==(\S+).*\\\n(?=    --hash=sha256:[0-9a-f]{64})", (ROOT / "requirements.lock").read_text("utf-8"), re.M)
)  # fmt: skip
EXTRAS = PROJECT["optional-dependencies"]


@pytest.mark.parametrize("text", [*PROJECT["dependencies"], *EXTRAS["test"], *EXTRAS["docs"]])
def test_the_lock_has_each_dependency_in_a_version_that_is_allowed_with_its_hash(text: str) -> None:
    wanted = Requirement(text)
    assert wanted.specifier.contains(LOCKED[canonicalize_name(wanted.name)])


def test_the_lock_has_nothing_without_a_hash() -> None:
    assert len(LOCKED) == len(
        re.findall(r"^[\w.-]+==", (ROOT / "requirements.lock").read_text("utf-8"), re.M)
    )


def imported(directory: Path) -> Iterator[str]:
    """The packages that the directory's modules import."""
    for path in directory.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                yield from (alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                yield node.module.partition(".")[0]


def test_what_is_imported_is_declared() -> None:
    """paramiko was not, which came with pyinfra; nor markupsafe, with jinja2."""
    declared = {canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"]}
    known = packages_distributions()
    found = {
        name
        for room in ("gpumend", "facts", "operations", "deploys")
        for name in imported(ROOT / room)
        if name not in OURS and name not in sys.stdlib_module_names and name not in OF_OTHER_PYTHONS
    }
    of = {name: {canonicalize_name(each) for each in known.get(name, ())} for name in found}
    assert {name: names for name, names in of.items() if not names & declared} == {}


def test_all_stages_run_even_where_one_fails_and_the_end_says_how_each_went(tmp_path: Path) -> None:
    make = tmp_path / "make"
    make.write_text('#!/bin/sh\necho "ran $2"\n[ "$2" != unit ]\n')
    make.chmod(0o755)

    def stages(*names: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [ROOT / "tools/stages", *names], env={"MAKE": str(make), "PATH": "/usr/bin:/bin"}, capture_output=True, text=True
        )  # fmt: skip

    done = stages("check", "unit", "nodes")
    assert done.returncode == 1
    assert [line for line in done.stdout.splitlines() if line.startswith("ran ")] == [
        "ran check",
        "ran unit",
        "ran nodes",
    ]
    summary = re.sub(r"\d+ s", "N s", done.stdout.partition("stages:\n")[2])
    assert summary == "  check: passed, N s\n  unit: FAILED, N s\n  nodes: passed, N s\n"
    assert stages("check", "nodes").returncode == 0
