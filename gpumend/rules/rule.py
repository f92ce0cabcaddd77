"""What a rule is, and the registry of all of them."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator

from gpumend.rules.finding import Finding
from gpumend.rules.wanted import Wanted
from gpumend.state.host_state import HostState
from gpumend.text.record import Record


class Context(Record):
    """What a rule may know: the host, what is wanted of it, its inventory name, and the controller's date."""

    state: HostState
    wanted: Wanted
    host: str
    today: datetime.date


Check = Callable[[Context], Iterator[Finding]]


class Rule(Record):
    """code: `GM` and three digits. title: what the rule looks at. source: where it comes from.

    applies: whether the host and its wanted state call for it; a rule that does not apply is `skipped`, and what it
    would have needed may stay unread.
    """

    code: str
    title: str
    source: str
    check: Check
    applies: Callable[[Context], bool]


RULES: dict[str, Rule] = {}


def always(_: Context) -> bool:
    return True


def has_gpu(context: Context) -> bool:
    """Whether there is a GPU to judge, or it is not known that there is none."""
    host = context.state.host
    return host.wsl2 or host.tegra or context.state.gpus.possible


def has_toolkit(context: Context) -> bool:
    """Whether there is a GPU, and NVIDIA's container toolkit to judge."""
    return has_gpu(context) and context.state.toolkit.installed


def has_docker(context: Context) -> bool:
    """Whether there is a GPU, and a rootful Docker to judge."""
    docker = context.state.docker
    return has_gpu(context) and docker.installed and not docker.rootless_only


def rule(
    code: str, title: str, source: str, applies: Callable[[Context], bool] = has_gpu
) -> Callable[[Check], Check]:
    """Register a check under its code. Raises ValueError for a code that is taken."""

    def register(check: Check) -> Check:
        if code in RULES:
            raise ValueError(f"two rules have the code {code}")
        RULES[code] = Rule(code, title, source, check, applies)
        return check

    return register
