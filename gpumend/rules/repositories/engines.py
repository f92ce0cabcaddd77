"""GM233: the wanted container engine is there. One that is there stays, whichever it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gpumend.rules.change import InstallEngine
from gpumend.rules.data import load
from gpumend.rules.finding import Change, Component, Evidence, Finding, Status
from gpumend.rules.rule import Context, rule

# Of a kind are those whose containers one daemon runs.
PACKAGES = {
    "dockerd": ("docker.io", "docker-ce", "moby-engine", "docker"),
    "containerd": ("containerd", "containerd.io"),
    "podman": ("podman",),
}


def row_of(context: Context) -> Mapping[str, Any] | None:
    """The table's row for the wanted engine and this host's package manager."""
    engines = load("repositories")["engines"]
    key = (context.wanted.engine, context.state.packages.manager)
    return next((row for row in engines if (row["engine"], row["manager"]) == key), None)


def there(context: Context, program: str) -> bool:
    """Whether an engine of that kind is on the host, by a package or without one. Raises Unread."""
    state = context.state
    by_package = set(PACKAGES[program]) & set(state.packages.installed.get() or {})
    found = {
        "dockerd": state.docker.installed,
        "containerd": not state.containerd.version.absent,
        "podman": not state.podman.version.absent,
    }
    return bool(by_package) or found[program]


@rule(
    "GM233",
    "the wanted container engine is there",
    "gpumend/rules/data/repositories.json; Docker Engine, Install on Debian: docker-ce conflicts with docker.io, containerd, runc",
    applies=lambda context: bool(context.wanted.engine),
)
def engine(context: Context) -> Iterator[Finding]:
    wanted, manager = context.wanted.engine, context.state.packages.manager
    row = row_of(context)
    programs = {"docker.io": "dockerd", "docker-ce": "dockerd"}
    if there(context, programs.get(wanted, wanted)):
        return
    targets: tuple[str, ...] = ()
    by_hand = ""
    if row is None:
        refused = f"the table has no packages of {wanted} for {manager or 'this host'}"
        by_hand = f"Install {wanted} as its own documentation says."
    else:
        targets, refused, by_hand = targets_of(context, row)
    yield Finding(
        code="GM233",
        status=Status.FAIL,
        summary=f"{wanted} is wanted, and this host has no engine of its kind",
        evidence=(Evidence("dpkg, rpm", f"none of {', '.join(row['packages'] if row else (wanted,))}"),),
        remedy=by_hand
        or f"Mend asks {manager} to install {', '.join(targets)}, if that touches no driver package and removes nothing; then it asks the engine.",
        change=None
        if refused or row is None
        else Change(Component.ENGINE, InstallEngine(targets, tuple(row["proof"]))),
        refused=refused,
        symptoms=("docker: command not found",),
    )


def targets_of(context: Context, row: Mapping[str, Any]) -> tuple[tuple[str, ...], str, str]:
    """(packages, why they cannot be had, what a person does then). Raises Unread."""
    names = tuple(row["packages"])
    if row["manager"] != "apt" or not context.state.repositories.offers.ok:
        return names, "", ""
    offers = context.state.repositories.offers.need()
    missing = [name for name in names if name not in offers]
    pending = bool(context.wanted.repositories)  # what they have is known once they are there
    if missing and not pending:
        where = f"Have repositories.{row['repository']}" if row["repository"] else "Have a repository"
        return names, f"no repository of this host has {', '.join(missing)}", f"{where} in the desired state."
    return names + tuple(name for name in row["besides"] if name in offers), "", ""
