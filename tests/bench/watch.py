"""A mend of three components with two restarts on one booted node, beside an older commit: `python -m tests.bench.watch COMMIT`, as
root.

In turns: that commit's mend, this tree's. Of each the seconds of the whole command, and those from the first change on the host to
the end of the last one, by the host's own journals; both as multiples of `restart_watch`. The audit before is no part of the latter.
The client is installed as pipx does it (client.py).
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from tests.bench.client import python
from tests.bench.contestants import ROOT
from tests.bench.farm import as_in_the_field
from tests.nodes import scenarios
from tests.nodes.drive import inline
from tests.nodes.gpu import DEFAULT_DRIVER
from tests.nodes.lab import Lab, Node
from tests.nodes.test_containerd import CONFIG, REPORT_001, WANTED, equip
from tests.nodes.test_watch import CHANGED
from tests.nodes.toolkit import DEFAULT_TOOLKIT

WATCHES = (6, 20)  # seconds; the first is the default
TIMES = 3


class Took(NamedTuple):
    """Seconds of the whole command, and of the changes on the host."""

    whole: float
    changes: float


def prepare(node: Node, config: bytes) -> None:
    """GRIT, containerd and Docker of the node are to be changed, and no run was there."""
    node.sh("rm -rf /var/lib/gpumend")
    node.write(CONFIG, config)
    node.restart("containerd")
    equip(node, REPORT_001)
    scenarios.write_daemon(node, scenarios.UNTOLD)


def mended(lab: Lab, node: Node, tree: Path, seconds: int) -> Took:
    """What a mend by the program of this tree took. Raises where it did not change all three."""
    wanted = {**WANTED, "restarts": "allow", "restart_watch": seconds}
    with tempfile.TemporaryDirectory() as directory:
        hosts, report = Path(directory, "hosts.toml"), Path(directory, "report.json")
        hosts.write_text(
            f'[defaults]\nkey = "{lab.key}"\nknown_hosts = "{lab.known_hosts}"\n[hosts.{node.name}]\n'
            f'address = "{node.address}"\nuser = "root"\ngpumend = {inline(wanted)}\n'
        )
        began = time.monotonic()
        subprocess.run(
            [
                python(),
                "-m",
                "pyinfra",
                "inventory.py",
                "deploys/gpu_host.py",
                "--data",
                f"report={report}",
            ],
            cwd=tree,
            env={
                **os.environ,
                "GPUMEND_HOSTS": str(hosts),
                "PYINFRA_PROGRESS": "off",
                "PYTHONPATH": str(tree),
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,  # other findings than these three are left
        )
        whole = time.monotonic() - began
        told = json.loads(report.read_text())["hosts"][node.name]["changes"]
    if {each["component"]: each["status"] for each in told} != CHANGED:
        raise SystemExit(f"not all were changed: {told}")
    found = [
        json.loads(node.read(path))
        for path in node.sh("ls /var/lib/gpumend/runs/*/*/journal.json").stdout.split()
    ]
    return Took(whole, max(each["ended"] for each in found) - min(each["started"] for each in found))


def main() -> None:
    [commit] = sys.argv[1:]
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory() as directory, Lab() as lab:
        old = Path(directory, "old")
        archive = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, capture_output=True).stdout
        old.mkdir()
        subprocess.run(["tar", "-xf", "-", "-C", old], input=archive, check=True)
        node = lab.boot("trixie")
        scenarios.apply(node, "healthy", DEFAULT_TOOLKIT, DEFAULT_DRIVER)
        as_in_the_field(node)
        config = node.read(CONFIG)
        rows = []
        for seconds in WATCHES:
            took: dict[str, list[Took]] = {commit: [], "this tree": []}
            for _ in range(TIMES):
                for name, tree in ((commit, old), ("this tree", ROOT)):
                    prepare(node, config)
                    took[name].append(mended(lab, node, tree, seconds))
            for name, each in took.items():
                whole, changes = (statistics.median(column) for column in zip(*each, strict=True))
                row = [
                    f"{whole:.1f} s",
                    f"{whole / seconds:.2f} x",
                    f"{changes:.1f} s",
                    f"{changes / seconds:.2f} x",
                ]
                rows.append([f"restart_watch = {seconds}", name, *row])
        head = (
            "| | | the command | | first change to the last end | |\n| --- | --- | --: | --: | --: | --: |\n"
        )
        sys.stdout.write(head + "".join(f"| {' | '.join(row)} |\n" for row in rows))


if __name__ == "__main__":
    main()
