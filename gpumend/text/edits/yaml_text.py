"""Take entries out of a YAML text and put others in, at the places where its nodes stand: every other byte stays as it was.

No dumper is asked: each one tried changes line ends, blanks or indentation of some file. Comments on lines that go are kept, on
lines of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property

import yaml

from gpumend.text.edits.edit import EditError
from gpumend.text.pattern import Pattern
from gpumend.text.yaml_limits import LOADER
from gpumend.text.yaml_nodes import Source

ALIAS = Pattern(r"\s*:\s*(?:#[^\n]*\n\s*)*\*[^\s,\]\}]+")
# In an edit: these characters of the text itself. Whoever has the text masked makes edits that hold for the text as it is.
COPY = Pattern("\ue000(\\d+),(\\d+)\ue001")


def copied(start: int, end: int) -> str:
    return f"\ue000{start},{end}\ue001"


class Editor:
    """Edits of one text: gathered, then made at once. Raises EditError for what it cannot do byte by byte."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.text = source.text
        self.edits: dict[tuple[int, int], str] = {}

    @property
    def newline(self) -> str:
        return "\r\n" if "\r\n" in self.text else "\n"

    # -- where things stand

    def column(self, node: yaml.Node) -> int:
        return int(node.start_mark.column)

    def line_start(self, at: int) -> int:
        return self.text.rfind("\n", 0, at) + 1

    def line_end(self, at: int) -> int:
        """Behind the line's newline, or the text's end."""
        found = self.text.find("\n", at)
        return len(self.text) if found < 0 else found + 1

    def content_end(self, node: yaml.Node) -> int:
        """Behind the last character that is the node's own: of a block collection its last leaf's."""
        end = int(node.end_mark.index)
        if isinstance(node, yaml.ScalarNode):
            return len(self.text[:end].rstrip()) if (node.style or "") in ("|", ">") else end
        assert isinstance(node, (yaml.MappingNode, yaml.SequenceNode))
        if node.flow_style or not node.value:
            return end
        if isinstance(node, yaml.MappingNode):
            return self.entry_end(*node.value[-1])
        item = node.value[-1]
        if item.start_mark.index >= node.start_mark.index:
            return self.content_end(item)
        before = self.content_end(node.value[-2]) if len(node.value) > 1 else int(node.start_mark.index)
        found = re.compile(r"[^*]*\*[^\s,\]\}]+").match(self.text, before)
        if found is None:
            raise EditError("an alias whose place is not clear")
        return found.end()

    def entry_end(self, key: yaml.Node, value: yaml.Node) -> int:
        if value.start_mark.index >= key.start_mark.index:
            return max(self.content_end(value), int(key.end_mark.index))
        found = ALIAS.match(self.text, int(key.end_mark.index))
        if found is None:
            raise EditError(f"line {key.start_mark.line + 1}: an alias whose place is not clear")
        return found.end()

    @cached_property
    def last_tokens(self) -> dict[int, int]:
        """Of each line where its last token ends; of a line inside a token -1."""
        found: dict[int, int] = {}
        for token in yaml.scan(self.text, Loader=LOADER):
            start, end = token.start_mark, token.end_mark
            if end.index <= start.index:
                continue
            for line in range(start.line, end.line):
                found[line] = -1
            if end.column or start.line == end.line:
                found[end.line] = end.index
        return found

    # -- take out

    def comments(self, start: int, end: int, indent: int) -> str:
        """The comments of the lines from `start` to `end`: those of their own as they are, those behind something alone."""
        kept = ""
        line = self.text.count("\n", 0, start)
        at = start
        while at < end:
            until = self.line_end(at)
            row = self.text[at:until]
            last = self.last_tokens.get(line, at)
            if row.lstrip().startswith("#") and line not in self.last_tokens:
                kept += copied(at, until)
            elif last >= 0 and (found := re.compile(r"[ \t]*(#[^\r\n]*)").match(self.text, max(last, at))):
                kept += " " * indent + copied(*found.span(1)) + self.newline
            at, line = until, line + 1
        return kept

    def replace_lines(self, start: int, end: int, text: str) -> None:
        """The whole lines from `start` to `end` are the text, which ends with a newline, or nothing."""
        if end == len(self.text) and not self.text.endswith("\n"):
            text = self.without_end(text)
            if not text and start:
                start -= 2 if self.text[start - 2 : start] == "\r\n" else 1
        self.put(start, end, text)

    def without_end(self, text: str) -> str:
        """Lines without the last one's newline."""
        last = list(COPY.finditer(text))
        if last and last[-1].end() == len(text):
            start, end = int(last[-1].group(1)), int(last[-1].group(2))
            return text[: last[-1].start()] + copied(start, start + len(self.text[start:end].rstrip("\r\n")))
        return text.removesuffix(self.newline)

    def put(self, start: int, end: int, text: str) -> None:
        """Insertions at one place come one behind the other; the same one twice is one."""
        there = self.edits.setdefault((start, end), text)
        if there == text or (start == end and text in there):
            return
        if start != end:
            raise EditError("two different changes of one place")
        self.edits[start, end] = there + text

    def entry_lines(self, mapping: yaml.MappingNode, key: yaml.Node) -> tuple[int, int]:
        """The whole lines of a block mapping's entry. Raises EditError where something else stands on them."""
        value = next(value for found, value in mapping.value if found is key)
        start, end = self.line_start(key.start_mark.index), self.line_end(self.entry_end(key, value))
        if self.text[start : key.start_mark.index].strip(" "):
            raise EditError(f"line {key.start_mark.line + 1}: something else stands before {key.value!r}")
        return start, end

    def remove_entry(self, mapping: yaml.MappingNode, key: yaml.Node, instead: str = "") -> None:
        """The entry is gone; of a block mapping `instead` takes its lines' place."""
        value = next(value for found, value in mapping.value if found is key)
        if mapping.flow_style:
            self._remove_flow(
                [(k, self.entry_end(k, v)) for k, v in mapping.value],
                key,
                self.entry_end(key, value),
                instead,
            )
            return
        start, end = self.entry_lines(mapping, key)
        self.replace_lines(start, end, instead + self.comments(start, end, self.column(key)))

    def remove_item(self, sequence: yaml.SequenceNode, item: yaml.Node) -> None:
        """The item is gone, which is not the only one."""
        if item.start_mark.index < sequence.start_mark.index:
            raise EditError("an item that is an alias")
        if sequence.flow_style:
            self._remove_flow(
                [(each, self.content_end(each)) for each in sequence.value], item, self.content_end(item), ""
            )
            return
        dash = self.text.rfind("-", sequence.start_mark.index, item.start_mark.index)
        if (
            dash < 0
            or self.text[dash + 1 : item.start_mark.index].strip()
            or self.text[self.line_start(dash) : dash].strip()
        ):
            raise EditError(f"line {item.start_mark.line + 1}: an item whose place is not clear")
        start, end = self.line_start(dash), self.line_end(self.content_end(item))
        self.replace_lines(start, end, self.comments(start, end, dash - self.line_start(dash)))

    def _remove_flow(
        self, parts: list[tuple[yaml.Node, int]], part: yaml.Node, end: int, instead: str
    ) -> None:
        start = int(part.start_mark.index)
        if instead:
            self.put(start, end, instead)
            return
        number = next(number for number, (node, _) in enumerate(parts) if node is part)
        if number + 1 < len(parts):
            end = int(parts[number + 1][0].start_mark.index)
        elif number:
            start = parts[number - 1][1]
        if "#" in self.text[start:end] or "\n" in self.text[start:end]:
            raise EditError(f"line {part.start_mark.line + 1}: a flow collection over several lines")
        self.put(start, end, "")

    # -- put in

    def insert_lines(self, at: int, text: str) -> None:
        """The text as whole lines before the line that begins at `at`, or at the text's end."""
        if at == len(self.text) and not self.text.endswith("\n"):
            text = self.newline + self.without_end(text)
        self.put(at, at, text)

    def add_entry(self, mapping: yaml.MappingNode, block: str, flow: str) -> None:
        """A new last entry: block, whole lines; or flow, its text where the mapping is one of braces."""
        if mapping.flow_style:
            self._add_flow(mapping, [self.entry_end(k, v) for k, v in mapping.value], flow)
        else:
            self.insert_lines(self.line_end(self.entry_end(*mapping.value[-1])), block)

    def add_item(self, sequence: yaml.SequenceNode, block: str, flow: str) -> None:
        """A new last item; block: whole lines with their indentation."""
        if sequence.flow_style or not sequence.value:
            self._add_flow(sequence, [self.content_end(item) for item in sequence.value], flow)
        else:
            self.insert_lines(self.line_end(self.content_end(sequence)), block)

    def _add_flow(self, node: yaml.Node, ends: list[int], flow: str) -> None:
        at = ends[-1] if ends else int(node.start_mark.index) + 1
        if ends and not self.text.startswith(tuple("]}, \t\r\n"), at):
            raise EditError(f"line {node.start_mark.line + 1}: a flow collection whose end is not clear")
        self.put(at, at, f"{', ' if ends else ''}{flow}")

    def extend(self, mapping: yaml.MappingNode, text: str, longer: str) -> bool:
        """Where this text is put into the mapping, the longer one is put instead: whether it was there, or is there now."""
        for (start, end), there in self.edits.items():
            inside = mapping.start_mark.index - mapping.start_mark.column <= start <= mapping.end_mark.index
            if inside and (longer in there or text in there):
                self.edits[start, end] = there if longer in there else there.replace(text, longer, 1)
                return True
        return False

    def replace(self, node: yaml.Node, text: str) -> None:
        """A scalar's text, quotes and all."""
        self.put(int(node.start_mark.index), int(node.end_mark.index), text)

    def result(self) -> str:
        """The text with the edits made. Raises EditError where two overlap."""
        parts: list[str] = []
        at = 0
        for (start, end), text in sorted(self.edits.items()):
            if start < at:
                raise EditError("two changes of one place")
            new = COPY.sub(lambda found: self.text[int(found.group(1)) : int(found.group(2))], text)
            parts += [self.text[at:start], new]
            at = end
        return "".join([*parts, self.text[at:]])


def offset_of_lists(nodes: Iterable[yaml.Node]) -> int:
    """By how many columns the file's lists stand in from their keys: of the first that is found; 2 without one."""
    waiting = list(nodes)
    seen: set[int] = set()
    while waiting:
        node = waiting.pop(0)
        if id(node) in seen or isinstance(node, yaml.ScalarNode):
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
            continue
        for key, value in node.value:
            here = value.start_mark.index > key.start_mark.index
            block = isinstance(value, yaml.SequenceNode) and not value.flow_style and bool(value.value)
            if here and block and value.start_mark.line > key.start_mark.line:
                return max(int(value.start_mark.column - key.start_mark.column), 0)
            waiting.append(value)
    return 2
