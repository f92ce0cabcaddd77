"""What the line of progress says while a host is at work."""

from __future__ import annotations

import pytest

from gpumend.plan.step import InstallRunfile, PackageStep, RunCommand
from gpumend.plan.transaction import Transaction
from gpumend.rules.finding import Component
from gpumend.run.record import Record, longest
from gpumend.run.remote.component import takes_long


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ([], ""),
        ([Record("gpu1", busy="--before")], ""),
        ([Record("gpu1", busy="cdi.spec_current", since=100.0)], ": cdi.spec_current for 42 s"),
        (
            [
                Record("gpu1", busy="docker.daemon_config", since=130.0),
                Record("gpu2", busy="cuda.toolkit", doing="apt install cuda-toolkit-12-4", since=20.0),
            ],
            ": apt install cuda-toolkit-12-4 for 122 s",
        ),
    ],
)
def test_the_longest_at_work_is_told(records: list[Record], said: str) -> None:
    assert longest(records, 142.0) == said


def test_what_takes_long_is_packages_and_runfiles() -> None:
    steps = (
        PackageStep("apt", "install", ("a",)),
        RunCommand(("ldconfig",)),
        InstallRunfile("/a.run", "00", "/b"),
    )
    said = takes_long(Transaction(Component.CUDA_TOOLKIT, ("GM610",), steps))
    assert said == "apt install a, /a.run (SHA-256 00...) --silent --toolkit --toolkitpath=/b"
    assert takes_long(Transaction(Component.CUDA, ("GM602",), (RunCommand(("ldconfig",)),))) == ""
