"""GM802, GM803: allocations and metadata of containers that are not there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from gpumend.payload import allocations as ledger
from gpumend.rules.allocations.books import DOCS, books_of, first, named, whole_look
from gpumend.rules.change import ReleaseAllocation, SetMetadataAside
from gpumend.rules.finding import Change, Component, Evidence, Finding, Status
from gpumend.rules.rule import Context, rule


def not_now(context: Context, look: dict[str, Any], freed: int, there: int) -> str:
    """Why nothing of a kind is freed by mend, or an empty text. freed: how many would be, of how many."""
    wanted = books_of(context)
    if wanted.reconcile == "report":
        return "allocations.reconcile is `report`"
    if not wanted.lock and (not wanted.allocator or wanted.interactive):
        return "neither the allocator's command nor its lock is named: nothing is written beside a running allocator"
    return "; ".join(ledger.waits(look, wanted.grace)) or ledger.excess(freed, there, wanted.max_release)


@rule(
    "GM802",
    "each allocation has its container",
    "report 003; hertie-data-science-lab/ds01-infra reconcile-gpu-state.sh",
    applies=named,
)
def stale(context: Context) -> Iterator[Finding]:
    look, wanted = whole_look(context), books_of(context)
    entries, found = ledger.entries_of(look), ledger.stale_of(look)
    # While the hardware is not known, so is what anything holds: that is said instead.
    known = not ledger.waits(look, wanted.grace)
    holders = ledger.Holders(look, wanted.monitors)
    held = [holders.why(entry) if known else "" for entry in found]
    why = not_now(context, look, held.count(""), len(entries))
    files: dict[str, list[Any]] = {}
    for file in (look.get("metadata") or {}).get("files", ()):
        files.setdefault(file.get("name", ""), []).append(file)
    told = zip(found, held)
    yield from first([_stale(look, entry, files, each or why) for entry, each in told])


def _stale(look: dict[str, Any], entry: dict[str, str], files: dict[str, list[Any]], refused: str) -> Finding:
    name, slot, state = entry["name"], entry["slot"], look["state"]
    said = look["history"]["last"].get(name)
    metadata = files.get(name, ())
    evidence = [
        Evidence(state["path"], f"slot {slot}: {name}"),
        Evidence("docker ps -a", f"{len(look['docker']['containers'])} containers, none of this name or id"),
        *(
            Evidence(f"{look['metadata']['path']}/{each['file']}", f"slot {each['slot']}")
            for each in metadata
        ),
    ]
    if said:
        evidence.append(Evidence("the site's log", f"{said['time']} {said['act']} {said['slot']}"))
    who = " ".join(filter(None, (entry["user"], f"since {entry['since']}" if entry["since"] else "")))
    return Finding(
        code="GM802",
        status=Status.FAIL,
        summary=f"slot {slot} is held by {name}{f' ({who})' if who else ''}, and there is no such container: the state file "
        "is wrong",
        evidence=tuple(evidence),
        cause="The container was removed without the allocator's knowledge, or its creation failed after its GPU was given.",
        remedy=f'With the site\'s allocator, as `gpu_allocator.py release {name}`; or `allocations.reconcile = "release"` and '
        f"`gpumend reconcile`, twice ({DOCS}).",
        change=None if refused else Change(Component.ALLOCATIONS, ReleaseAllocation(slot, name)),
        refused=refused,
    )


@rule(
    "GM803",
    "each metadata file has its container",
    "report 003; hertie-data-science-lab/ds01-infra container-metadata",
    applies=named,
)
def orphans(context: Context) -> Iterator[Finding]:
    look, wanted = whole_look(context), books_of(context)
    names = {
        str(each["file"]): str(each.get("name")) for each in (look.get("metadata") or {}).get("files", ())
    }
    files = ledger.orphans_of(look)
    kept = _kept(look, wanted.monitors)
    free = [each for each in files if names[each] not in kept]
    why = not_now(context, look, len(free), len(names))
    if wanted.reconcile == "release" and not wanted.lock and not why:
        why = "allocations.lock is not named: nothing of the site's is moved without it"
    yield from first([_orphan(look, each, names[each], kept.get(names[each], "") or why) for each in files])


def _kept(look: dict[str, Any], monitors: Sequence[str]) -> dict[str, str]:
    """Why the state file's entry of a container stays, by its name."""
    holders = ledger.Holders(look, monitors)
    reasons = ((entry["name"], holders.why(entry)) for entry in ledger.stale_of(look))
    return {name: why for name, why in reasons if why}


def _orphan(look: dict[str, Any], file: str, name: str, refused: str) -> Finding:
    path = f"{look['metadata']['path']}/{file}"
    return Finding(
        code="GM803",
        status=Status.WARN,
        summary=f"{path} is about {name}, and there is no such container: the metadata is wrong",
        evidence=(
            Evidence(path, name),
            Evidence(
                "docker ps -a", f"{len(look['docker']['containers'])} containers, none of this name or id"
            ),
        ),
        cause="The container was removed without the allocator's knowledge, or its creation failed.",
        remedy='Move it away; mend with `allocations.reconcile = "release"` keeps it in its run\'s backup.',
        change=None if refused else Change(Component.ALLOCATIONS, SetMetadataAside(file, name)),
        refused=refused,
    )
