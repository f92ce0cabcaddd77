"""Nodes for attacks: those of tests/nodes; the last lines say how many attacks were tried and held."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.hostile import attacks
from tests.nodes.conftest import _pool, boot, lab, pytest_configure, shared_boot

__all__ = ["_pool", "boot", "lab", "pytest_configure", "shared_boot"]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """A worker of pytest-xdist has ended: its attacks are counted here."""
    counted = getattr(node, "workeroutput", {}).get("attacks", ({}, {}, ()))
    attacks.TRIED.update(Counter(counted[0]))
    attacks.HELD.update(Counter(counted[1]))
    attacks.SUCCEEDED.extend((by, name) for by, name in counted[2])


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["attacks"] = (dict(attacks.TRIED), dict(attacks.HELD), attacks.SUCCEEDED)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The last lines say how many attacks were tried and held."""
    if attacks.TRIED:
        terminalreporter.section("attacks")
        terminalreporter.line(attacks.summary(attacks.TRIED, attacks.HELD))
        for line in attacks.succeeded(attacks.SUCCEEDED):
            terminalreporter.line(line)
