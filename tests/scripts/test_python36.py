"""The programs sent to hosts run under Python 3.6, which is RHEL 8's and Ubuntu 18.04's: nothing newer stands in their text,
and where a 3.6 or 3.7 is found the real request is answered under it.

`GPUMEND_PYTHON36=/path/to/python3.6` names one that is not in PATH.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib.resources import files

import pytest

from gpumend.payload.probe import look
from gpumend.payload.source import CHANGE, PROBE, change_source, change_text
from gpumend.run.programs import probe_program
from gpumend.state.host_state import request
from gpumend.state.snapshot import unpacked

# What docs.python.org/3 marks as newer than 3.6, as far as a program of ours might want it.
MODULES = {"dataclasses", "contextvars", "graphlib", "zoneinfo", "tomllib", "importlib.resources", "importlib.metadata"}  # fmt: skip
TYPING_OF_36 = {
    "Any", "AnyStr", "Callable", "ClassVar", "Container", "DefaultDict", "Dict", "FrozenSet", "Generator", "Generic", "IO",
    "Iterable", "Iterator", "List", "Mapping", "MutableMapping", "NamedTuple", "Optional", "Sequence", "Set", "Text", "Tuple",
    "Type", "TypeVar", "Union", "cast",
}  # fmt: skip
OF_MODULES = {
    "functools": {"cache", "cached_property", "singledispatchmethod"},
    "contextlib": {"nullcontext", "chdir"},
    "fcntl": {"F_OFD_GETLK", "F_OFD_SETLK", "F_OFD_SETLKW"},
    "hashlib": {"file_digest"},
    "itertools": {"pairwise", "batched"},
    "math": {"prod", "dist", "isqrt", "comb", "perm", "lcm"},
    "os": {
        "eventfd", "memfd_create", "pidfd_open", "posix_spawn", "posix_spawnp", "preadv", "pwritev",
        "register_at_fork", "setns", "unshare", "waitstatus_to_exitcode",
    },
    "random": {"randbytes"},
    "shlex": {"join"},
    "signal": {"pidfd_send_signal", "raise_signal", "strsignal", "valid_signals"},
    "threading": {"excepthook", "get_native_id"},
    "time": {"clock_gettime_ns", "monotonic_ns", "perf_counter_ns", "process_time_ns", "thread_time", "time_ns"},
}  # fmt: skip
METHODS = {"removeprefix", "removesuffix", "isascii", "bit_count", "fromisoformat", "is_relative_to", "hardlink_to"}  # fmt: skip
# Keyword arguments, and of which calls.
KEYWORDS = {
    "capture_output": ("subprocess.",), "text": ("subprocess.",), "process_group": ("subprocess.",),
    "blocksize": ("http.client.",), "dirs_exist_ok": ("shutil.",), "root_dir": ("glob.",), "delete_on_close": ("tempfile.",),
    "missing_ok": ("",), "strict": ("zip", "map"),
}  # fmt: skip
GENERICS = {"list", "dict", "set", "frozenset", "tuple", "type"}


def own_modules() -> list[str]:
    return [f"{name.replace('.', '/')}.py" for name in (*PROBE, *CHANGE)]


def annotations(tree: ast.AST) -> Iterator[ast.expr]:
    """Every annotation, those in quotes as what they say."""
    for node in ast.walk(tree):
        found: list[ast.expr | None] = []
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found = [node.returns]
        elif isinstance(node, ast.AnnAssign | ast.arg):
            found = [node.annotation]
        for each in found:
            if isinstance(each, ast.Constant) and isinstance(each.value, str):
                yield ast.parse(each.value, mode="eval").body
            elif each is not None:
                yield each


def generic(node: ast.AST) -> bool:
    """Whether it is `list[...]` or one of its like."""
    return isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id in GENERICS


def too_new_name(node: ast.AST) -> str:
    """The name of the standard library that this node uses and 3.6 has not, or an empty text."""
    if isinstance(node, ast.Import):
        return ", ".join(name.name for name in node.names if name.name in MODULES)
    if isinstance(node, ast.ImportFrom):
        module = node.module or ""
        names = {name.name for name in node.names}
        if module == "typing":
            return ", ".join(sorted(names - TYPING_OF_36))
        if module in MODULES or any(f"{module}.{name}" in MODULES for name in names):
            return module
        return ", ".join(sorted(names & OF_MODULES.get(module, set())))
    if isinstance(node, ast.Attribute):
        of = OF_MODULES.get(node.value.id, set()) if isinstance(node.value, ast.Name) else set()
        return node.attr if node.attr in METHODS or node.attr in of else ""
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Name) and node.func.id in ("breakpoint", "aiter", "anext"):
            return node.func.id
        called = ast.unparse(node.func)
        words = [word.arg for word in node.keywords if word.arg]
        return ", ".join(f"{word}=" for word in words if called.startswith(KEYWORDS.get(word, ("-",))))
    return ""


def in_parentheses(text: str, node: ast.With) -> bool:
    """Whether a parenthesis of the `with` itself is open before its first item."""
    first = node.items[0].context_expr
    row, column = first.lineno - node.lineno, first.col_offset
    lines = text.splitlines()[node.lineno - 1 : first.lineno]
    lines[row] = lines[row][:column]
    return "(" in "\n".join(lines)[node.col_offset :]


def too_new(text: str) -> list[str]:
    """What in a program's text Python 3.6 does not have, each with its line."""
    try:
        ast.parse(text, feature_version=(3, 6))
    except SyntaxError as error:
        return [f"{error.lineno}: {error.msg}"]
    tree, found = ast.parse(text), []
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            found += [f"{line}: from __future__ import {name.name}" for name in node.names]
        if generic(node):
            found.append(f"{line}: {ast.unparse(node)} (PEP 585)")
        if isinstance(node, ast.JoinedStr):  # `=` in one is 3.8; these programs have %-formatting
            found.append(f"{line}: an f-string")
        if isinstance(node, ast.Return | ast.Yield) and isinstance(node.value, ast.Tuple):
            stars = [each for each in node.value.elts if isinstance(each, ast.Starred)]
            found += [f"{line}: a star in what is returned" for _ in stars]
        # PEP 617's `with (...)` has no node of its own, and from 3.12 on feature_version no longer refuses it.
        if isinstance(node, ast.With) and len(node.items) > 1 and in_parentheses(text, node):
            found.append(f"{line}: with (...)")
        if isinstance(node, ast.Match | ast.NamedExpr | ast.TryStar):
            found.append(f"{line}: {type(node).__name__}")
        if name := too_new_name(node):
            found.append(f"{line}: {name}")
    for annotation in annotations(tree):
        for node in ast.walk(annotation):
            if isinstance(node, ast.BinOp):
                found.append(f"{annotation.lineno}: X | Y (PEP 604)")
            if generic(node) or (isinstance(node, ast.Subscript) and isinstance(node.value, ast.Attribute)):
                found.append(f"{annotation.lineno}: {ast.unparse(node)} (PEP 585)")
    return found


