"""What a .dockerignore keeps out of a build's context (moby/patternmatcher): patterns begin at its root, the last that matches counts."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache


@cache
def pattern(text: str) -> re.Pattern[str]:
    """A Go path pattern: `*` and `?` end at a slash, `**` does not. Raises ValueError for one that is none."""
    out, at = "", 0
    while at < len(text):
        char = text[at]
        if text.startswith("**", at):
            at += 2
            if text.startswith("/", at):  # `**/a` is `a`, too
                at += 1
                out += "(?:.*/)?"
            else:
                out += ".*"
            continue
        if char == "*":
            out += "[^/]*"
        elif char == "?":
            out += "[^/]"
        elif char == "[":
            end = text.find("]", at + 2)
            if end < 0:
                raise ValueError(f"{text}: a bracket that does not end")
            inside = text[at + 1 : end].replace("\\", "\\\\")
            out += f"[{inside}]"
            at = end
        elif char == "\\" and at + 1 < len(text):
            at += 1
            out += re.escape(text[at])
        else:
            out += re.escape(char)
        at += 1
    try:
        return re.compile(out)
    except re.error as error:
        raise ValueError(f"{text}: {error}") from None


@dataclass(frozen=True)
class Rule:
    """line: its number in the file. keeps: whether it takes an exclusion back (`!`)."""

    line: int
    text: str
    keeps: bool


@dataclass(frozen=True)
class Ignore:
    """The rules of one file, whose name they came from."""

    name: str = ""
    rules: tuple[Rule, ...] = ()

    def excluded(self, path: str) -> Rule | None:
        """The rule that keeps a file out of the context; None where it is in it."""
        parts = path.split("/")
        paths = ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]
        last = None
        for rule in self.rules:
            if any(pattern(rule.text).fullmatch(found) for found in paths):
                last = None if rule.keeps else rule
        return last


def parse(text: str, name: str = ".dockerignore") -> Ignore:
    """Raises ValueError for a pattern that is none: a build stops there, too."""
    return Ignore(name, tuple(_rules(text.removeprefix("\ufeff").splitlines())))


def _rules(rows: Iterable[str]) -> Iterable[Rule]:
    for number, row in enumerate(rows, 1):
        bare = row.strip()
        if row.startswith("#") or not bare:
            continue
        keeps = bare.startswith("!")
        bare = posixpath.normpath(bare[1:].strip() if keeps else bare).lstrip("/")
        pattern(bare)
        if bare not in ("", "."):
            yield Rule(number, bare, keeps)
