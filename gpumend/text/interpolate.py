"""Compose's variables in a text: `$VAR`, `${VAR}`, `${VAR:-default}`, `${VAR?error}`, `${VAR:+other}`, `$$`.

Source: docs.docker.com compose-file/12-interpolation; compose-go template/template.go.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from gpumend.text.pattern import Pattern
from gpumend.text.record import Record

NAME = Pattern(r"[A-Za-z_][A-Za-z0-9_]*")
DEPTH = 20  # of defaults within defaults
ENV_LINE = Pattern(r"\s*(?:export\s+)?([A-Za-z_][\w.-]*)\s*[=:]\s*(.*)")
Known = Mapping[str, "str | None"]  # values by name; None for what is set to something that nobody here knows


class Resolved(Record):
    """text: with every variable that is known. unknown: the others. variables: all that were named."""

    text: str
    unknown: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()


def resolve(text: str, known: Known, depth: int = 0) -> Resolved:
    """The text as Compose sees it where the shell sets nothing. A variable without a value and without a default is unknown:
    whoever runs Compose may have it set."""
    parts: list[str] = []
    unknown: list[str] = []
    variables: list[str] = []
    at = 0
    while True:
        dollar = text.find("$", at)
        if dollar < 0 or depth > DEPTH:
            parts.append(text[at:])
            break
        parts.append(text[at:dollar])
        at = dollar + 1
        if text[at : at + 1] == "$":
            parts.append("$")
            at += 1
            continue
        braced = text[at : at + 1] == "{"
        name = NAME.match(text, at + braced)
        if name is None:
            parts.append("$")
            continue
        end = _closing(text, at) if braced else name.end()
        if end < 0:
            parts.append(text[dollar:])
            break
        operation = text[name.end() : end - 1] if braced else ""
        value = _value(name.group(), operation, known, depth)
        parts.append(value.text)
        unknown += value.unknown
        variables += value.variables
        at = end
    return Resolved("".join(parts), tuple(dict.fromkeys(unknown)), tuple(dict.fromkeys(variables)))


def _value(name: str, operation: str, known: Known, depth: int) -> Resolved:
    found = re.match(r"(:?[-+?])", operation)
    mark, rest = (found.group(), operation[found.end() :]) if found else ("", "")
    value = known.get(name)
    if name in known and value is None:  # a default counts only where it is not set
        return Resolved("", (name,), (name,))
    there = value is not None and (bool(value) or not mark.startswith(":"))
    if mark.endswith("+"):
        other = resolve(rest, known, depth + 1)
        if there:
            return Resolved(other.text, other.unknown, (name, *other.variables))
        return Resolved("", () if name in known else (name,), (name, *other.variables))
    if value is not None and there:
        return Resolved(value, (), (name,))
    if mark.endswith("-"):
        default = resolve(rest, known, depth + 1)
        return Resolved(default.text, default.unknown, (name, *default.variables))
    return Resolved("", (name,), (name,))


def _closing(text: str, at: int) -> int:
    """Behind the brace that closes the one at `at`; -1 without."""
    depth = 0
    for position in range(at, len(text)):
        if text[position] == "{":
            depth += 1
        elif text[position] == "}":
            depth -= 1
            if not depth:
                return position + 1
    return -1


def dotenv(text: str) -> dict[str, str | None]:
    """The variables of an .env file: NAME=value lines, quotes taken off, comments left out (compose-go dotenv). None for what is
    made of variables that the file does not say."""
    found: dict[str, str | None] = {}
    lines = iter(text.splitlines())
    for line in lines:
        match = ENV_LINE.fullmatch(line)
        if match is None or line.lstrip().startswith("#"):
            continue
        name, value = match.group(1), match.group(2).strip()
        quote = value[:1]
        if quote in ("'", '"'):
            while quote not in value[1:] and (more := next(lines, None)) is not None:  # over several lines
                value += f"\n{more}"
        if quote in ("'", '"') and quote in value[1:]:
            value = value[1 : value.index(quote, 1)]
        else:
            quote, value = "", re.split(r"\s#", value, maxsplit=1)[0].strip()
        made = resolve(value, found)
        found[name] = value if quote == "'" else None if made.unknown else made.text
    return found
