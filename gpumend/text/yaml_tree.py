"""A YAML text read as the nodes of gpumend/text/yaml_nodes.py."""

from __future__ import annotations

from collections.abc import Iterator

import yaml

from gpumend.text.yaml_limits import LOADER, check_yaml
from gpumend.text.yaml_nodes import OVERRIDE, RESET, Source, Value, YamlError

LARGEST_TREE = 50_000  # nodes, each as often as anchors repeat it


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
