"""Limits of YAML, as of the other texts in gpumend/text/limits.py. Who imports this loads PyYAML, which costs as much CPU time as
starting Python does: only where there is YAML that gpumend/text/plain_yaml.py does not read.
"""

from __future__ import annotations

from typing import Any

import yaml

from gpumend.text.pattern import Pattern

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the compiled one, where it is

# PyYAML's C composer calls itself for each level, and the process ends by SIGSEGV at some ten thousand (measured, 6.0.3). No
# spec has more than ten.
MAX_DEPTH = 100
# A spec for 8 GPUs with 7 MIG instances each has 3,000 nodes; PyYAML makes some 100,000 a second.
MAX_NODES = 100_000
# A text that can be neither nested deep nor has aliases need not be looked at twice.
FLOW, INDENTED = Pattern(r"[\[{]"), Pattern(r"(?m)^[ \t?:-]{50}")


def check_yaml(text: str) -> None:
    """Raises ValueError (of PyYAML or this) for a first document that is nested too deep, has an anchor that holds itself,
    more aliases than go-yaml lets pass, or more nodes than anybody writes."""
    # Each node but the first comes after one of these.
    if sum(text.count(mark) for mark in "\n,:[{?") > MAX_NODES and _nodes(text) > MAX_NODES:
        raise ValueError(f"more than {MAX_NODES} nodes")
    if "&" not in text and len(FLOW.findall(text)) < MAX_DEPTH // 2 and not INDENTED.search(text):
        return
    sizes: dict[str, int] = {}  # nodes that each anchor stands for
    inside: list[
        tuple[str | None, int]
    ] = []  # of each open collection its anchor, and how many nodes came before it
    decoded = aliased = 0
    for event in yaml.parse(text, Loader=LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            inside.append((event.anchor, decoded))
            decoded += 1
            if len(inside) > MAX_DEPTH:
                raise ValueError("nested too deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = inside.pop()
            if anchor is not None:
                sizes[anchor] = decoded - before
        elif isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in inside):
                raise ValueError(f"anchor '{event.anchor}' value contains itself")
            size = sizes.get(str(event.anchor), 1)
            decoded, aliased = decoded + size, aliased + size
        elif isinstance(event, yaml.ScalarEvent):
            decoded += 1
            if event.anchor is not None:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.DocumentEndEvent):
            break
        if aliased > 100 and decoded > 1000 and aliased / decoded > _allowed(decoded):
            raise ValueError("document contains excessive aliasing")


def _nodes(text: str) -> int:
    """How many nodes the text has, counted no further than the limit."""
    count = 0
    for event in yaml.parse(text, Loader=LOADER):
        count += isinstance(event, yaml.NodeEvent)
        if count > MAX_NODES:
            break
    return count


def _allowed(decoded: int) -> float:
    """The share of aliased nodes that go-yaml lets pass (go-yaml v2.4 decode.go allowedAliasRatio)."""
    if decoded <= 400_000:
        return 0.99
    return 0.10 if decoded >= 4_000_000 else 0.99 - 0.89 * (decoded - 400_000) / 3_600_000
