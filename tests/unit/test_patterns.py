"""Every regular expression of gpumend takes time that grows with its input, and not with the square of it: what it is run
on may be a user's, a container's or a lying host's, and Python cannot be interrupted in it by another thread."""

from __future__ import annotations

import ast
import importlib
import math
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from re import _constants as constants
from re import _parser as parser
from types import FrameType
from typing import Any

import pytest

import gpumend
from gpumend.payload.probe import files
from gpumend.state.host_state import request
from gpumend.text.pattern import Pattern

ROOT = Path(gpumend.__file__).parent
SIZE = 30_000  # characters: a square of that is a second, a line of that a millisecond
SECONDS = 0.1  # of CPU time, of which what grows with its input takes a twentieth; four times that on a slow machine
METHODS = {"compile", "match", "search", "findall", "finditer", "sub", "subn", "split", "fullmatch"}
SAMPLES = "aA0 \t\n\"'#=:/-_.,*%[({\\<|;é"
Case = tuple[str, str | bytes, int, str]  # where, pattern, flags, how


# Where no call by name tells how a pattern is used: of a tuple, and by yaml, which tries both at the beginning of a scalar.
USED = {"ROLES": "fullmatch", "WORKDIRS": "fullmatch", "gpumend.text.go_yaml": "match"}
# The one reads this project's own documentation, the other compiles what others write down.
OURS = ("gpumend.rules.sources", "gpumend.text.pattern")


# These import pyinfra, whose gevent does not go together with the tests': what they write down is found without.
ABOVE = (
    "gpumend/run/remote",
    "gpumend/deploy",
    "gpumend/cli",
    "gpumend/project",
    "gpumend/facts",
    "gpumend/operations",
)


def modules() -> Iterator[tuple[str, Path, dict[str, Any]]]:
    """(name, file, what is in it)"""
    for path in sorted(ROOT.rglob("*.py")):
        place = path.relative_to(ROOT.parent).as_posix()
        name = place[: -len(".py")].replace("/", ".").removesuffix(".__init__")
        known = (
            {}
            if place.startswith(ABOVE) or name.endswith("__main__")
            else vars(importlib.import_module(name))
        )
        yield name, path, known


class Anything(dict[str, Any]):
    """Names of a module, and a word for each that only a function knows."""

    def __missing__(self, name: str) -> Any:
        if name in __builtins__:  # type: ignore[operator]
            raise KeyError(name)
        return Word("word")


class Word(str):
    def group(self, *_: object) -> str:
        return "1"


