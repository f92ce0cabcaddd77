"""What a plan is made of: names that hold no meaning, paths that are absolute, kinds of step that say what they do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from gpumend.plan import plan as planning
from gpumend.plan import step as kinds
from gpumend.plan.plan import plan
from gpumend.plan.step import (
    CudaCheck,
    CudaDefault,
    CudaToolkitProof,
    DirectoryTrial,
    DriverPackages,
    DriverProof,
    DropIn,
    EditFile,
    EnableUnits,
    FileStep,
    FuseReady,
    GenerateFile,
    HoldDriver,
    HoldPackages,
    IndexDirectory,
    InstallRunfile,
    ModuleStream,
    NoteCheck,
    PackageStep,
    ReconcileAllocations,
    RemoveFile,
    RenewInitramfs,
    RunCommand,
    SetMode,
    Step,
    ToolkitProof,
    TriggerFile,
    TryRepository,
    WriteFile,
    WrittenByPackage,
)
from gpumend.plan.transaction import Plan
from gpumend.reports.diff import diff
from gpumend.rules.change import RemoveFiles
from gpumend.rules.finding import Change, Component, Finding, Status
from gpumend.rules.judge import judge
from gpumend.rules.rule import Context
from gpumend.rules.wanted import parse as parse_wanted
from gpumend.text.edits import EditError
from tests.unit.build import TODAY, Host, healthy, spec


def planned(host: Host, want: Mapping[str, Any] | None = None) -> Plan:
    """The plan for a host, as audit and mend make it."""
    state, wanted = host.state(), parse_wanted(want or {})
    return plan(Context(state, wanted, "gpu1", TODAY), judge(state, wanted, "gpu1", TODAY).findings)


def paths(found: Plan, component: Component) -> list[str]:
    transaction = found.get(component)
    assert transaction is not None, found.blocked
    return [step.where for step in transaction.steps]


# --- names that hold a colon, or are a kind's name


def test_gm303_a_colon_in_a_files_name_is_part_of_the_name() -> None:
    odd = "/etc/cdi/nvidia:old.yaml"
    found = planned(healthy(toolkit="1.17.8").but(files={odd: spec()}))
    assert paths(found, Component.CDI) == [odd]


def test_gm210_a_colon_in_an_apt_sources_name_is_part_of_the_name() -> None:
    directory, uri = (
        "/etc/apt/sources.list.d",
        "https://nvidia.github.io/libnvidia-container/stable/deb/$(ARCH)",
    )
    odd = f"{directory}/nvidia:old.list"
    found = planned(
        healthy().but(
            files={
                f"{directory}/nvidia-container-toolkit.list": f"deb [signed-by=/k.gpg] {uri} /\n",
                odd: f"deb {uri} /\n",
            }
        )
    )
    assert paths(found, Component.APT) == [odd]


# --- a relative path never reaches a root program

STEPS: list[Step] = [
    WriteFile("/etc/a", None, b"new\n"),
    EditFile("/etc/a", "00", ((0, 1, "new"),), b"old\n", b"new\n"),
    GenerateFile("/etc/a", None, ("nvidia-ctk", "cdi", "generate")),
    TriggerFile("/etc/a", "00", ("systemctl", "restart", "a")),
    RemoveFile("/etc/a", "00"),
    SetMode("/etc/a", "00"),
    DropIn("/etc/a.d/b", "/etc/a", "edge", ("-e", "A=1")),
    DirectoryTrial("/srv/a", 0o710),
    FuseReady(),
    RunCommand(("ldconfig",)),
    PackageStep("apt", "install", ("a=1",), WrittenByPackage("/etc/a", None)),
    PackageStep("apt", "remove", ("a",)),
    IndexDirectory("/var/lib/a/Packages", None, "/srv/a"),
    TryRepository(
        "toolkit", "apt", "https://a/b /", "/etc/apt/sources.list.d/a.sources", "Types: deb\n", "/k.gpg", b"k"
    ),
    ModuleStream("/etc/a", None, b"stream", stream="580-open"),
    DriverPackages("apt", "install", ("a", "b=1"), branch=580, pinning="pin", in_use="idle"),
    RenewInitramfs(first=True),
    EnableUnits(("a.service",)),
    HoldDriver("apt"),
    DriverProof("apt", 580, "", ("a",), "open"),
    InstallRunfile("/srv/a.run", "ab" * 32, "/usr/local/cuda-12.4"),
    HoldPackages(("a",)),
    CudaDefault("/usr/local/cuda-12.4"),
    CudaToolkitProof("12.4", "/usr/local/cuda-12.4", "apt", ("a",), True, False),
    ToolkitProof("apt", "1.17.8"),
    NoteCheck("/usr/local/a", ".note", "550.1"),
    CudaCheck("with", "/usr/local/a", 13000),
    ReconcileAllocations(
        {"state": "/var/lib/a.json", "metadata": ""},
        (("0", "a"),),
        ("a.json",),
        "/run/a",
        "/a.log",
        (),
        (),
        60,
        8,
    ),
]


def test_each_kind_of_step_is_tried_here() -> None:
    found = {kind for kind in vars(kinds).values() if isinstance(kind, type) and issubclass(kind, Step)}
    assert found - {Step, FileStep} == {type(step) for step in STEPS}
    assert len({kind.do for kind in found - {Step, FileStep}}) == len(found) - 2


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.do)
def test_a_step_has_no_relative_path(step: Step) -> None:
    """Every field that holds an absolute path refuses a relative one."""
    paths = {
        field: value
        for field, value in vars(step).items()
        if isinstance(value, str) and value.startswith("/")
    }
    for field, value in paths.items():
        for relative in (value[1:], "", "old.yaml", f"./{value}"):
            if relative == "" and isinstance(step, CudaCheck | ReconcileAllocations):
                continue  # none at all
            with pytest.raises(EditError, match="absolute"):
                replace(step, **{field: relative})  # type: ignore[type-var]


@pytest.mark.parametrize("relative", ["old.yaml", "", "../etc/cdi/nvidia.yaml"])
def test_a_relative_path_is_refused_in_the_plan(relative: str) -> None:
    change = Change(Component.CDI, RemoveFiles((relative,)))
    found = Finding("GM303", Status.FAIL, "two files define a device", change=change)
    made = plan(Context(healthy().state(), parse_wanted({}), "gpu1", TODAY), (found,))
    assert made.transactions == () and "not an absolute path" in made.blocked[Component.CDI]


# --- kinds of step


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.do)
def test_a_step_says_what_it_does_and_is_sent_as_json(step: Step) -> None:
    assert diff(step) and "\n" not in step.describe()
    assert json.loads(json.dumps(step.as_data())) == step.as_data()
    assert step.as_data()["do"] == step.do
    assert step.as_data().get("path", "") == step.where


def test_every_component_has_a_builder() -> None:
    assert list(planning.BUILDERS) == list(Component)
