"""A site's books of GPU allocations, against what Docker granted: read only where the desired state names them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpumend.payload.allocations import DS01, DS01_LABELS
from gpumend.state.reading import NONE, Reading, Status
from gpumend.state.request import Glob
from gpumend.state.snapshot import NOT_ASKED, Snapshot
from gpumend.text.record import Record

KEY = "allocations"
SOCKET = "/run/docker.sock"
# Of a unit: programs by their paths that reconcile allocations (ds01: reconcile-gpu-state.sh, cleanup-stale-gpu*.sh,
# validate-state.py).
TIMERS = (
    "/etc/systemd/system/*.service",
    "/usr/local/lib/systemd/system/*.service",
    "/usr/lib/systemd/system/*.service",
    "/lib/systemd/system/*.service",
)
RECONCILER = r"(?m)^[^#\n]{0,300}?(/[\w./@-]{0,200}(?:reconcil|gpu[-_]state|stale[-_]gpu|validate-state)[\w./@-]{0,100})"
SLURM = "/etc/slurm/gres.conf"
SLURM_CONF = "/etc/slurm/slurm.conf"
GRES_LINES = r"(?mi)^[ \t]*((?:AutoDetect=|(?:NodeName=\S+[ \t]+)?Name=gpu\b)[^#\n]{0,500})"
SLURM_LINES = r"(?mi)^[ \t]*(NodeName=[^#\n]{0,1000}|GresTypes=[^#\n]{0,100})"
KUBELET = "/var/lib/kubelet/device-plugins/kubelet_internal_checkpoint"


class Books(Record):
    """What the desired state says of a site's allocations. labels: names of labels that hold slots, UUIDs, the user.
    shape: JSON pointers by what they lead to (gpumend/payload/allocations.py DS01). reconcile: `report` or `release`.
    grace: seconds between two looks. monitors: containers that look at GPUs and hold none. holders: how many containers
    may hold one slot at once."""

    socket: str = SOCKET
    state: str = ""
    metadata: str = ""
    labels: tuple[tuple[str, tuple[str, ...]], ...] = ()
    log: str = ""
    history: tuple[str, ...] = ()
    lock: str = ""
    allocator: tuple[str, ...] = ()
    interactive: bool = False
    shape: tuple[tuple[str, str], ...] = ()
    reconcile: str = "report"
    grace: int = 60
    max_release: int = 8
    monitors: tuple[str, ...] = ()
    holders: int = 1
    bookkeepers: tuple[str, ...] = ()

    @property
    def label_names(self) -> dict[str, tuple[str, ...]]:
        return {**{key: tuple(names) for key, names in DS01_LABELS.items()}, **dict(self.labels)}

    def spec(self) -> dict[str, Any]:
        """What the probe is asked for."""
        logs = ([self.log] if self.log else []) + [path for path in self.history if path != self.log]
        return {
            "socket": self.socket,
            "state": self.state,
            "metadata": self.metadata,
            "history": logs,
            "labels": [name for names in self.label_names.values() for name in names],
            "shape": {**DS01, **dict(self.shape)},
            "pods": "kubelet" in self.bookkeepers,
        }


def books(raw: Mapping[str, Any]) -> Books:
    """Of what the schema has let pass."""
    shape = raw.get("format", "ds01")
    return Books(
        socket=raw.get("socket", SOCKET),
        state=raw.get("state", ""),
        metadata=str(raw.get("metadata", "")).rstrip("/"),
        labels=tuple((key, tuple(names)) for key, names in sorted(raw.get("labels", {}).items())),
        log=raw.get("log", ""),
        history=tuple(raw.get("history", ())),
        lock=raw.get("lock", ""),
        allocator=tuple(raw.get("allocator", ())),
        interactive=raw.get("interactive", False),
        shape=() if isinstance(shape, str) else tuple(sorted(shape.items())),
        reconcile=raw.get("reconcile", "report"),
        grace=raw.get("grace", 60),
        max_release=raw.get("max_release", 8),
        monitors=tuple(raw.get("monitors", ())),
        holders=raw.get("holders", 1),
        bookkeepers=tuple(raw.get("bookkeepers", ())),
    )


def globs(found: Books) -> tuple[Glob, ...]:
    """What is searched besides, for who else reconciles, and for other bookkeepers."""
    more = [Glob(pattern, read=False, search=RECONCILER, limit=1 << 16) for pattern in TIMERS]
    if "slurm" in found.bookkeepers:
        more.append(Glob(SLURM, read=False, search=GRES_LINES))
        more.append(Glob(SLURM_CONF, read=False, search=SLURM_LINES))
    return tuple(more)


def request(raw: Any) -> dict[str, Any]:
    """What is asked of the probe besides, where the desired state has `allocations`; else nothing."""
    if not isinstance(raw, Mapping):
        return {}
    found = books(raw)
    asked: dict[str, Any] = {KEY: found.spec(), "globs": [each.entry() for each in globs(found)]}
    if "kubelet" in found.bookkeepers:
        asked["files"] = [KUBELET]
    return asked


class Allocations(Record):
    """look: one look at books, grants and processes, as gpumend/payload/allocations.py takes it; absent where the desired
    state names none. timers: units that reconcile, with their programs. gres, nodes: lines of Slurm's files; kubelet: its
    device manager's checkpoint, as text. Each absent where it was not asked for."""

    look: Reading[Mapping[str, Any]]
    timers: Mapping[str, tuple[str, ...]] = {}
    gres: Reading[tuple[str, ...]] = NONE
    nodes: Reading[tuple[str, ...]] = NONE
    kubelet: Reading[str] = NONE


def _look(snapshot: Snapshot) -> Reading[Mapping[str, Any]]:
    item = snapshot.answer.get(KEY)
    if item is None:
        return Reading.none("the desired state's allocations", "not asked for")
    if not isinstance(item, dict):
        raise ValueError("allocations is no object")
    if item.get("status") != "ok":
        status = Status.TIMEOUT if item.get("status") == "timeout" else Status.FAILED
        return Reading(status, None, "allocations", str(item.get("error", "")))
    for part in ("docker", "live", "smi", "apps"):
        if not isinstance(item.get(part), dict) or "status" not in item[part]:
            raise ValueError(f"allocations has no {part}")
    return Reading.of(item, "allocations")


def _lines(snapshot: Snapshot, path: str, search: str) -> Reading[tuple[str, ...]]:
    listed = snapshot.glob(path)
    if listed.detail == NOT_ASKED:
        return Reading.none(path, "not asked for")
    if not listed.ok:
        return listed.without_value()
    return snapshot.found(path, search) if listed.value else Reading.none(path, "not there")


def parse(snapshot: Snapshot) -> Allocations:
    look = _look(snapshot)
    if look.absent:
        return Allocations(look)
    timers = {
        path: hits
        for pattern in TIMERS
        for path in snapshot.glob(pattern).value or ()
        if (hits := tuple(dict.fromkeys(snapshot.found(path, RECONCILER).value or ())))
    }
    kubelet = snapshot.text(KUBELET)
    return Allocations(
        look,
        timers,
        _lines(snapshot, SLURM, GRES_LINES),
        _lines(snapshot, SLURM_CONF, SLURM_LINES),
        Reading.none(KUBELET) if kubelet.detail == NOT_ASKED else kubelet,
    )
