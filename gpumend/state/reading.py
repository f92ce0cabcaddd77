"""A value read from a host, or why it could not be read. Unknown never passes for fine."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

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


class Unread(Exception):
    """A rule needed a reading that did not come about. The judge makes an `unknown` finding of it."""

    def __init__(self, reading: Reading[Any]) -> None:
        super().__init__(f"{reading.source}: {reading.status} {reading.detail}".rstrip())
        self.reading = reading


@dataclass(frozen=True)
class Reading(Generic[T]):
    """`value` is there exactly when `status` is ok. `source` is the path or command that was read."""

    status: Status
    value: T | None = None
    source: str = ""
    detail: str = ""

    @property
    def ok(self) -> bool:
        return self.status is Status.OK

    @property
    def absent(self) -> bool:
        return self.status is Status.ABSENT

    @property
    def known(self) -> bool:
        """Whether this is knowledge: it was read, or it is known not to be there."""
        return self.status in (Status.OK, Status.ABSENT)

    def get(self) -> T | None:
        """The value, or None where there is none; raises Unread where nobody knows."""
        if not self.known:
            raise Unread(self)
        return self.value

    def need(self) -> T:
        """The value; raises Unread where it is unknown or absent."""
        if self.status is not Status.OK or self.value is None:
            raise Unread(self)
        return self.value

    def without_value(self) -> Reading[Any]:
        """How this was read, for something that was to be made of it."""
        return Reading(self.status, None, self.source, self.detail)

    def map(self, parse: Callable[[T], U]) -> Reading[U]:
        """This reading with its value parsed. A ValueError of `parse` becomes status `failed`."""
        if self.status is not Status.OK or self.value is None:
            return self.without_value()
        try:
            return Reading(Status.OK, parse(self.value), self.source, self.detail)
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
            return Reading(Status.FAILED, None, self.source, str(error) or type(error).__name__)

    @classmethod
    def of(cls, value: T, source: str = "") -> Reading[T]:
        return cls(Status.OK, value, source)

    @classmethod
    def none(cls, source: str = "", detail: str = "") -> Reading[T]:
        return cls(Status.ABSENT, None, source, detail)

    @classmethod
    def fail(cls, source: str, detail: str, status: Status = Status.FAILED) -> Reading[T]:
        return cls(status, None, source, detail)


def first_unknown(readings: Iterable[Reading[Any]]) -> Reading[Any] | None:
    """The first that nobody could read; None where all are knowledge."""
    return next((reading for reading in readings if not reading.known), None)
