"""Looks at a site's allocations, as the probe of a host makes them, for tables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpumend.payload.allocations import DS01
from gpumend.payload.probe.allocations import ledger_history, ledger_metadata, ledger_state
from tests.unit.build import FIXTURES, Host, healthy

DS = FIXTURES / "ds01"
STATE, METADATA = "/var/lib/ds01/gpu-state.json", "/var/lib/ds01/container-metadata"
LOG, LOCK = "/var/log/ds01/gpu-allocations.log", "/var/log/ds01/gpu-allocator.lock"
WANTED: dict[str, Any] = {"allocations": {"state": STATE, "metadata": METADATA, "log": LOG, "lock": LOCK}}
RELEASE: dict[str, Any] = {"allocations": {**WANTED["allocations"], "reconcile": "release"}}
UUIDS = {
    unit: f"MIG-c4a1cc9d-0000-0000-0000-0000000000{unit.replace('.', '')}" for unit in ("1.0", "1.1", "1.2")
}
SMI = "".join(
    [
        "GPU 0: NVIDIA A100-PCIE-40GB (UUID: GPU-00000000-0000-0000-0000-000000000000)\n",
        "GPU 1: NVIDIA A100-PCIE-40GB (UUID: GPU-11111111-1111-1111-1111-111111111111)\n",
        *(f"  MIG 2g.10gb     Device  {unit[2]}: (UUID: {uuid})\n" for unit, uuid in UUIDS.items()),
    ]
)
LIVE, DEBUG, VALIDATION = "test-final._.1001", "test-debug2._.1001", "test-validation._.1001"


def ds01_state(holders: Mapping[str, Any]) -> str:
    """A state file with MIG instances, as ds01's allocator writes it (systems.md B.1)."""
    gpus = {}
    for slot, names in holders.items():
        gpus[slot] = {
            "type": "mig_instance" if "." in slot else "physical_gpu",
            "uuid": UUIDS.get(slot, ""),
            "profile": "2g.10gb",
            "containers": list(names),
            "users": {"alice": len(names)} if names else {},
            "reserved_until": None,
        }
    return json.dumps({"gpus": gpus, "mig_enabled": True, "allocation_strategy": "least_allocated"}, indent=2)


REPORT = {"1.0": [VALIDATION], "1.1": [DEBUG], "1.2": [LIVE]}


def granted(name: str, *ids: str, **more: Any) -> dict[str, Any]:
    """A container as the probe shows what it holds; by device ids of Docker's hook."""
    requests = [{"driver": "", "count": 0, "ids": list(ids), "capabilities": ["gpu"]}] if ids else []
    found = {
        "id": name.encode().hex().ljust(64, "0")[:64],
        "names": [name],
        "running": True,
        "status": "running",
        "pid": 4711,
        "started": "2026-11-23T04:30:25Z",
        "error": "",
        "runtime": "runc",
        "visible": "",
        "requests": requests,
        "nodes": [],
        "labels": {},
    }
    return {**found, **more}


def docker(*containers: dict[str, Any], **more: Any) -> dict[str, Any]:
    found = {
        "status": "ok",
        "up": 3600.0,
        "pid": 900,
        "ticks": 1000,
        "count": len(containers),
        "containers": list(containers),
        "unread": [],
        "unlisted": [],
        "disk_error": "",
        "hidden": [],
    }
    return {**found, **more}


def said(out: str = "", rc: int = 0) -> dict[str, Any]:
    return {"status": "ok", "out": out, "err": "", "rc": rc}


def look(tmp: Path, *containers: dict[str, Any], state: str | None = None, **more: Any) -> dict[str, Any]:
    """A look whose books lie in a directory and are read by the probe's own code."""
    at = tmp / "gpu-state.json"
    at.write_text(ds01_state(REPORT) if state is None else state)
    log = tmp / "gpu-allocations.log"
    log.write_text((DS / "gpu-allocations.log.txt").read_text())
    metadata = more.pop("directory", None)
    found = {
        "status": "ok",
        "state": ledger_state(str(at), DS01),
        "metadata": ledger_metadata(str(metadata), DS01) if metadata else None,
        "history": ledger_history([str(log)], {LIVE, DEBUG, VALIDATION}),
        "docker": docker(*containers),
        "live": {"status": "ok", "ids": []},
        "smi": said(SMI),
        "apps": said(),
        "pids": {},
        "busy": {},
        "present": 2,
        "boot": "b",
        "clock": 1000.0,
    }
    return {**found, **more}


def host(found: Mapping[str, Any]) -> Mapping[str, Any]:
    """The answer of a healthy host with this look."""
    made: Host = healthy()
    return {**made.answer(), "allocations": found}
