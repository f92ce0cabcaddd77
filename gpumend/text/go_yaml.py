"""YAML as sigs.k8s.io/yaml takes it, by which engines read CDI specs."""

from __future__ import annotations

import re
from typing import Any

import yaml

from gpumend.text.yaml_limits import LOADER, check_yaml


class Loader(LOADER):  # type: ignore[misc]
    """A key that stands twice is an error, and a date is a text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        self.flatten_mapping(node)
        seen = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if not isinstance(name, (str, int, float, bool)) or name in seen:
                raise ValueError(f'key "{name}" already set in map, or none')
            seen.add(name)
        found: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return found


# go-yaml has no numbers of base 60 (yaml.v2 resolve.go), and PyYAML takes the square of their digits: two specs of 1 MB
# were minutes for the controller.
INT = r"[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|0[0-7_]*|[1-9][0-9_]*)"
FLOAT = r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN)"
Loader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0] not in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(f"(?:{FLOAT})$"), list("-+0123456789."))
Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(f"{INT}$"), list("-+0123456789"))
Loader.add_constructor("tag:yaml.org,2002:timestamp", lambda loader, node: loader.construct_scalar(node))


def load(text: str) -> Any:
    """The first document; None where there is none. Raises ValueError with the reason in one line."""
    try:
        check_yaml(text)
        loader = Loader(text)
        return loader.get_data() if loader.check_data() else None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that is none
        raise ValueError(" ".join(str(error).split())) from None
    except RecursionError:
        raise ValueError("nested too deep") from None