def calls(module: str, file: Path, known: dict[str, Any]) -> Iterator[Case]:
    """What a module's calls of `re` are given, where that is written there."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    used = {
        node.value: node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)
    }  # re.compile(...).match
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
            continue
        if not (isinstance(node.func.value, ast.Name) and node.func.value.id == "re"):
            continue
        if node.func.attr not in METHODS or isinstance(node.args[0], ast.Name):
            continue  # of a name: a constant's is found in its module, an argument's where it comes from
        code = compile(ast.Expression(node.args[0]), "<pattern>", "eval")
        pattern = eval(code, Anything({"re": re, **known}))
        flags = 0
        for more in [*node.args[1:], *(word.value for word in node.keywords if word.arg == "flags")]:
            if ast.unparse(more).startswith("re."):
                flags = eval(ast.unparse(more))
        yield f"{module}:{node.lineno}", pattern, int(flags), used.get(node, node.func.attr)


def within(value: Any, depth: int = 4) -> Iterator[Any]:
    """Compiled patterns in a value."""
    if isinstance(value, re.Pattern):
        yield value
    elif isinstance(value, Pattern):
        yield value.compiled
    elif depth and isinstance(value, dict):
        for item in [*value, *value.values()]:
            yield from within(item, depth - 1)
    elif depth and isinstance(value, (tuple, list, set, frozenset)):
        for item in value:
            yield from within(item, depth - 1)
    elif depth and type(value).__module__.startswith("gpumend"):
        for name in getattr(type(value), "__dataclass_fields__", ()):
            yield from within(getattr(value, name), depth - 1)


def asked(value: Any) -> Iterator[str]:
    """What the probe is asked to look for."""
    if isinstance(value, dict):
        for key in ("search", "keep", "log_keep"):
            if value.get(key):
                yield value[key]
        if value.get("told_by"):
            yield value["told_by"]["pattern"]
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from asked(item)


def methods() -> dict[str, set[str]]:
    """How a pattern of a name is called, anywhere."""
    found: dict[str, set[str]] = {}
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.attr in METHODS:
                found.setdefault(node.value.id, set()).add(node.attr)
    return found


def everything() -> list[Case]:
    found: dict[tuple[str | bytes, int, str], str] = {}
    known = methods()
    for module, file, variables in modules():
        if module in OURS:
            continue
        for name, value in variables.items():
            for compiled in within(value):
                how = USED.get(name) or known.get(name, {"search"})
                how = how if isinstance(how, str) else "match" if how <= {"match", "fullmatch"} else "search"
                found.setdefault((compiled.pattern, compiled.flags, how), f"{module}.{name}")
        named = {(pattern, flags) for pattern, flags, _ in found}
        for where, pattern, flags, how in calls(module, file, variables):
            key = (pattern, re.compile(pattern, flags).flags)
            if how != "compile":
                found.setdefault((*key, how), where)
            elif key not in named:
                found.setdefault((*key, USED.get(module, "search")), where)
    for pattern in asked(request()):
        found.setdefault((pattern, re.compile(pattern).flags, "asked"), f"request: {pattern[:40]}")
    return [(where, *key) for key, where in found.items()]


CASES = everything()


def piece(node: Any) -> str:
    """A text that one part of a pattern matches, or nearly."""
    kind, value = node
    if kind in (constants.LITERAL,):
        return chr(value)
    if kind is constants.NOT_LITERAL:
        return "a" if value != ord("a") else "b"
    if kind is constants.ANY:
        return "a"
    if kind is constants.IN:
        return member(value)
    if kind in (constants.MAX_REPEAT, constants.MIN_REPEAT, getattr(constants, "POSSESSIVE_REPEAT", None)):
        return text(value[2]) * max(1, value[0])
    if kind is constants.SUBPATTERN:
        return text(value[3])
    if kind is getattr(constants, "ATOMIC_GROUP", None):
        return text(value)
    if kind is constants.BRANCH:
        return text(value[1][0])
    if kind is constants.GROUPREF_EXISTS:
        return text(value[1])
    return ""


def member(items: Any) -> str:
    """A character of a set."""
    negated = items[0][0] is constants.NEGATE
    for char in SAMPLES if negated else "":
        if not any(holds(item, char) for item in items[1:]):
            return char
    for kind, value in items:
        if kind is constants.LITERAL:
            return chr(value)
        if kind is constants.RANGE:
            return chr(value[0])
        if kind is constants.CATEGORY:
            return next(char for char in SAMPLES if holds((kind, value), char))
    return "a"


def holds(item: Any, char: str) -> bool:
    kind, value = item
    if kind is constants.LITERAL:
        return bool(chr(value) == char)
    if kind is constants.RANGE:
        return bool(value[0] <= ord(char) <= value[1])
    if kind is constants.CATEGORY:
        categories = {"DIGIT": r"\d", "SPACE": r"\s", "WORD": r"\w"}
        name = str(value).removeprefix("CATEGORY_")
        negated, name = name.startswith("NOT_"), name.removeprefix("NOT_")
        return bool(re.match(categories[name], char)) != negated
    return False


def text(nodes: Any) -> str:
    return "".join(piece(node) for node in nodes)


def attacks(pattern: str | bytes, flags: int) -> Iterator[str]:
    """Texts that keep a matcher busy: what comes before each repeat, then what it repeats, many times, then no end of it."""
    source = pattern.decode("latin-1") if isinstance(pattern, bytes) else pattern
    nodes = parser.parse(source, flags & re.VERBOSE)
    pumps: set[tuple[str, str]] = {("", char) for char in " a\n/"}

    def walk(nodes: Any, before: str) -> None:
        for node in nodes:
            kind, value = node
            if kind in (
                constants.MAX_REPEAT,
                constants.MIN_REPEAT,
                getattr(constants, "POSSESSIVE_REPEAT", None),
            ):
                if value[1] > 100:
                    pumps.add((before, text(value[2]) or "a"))
                    pumps.add(("", before + text(value[2])))
                walk(value[2], before)
            elif kind is constants.SUBPATTERN:
                walk(value[3], before)
            elif kind is getattr(constants, "ATOMIC_GROUP", None):
                walk(value, before)
            elif kind is constants.BRANCH:
                for branch in value[1]:
                    walk(branch, before)
            elif kind in (constants.ASSERT, constants.ASSERT_NOT):
                walk(value[1], before)
            before += piece(node)
        pumps.add(("", before or "a"))

    walk(nodes, "")
    for before, pump in sorted(pumps):
        for end in ("\0", "\n"):
            yield before + pump * (SIZE // len(pump)) + end


class TooLong(Exception):
    pass


def over(number: int, frame: FrameType | None) -> None:
    raise TooLong


def seconds(pattern: str | bytes, flags: int, how: str, attack: str, most: float) -> float:
    """Of CPU time on this text; infinite where it is more than `most`."""
    compiled = re.compile(pattern, flags & ~re.UNICODE if isinstance(pattern, bytes) else flags)
    data: Any = attack.encode() if isinstance(pattern, bytes) else attack
    before = signal.signal(signal.SIGVTALRM, over)
    began = time.process_time()
    signal.setitimer(signal.ITIMER_VIRTUAL, most)
    try:
        try:
            if how == "asked":
                files.matches(str(pattern), attack)
            elif how == "match":
                compiled.match(data)
            elif how == "fullmatch":
                compiled.fullmatch(data)
            else:
                for _ in compiled.finditer(data):
                    pass
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)  # which may come too late, too
    except TooLong:
        return math.inf
    finally:
        signal.signal(signal.SIGVTALRM, before)
    return time.process_time() - began


def slow(pattern: str | bytes, flags: int, how: str) -> str | None:
    """A text on which it takes too long, shortened, or None. Where the machine is slow or busy, what counts is that a quarter
    of the text takes a quarter of the time and not a sixteenth."""
    for attack in attacks(pattern, flags):
        if seconds(pattern, flags, how, attack, SECONDS) == math.inf:
            eighth = len(attack) // 8
            quarter = seconds(pattern, flags, how, attack[:eighth] + attack[-eighth:], SECONDS)
            if seconds(pattern, flags, how, attack, 4 * SECONDS) >= 8 * quarter:
                return repr(attack[:60])
    return None


def test_all_are_found() -> None:
    """Also those of functions, and what the probe is asked to look for."""
    assert len(CASES) > 230
    rooms = {where.split(".")[1] for where, *_ in CASES if where.startswith("gpumend.")}
    assert {"payload", "plan", "reports", "rules", "run", "state", "text"} <= rooms


@pytest.mark.parametrize(
    ("pattern", "how"),
    [
        (r"(?:a+)+$", "search"),
        (r"\s+$", "search"),
        (r"/[a-z/]+:", "search"),
        (r"a*a*b", "match"),
        (rb"x.*y.*z", "search"),
    ],
)
def test_a_slow_one_is_found(pattern: str | bytes, how: str) -> None:
    assert slow(pattern, 0, how)


@pytest.mark.parametrize(("where", "pattern", "flags", "how"), CASES, ids=[where for where, *_ in CASES])
def test_each_takes_time_that_grows_with_its_input(
    where: str, pattern: str | bytes, flags: int, how: str
) -> None:
    assert slow(pattern, flags, how) is None, pattern
