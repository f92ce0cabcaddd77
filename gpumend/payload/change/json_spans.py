"""Where things stand in a JSON text, so that a part of it is changed and every other byte stays: stdlib only, Python 3.6 or
newer."""

import json.decoder
import re
from typing import Any, Dict, Iterable, List, Optional, Tuple

SPACE = re.compile(r"[ \t\r\n]*")
SCALAR = re.compile(r"-?\d[\d.eE+-]*|true|false|null|NaN|-?Infinity")
DEPTH = 100


class Span:
    """One value: from `start` to before `end`. members: of an object, by key; items: of a list."""

    def __init__(self, start: int) -> None:
        self.start = start
        self.end = start
        self.members: Optional[Dict[str, "Span"]] = None
        self.items: Optional[List["Span"]] = None
        self.key_start = start  # of an object's member: where its key begins


def spans_of(text: str) -> Span:
    """The whole of a JSON text. Raises ValueError."""
    found = span_at(text, blank(text, 0), 0)
    if blank(text, found.end) != len(text):
        raise ValueError("more than one JSON value")
    return found


def blank(text: str, at: int) -> int:
    found = SPACE.match(text, at)
    return found.end() if found else at


def span_at(text: str, at: int, depth: int) -> Span:
    if depth > DEPTH:
        raise ValueError("JSON of too many levels")
    found = Span(at)
    first = text[at : at + 1]
    if first == '"':
        _, found.end = json.decoder.scanstring(text, at + 1, True)  # type: ignore[attr-defined]
    elif first == "{":
        found.members = {}
        found.end = members_at(text, at, depth, found.members)
    elif first == "[":
        found.items = []
        found.end = items_at(text, at, depth, found.items)
    else:
        scalar = SCALAR.match(text, at)
        if scalar is None:
            raise ValueError("no JSON at byte %d" % at)
        found.end = scalar.end()
    return found


def members_at(text: str, at: int, depth: int, into: Dict[str, Span]) -> int:
    """An object's members; returns where it ends."""
    at = blank(text, at + 1)
    while text[at : at + 1] != "}":
        start = at
        if text[at : at + 1] != '"':
            raise ValueError("no key at byte %d" % at)
        key, at = json.decoder.scanstring(text, at + 1, True)  # type: ignore[attr-defined]
        at = blank(text, at)
        if text[at : at + 1] != ":" or key in into:
            raise ValueError("no value, or a second one, of %r" % key)
        value = span_at(text, blank(text, at + 1), depth + 1)
        value.key_start = start
        into[key] = value
        at = after_comma(text, value.end, "}")
    return at + 1


def items_at(text: str, at: int, depth: int, into: List[Span]) -> int:
    at = blank(text, at + 1)
    while text[at : at + 1] != "]":
        value = span_at(text, at, depth + 1)
        into.append(value)
        at = after_comma(text, value.end, "]")
    return at + 1


def after_comma(text: str, at: int, closing: str) -> int:
    at = blank(text, at)
    if text[at : at + 1] == ",":
        at = blank(text, at + 1)
        if text[at : at + 1] == closing:
            raise ValueError("a comma before %s" % closing)
        return at
    if text[at : at + 1] != closing:
        raise ValueError("no comma at byte %d" % at)
    return at


def span_pointed(root: Span, pointer: str) -> Optional[Span]:
    """What a JSON pointer leads to, None where it leads nowhere."""
    found: Optional[Span] = root
    for part in pointer.split("/")[1:]:
        part = part.replace("~1", "/").replace("~0", "~")
        if found is None:
            return None
        if found.members is not None:
            found = found.members.get(part)
        elif found.items is not None and part.isdigit() and int(part) < len(found.items):
            found = found.items[int(part)]
        else:
            return None
    return found


def without(text: str, whole: Span, parts: List[Span], gone: Iterable[int]) -> str:
    """The text of a list or an object without some of its parts, each kept byte as it stands."""
    away = set(gone)
    kept = [number for number in range(len(parts)) if number not in away]
    if not kept:
        return text[whole.start] + text[whole.end - 1]
    told = [text[whole.start : parts[0].key_start], text[parts[kept[0]].key_start : parts[kept[0]].end]]
    for number in kept[1:]:
        told.append(text[parts[number - 1].end : parts[number].end])
    told.append(text[parts[-1].end : whole.end])
    return "".join(told)


def edited_text(text: str, edits: Iterable[Tuple[Span, str]]) -> str:
    """The text with other texts in place of some values, none of which lies in another."""
    for span, new in sorted(edits, key=lambda each: -each[0].start):
        text = text[: span.start] + new + text[span.end :]
    return text


def value_of(text: str, span: Span) -> Any:
    return json.loads(text[span.start : span.end])
