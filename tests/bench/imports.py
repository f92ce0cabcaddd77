"""What an agent on a host pays to judge it: `python -m tests.bench.imports`.

Each program runs many times, in turn, so that what else the machine does hits all of them alike; the medians of their CPU
time are compared with that of `python3 -c pass`. Judging is timed within its process, by the clock, which is its CPU time at least:
as the difference of two processes' times, 13 times as long each, it was 0.36 to 0.56 of the same tree.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.unit.build import healthy

ROOT = Path(__file__).resolve().parents[2]
IMPORT = "import gpumend.rules, gpumend.state\nimport gpumend.rules.judge"
JUDGE = """
import datetime, json, sys, time
from gpumend.rules.judge import judge
from gpumend.rules.wanted import parse as wanted
from gpumend.state.host_state import parse
from gpumend.state.snapshot import Snapshot
began = time.perf_counter()
judge(parse(Snapshot(json.load(open({path!r})))), wanted({{}}), "host", datetime.date(2026, 7, 15))
sys.stdout.write(str(time.perf_counter() - began))
"""
# Of the CPU time of `python3 -c pass`, and MB.
MOST_IMPORT, MOST_JUDGE, MOST_MEMORY = 8.0, 0.5, 32.0


def run(program: str, bytecode: Path) -> tuple[float, float, float]:
    """CPU seconds and peak memory in MB of one new interpreter, whose modules are compiled already where it has run; and what number
    it says."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": str(bytecode)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    argv = [sys.executable, "-c", program]
    with subprocess.Popen(argv, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        said = child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"exit status {child.returncode}: {program}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, float(said or 0)


def measured(rounds: int = 201) -> dict[str, float]:
    """Medians: `pass`, seconds; `import` and `judge`, as multiples of it; `memory`, MB."""
    with tempfile.TemporaryDirectory(prefix="gpumend-bench-") as directory:
        path = Path(directory) / "answer.json"
        path.write_text(json.dumps(healthy().answer()))
        programs = {"pass": "pass", "import": IMPORT, "judge": IMPORT + JUDGE.format(path=str(path))}
        for program in programs.values():
            run(program, Path(directory))  # bytecode is written once
        rows = [
            {name: run(program, Path(directory)) for name, program in programs.items()} for _ in range(rounds)
        ]
    cpu = {name: statistics.median(row[name][0] for row in rows) for name in programs}
    judging = statistics.median(row["judge"][2] for row in rows)
    return {
        "pass": cpu["pass"],
        "import": cpu["import"] / cpu["pass"],
        "judge": judging / cpu["pass"],
        "memory": statistics.median(row["import"][1] for row in rows),
    }


def main() -> int:
    """Prints what was measured; 1 where it is more than it may be."""
    found = measured()
    sys.stderr.write(
        f"python3 -c pass: {found['pass'] * 1000:.0f} ms of CPU time\n"
        f"import gpumend.rules, gpumend.state: {found['import']:.1f} times that (at most {MOST_IMPORT:g}), "
        f"{found['memory']:.1f} MB (at most {MOST_MEMORY:g})\n"
        f"judging one answer: {found['judge']:.2f} times that (at most {MOST_JUDGE:g})\n"
    )
    within = (
        found["import"] <= MOST_IMPORT and found["judge"] <= MOST_JUDGE and found["memory"] <= MOST_MEMORY
    )
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
