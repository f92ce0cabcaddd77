"""The desired state's layers for a host, of pyinfra's data; and what of it is needed before the host is read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from gpumend.rules import wanted as wanted_state
from gpumend.run.record import current
from gpumend.state.host_state import asked_of

if TYPE_CHECKING:
    from pyinfra.api.host import Host

KEY = "gpumend"
MOST = 1024  # different ones that are kept
T = TypeVar("T")


def layers(host: Host) -> list[Mapping[str, Any]]:
    """The wanted state's layers for a host, most general first: the deploy's own, all.py, its groups, itself, --data.

    pyinfra itself would take the nearest whole value; ours merges, so that a group can set one key.
    """
    inventory = host.inventory
    found = [inventory.get_data()]
    found.extend(inventory.get_group_data(group) for group in host.groups)
    found.extend((inventory.get_host_data(host.name), inventory.get_override_data()))
    parts = (layer[key] for layer in found for key in (KEY, wanted_state.HOSTS_KEY) if key in layer)
    return [current(inventory).wanted, *parts]


class Wants(Generic[T]):
    """What is made of a desired state's layers, made once for all hosts that have the same ones: a fleet has few, and checking one
    takes as long as judging by it. make: of the layers; what it raises is raised for each host."""

    def __init__(self, make: Callable[[list[Mapping[str, Any]]], T]) -> None:
        self.make = make
        self.made: dict[bytes, T] = {}

    def of(self, host: Host) -> T:
        parts = layers(host)
        # Of a layer its repr says all: it is texts, numbers, lists and tables, or `make` refuses it.
        key = hashlib.sha256(repr(parts).encode("utf-8", "backslashreplace")).digest()
        if key not in self.made:
            if len(self.made) >= MOST:
                self.made.clear()
            self.made[key] = self.make(parts)
        return self.made[key]


_asked = Wants(
    lambda parts: asked_of(wanted_state.merge(part for part in parts if isinstance(part, Mapping)))
)


def asked(host: Host) -> tuple[bool, str]:
    """What the probe is asked on a host by its desired state (`asked_of`). What else is wrong with that is said where it is
    checked."""
    return _asked.of(host)
