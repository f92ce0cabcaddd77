"""`make gpu`: the whole claim on a real GPU, on any Linux machine with an NVIDIA GPU and root.

    make gpu PARTS=DIR      DIR: .deb archives and bin/ with what the machine lacks (Docker, containerd, the toolkit, podman,
                            CRIU, cuda-checkpoint); nothing of it replaces what the machine has
    make gpu PAGE=FILE      writes the truth table there

All happens in a machine inside this one (tests/gpu/inside.py). What must be left as it was is looked at before and after: the
names and contents of /etc, the processes, and the mounts. Exit status 0 means that every scenario ran and held; 2 that there is
no GPU, no root or no engine here, and that nothing was tried.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.gpu import inside
from tests.gpu.page import written

NEEDED = (
    "dockerd",
    "docker",
    "containerd",
    "ctr",
    "runc",
    "nvidia-ctk",
    "nvidia-container-runtime",
    "nvidia-cdi-hook",
)


def trace() -> dict[str, set[str]]:
    """What a run must leave as it was."""
    etc = set()
    for directory, _, names in os.walk("/etc"):
        for name in names:
            path = Path(directory) / name
            try:
                what = (
                    os.readlink(path) if path.is_symlink() else hashlib.sha256(path.read_bytes()).hexdigest()
                )
            except OSError as error:
                what = str(error)
            etc.add(f"{path} {what}")
    processes = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it has ended meanwhile
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                processes.add(words[:120])
    cgroups = {
        line.split()[1]
        for line in Path("/proc/mounts").read_text().splitlines()
        if "cgroup" in line.split()[2]
    }
    left = {str(Path(top) / inside.CGROUP) for top in cgroups if (Path(top) / inside.CGROUP).exists()}
    return {"/etc": etc, "processes": processes, "mounts": set(inside.mounts()), "cgroups": left}


def why_not(parts: Path | None) -> str:
    """Why nothing can be tried here; empty where it can."""
    if os.geteuid() != 0:
        return "root is needed: namespaces, mounts, dockerd"
    if (
        subprocess.run(["nvidia-smi", "-L"], capture_output=True, check=False).returncode
        if shutil.which("nvidia-smi")
        else True
    ):
        return "no NVIDIA GPU answers here (nvidia-smi -L)"
    brought = set()
    if parts is not None:
        brought = {path.name for path in parts.glob("bin/*")}
        for archive in parts.glob("*.deb"):
            listed = subprocess.run(
                ["dpkg-deb", "-c", str(archive)], capture_output=True, text=True, check=True
            ).stdout
            brought |= {
                line.split()[5].rsplit("/", 1)[-1] for line in listed.splitlines() if len(line.split()) > 5
            }
    missing = [name for name in NEEDED if not shutil.which(name) and name not in brought]
    return f"not on this machine, and not in PARTS: {', '.join(missing)}" if missing else ""


def main() -> int:
    parts = Path(os.environ["PARTS"]).resolve() if os.environ.get("PARTS") else None
    reason = why_not(parts)
    if reason:
        sys.stdout.write(f"nothing was tried: {reason}\n")
        return 2
    sys.stdout.write(
        "In namespaces of its own, over copies in memory of /etc, /usr, /var and the rest, this starts a dockerd and a\n"
        "containerd and breaks and mends their configuration. It uses the GPU for small programs. This machine's own files,\n"
        "daemons and containers are not touched.\n"
    )
    sys.stdout.flush()
    before = trace()
    with tempfile.TemporaryDirectory(prefix="gpumend-gpu-") as directory:
        # An open file, not a path: what is written to a path inside stays in the overlay.
        result = Path(directory) / "result.json"
        writer = os.open(result, os.O_CREAT | os.O_RDWR, 0o600)
        os.set_inheritable(writer, True)
        os.environ["GPUMEND_GPU_RESULT"] = f"/proc/self/fd/{writer}"
        if parts is not None:
            os.environ["GPUMEND_GPU_PARTS"] = str(parts)
        status = inside.enter([sys.executable, "-B", "-m", "tests.gpu.scenarios"], parts)
        os.close(writer)
        told: dict[str, Any] = json.loads(result.read_text() or "{}")
    after = trace()
    changed = [
        f"{what}: {sorted(before[what] ^ after[what])[:20]}" for what in before if before[what] != after[what]
    ]
    for line in changed:
        sys.stdout.write(f"NOT as it was: {line}\n")
    if not told:
        sys.stdout.write(f"the scenarios did not end: exit status {status}\n")
        return 1
    contradicted = [row for row in told["rows"] if not row["holds"]]
    sys.stdout.write(f"\n{len(told['rows'])} claims tried, {len(contradicted)} contradicted\n")
    for name in ("failures", "absent"):
        for line in told[name]:
            sys.stdout.write(f"{'FAILED' if name == 'failures' else 'not here'}: {line}\n")
    sys.stdout.write("This machine is as it was: /etc, processes, mounts.\n" if not changed else "")
    if os.environ.get("PAGE"):
        Path(os.environ["PAGE"]).write_text(written(told))
    return 1 if status or changed or told["failures"] or not told["rows"] else 0


if __name__ == "__main__":
    sys.exit(main())
