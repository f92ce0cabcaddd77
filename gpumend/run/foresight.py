"""Whether a host has to be looked at between two transactions of a run: not where what the first one does is known beforehand, and
what is planned after it stays the same by that.

The next transaction then takes along what its plan was made of, and the host looks whether that is still so before it changes
anything (gpumend/payload/change/evidence.py): else it looks at all of itself, and is planned anew.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

from gpumend.plan.needs import OVERLAPPING
from gpumend.plan.step import WriteFile
from gpumend.plan.transaction import Plan, Transaction
from gpumend.plan.wire import digest
from gpumend.rules.finding import Component
from gpumend.state import containerd, crio, docker, grit, podman
from gpumend.state.host_state import request
from gpumend.state.request import Request
from gpumend.state.snapshot import Snapshot
from gpumend.text.digest import sha256

# What of the files that are read changes by itself: the kernel's, what is written at each boot, our own journals.
BY_ITSELF = ("/proc/", "/sys/", "/dev/", "/run/", "/var/lib/gpumend/")
UNIT_PROPERTIES = ("MainPID", "FragmentPath", "DropInPaths")
# What is asked of a daemon: after its restart nobody knows what it would say, until it was asked again.
ASKED: Mapping[Component, Request] = {
    Component.GRIT: grit.REQUEST,
    Component.CONTAINERD: containerd.REQUEST,
    Component.CRIO: crio.REQUEST,
    Component.PODMAN: podman.REQUEST,
    Component.DOCKER: docker.REQUEST,
}


class Kept:
    """A host's answer, in few bytes: it is kept for as long as the host has changes before it."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.packed = zlib.compress(json.dumps(snapshot.answer).encode("ascii"), 1)

    def snapshot(self) -> Snapshot:
        return Snapshot(json.loads(zlib.decompress(self.packed)))


def several(plan: Plan) -> bool:
    """Whether two transactions follow each other here of which neither installs nor restarts anything but its own daemon."""
    planned = [each.component in OVERLAPPING for each in plan.transactions]
    return any(one and other for one, other in zip(planned, planned[1:]))


def following(plan: Plan, which: Component) -> list[Transaction]:
    """What is planned to be done after a component's turn."""
    order = list(Component)
    return [each for each in plan.transactions if order.index(each.component) > order.index(which)]


def after(plan: Plan, which: Component) -> tuple[tuple[str, ...], dict[Component, str]]:
    """The same, as what tells one from another, and what cannot be planned."""
    order = list(Component)
    blocked = {each: why for each, why in plan.blocked.items() if order.index(each) > order.index(which)}
    return tuple(map(digest, following(plan, which))), blocked


def foreseen(
    kept: Kept, plan: Plan, transaction: Transaction, planned: Callable[[Snapshot], Plan]
) -> Kept | None:
    """The host as it will be after this transaction, where nothing else is planned by that than now; None where that is not known, or
    where it is not so: then it has to be looked at. planned: what is planned of a host like this."""
    if transaction.component not in OVERLAPPING:
        return None
    try:
        ahead = written(kept.snapshot(), transaction)
        if ahead is None or after(planned(ahead), transaction.component) != after(
            plan, transaction.component
        ):
            return None
        found = Kept(ahead)
        for each in following(plan, transaction.component):
            evidence(found, each)
    except (
        Exception
    ):  # not all that a plan is made of is known, or the answer is of another shape than the probe's
        return None
    return found


def written(snapshot: Snapshot, transaction: Transaction) -> Snapshot | None:
    """The answer that the host would give once this transaction is done; None where that cannot be told. What its daemon says of
    itself is not known then."""
    files = dict(snapshot.answer.get("files", {}))
    globs = dict(snapshot.answer.get("globs", {}))
    for step in transaction.steps:
        item = files.get(step.where)
        if not isinstance(step, WriteFile) or item is None or item.get("status") not in ("ok", "absent"):
            return None
        if "link" in item or item.get("real") not in (None, step.path) or sha(item) != step.before:
            return None
        new = {} if step.before else {"kind": "file", "mode": 0o644, "uid": 0, "gid": 0}
        data = base64.b64encode(step.data).decode("ascii")
        digest_of = sha256(step.data).hexdigest()
        files[step.path] = {**item, **new, "status": "ok", "data": data, "base64": True, "sha256": digest_of}
        for pattern, found in globs.items():
            if fnmatchcase(step.path, pattern) and step.path not in found.get("paths", ()):
                globs[pattern] = {
                    **found,
                    "status": "ok",
                    "paths": sorted([*found.get("paths", ()), step.path]),
                }
    answer = {**snapshot.answer, "files": files, "globs": globs}
    if transaction.service:
        forget(answer, transaction)
    return Snapshot(answer)


def forget(answer: dict[str, Any], transaction: Transaction) -> None:
    """Nothing is known any more of what the daemon of this transaction said before its restart."""
    asked = ASKED[transaction.component]
    commands = answer.get("commands", {})
    answer["commands"] = {name: item for name, item in commands.items() if name not in asked.commands}
    if transaction.component is Component.DOCKER:
        answer.pop("docker", None)
    units = answer.get("units", {})
    if transaction.service and "units" in units:
        named = transaction.service[0]
        left = {name: found for name, found in units["units"].items() if name != named}
        answer["units"] = {**units, "units": left}


def sha(item: Mapping[str, Any]) -> str | None:
    """SHA-256 of a file's bytes as the probe says it, None where it is not there."""
    return item.get("sha256") if item.get("status") == "ok" else None


@cache
def listed() -> frozenset[str]:
    """The patterns of which all that matches is read, and which nothing but people and programs change."""
    asked = request()["globs"]
    searched = {each["pattern"] for each in asked if not each["read"]}
    read = {each["pattern"] for each in asked if each["read"]} - searched
    return frozenset(pattern for pattern in read if not pattern.startswith(BY_ITSELF))


def evidence(kept: Kept, transaction: Transaction) -> dict[str, Any]:
    """What a plan was made of, and what has to be so still: the files that were read, by their SHA-256 or None, which of them there
    are, and the process and the unit of the daemon that the transaction is about. Raises LookupError or ValueError where that is not
    all known."""
    answer = kept.snapshot().answer
    files = {
        path: sha(item)
        for path, item in answer["files"].items()
        if not path.startswith(BY_ITSELF) and item.get("status") in ("ok", "absent")
    }
    globs = {pattern: list(answer["globs"][pattern].get("paths", ())) for pattern in listed()}
    for pattern in globs:
        if answer["globs"][pattern]["status"] not in ("ok", "absent"):
            raise ValueError(f"what matches {pattern} is not known")
    units = {}
    if transaction.service:
        name = transaction.service[0]
        found = answer["units"]["units"][name]
        units[name] = {key: found[key] for key in UNIT_PROPERTIES}
    return {"files": files, "globs": globs, "units": units}
