"""A value read from a host, or why it could not be read. Unknown never passes for fine."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, Generic, TypeVar

from gpumend.text.backports import StrEnum

T = TypeVar("T")
U = TypeVar("U")


class Status(StrEnum):
    """How a reading went. `ok` and `absent` are knowledge; the other three are not."""

    OK = "ok"
    ABSENT = "absent"
    DENIED = "denied"
    TIMEOUT = "timeout"
    FAILED = "failed"


OK, ABSENT = (
    Status.OK,
    Status.ABSENT,
)  # a member is looked up through its class each time, which takes as long as the rest


class Unread(Exception):
    """A rule needed a reading that did not come about. The judge makes an `unknown` finding of it."""

    def __init__(self, reading: Reading[Any]) -> None:
        super().__init__(f"{reading.source}: {reading.status} {reading.detail}".rstrip())
        self.reading = reading


class Reading(Generic[T]):
    """`value` is there exactly when `status` is ok. `source` is the path or command that was read.

    Written by hand: before Python 3.11 a named tuple is not generic, and importing dataclasses costs more than most rooms do.
    """

    __slots__ = ("detail", "source", "status", "value")

    def __init__(self, status: Status, value: T | None = None, source: str = "", detail: str = "") -> None:
        self.status: Final = status
        self.value: Final = value
        self.source: Final = source
        self.detail: Final = detail

    def _parts(self) -> tuple[Any, ...]:
        return self.status, self.value, self.source, self.detail

    def __eq__(self, other: object) -> bool:
        return self._parts() == other._parts() if isinstance(other, Reading) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._parts())

    def __repr__(self) -> str:
        return f"Reading{self._parts()!r}"

    @property
    def ok(self) -> bool:
        return self.status is OK

    @property
    def absent(self) -> bool:
        return self.status is ABSENT

    @property
    def known(self) -> bool:
        """Whether this is knowledge: it was read, or it is known not to be there."""
        return self.status is OK or self.status is ABSENT

    def get(self) -> T | None:
        """The value, or None where there is none; raises Unread where nobody knows."""
        if not self.known:
            raise Unread(self)
        return self.value

    def need(self) -> T:
        """The value; raises Unread where it is unknown or absent."""
        if self.status is not OK or self.value is None:
            raise Unread(self)
        return self.value

    def without_value(self) -> Reading[Any]:
        """How this was read, for something that was to be made of it."""
        return Reading(self.status, None, self.source, self.detail)

    def renamed(self, source: str) -> Reading[T]:
        """The same, read under another name."""
        return Reading(self.status, self.value, source, self.detail)

    def map(self, parse: Callable[[T], U]) -> Reading[U]:
        """This reading with its value parsed. A ValueError of `parse` becomes status `failed`."""
        if self.status is not OK or self.value is None:
            return self.without_value()
        try:
            return Reading(OK, parse(self.value), self.source, self.detail)
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
            return Reading(Status.FAILED, None, self.source, str(error) or type(error).__name__)

    @classmethod
    def of(cls, value: T, source: str = "") -> Reading[T]:
        return cls(OK, value, source)

    @classmethod
    def none(cls, source: str = "", detail: str = "") -> Reading[T]:
        return cls(ABSENT, None, source, detail)

    @classmethod
    def fail(cls, source: str, detail: str, status: Status = Status.FAILED) -> Reading[T]:
        return cls(status, None, source, detail)


def first_unknown(readings: Iterable[Reading[Any]]) -> Reading[Any] | None:
    """The first that nobody could read; None where all are knowledge."""
    return next((reading for reading in readings if not reading.known), None)


NONE: Reading[Any] = Reading.none()  # the default of a part that was not asked for
