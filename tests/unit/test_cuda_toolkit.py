"""GM610, GM611, GM612: which packages a wanted toolkit is, what holds it back, what is planned."""

from __future__ import annotations

from typing import Any

import pytest

from gpumend.payload.change.packaging import METAPACKAGE, objection
from gpumend.plan.plan import plan
from gpumend.rules.cuda.install import PULLS_A_DRIVER
from gpumend.rules.finding import Component
from gpumend.rules.rule import Context
from gpumend.rules.wanted import parse as parse_wanted
from tests.unit.build import TODAY, Host, a_directory, file, findings, healthy, outcome, program, the, verdict

SHA = "ab" * 32
RUNFILE = {"file": "/srv/cuda_12.4.1_550.54.15_linux.run", "sha256": SHA}
TREE = "/usr/local/cuda-12.4"
VERSION_JSON = '{"cuda": {"name": "CUDA SDK", "version": "12.4.1"}}'


def host(*packages: str, held: tuple[str, ...] = (), files: dict[str, Any] | None = None) -> Host:
    """A healthy one with apt and these packages (NAME or NAME=VERSION)."""
    rows = [package.partition("=") for package in packages]
    lines = [
        f"{'hi' if name in held else 'ii'} \t{name}\t{version or '12.4.1-1'}" for name, _, version in rows
    ]
    dpkg = healthy().commands["dpkg"][1]
    return healthy().but(
        programs={"apt-get": program("/usr/bin/apt-get")},
        commands={"dpkg": (0, dpkg + "".join(f"{line}\n" for line in lines), "")},
        files=files or {},
    )


def steps(found: Host, **wanted: Any) -> list[str]:
    raw = {"cuda_toolkit": {"version": "12.4", **wanted}}
    seen = verdict(found, raw)
    context = Context(found.state(), parse_wanted(raw), "gpu1", TODAY)
    made = plan(context, seen.findings).get(Component.CUDA_TOOLKIT)
    return [step.describe() for step in made.steps] if made else []


@pytest.mark.parametrize(
    ("wanted", "targets"),
    [
        ({}, "cuda-libraries-12-4"),
        ({"flavour": "libraries-dev"}, "cuda-libraries-dev-12-4 cuda-cudart-dev-12-4"),
        ({"flavour": "build"}, "cuda-minimal-build-12-4 cuda-libraries-dev-12-4"),
        ({"flavour": "toolkit", "cupti": "dev"}, "cuda-toolkit-12-4"),
        ({"cupti": "runtime"}, "cuda-libraries-12-4 cuda-cupti-12-4"),
        ({"cupti": "dev"}, "cuda-libraries-12-4 cuda-cupti-12-4 cuda-cupti-dev-12-4"),
        ({"pin": "12.4.1-1", "cupti": "runtime"}, "cuda-libraries-12-4=12.4.1-1 cuda-cupti-12-4"),
    ],
)
def test_the_packages_of_each_flavour(wanted: dict[str, Any], targets: str) -> None:
    assert steps(host(), **wanted)[0] == f"apt install {targets}"


@pytest.mark.parametrize(
    ("packages", "held", "wanted", "expected"),
    [
        (("cuda-libraries-12-4",), (), {}, "ok"),
        (("cuda-libraries-12-4",), (), {"pin": "12.4.1"}, "ok"),
        (("cuda-libraries-12-4",), (), {"pin": "12.4.0-1"}, "warn"),
        (("cuda-libraries-12-4",), (), {"hold": True}, "warn"),
        (("cuda-libraries-12-4",), ("cuda-libraries-12-4",), {"hold": True}, "ok"),
        (("cuda-libraries-12-4",), (), {"default": True}, "warn"),
        (("cuda-libraries-12-4",), (), {"flavour": "build"}, "fail"),
        (("cuda-libraries-12-6",), (), {}, "fail"),
    ],
)
def test_what_is_there_is_enough_or_not(
    packages: tuple[str, ...], held: tuple[str, ...], wanted: dict[str, Any], expected: str
) -> None:
    raw = {"cuda_toolkit": {"version": "12-4", **wanted}}
    assert outcome(host(*packages, held=held), "GM610", raw) == expected


