"""Fixtures for tests on nodes. Where nodes cannot boot, such tests are skipped; with CI=true they fail."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.nodes import faults, gpu, mirror, scenarios
from tests.nodes.lab import MAX_NODES, Lab, Node, why_not
from tests.nodes.mirror import Key, Signer
from tests.nodes.toolkit import DEFAULT_TOOLKIT

Boot = Callable[..., Node]

# Files that take the longest begin first, so that no worker is left with one at the end: pytest-xdist itself would count
# their tests, not their seconds.
LONGEST = (
    "test_faults.py",
    "test_crash.py",
    "test_dind.py",
    "test_crash_components.py",
    "test_host_faults.py",
    "test_mend.py",
    "test_pods.py",
    "test_containerd.py",
    "test_cuda.py",
    "test_lab.py",
)


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Within a file the order stays."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """A worker of pytest-xdist has ended: its faults are counted here."""
    counted = getattr(node, "workeroutput", {}).get("faults", ({}, {}))
    faults.INJECTED.update(Counter(counted[0]))
    faults.SURVIVED.update(Counter(counted[1]))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["faults"] = (dict(faults.INJECTED), dict(faults.SURVIVED))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The last lines say how many faults were injected and survived."""
    if faults.INJECTED:
        terminalreporter.section("faults")
        terminalreporter.line(faults.summary(faults.INJECTED, faults.SURVIVED))


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """The session's lab; all its nodes are gone at the end."""
    reason = why_not()
    if reason is not None:
        if os.environ.get("CI") == "true":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    with Lab() as made:
        yield made


class _Pool:
    """Nodes by what they were asked to be; the one longest unused makes room for a new one.

    The second node of a kind is copied when it is ready, and all later ones begin with that copy.
    """

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.shared: dict[tuple[str, str | None, str, str], Node] = {}
        self.made: Counter[tuple[str, str, str, str]] = Counter()
        self.disks: dict[tuple[str, str, str, str], Path] = {}

    def room(self) -> None:
        """One more node may boot."""
        if len(self.lab.nodes) < MAX_NODES:
            return
        for asked, node in self.shared.items():
            del self.shared[asked]
            node.stop()
            return

    def new(self, suite: str, scenario: str | None, toolkit: str, driver: str) -> Node:
        """A node of its own."""
        self.room()
        if scenario is None:
            return self.lab.boot(suite)
        wanted = scenarios.SCENARIOS[scenario]
        first = wanted.over or scenario
        kind = (suite, first, toolkit, driver)
        node = self.lab.boot(suite, disk=self.disks.get(kind))
        try:
            if kind not in self.disks:
                scenarios.apply(node, first, toolkit, driver)
                self.made[kind] += 1
                if scenarios.SCENARIOS[first].lasting and self.made[kind] == 2:
                    disk = self.lab.slot.directory / f"disk-{len(self.disks)}"
                    node.save(disk)
                    self.disks[kind] = disk
            if scenario != first:
                scenarios.add(node, scenario, toolkit, driver)
        except BaseException:
            node.stop()
            raise
        return node

    def share(self, suite: str, scenario: str | None, toolkit: str, driver: str) -> Node:
        """The node that was asked for before, or a new one."""
        asked = (suite, scenario, toolkit, driver)
        node = self.shared.pop(asked, None) or self.new(*asked)
        self.shared[asked] = node  # last in the dict: used last
        return node


@pytest.fixture(scope="session")
def _pool(lab: Lab) -> _Pool:
    return _Pool(lab)


@pytest.fixture
def boot(_pool: _Pool) -> Iterator[Boot]:
    """boot(suite, scenario, toolkit, driver): a fresh node in that state, which is gone after the test."""
    made: list[Node] = []

    def new(
        suite: str = "trixie",
        scenario: str | None = "healthy",
        toolkit: str = DEFAULT_TOOLKIT,
        driver: str = gpu.DEFAULT_DRIVER,
    ) -> Node:
        made.append(_pool.new(suite, scenario, toolkit, driver))
        return made[-1]

    yield new
    for node in made:
        node.stop()


@pytest.fixture(scope="module")
def shared_boot(_pool: _Pool) -> Iterator[Boot]:
    """As `boot`, but one node for the same arguments throughout a module: for tests that change nothing."""

    def share(
        suite: str = "trixie",
        scenario: str | None = "healthy",
        toolkit: str = DEFAULT_TOOLKIT,
        driver: str = gpu.DEFAULT_DRIVER,
    ) -> Node:
        return _pool.share(suite, scenario, toolkit, driver)

    yield share
    for node in _pool.shared.values():
        node.stop()
    _pool.shared.clear()


@pytest.fixture(scope="module")
def signer() -> Iterator[Signer]:
    with mirror.signer() as made:
        yield made


@pytest.fixture(scope="module")
def key(signer: Signer) -> Key:
    return signer.key("good")
