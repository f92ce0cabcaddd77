"""Books of 10,000 containers, as ds01 keeps them: `python -m tests.bench.allocations` says what a look at them costs, and judging it."""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpumend.payload.allocations import entries_of
from gpumend.payload.probe.allocations import ledger
from gpumend.rules import judge  # noqa: F401 - registers every rule
from gpumend.rules.rule import RULES, Context
from gpumend.rules.wanted import parse
from gpumend.state.allocations import books
from tests.unit.build import TODAY, state
from tests.unit.ledger import WANTED, docker, granted, host, said

COUNT = 10_000
SLOTS = 56  # eight GPUs of seven MIG devices


def lay_books(directory: Path) -> dict[str, Any]:
    """A state file and metadata below a directory; what the desired state says of them."""
    metadata = directory / "container-metadata"
    metadata.mkdir()
    gpus: dict[str, Any] = {}
    for number in range(COUNT):
        slot = f"{number % SLOTS // 7}.{number % 7}"
        name, user = f"train-{number:05}._.{1000 + number % 200}", f"user{number % 200}"
        found = gpus.setdefault(slot, {"type": "mig_instance", "containers": [], "users": {}})
        found["containers"].append(name)
        found["users"][user] = found["users"].get(user, 0) + 1
        told = {
            "container": name,
            "user": user,
            "gpu_id": slot,
            "priority": 10,
            "allocated_at": "2026-11-23T04:29:58.673986",
        }
        (metadata / f"{name}.json").write_text(json.dumps(told, indent=2))
    (directory / "gpu-state.json").write_text(json.dumps({"gpus": gpus, "mig_enabled": True}, indent=2))
    return {"state": str(directory / "gpu-state.json"), "metadata": str(metadata)}


def main() -> None:
    with tempfile.TemporaryDirectory(dir="/var/lib") as directory:
        spec = books(lay_books(Path(directory))).spec()
        before = resource.getrusage(resource.RUSAGE_SELF)
        look = ledger(spec, {"status": "ok", "processes": []}, 1)
        after = resource.getrusage(resource.RUSAGE_SELF)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    sys.stdout.write(
        f"{len(entries_of(look))} entries: {seconds:.2f} s of CPU, {after.ru_maxrss / 1024:.0f} MB\n"
    )
    names = sorted(entry["name"] for entry in entries_of(look))
    for what, there in (("each with its container", names), ("eight with a container", names[:8])):
        judging = judged_in(look, there)
        sys.stdout.write(f"judged, {what}: {judging:.2f} s of CPU\n")


def judged_in(look: dict[str, Any], names: list[str]) -> float:
    """CPU seconds of the rules about allocations, where these containers run, each on the slot that the books give it."""
    gpus = (f"GPU {gpu}: H100 (UUID: GPU-{gpu:08})\n" + "".join(map(mig(gpu), range(7))) for gpu in range(8))
    held = {entry["name"]: entry["slot"] for entry in entries_of(look)}
    uuids = {name: "MIG-{:0>4}{:0>4}".format(*held[name].split(".")) for name in names}
    grants = docker(*(granted(name, uuid) for name, uuid in uuids.items()))
    found = {**look, "docker": grants, "smi": said("".join(gpus)), "apps": said(), "pids": {}, "present": 8}
    context = Context(state(dict(host(found))), parse(WANTED), "gpu1", TODAY)
    began = time.process_time()
    for code, rule in RULES.items():
        if code.startswith("GM8"):
            list(rule.check(context))
    return time.process_time() - began


def mig(gpu: int) -> Callable[[int], str]:
    return lambda number: f"  MIG 1g.10gb     Device  {number}: (UUID: MIG-{gpu:04}{number:04})\n"


if __name__ == "__main__":
    main()