@pytest.mark.parametrize("name", own_modules())
def test_a_module_has_nothing_newer(name: str) -> None:
    text = files("gpumend.payload").joinpath(name).read_text(encoding="ascii")
    assert too_new(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "def f(a: list[str]): pass",
        "def f(a: 'dict[str, int]'): pass",
        "def f() -> tuple[int, ...]: pass",
        "def f(a: int | None): pass",
        "def f(a) -> 'int | None': pass",
        "x: int | None = None",
        "def f(*a: set[str]): pass",
        "Json = dict[str, int]",
        "import re\ndef f(a: re.Match[str]): pass",
        "import collections.abc\nx: collections.abc.Sequence[str] = ()",
        "from __future__ import annotations",
        "if (x := 1): pass",
        "f'{x=}'",
        "def f(a, /): pass",
        "match x:\n    case 1: pass",
        "def f():\n    return 1, *x",
        "try:\n    pass\nexcept* OSError:\n    pass",
        "with (open(a) as b, open(c) as d): pass",
        "from typing import Protocol",
        "import dataclasses",
        "from dataclasses import dataclass",
        "from importlib import resources",
        "import functools\n@functools.cache\ndef f(): pass",
        "from contextlib import nullcontext",
        "import time\ntime.time_ns()",
        "import os\nos.pidfd_open(1)",
        "'a'.removeprefix('a')",
        "import subprocess\nsubprocess.run([], capture_output=True)",
        "import subprocess\nsubprocess.Popen([], text=True)",
        "zip(a, b, strict=True)",
        "breakpoint()",
    ],
)
def test_what_is_newer_is_seen(text: str) -> None:
    assert too_new(text) != []


def test_what_is_not_newer_is_not() -> None:
    text = (
        "from typing import Any, Dict, Optional\nimport os\n"
        "Json = Dict[str, Any]\nfree: Optional[int] = None\n"
        "def f(a: 'Json', *more: str, b: int = os.O_RDONLY | os.O_CLOEXEC, **rest: Any) -> Json:\n"
        "    found: Json = {'list': a['x']}\n    return found\n"
    )
    assert too_new(text) == []


def runs(path: str) -> list[str]:
    """[The interpreter that a path stands for], or [] where it stands for none: a version manager's stand-in, say."""
    argv = [path, "-I", "-c", "import sys; print(sys.executable)"]
    found = subprocess.run(argv, capture_output=True, text=True, check=False)
    return found.stdout.split() if found.returncode == 0 else []


@cache
def interpreters() -> list[str]:
    """The interpreter of these tests, and the old ones that this machine has."""
    found = [sys.executable]
    if os.environ.get("GPUMEND_PYTHON36"):
        found.append(os.environ["GPUMEND_PYTHON36"])
    for name in ("python3.6", "python3.7"):
        path = shutil.which(name)
        found += runs(path) if path else []
    return sorted(set(found), key=found.index)


def output(python: str, program: str) -> str:
    """What a program prints under an interpreter as hosts start it, and nothing else than that."""
    argv = [python, "-I", "-S", "-B", "-"]
    found = subprocess.run(
        argv, input=program, capture_output=True, text=True, check=False, cwd="/", timeout=120
    )
    assert (found.returncode, found.stderr) == (0, "")
    return found.stdout


@pytest.mark.parametrize("python", interpreters())
def test_the_whole_request_is_answered(python: str) -> None:
    said = output(python, probe_program())
    assert said.isascii() and said.endswith("\n") and said.count("\n") == 1
    answer = json.loads(unpacked(said))
    assert answer["gpumend"] == look.FORMAT
    for section in ("files", "stats", "programs", "commands"):
        assert set(request()[section]) <= set(answer[section])
    assert {spec["pattern"] for spec in request()["globs"]} == set(answer["globs"])
    for section in ("docker", "units", "processes", "spaces", "inside", "listings", "system"):
        assert "Error:" not in str(answer[section].get("error", "")), section
    version = output(python, "import sys\nprint('%d.%d.%d' % sys.version_info[:3])").strip()
    assert answer["system"]["python"] == version


@pytest.mark.parametrize("python", interpreters())
def test_what_changes_a_host_can_be_read(python: str) -> None:
    """Its definitions, whose annotations are evaluated; what it does is for booted hosts."""
    assert output(python, change_text()) == output(python, change_source()) == ""
