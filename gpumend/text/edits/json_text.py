"""Set a value in a JSON text and leave every other byte as it was: indentation, order, line ends, number spelling.

Python's json module would rewrite the whole file. No well-kept library edits JSON in place, so this does: it finds
where the value stands, with the standard library's own scanner for everything inside it.
"""

from __future__ import annotations

import json

from gpumend.text.edits.edit import EditError, JsonValue
from gpumend.text.pattern import Pattern
from gpumend.text.record import Record

WHITESPACE = Pattern(r"[ \t\n\r]*")
BOM = "\ufeff"


class Member(Record):
    """One `"key": value` of an object: offsets of the key's opening quote, and of the value's start and end."""

    key: str
    start: int
    value_start: int
    value_end: int


class Object(Record):
    """An object's braces and members, by offset. `close` is the offset of its `}`."""

    open: int
    close: int
    members: tuple[Member, ...]

    def find(self, key: str) -> Member | None:
        found = [member for member in self.members if member.key == key]
        if len(found) > 1:
            raise EditError(f"the key {key!r} stands twice")
        return found[0] if found else None


def _skip(text: str, at: int) -> int:
    match = WHITESPACE.match(text, at)
    return match.end() if match else at


def _string(text: str, at: int) -> tuple[str, int]:
    """The string that opens at offset `at` and the offset behind it."""
    end = _value_end(text, at)
    return str(json.loads(text[at:end])), end


def _value_end(text: str, at: int) -> int:
    try:
        return json.JSONDecoder().raw_decode(text, at)[1]
    except json.JSONDecodeError as error:
        raise EditError(f"line {error.lineno} column {error.colno}: {error.msg}") from None
    except ValueError as error:  # a number of thousands of digits
        raise EditError(str(error)) from None
    except RecursionError:
        raise EditError("nested too deep") from None


def scan(text: str, at: int) -> Object:
    """The object that opens at offset `at`. Raises EditError where there is none, or where it is not JSON."""
    if text[at : at + 1] != "{":
        raise EditError("not a JSON object")
    _value_end(text, at)  # the text is valid from here on
    members = []
    position = _skip(text, at + 1)
    while text[position] != "}":
        key, after = _string(text, position)
        value_start = _skip(text, _skip(text, after) + 1)
        value_end = _value_end(text, value_start)
        members.append(Member(key, position, value_start, value_end))
        position = _skip(text, value_end)
        if text[position] == ",":
            position = _skip(text, position + 1)
    return Object(at, position, tuple(members))


def _newline(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


def _line_indent(text: str, at: int) -> str | None:
    """The white space before offset `at` on its line, or None where something else stands before it."""
    line = text[text.rfind("\n", 0, at) + 1 : at]
    return line if not line.strip(" \t") else None


def _unit(text: str, root: Object) -> str:
    """One level of this file's indentation: as its first member has it, else four spaces (nvidia-ctk's own)."""
    if root.members:
        indent = _line_indent(text, root.members[0].start)
        if indent:
            return indent
    return "    "


def _render(value: JsonValue, indent: str, unit: str, newline: str) -> str:
    """The value as JSON, its inner lines indented below `indent`. Short lists stay on one line."""
    if isinstance(value, list) and all(not isinstance(item, (list, dict)) for item in value):
        return json.dumps(value)
    if isinstance(value, dict) and value:
        inner = indent + unit
        rows = [
            f"{inner}{json.dumps(key)}: {_render(item, inner, unit, newline)}" for key, item in value.items()
        ]
        return "{" + newline + ("," + newline).join(rows) + newline + indent + "}"
    return json.dumps(value)


def set_value(text: str, keys: tuple[str, ...], value: JsonValue) -> str:
    """The text with the value at `keys` set; an empty text becomes an object. Objects on the way are made.

    Raises EditError for anything that is not one JSON object, for a key on the way that stands twice, and where
    something on the way is not an object.
    """
    mark = BOM if text.startswith(BOM) else ""
    body = text.removeprefix(BOM)
    if not body.strip():
        for key in reversed(keys):
            value = {key: value}
        return mark + _render(value, "", "    ", "\n") + "\n"
    start = _skip(body, 0)
    here = root = scan(body, start)
    if _skip(body, root.close + 1) != len(body):
        raise EditError("something stands after the JSON object")
    for depth, key in enumerate(keys):
        member = here.find(key)
        if member is None:
            for missing in reversed(keys[depth + 1 :]):
                value = {missing: value}
            return mark + _insert(body, root, here, key, value)
        if depth < len(keys) - 1:
            if body[member.value_start] != "{":
                raise EditError(f"{'.'.join(keys[: depth + 1])} is not an object")
            here = scan(body, member.value_start)
    assert member is not None
    # As text: 1, 1.0 and true are equal to Python and not to dockerd.
    if json.dumps(json.loads(body[member.value_start : member.value_end])) == json.dumps(value):
        return text
    indent = _line_indent(body, member.start)
    rendered = _render(value, indent or "", _unit(body, root), _newline(body))
    if indent is None:
        rendered = json.dumps(value)
    return mark + body[: member.value_start] + rendered + body[member.value_end :]


def _insert(text: str, root: Object, here: Object, key: str, value: JsonValue) -> str:
    """The text with a member added as the object's last, in the style of its neighbours."""
    newline, unit = _newline(text), _unit(text, root)
    if here.members:
        last = here.members[-1]
        indent = _line_indent(text, last.start)
        if indent is None:  # an object on one line stays on one line
            added = f", {json.dumps(key)}: {json.dumps(value)}"
        else:
            added = f",{newline}{indent}{json.dumps(key)}: {_render(value, indent, unit, newline)}"
        return text[: last.value_end] + added + text[last.value_end :]
    outer = _line_indent(text, here.open)
    if outer is None:  # `"features": {}`: the brace follows a key; indent as that key's line does
        line_start = text.rfind("\n", 0, here.open) + 1
        outer = text[line_start : _skip(text, line_start)]
    inner = outer + unit
    added = newline + inner + f"{json.dumps(key)}: {_render(value, inner, unit, newline)}" + newline + outer
    return text[: here.open + 1] + added + text[here.close :]
