"""What pyinfra does anew for each host though it is the same for all: once. At 5,000 hosts it was a tenth of an audit's CPU, and grew
with their square. There is no public place for it."""

from __future__ import annotations

from collections import defaultdict
from functools import cache
from typing import Any

from pyinfra.api import connectors
from pyinfra.api import inventory as pyinfra_inventory
from pyinfra.api.host import Host
from pyinfra.api.inventory import Inventory
from pyinfra.api.state import State


class Members(list[Host]):
    """A group while it is made: pyinfra asks of each host whether it is in there, which a list answers by going through all."""

    def __init__(self) -> None:
        super().__init__()
        self.known: set[int] = set()

    def append(self, host: Host) -> None:
        super().append(host)
        self.known.add(id(host))

    def __contains__(self, host: object) -> bool:
        return id(host) in self.known


make_hosts_and_groups = Inventory.make_hosts_and_groups


def with_quick_groups(self: Inventory, names: Any, groups: Any) -> None:
    """As pyinfra's own; its groups are lists again afterwards."""
    self.groups = defaultdict(Members)
    make_hosts_and_groups(self, names, groups)
    self.groups = defaultdict(list, {name: list(members) for name, members in self.groups.items()})


@cache
def longest_name(inventory: Inventory) -> int:
    return max(len(host.name) for host in inventory)


def init(self: Host, state: State) -> None:
    """As pyinfra's own (3.10, api/host.py), which looks for the longest name of all hosts for each."""
    self.state = state
    self.connector = self.connector_cls(state, self)
    self.print_prefix_padding = " " * (longest_name(self.inventory) - len(self.name))


def connectors_once() -> None:
    """pyinfra looks its connectors up once a run. For each host whose name begins with @ it would go through what every installed
    package says of itself, 5 ms and more (pyinfra 3.10, api/inventory.py make_hosts_and_groups)."""
    if not hasattr(connectors.get_all_connectors, "cache_info"):
        connectors.get_all_connectors = cache(connectors.get_all_connectors)
        pyinfra_inventory.get_all_connectors = connectors.get_all_connectors  # type: ignore[attr-defined]


def once_for_all() -> None:
    """Before an inventory is made. One that has begun by then, somebody's own, goes through its groups once."""
    connectors_once()
    Inventory.make_hosts_and_groups = with_quick_groups  # type: ignore[method-assign]
    Host.init = init  # type: ignore[method-assign]
