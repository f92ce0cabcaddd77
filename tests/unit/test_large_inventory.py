"""What pyinfra makes of an inventory is what it makes by itself, and the work a host is the same however many there are."""

from __future__ import annotations

from typing import Any

import pytest
from pyinfra.api import Config, State
from pyinfra.api.host import Host
from pyinfra.api.inventory import Inventory

from gpumend.deploy.large_inventory import once_for_all


@pytest.fixture
def as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """pyinfra's own are put back afterwards."""
    monkeypatch.setattr(Inventory, "make_hosts_and_groups", Inventory.make_hosts_and_groups)
    monkeypatch.setattr(Host, "init", Host.init)


def made(count: int) -> State:
    names = [f"host{number}" for number in range(count)]
    twice = [*names[:2], (names[0], {"rack": 4})]  # a host that a group names twice
    inventory = Inventory((names, {}), {}, even=(names[::2], {"rack": 2}), some=(twice, {}), none=([], {}))
    return State(inventory, Config())


def told(state: State) -> list[Any]:
    groups = {name: [host.name for host in members] for name, members in state.inventory.groups.items()}
    kinds = {type(members) for members in state.inventory.groups.values()}
    hosts = [
        (host.name, host.groups, host.data.get("rack"), sorted(vars(host)), host.print_prefix)
        for host in state.inventory
    ]
    return [groups, kinds, hosts, {type(host.connector) for host in state.inventory}]


def test_an_inventory_is_what_pyinfra_makes_of_it(as_it_was: None) -> None:
    theirs = told(made(12))
    once_for_all()
    assert told(made(12)) == theirs
    assert theirs[0]["some"] == ["host0", "host1"]


def test_no_host_is_compared_with_all_others(as_it_was: None, monkeypatch: pytest.MonkeyPatch) -> None:
    done = {"compared": 0, "gone through": 0}
    through = Inventory.__iter__

    def compared(self: Host, other: object) -> bool:
        done["compared"] += 1
        return self is other

    def gone(self: Inventory) -> Any:
        done["gone through"] += 1
        return through(self)

    monkeypatch.setattr(Host, "__eq__", compared)
    monkeypatch.setattr(Inventory, "__iter__", gone)
    counts = []
    for prepare, count in ((lambda: None, 10), (once_for_all, 10), (once_for_all, 40)):
        prepare()
        done.update(dict.fromkeys(done, 0))
        made(count)
        counts.append(dict(done))
    own, few, many = counts
    assert own["compared"] > few["compared"] == many["compared"]
    assert own["gone through"] > few["gone through"] == many["gone through"]
