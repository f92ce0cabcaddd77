"""A record is what typing.NamedTuple makes of the same class, whatever is asked of it."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from gpumend.text.record import Record


class Place(Record):
    """Where something stands."""

    path: str
    line: int = 0
    seen: tuple[str, ...] = ()

    @property
    def told(self) -> str:
        return f"{self.path}:{self.line}"

    @classmethod
    def first(cls, path: str) -> Place:
        return cls(path, 1)


class NamedPlace(NamedTuple):
    """Where something stands."""

    path: str
    line: int = 0
    seen: tuple[str, ...] = ()

    @property
    def told(self) -> str:
        return f"{self.path}:{self.line}"

    @classmethod
    def first(cls, path: str) -> NamedPlace:
        return cls(path, 1)


class Pair(Record):
    left: int
    right: int


class NamedPair(NamedTuple):
    left: int
    right: int


class Marked(Place):
    """A child of a record adds what it can do, and no field."""

    mark: str

    @property
    def told(self) -> str:
        return f"* {super().told}"


class NamedMarked(NamedPlace):
    """A child of a record adds what it can do, and no field."""

    mark: str

    @property
    def told(self) -> str:
        return f"* {super().told}"


def matched(value: Any) -> Any:
    match value:
        case Place(path, 3) | NamedPlace(path, 3):
            return path
        case Place(line=line) | NamedPlace(line=line):
            return line


# What is asked of a class, and what comes of it: a value or an exception.
ASKED: tuple[Callable[[Any], Any], ...] = (
    lambda kind: kind("/a"),
    lambda kind: kind("/a", 3, ("b",)),
    lambda kind: kind(line=3, path="/a"),
    lambda kind: kind("/a", seen=()),
    lambda kind: kind(),
    lambda kind: kind(line=3),
    lambda kind: kind("/a", 3, (), 4),
    lambda kind: kind("/a", path="/b"),
    lambda kind: kind("/a", column=3),
    lambda kind: kind(path="/a", self=3, cls=4),
    lambda kind: kind.first("/a"),
    lambda kind: kind("/a").told,
    lambda kind: kind("/a").path,
    lambda kind: kind("/a")[1:],
    lambda kind: [*kind("/a")],
    lambda kind: len(kind("/a")),
    lambda kind: str(kind("/a")).partition("(")[2],
    lambda kind: kind("/a") == ("/a", 0, ()),
    lambda kind: kind("/a") != kind("/a", 1),
    lambda kind: kind("/a") < kind("/a", 1),
    lambda kind: hash(kind("/a")) == hash(kind("/a", 0)),
    lambda kind: kind("/a")._replace(line=2, seen=("x",)),
    lambda kind: type(kind("/a")._replace(line=2)) is kind,
    lambda kind: kind("/a")._asdict(),
    lambda kind: kind._make(["/a", 3, ()]),
    lambda kind: kind._make(["/a"]),
    lambda kind: kind._make(["/a", 3, (), 4]),
    lambda kind: (kind._fields, kind._field_defaults, kind.__match_args__, kind.__slots__, kind.__doc__),
    lambda kind: kind.__annotations__.keys(),
    lambda kind: matched(kind("/a", 3)),
    lambda kind: matched(kind("/a", 4)),
    lambda kind: copy.copy(kind("/a")),
    lambda kind: copy.deepcopy(kind("/a", 3, ("b",))),
    lambda kind: type(pickle.loads(pickle.dumps(kind("/a", 3)))) is kind,
    lambda kind: pickle.loads(pickle.dumps(kind("/a", 3))),
    lambda kind: setattr(kind("/a"), "path", "/b"),
    lambda kind: isinstance(kind("/a"), tuple),
)


def outcome(asked: Callable[[Any], Any], kind: Any) -> Any:
    try:
        return asked(kind)
    except Exception as error:
        return type(error)


@pytest.mark.parametrize("asked", ASKED, ids=range(len(ASKED)))
@pytest.mark.parametrize(("record", "named"), [(Place, NamedPlace), (Marked, NamedMarked)])
def test_a_record_answers_as_a_named_tuple_does(asked: Callable[[Any], Any], record: Any, named: Any) -> None:
    assert outcome(asked, record) == outcome(asked, named)


@pytest.mark.parametrize("values", [(1, 2), (1,), (), (1, 2, 3)], ids=len)
def test_without_defaults_each_field_is_given(values: tuple[int, ...]) -> None:
    found: Any = Pair
    assert outcome(lambda kind: kind(*values), found) == outcome(lambda kind: kind(*values), NamedPair)


@pytest.mark.parametrize("kind", [Place, Marked])
def test_nothing_can_be_hung_on_a_record(kind: type[Place]) -> None:
    with pytest.raises(AttributeError):
        setattr(kind("/a"), "other", "/b")  # noqa: B010 a type checker refuses the statement


def test_an_unknown_field_is_not_replaced() -> None:
    with pytest.raises((TypeError, ValueError)):
        Pair(1, 2)._replace(**{"middle": 3})  # type: ignore[arg-type]


def test_a_field_without_a_default_comes_first() -> None:
    for base in (Record, NamedTuple):
        with pytest.raises(TypeError):
            exec("class Wrong(base):\n    left: int = 0\n    right: int", {"base": base})


def test_what_is_wrong_in_a_construction_is_named() -> None:
    wrong: Any = Place
    with pytest.raises(TypeError, match=r"Place: .*path"):
        wrong(line=1)
    with pytest.raises(TypeError, match=r"Place: .*column"):
        wrong("/a", column=1)
