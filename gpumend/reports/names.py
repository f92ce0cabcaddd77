"""Names of hosts in a message: what there is where a name is none of it."""

from __future__ import annotations

from collections.abc import Iterable

from gpumend.schemas.wanted import meant

SHOWN = 20  # names in a message


def some(names: Iterable[str]) -> str:
    """`a, b, c and 4 more`"""
    names = sorted(names)
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def nobody(pattern: str, hosts: list[str], groups: list[str]) -> str:
    """`no host matches 'x'; hosts: a, b; groups: c`"""
    text = f"no host matches {pattern!r}{meant(pattern, [*hosts, *groups])}; hosts: {some(hosts)}"
    return f"{text}; groups: {some(groups)}" if groups else text
