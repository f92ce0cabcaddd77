"""The directories in which engines look for CDI specs, under one name each."""

from __future__ import annotations

from collections.abc import Iterable

from gpumend.state.cdi import DEFAULT_DIRS


def canonical(directory: str) -> str:
    """A spec directory under the name that the defaults have: /var/run is /run."""
    directory = directory.rstrip("/")
    return f"/var{directory}" if directory.startswith("/run/") else directory


def named(listed: object) -> tuple[str, ...]:
    """The directories that a setting lists; the defaults where it lists none."""
    found = listed if isinstance(listed, list) else ()
    return tuple(canonical(str(item)) for item in found) or DEFAULT_DIRS


def lacking(listed: Iterable[str]) -> list[str]:
    """The defaults that a list leaves out."""
    have = [canonical(directory) for directory in listed]
    return [directory for directory in DEFAULT_DIRS if directory not in have]


def widened(listed: Iterable[str]) -> list[str]:
    """A list with both defaults first, and what it has besides."""
    have = [canonical(directory) for directory in listed]
    return [*DEFAULT_DIRS, *(directory for directory in have if directory not in DEFAULT_DIRS)]
