"""GM220, GM221: releases that are broken by themselves, and versions below those without a known advisory."""

from __future__ import annotations

from collections.abc import Iterator

from gpumend.rules.data import load
from gpumend.rules.finding import Evidence, Finding, Status
from gpumend.rules.rule import Context, has_gpu, has_toolkit, rule
from gpumend.text.record import Record
from gpumend.text.version import Version, parse_version, show

# Packages that are the project's own builds, whose version says which fixes are in it. Distributions carry fixes back: their
# number says nothing.
UPSTREAM = {"docker": ("docker-ce",), "containerd": ("containerd.io",), "runc": ("containerd.io",)}
NAMES = {"toolkit": "the container toolkit", "driver": "driver", "docker": "Docker"}


class Floor(Record):
    """The oldest version of a branch without a known advisory; an empty branch is all of them."""

    component: str
    branch: str
    minimum: Version
    fixes: tuple[str, ...]
    date: str
    source: str


# Each host is judged by these, so they are read with the module.
FLOORS = tuple(
    Floor(
        row["component"],
        row["branch"],
        parse_version(row["minimum"]),
        tuple(row["fixes"]),
        row["date"],
        row["source"],
    )
    for row in load("security_floors")["floors"]
)
BROKEN = tuple((parse_version(row["version"]), row) for row in load("security_floors")["broken_toolkits"])


def floors(component: str, version: Version) -> tuple[Floor, ...]:
    """The rows that a version is below, the newest first; of the branches that of this version alone counts."""
    text = show(version)
    return tuple(
        row
        for row in FLOORS
        if row.component == component
        and version < row.minimum
        and (not row.branch or f"{text}.".startswith(f"{row.branch}."))
    )


def installed(context: Context) -> Iterator[tuple[str, Version, str]]:
    """(component, version, where that is from) of what is judged on this host: the project's own builds."""
    state = context.state
    if state.toolkit.version.value:
        yield "toolkit", state.toolkit.version.value, "nvidia-ctk --version"
    if state.driver.loaded.value and not state.host.wsl2 and not state.host.tegra:
        yield "driver", state.driver.loaded.value, "/proc/driver/nvidia/version"
    packages = state.packages.installed.value or {}
    for component, version, source in (
        ("docker", state.docker.version.value, "dockerd --version"),
        ("containerd", state.containerd.version.value, "containerd --version"),
        ("runc", state.containerd.runc.value, "runc --version"),
    ):
        if version and any(name in packages for name in UPSTREAM[component]):
            yield component, version, source


@rule(
    "GM220",
    "the toolkit is no release that is known to be broken",
    "gpumend/rules/data/security_floors.json: nct#106, nct#108, nct#381 (1.14.0); nct#797 (1.17.0, 1.17.1); nct#1376 (1.18.0); nct PR#1638 (1.19.0)",
    applies=has_toolkit,
)
def broken(context: Context) -> Iterator[Finding]:
    toolkit = context.state.toolkit
    version = toolkit.version.get()
    row = next((row for release, row in BROKEN if version is not None and version[:3] == release), None)
    if row is None or version is None:
        return
    legacy = toolkit.config.known and toolkit.mode() in ("auto", "legacy")
    harms = row["harms"] == "always" or (row["harms"] == "legacy" and legacy)
    yield Finding(
        code="GM220",
        status=Status.WARN if harms else Status.NOTE,
        summary=f"toolkit {show(version)} is a broken release: {row['what']}",
        evidence=(Evidence("nvidia-ctk --version", show(version)),),
        cause=f"Fixed in {row['fixed']} ({row['source']}).",
        remedy=f"Upgrade the toolkit's four packages to {row['fixed']} or newer, in one version.",
        refused="an installed toolkit is not upgraded by mend",
        symptoms=("unsupported IMEX channel value: all", "invalid discovery mode: cdi"),
    )


@rule(
    "GM221",
    "what is installed has no known advisory",
    "gpumend/rules/data/security_floors.json: NVIDIA bulletins 5582, 5616, 5659, 5747, 5821, 5850, 5861; GHSA, OSV",
    applies=has_gpu,
)
def vulnerable(context: Context) -> Iterator[Finding]:
    for component, version, source in installed(context):
        rows = floors(component, version)
        if not rows:
            continue
        fixes = [fix for row in rows for fix in row.fixes]
        name = NAMES.get(component, component)
        yield Finding(
            code="GM221",
            status=Status.NOTE,
            summary=f"{name} {show(version)} is below {show(rows[0].minimum)}"
            + (
                f", which fixes {', '.join(fixes)}"
                if fixes
                else ", the oldest of its branch without a known advisory"
            ),
            evidence=(
                Evidence(source, show(version)),
                *(
                    Evidence(f"{row.source} ({row.date})", f"fixed in {show(row.minimum)}")
                    for row in rows[:4]
                ),
            ),
            cause=f"As of {load('security_floors')['as_of']}.",
            remedy=f"Upgrade to {show(rows[0].minimum)} or newer when it suits"
            + (": a new driver needs a reboot." if component == "driver" else "."),
            refused="what is installed is not upgraded by mend",
        )