def test_nothing_is_judged_that_nobody_wants() -> None:
    assert findings(host(), "GM610") == []


def test_a_pin_below_what_is_there_is_a_downgrade() -> None:
    [first, *_] = steps(host("cuda-libraries-12-4=12.4.2-1"), pin="12.4.1-1")
    assert first == "apt downgrade cuda-libraries-12-4=12.4.1-1"


@pytest.mark.parametrize(
    ("files", "packages", "wanted", "words"),
    [
        ({f"{TREE}/bin/nvcc": file()}, (), {}, "no package owns it"),
        ({f"{TREE}/bin/nvcc": file(), f"{TREE}/bin/cuda-uninstaller": file()}, (), {}, "the runfile has"),
        ({}, (), {"method": "zypper"}, "mend installs with apt, dnf and zypper only"),
        ({}, (), {"method": "dnf"}, "mend installs with apt, dnf and zypper only"),
        ({}, (), {"method": "runfile"}, "no runfile is named"),
        ({}, (), {"method": "runfile", "runfile": RUNFILE}, "a runfile has the whole toolkit alone"),
        (
            {f"{TREE}/version.json": file(VERSION_JSON)},
            ("cuda-libraries-12-4",),
            {"method": "runfile", "runfile": RUNFILE, "flavour": "toolkit"},
            "packages have",
        ),
        (
            {f"{TREE}/version.json": file(VERSION_JSON)},
            (),
            {"method": "runfile", "runfile": RUNFILE, "flavour": "toolkit"},
            "is not CUDA 12.4 whole",
        ),
    ],
)
def test_held_back(
    files: dict[str, Any], packages: tuple[str, ...], wanted: dict[str, Any], words: str
) -> None:
    found = the(with_tree(*packages, files=files), "GM610", {"cuda_toolkit": {"version": "12.4", **wanted}})
    assert found.change is None and words in found.refused, found


def with_tree(*packages: str, files: dict[str, Any]) -> Host:
    return host(*packages, files={**({TREE: a_directory()} if files else {}), **files})


def test_a_runfile_is_run_and_then_wanted_no_more() -> None:
    wanted = {"method": "runfile", "runfile": RUNFILE, "flavour": "toolkit", "default": True}
    first, link, _ = steps(host(), **wanted)
    assert (
        first.endswith(f"--silent --toolkit --toolkitpath={TREE}")
        and link == f"/usr/local/cuda leads to {TREE}"
    )
    files = {f"{TREE}/{name}": file() for name in ("bin/nvcc", "bin/cuda-uninstaller")}
    files[f"{TREE}/version.json"] = file(VERSION_JSON)
    there = with_tree(files=files)
    del wanted["default"]
    assert steps(there, **wanted) == []
    assert [found.code for found in findings(there, "GM612")] == ["GM612"]
    assert findings(there, "GM612", {"cuda_toolkit": {"version": "12.4", **wanted}}) == [], "it is wanted so"


@pytest.mark.parametrize(
    "name", ["cuda", "cuda-12", "cuda-12-4", "cuda-runtime-12-4", "cuda-drivers", "cuda-drivers-550"]
)
@pytest.mark.parametrize("named", [True, False])
def test_what_pulls_a_driver_is_refused_by_name(name: str, named: bool) -> None:
    names = [name] if named else ["cuda-toolkit-12-4"]
    assert name in objection([("install", name, "12.4.1-1")], "install", names)
    assert objection([("install", "cuda-toolkit-12-4", "12.4.1-1")], "install", ["cuda-toolkit-12-4"]) == ""


@pytest.mark.parametrize(
    ("packages", "noted"),
    [(("cuda-12-4",), ["GM611"]), (("cuda-runtime-12-4", "cuda"), ["GM611"]), (("cuda-toolkit-12-4",), [])],
)
def test_metapackages_with_a_driver_are_told(packages: tuple[str, ...], noted: list[str]) -> None:
    assert [found.code for found in findings(host(*packages), "GM611")] == noted


def test_the_host_refuses_what_the_rule_names() -> None:
    assert METAPACKAGE.pattern == PULLS_A_DRIVER.pattern
