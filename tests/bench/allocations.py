"""Books of 10,000 containers, as ds01 keeps them: `python -m tests.bench.allocations` says what a look at them costs."""

from __future__ import annotations

import json
import resource
import sys
import tempfile
from pathlib import Path
from typing import Any

from gpumend.payload.allocations import entries_of
from gpumend.payload.probe.allocations import ledger
from gpumend.state.allocations import books

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


if __name__ == "__main__":
    main()
