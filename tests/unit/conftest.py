"""How much the property tests try (few by default; `make fuzz` sets GPUMEND_FUZZ_EXAMPLES to 2000), and how much they did.

Every property test has the marker `fuzz` by itself. What was really tried is counted where the property's own body runs:
examples that a strategy or `assume` dropped are not among it.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.errors import UnsatisfiedAssumption

COUNT = "fuzz-examples"

settings.register_profile(
    "gpumend",
    max_examples=int(os.environ.get("GPUMEND_FUZZ_EXAMPLES", "30")),
    deadline=None,
    derandomize="GPUMEND_FUZZ_EXAMPLES"
    not in os.environ,  # CI judges a change, `make fuzz` looks for what is new
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("gpumend")

_tried: dict[str, tuple[int, bool]] = {}  # by test: examples, and whether it passed


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fuzz: a property, tried on many generated inputs")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
            item.add_marker(pytest.mark.fuzz)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Counts the examples of a property. Hypothesis calls `hypothesis.inner_test` for each (its documented handle)."""
    handle: Any = getattr(getattr(item, "obj", None), "hypothesis", None)
    if handle is None:
        return (yield)
    inner, count = handle.inner_test, 0

    @functools.wraps(inner)
    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        try:
            found = inner(*args, **kwargs)
        except UnsatisfiedAssumption:
            raise
        except BaseException:
            count += 1
            raise
        count += 1
        return found

    handle.inner_test = counted
    try:
        return (yield)
    finally:
        handle.inner_test = inner
        item.user_properties.append((COUNT, count))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Under xdist the reports of all workers come by here, in the process that prints."""
    for name, count in report.user_properties:
        if name == COUNT and report.when == "call":
            _tried[report.nodeid] = (int(str(count)), report.passed)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if not _tried:
        return
    failures = sum(not passed for _, passed in _tried.values())
    total = sum(count for count, _ in _tried.values())
    terminalreporter.section("properties")
    if config.getoption("markexpr") == "fuzz" or failures:
        for name, (count, passed) in sorted(_tried.items()):
            terminalreporter.line(f"{count:7}  {'passed' if passed else 'FAILED'}  {name.rpartition('/')[2]}")
    terminalreporter.line(f"{len(_tried)} properties, {total} examples, {failures} failures")
