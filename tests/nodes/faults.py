"""What every injected fault has to leave behind, looked at in one way, and the count of them.

After a fault: each file old or new, the daemon runs what it ran before, no lock, every journal readable. After the next
mend: exit 0 or a finding that says why not, nothing left that is interrupted, no file of ours beside a target.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ParamSpec

from rules.finding import Component
from tests.nodes.drive import Ran, Target, mend
from tests.nodes.lab import Lab, Node

P = ParamSpec("P")
LOCK = "/run/gpumend.lock"
INJECTED: Counter[str] = Counter()
SURVIVED: Counter[str] = Counter()

LOOK = r"""
import fcntl, glob, hashlib, json, os, subprocess, sys
found = {"files": {}, "beside": [], "journals": [], "locked": False, "running": None}
for path in sys.argv[1:]:
    found["files"][path] = hashlib.sha256(open(path, "rb").read()).hexdigest() if os.path.isfile(path) else None
    folder = os.path.dirname(path)
    if os.path.isdir(folder):
        found["beside"] += sorted(os.path.join(folder, name) for name in os.listdir(folder) if ".gpumend" in name)
for path in sorted(glob.glob("/var/lib/gpumend/runs/*/*/journal.json")):
    found["journals"].append(json.load(open(path)))
if os.path.exists("/run/gpumend.lock"):
    with open("/run/gpumend.lock") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            found["locked"] = True
try:
    argv = ["docker", "ps", "--format", "{{.Names}}"]
    said = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True, timeout=60)
    found["running"] = sorted(said.stdout.split()) if said.returncode == 0 else None
except (OSError, subprocess.TimeoutExpired):
    pass
print(json.dumps(found))
"""


@contextlib.contextmanager
def fault(kind: str) -> Iterator[None]:
    """One fault of this kind, from its injection to the last check of what it left: survived where the body ends."""
    INJECTED[kind] += 1
    yield
    SURVIVED[kind] += 1


def counted(kind: str) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """A test that is one fault of this kind."""

    def decorate(test: Callable[P, None]) -> Callable[P, None]:
        @functools.wraps(test)
        def wrapped(*arguments: P.args, **named: P.kwargs) -> None:
            with fault(kind):
                test(*arguments, **named)

        return wrapped

    return decorate


def summary(injected: Mapping[str, int], survived: Mapping[str, int]) -> str:
    """The line for people: how many in all, and of each kind."""
    kinds = ", ".join(f"{kind} {survived.get(kind, 0)}/{count}" for kind, count in sorted(injected.items()))
    return f"{sum(injected.values())} faults, {sum(survived.values())} survived: {kinds}"


def sha256(data: bytes | None) -> str | None:
    return None if data is None else hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Sight:
    """A host at one moment. files: SHA-256 by path, None where there is none; running: containers by name, None where
    dockerd does not answer; beside: our files beside those looked at."""

    files: Mapping[str, str | None]
    beside: tuple[str, ...]
    journals: tuple[dict[str, Any], ...]
    locked: bool
    running: tuple[str, ...] | None

    def states(self) -> list[str]:
        return [journal["state"] for journal in self.journals]


def look(node: Node, *paths: str) -> Sight:
    """The host now, in one exec. Raises where a journal cannot be read."""
    found = json.loads(node.run(["python3", "-c", LOOK, *paths]).stdout)
    return Sight(
        files=found["files"],
        beside=tuple(found["beside"]),
        journals=tuple(found["journals"]),
        locked=found["locked"],
        running=None if found["running"] is None else tuple(found["running"]),
    )


@dataclass(frozen=True)
class Before:
    """What a host was before a fault, and what its files would be after the change that is broken off."""

    node: Node
    old: Mapping[str, str | None]
    running: tuple[str, ...] | None
    new: Mapping[str, str | None]

    @classmethod
    def of(cls, node: Node, *paths: str, new: Mapping[str, str | None] | None = None) -> Before:
        seen = look(node, *paths)
        return cls(node, seen.files, seen.running, new or {})

    def check(self, at: str = "") -> Sight:
        """What has to hold right after a fault."""
        seen = look(self.node, *self.old)
        for path, have in seen.files.items():
            allowed = [self.old[path], *([self.new[path]] if path in self.new else [])]
            assert have in allowed, f"{path} is neither old nor new after {at}"
        assert not seen.locked, f"locked after {at}"
        if self.running is not None:
            assert seen.running == self.running, f"dockerd runs {seen.running} after {at}"
        return seen

    def check_next(self, lab: Lab, target: Node | Target, at: str = "") -> Ran:
        """The next mend ends well, or says what is left; nothing of the interrupted run is."""
        ran = mend(lab, target)
        assert "Traceback" not in ran.said, ran.said
        assert ran.rc == 0 or (ran.rc in (1, 3, 4) and ran.codes(self.node)), f"after {at}: {ran.said}"
        seen = look(self.node, *self.old)
        assert seen.beside == (), f"after {at}"
        assert "working" not in seen.states(), f"after {at}"
        assert not seen.locked, f"after {at}"
        if self.running is not None:
            assert seen.running == self.running, f"after {at}"
        return ran


def recovered(ran: Ran, node: Node) -> bool:
    """Whether a mend has put an interrupted run back."""
    return str(Component.RECOVER) in ran.statuses(node)
