"""The desired state's layers for a host, of pyinfra's data; and what of it is needed before the host is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gpumend.rules import wanted as wanted_state
from gpumend.run.record import current
from gpumend.state.host_state import asked_of

if TYPE_CHECKING:
    from pyinfra.api.host import Host

KEY = "gpumend"


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


def asked(host: Host) -> tuple[bool, str]:
    """What the probe is asked on a host by its desired state (`asked_of`). What else is wrong with that is said where it is
    checked."""
    return asked_of(wanted_state.merge(part for part in layers(host) if isinstance(part, Mapping)))
