"""A YAML text as nodes that know where they stand, with merge keys resolved and every scalar as it is written.

What Compose's own parser (go-yaml v3) refuses is refused: tabs that indent, a key that stands twice, aliases that multiply.
Scalars are texts: PyYAML would read `1:2`, a MIG device, as the number 62.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from gpumend.text.record import Record

if TYPE_CHECKING:
    import yaml

LARGEST = 1 << 20  # bytes: of 419 public compose files the largest has 60 KiB
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
