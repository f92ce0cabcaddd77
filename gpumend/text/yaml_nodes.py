"""A YAML text as nodes that know where they stand, with merge keys resolved and every scalar as it is written.

What Compose's own parser (go-yaml v3) refuses is refused: tabs that indent, a key that stands twice, aliases that multiply.
Scalars are texts: PyYAML would read `1:2`, a MIG device, as the number 62.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import yaml

from gpumend.text.limits import LOADER, check_yaml
from gpumend.text.record import Record

LARGEST = 1 << 20  # bytes: of 419 public compose files the largest has 60 KiB
LARGEST_TREE = 50_000  # nodes, each as often as anchors repeat it
BOM = "\ufeff"
RESET, OVERRIDE = "!reset", "!override"  # docs.docker.com compose-file/13-merge


class YamlError(ValueError):
    """What keeps a text from being read. line: from 1 on; 0 where it is the whole text."""

    def __init__(self, text: str, line: int = 0, unread: bool = False) -> None:
        super().__init__(text)
        self.line = line
        self.unread = unread  # a limit of ours: Compose itself may read it


class Source(Record):
    """A file's text without its byte order mark. Offsets of nodes count characters of `text`."""

    path: str
    text: str
    bom: bool = False

    def encode(self, text: str) -> bytes:
        """A text that takes this one's place, as bytes of the file."""
        return ((BOM if self.bom else "") + text).encode("utf-8")


class Value(Record):
    """A node as it counts where it stands. kind: map, seq or scalar. text: of a scalar; plain: it has no quotes.

    shared: it is reached through an alias or a merge key, so that others may have the same node. tag: Compose's !reset and
    !override. keys: of a mapping the node of each key; owners: the mapping that it stands in, which a merge key may have brought.
    """

    kind: str
    node: yaml.Node
    source: Source
    shared: bool = False
    tag: str = ""
    text: str = ""
    plain: bool = False
    items: tuple[Value, ...] = ()
    entries: Mapping[str, Value] = {}
    keys: Mapping[str, yaml.Node] = {}
    owners: Mapping[str, yaml.MappingNode] = {}

    @property
    def line(self) -> int:
        return int(self.node.start_mark.line) + 1

    @property
    def start(self) -> int:
        return int(self.node.start_mark.index)

    @property
    def end(self) -> int:
        """Behind the node; of a block collection behind comments and blank lines that follow it, too."""
        return int(self.node.end_mark.index)

    @property
    def flow(self) -> bool:
        return bool(getattr(self.node, "flow_style", False))

    @property
    def null(self) -> bool:
        return self.kind == "scalar" and self.plain and self.text in ("", "~", "null", "Null", "NULL")

    def get(self, *path: str) -> Value | None:
        """What stands below these keys, or None."""
        found: Value | None = self
        for key in path:
            found = found.entries.get(key) if found is not None else None
        return found


def read(path: str, data: bytes) -> Source:
    """The file as text. Raises YamlError."""
    if len(data) > LARGEST:
        raise YamlError(f"larger than {LARGEST >> 10} KiB", unread=True)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise YamlError(f"not UTF-8 at byte {error.start}", line) from None
    return Source(path, text.removeprefix(BOM), text.startswith(BOM))


def load(source: Source) -> Value | None:
    """The document of a text; None for an empty one. Raises YamlError."""
    try:
        check_yaml(source.text)
        documents = list(_documents(source.text))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        text = f"{error.problem or error.context or 'not YAML'}"
        tab = mark is not None and "\t" in _line(source.text, mark.line)
        raise YamlError(f"{text}{' (a tab)' if tab else ''}", mark.line + 1 if mark else 0) from None
    except yaml.YAMLError as error:
        raise YamlError(" ".join(str(error).split())[:200]) from None
    except ValueError as error:
        raise YamlError(str(error), unread=True) from None
    if not documents:
        return None
    if len(documents) > 1:
        raise YamlError("more than one YAML document", documents[1].start_mark.line + 1, unread=True)
    _unique(documents[0])
    return _Tree(source).value(documents[0], False, 0)


def _documents(text: str) -> Iterator[yaml.Node]:
    loader = LOADER(text)
    try:
        while loader.check_node():
            yield loader.get_node()
    finally:
        loader.dispose()


def _line(text: str, number: int) -> str:
    lines = text.splitlines()
    return lines[number] if number < len(lines) else ""


def _unique(root: yaml.Node) -> None:
    """Raises YamlError for a key that stands twice in one mapping."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting.extend(node.value)
        elif isinstance(node, yaml.MappingNode):
            first: dict[str, int] = {}
            for key, value in node.value:
                line = key.start_mark.line + 1
                if not isinstance(key, yaml.ScalarNode):
                    raise YamlError("a key that is no text", line)
                if key.value in first:
                    raise YamlError(
                        f"the key {key.value[:40]!r} stands twice: first in line {first[key.value]}", line
                    )
                first[key.value] = line
                waiting.append(value)


class _Tree:
    """Nodes as Values, with merge keys resolved; no more of them than the limit, however aliases repeat them."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.count = 0

    def value(self, node: yaml.Node, shared: bool, before: int) -> Value:
        """before: the offset of what the node belongs to. An alias gives a node that stands earlier."""
        self.count += 1
        if self.count > LARGEST_TREE:
            raise YamlError("anchors that multiply", unread=True)
        shared = shared or node.start_mark.index < before
        tag = node.tag if node.tag in (RESET, OVERRIDE) else ""
        if isinstance(node, yaml.ScalarNode):
            plain = not node.style  # None of the Python loader, an empty text of the C one
            return Value("scalar", node, self.source, shared, tag, node.value, plain)
        if isinstance(node, yaml.SequenceNode):
            at = node.start_mark.index
            items = tuple(self.value(item, shared, at) for item in node.value)
            return Value("seq", node, self.source, shared, tag, items=items)
        assert isinstance(node, yaml.MappingNode)
        return self.mapping(node, shared, tag)

    def mapping(self, node: yaml.MappingNode, shared: bool, tag: str) -> Value:
        entries: dict[str, Value] = {}
        keys: dict[str, yaml.Node] = {}
        owners: dict[str, yaml.MappingNode] = {}
        for key, value in node.value:
            if key.value != "<<":
                entries[key.value] = self.value(value, shared, key.start_mark.index)
                keys[key.value], owners[key.value] = key, node
        for key, value in node.value:
            if key.value != "<<":
                continue
            merged = value.value if isinstance(value, yaml.SequenceNode) else [value]
            for each in merged:
                if not isinstance(each, yaml.MappingNode):
                    raise YamlError("a merge key of something else than mappings", key.start_mark.line + 1)
                inner = self.value(each, True, key.start_mark.index)
                for name, found in inner.entries.items():
                    if name not in entries:
                        entries[name], keys[name] = found, inner.keys[name]
                        owners[name] = inner.owners[name]
        return Value("map", node, self.source, shared, tag, entries=entries, keys=keys, owners=owners)
