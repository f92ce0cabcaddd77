"""What is made of a text, made once for a fleet: its hosts have mostly the same files and outputs."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])

LONGEST = 1 << 16  # characters: a host says what its texts are, and may say a million different ones


def shared(calls: int, longest: int = LONGEST) -> Callable[[F], F]:
    """A function of texts gives the same object for the same texts, as far as they are among the last so many: it is for reading,
    and who wants to change it copies it. Nothing is kept of texts that are together longer than `longest` characters."""

    def of(function: F) -> F:
        kept = lru_cache(maxsize=calls)(function)

        @wraps(function)
        def found(*texts: str) -> Any:
            return (kept if sum(map(len, texts)) <= longest else function)(*texts)

        return cast(F, found)

    return of
