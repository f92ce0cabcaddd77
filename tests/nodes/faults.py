"""What every injected fault has to leave behind, looked at in one way, and the count of them.

After a fault: each file old or new, the daemon runs what it ran before, no lock, every journal readable. After the next
mend: exit 0 or a finding that says why not, nothing left that is interrupted, no file of ours beside a target.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ParamSpec

from gpumend.rules.finding import Component
from gpumend.state.docker import DAEMON_JSON
from tests.nodes.drive import Ran, Target, mend
from tests.nodes.lab import Lab, Node
from tests.nodes.scenarios import SPEC
from tests.nodes.toolkit import CONFIG

P = ParamSpec("P")
LOCK = "/run/gpumend.lock"
PATHS = (DAEMON_JSON, CONFIG, SPEC)
STATES = {"working", "done", "put_back", "broken"}  # of a journal
INJECTED: Counter[str] = Counter()
SURVIVED: Counter[str] = Counter()

# Runs on a node: by itself, and within the driver of tests/nodes/crashes.py. It changes nothing, and asks a dockerd that
# is about to start or to stop only once it has done so.
SIGHT = r"""
import fcntl, glob, hashlib, http.client, json, os, socket, stat, subprocess, sys, time

class Docker(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect("/run/docker.sock")

def is_settled(unit):
    end = time.monotonic() + 60
    while True:
        argv = ["systemctl", "show", "-p", "ActiveState", "-p", "Job", unit]
        said = subprocess.run(argv, stdout=subprocess.PIPE, universal_newlines=True).stdout
        shown = dict(line.partition("=")[::2] for line in said.splitlines())
        state, job = shown.get("ActiveState"), shown.get("Job", "0")  # between stop and start a restart is `inactive`
        if state in ("active", "failed", "inactive") and job in ("", "0") or time.monotonic() > end:
            return state
        time.sleep(0.05)

def containers_now():
    if is_settled("docker.service") != "active":
        return None
    try:
        docker = Docker("localhost")
        docker.request("GET", "/containers/json")
        return sorted(entry["Names"][0].lstrip("/") for entry in json.loads(docker.getresponse().read().decode()))
    except (OSError, ValueError):
        return None

def digest(path):
    with open(path, "rb") as handle:
        return hashlib.sha256(handle.read()).hexdigest()

def sight(paths, tops=()):
    found = {"files": {}, "beside": [], "journals": [], "locked": False}
    for path in paths:
        found["files"][path] = digest(path) if os.path.isfile(path) else None
        directory = os.path.dirname(path)
        if os.path.isdir(directory):
            found["beside"] += [os.path.join(directory, name) for name in sorted(os.listdir(directory)) if ".gpumend" in name]
    for top in tops:
        for directory, directories, files in os.walk(top):
            for name in directories + files:
                path = os.path.join(directory, name)
                if ".gpumend" in name:
                    found["beside"].append(path)
                elif name in directories:
                    found["files"][path] = "directory"
                elif os.path.isfile(path) and not os.path.islink(path):
                    found["files"][path] = "%s %o" % (digest(path), os.stat(path).st_mode)
    for path in sorted(glob.glob("/var/lib/gpumend/runs/*/*/journal.json")):
        with open(path) as handle:
            found["journals"].append(json.load(handle))
    if os.path.exists("/run/gpumend.lock"):
        with open("/run/gpumend.lock") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                found["locked"] = True
    found["running"] = containers_now()
    return found
"""


@contextlib.contextmanager
def fault(kind: str) -> Iterator[None]:
    """One fault of this kind, from its injection to the last check of what it left: survived where the body ends."""
    INJECTED[kind] += 1
    yield
    SURVIVED[kind] += 1


@contextlib.contextmanager
def healed(
    kind: str,
    lab: Lab,
    target: Node | Target,
    heal: Callable[[], object] = lambda: None,
    plans: Sequence[Mapping[str, Any]] = (),
) -> Iterator[None]:
    """One fault on a host: the body injects it and looks at what is special of it. Then what has to hold after each is
    looked at, `heal` takes the fault away, and the next mend ends with exit 0. plans: transactions whose files may be
    made by then."""
    node = target.node if isinstance(target, Target) else target
    with fault(kind):
        before = Before.of(node, *PATHS).would_be(*plans)
        yield
        before.check(kind)
        heal()
        ran = before.check_next(lab, target, kind)
        assert ran.rc == 0, f"after {kind}: {ran.said}"


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
    dockerd does not run; beside: our files beside those looked at."""

    files: Mapping[str, str | None]
    beside: tuple[str, ...]
    journals: tuple[dict[str, Any], ...]
    locked: bool
    running: tuple[str, ...] | None

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Sight:
        """What `sight` said on a node."""
        running = found["running"]
        return cls(
            files=found["files"],
            beside=tuple(found["beside"]),
            journals=tuple(found["journals"]),
            locked=found["locked"],
            running=None if running is None else tuple(running),
        )

    def states(self) -> list[str]:
        return [journal["state"] for journal in self.journals]


def look(node: Node, *paths: str) -> Sight:
    """The host now, in one exec. Raises where a journal cannot be read."""
    done = node.run(["python3", "-I", "-S", "-c", f"{SIGHT}\nprint(json.dumps(sight(sys.argv[1:])))", *paths])
    return Sight.of(json.loads(done.stdout))


@dataclass(frozen=True)
class Before:
    """What a host was before a fault, and what its files would be after the change that is broken off. running: None
    where it is not to be looked at."""

    node: Node
    old: Mapping[str, str | None]
    running: tuple[str, ...] | None
    new: Mapping[str, str | None]

    @classmethod
    def of(cls, node: Node, *paths: str, new: Mapping[str, str | None] | None = None) -> Before:
        seen = look(node, *paths)
        return cls(node, seen.files, seen.running, new or {})

    def would_be(self, *plans: Mapping[str, Any]) -> Before:
        """As this, and files may be what these transactions write, too."""
        new = {path: written(plan)[path] for plan in plans for path in written(plan)}
        return replace(self, new={**self.new, **new})

    def check(self, at: str = "") -> Sight:
        """What has to hold right after a fault, of the host as it is now."""
        seen = look(self.node, *self.old)
        self.verify(seen, at)
        return seen

    def verify(self, seen: Sight, at: str = "") -> None:
        """What has to hold right after a fault. A directory may be there or not: no program reads one that is empty."""
        for path in {*self.old, *self.new, *seen.files}:
            old, have = self.old.get(path), seen.files.get(path)
            if "directory" in (old, have):
                continue
            assert have in (old, self.new.get(path, old)), f"{path} is neither old nor new after {at}"
        assert not seen.locked, f"locked after {at}"
        assert set(seen.states()) <= STATES, f"{seen.states()} after {at}"
        if self.running is not None:
            assert seen.running == self.running, f"dockerd runs {seen.running} after {at}"

    def check_next(self, lab: Lab, target: Node | Target, at: str = "") -> Ran:
        """The next mend ends well, or says what is left; nothing of the interrupted run is."""
        ran = mend(lab, target)
        self.check_ran(ran, at)
        return ran

    def check_ran(self, ran: Ran, at: str = "") -> None:
        """A mend that came after the fault ended so."""
        assert "Traceback" not in ran.said, ran.said
        assert ran.rc == 0 or (ran.rc in (1, 3, 4) and ran.codes(self.node)), f"after {at}: {ran.said}"
        seen = look(self.node, *self.old)
        assert seen.beside == (), f"after {at}"
        assert "working" not in seen.states(), f"after {at}"
        assert not seen.locked, f"after {at}"
        if self.running is not None:
            assert seen.running == self.running, f"after {at}"


def written(plan: Mapping[str, Any]) -> dict[str, str | None]:
    """The files that a transaction, as the program's data, writes with bytes that are known before: their SHA-256."""
    steps: Sequence[Mapping[str, Any]] = plan["steps"]
    return {step["path"]: sha256(base64.b64decode(step["data"])) for step in steps if step["do"] == "write"}


def recovered(ran: Ran, node: Node) -> bool:
    """Whether a mend has put an interrupted run back."""
    return str(Component.RECOVER) in ran.statuses(node)
