"""This tree beside an older commit, in turns in one run: `python -m tests.bench.beside COMMIT`.

Each tree's controller audits hosts of pyinfra's @fake connector that answer as its own tests' hosts do: a healthy one, and one with
two files that an audit shows as it would change them. What is printed says how much one more host costs, and the memory.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.bench.alone import timed
from tests.bench.contestants import ROOT
from tests.bench.report import table

HOSTS = 200
# The answers that a tree's own tests make, the same host in each.
ANSWERS = """
import json, sys
from tests.unit.build import DAEMON_JSON, daemon_json, healthy
host = healthy("28.5.2", "1.18.1")
off = daemon_json("28.5.2", features={"cdi": False})
drifted = healthy("28.5.2", "1.18.1", "auto").but(files={DAEMON_JSON: off}, info={"CDISpecDirs": []})
for name, each in (("healthy", host), ("drifted", drifted)):
    open(f"{sys.argv[1]}.{name}", "w").write(json.dumps(each.answer()))
"""
INVENTORY = """
answer = open({answer!r}).read()
hosts = [
    (f"@fake/host{{n}}", dict(fake_responses={{"python3": answer}}, fake_delay=0, fake_delay_jitter=0)) for n in range({size})
]
del answer
"""


def audits(trees: dict[str, Path], kind: str, directory: Path, repeat: int) -> dict[str, tuple[float, float]]:
    """Medians by tree: CPU milliseconds that one more host costs the controller, and MB at HOSTS hosts."""
    runs: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for _ in range(repeat):
        for size in (1, HOSTS):
            for tree, path in trees.items():
                inventory = directory / f"{tree}_{kind}_{size}.py"
                inventory.write_text(INVENTORY.format(answer=str(directory / f"{tree}.{kind}"), size=size))
                argv = [sys.executable, "-m", "pyinfra", str(inventory), "deploys/gpu_host.py", "--dry"]
                _, cpu, memory = timed(argv, (0, 1, 3), path, PYINFRA_PROGRESS="off", PYTHONPATH=str(path))
                runs.setdefault((tree, size), []).append((cpu, memory))
    cpu = {key: statistics.median(run[0] for run in found) for key, found in runs.items()}
    return {
        tree: (
            (cpu[tree, HOSTS] - cpu[tree, 1]) / (HOSTS - 1) * 1000,
            statistics.median(run[1] for run in runs[tree, HOSTS]),
        )
        for tree in trees
    }


def main(commit: str, repeat: int = 5) -> int:
    """The page of measurements has a table of it."""
    rows: list[tuple[str, float, float]] = []
    with tempfile.TemporaryDirectory(prefix="gpumend-beside-") as name:
        old = Path(name) / "tree"
        subprocess.run(["git", "worktree", "add", "-q", "--detach", str(old), commit], cwd=ROOT, check=True)
        try:
            trees = {"old": old, "new": ROOT}
            for tree, path in trees.items():
                told = [sys.executable, "-c", ANSWERS, str(Path(name) / tree)]
                subprocess.run(told, cwd=path, env={"PYTHONPATH": str(path)}, check=True)
            for kind in ("healthy", "drifted"):
                found = audits(trees, kind, Path(name), repeat)
                for number, what in enumerate((f"a {kind} host, client CPU ms", f"{kind} hosts, memory MB")):
                    was, now = found["old"][number], found["new"][number]
                    rows.append((what, was, now))
                    sys.stderr.write(f"{what}: {was:.1f}, now {now:.1f}\n")
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(old)], cwd=ROOT, check=True)
    page = ROOT / "docs" / "bench.md"
    measured = json.loads(page.with_suffix(".json").read_text())
    measured["beside"] = {"commit": commit, "repeat": repeat, "rows": rows}
    page.with_suffix(".json").write_text(json.dumps(measured, indent=1) + "\n")
    page.write_text(table(measured))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
