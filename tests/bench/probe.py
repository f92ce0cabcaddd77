"""What the probe costs its host, beside an older commit: `python -m tests.bench.probe COMMIT`, as root.

On one booted healthy Docker node, in turns: `python3 -c pass`, that commit's probe, this tree's; then the same with many containers
and images. Own CPU is the process' with all that it has started; the machine's is the node's whole cgroup: dockerd, PID 1 and dbus
with it. The two answers are compared: what both have read is the same (`differences`).
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from gpumend.run.programs import probe_program
from gpumend.state.host_state import parse
from gpumend.state.reading import Reading
from gpumend.state.snapshot import Snapshot, unpacked
from tests.bench.alone import CONTAINERS, IMAGES, MANY, telling
from tests.bench.contestants import ROOT
from tests.bench.farm import as_in_the_field
from tests.bench.report import table
from tests.nodes import images, scenarios
from tests.nodes.lab import ENVIRONMENT, Lab, Node
from tests.nodes.slot import ONLY_CGROUP2

PROBE = ["python3", "-I", "-S", "-B", "-"]
PROGRAM = "import sys; from gpumend.run.programs import probe_program; sys.stdout.write(probe_program())"
# In a mount namespace with the whole cgroup2 tree: runs a command in the node, in a cgroup of its own below the node's, and prints
# its CPU milliseconds and the node's.
RUN = r"""
import json, os, sys
top, leader, stdin, argv = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:]
with open("/proc/%s/cgroup" % leader) as handle:  # where the node's own processes are, as those of a session of its sshd
    inside = next(line[3:].strip() for line in handle if line.startswith("0::"))
here = "/sys/fs/cgroup%s/bench" % os.path.dirname(inside)
os.makedirs(here, exist_ok=True)
def used():
    with open("/sys/fs/cgroup/%s/cpu.stat" % top) as handle:
        return next(int(line.split()[1]) for line in handle if line.startswith("usage_usec")) / 1000
before = used()
pid = os.fork()
if not pid:
    with open(here + "/cgroup.procs", "w") as handle:
        handle.write("0")
    os.dup2(os.open(stdin, os.O_RDONLY), 0)
    os.execvp("nsenter", ["nsenter", "-t", leader, "-a", "--"] + argv)
_, status, usage = os.wait4(pid, 0)
sys.stderr.write("\n" + json.dumps([(usage.ru_utime + usage.ru_stime) * 1000, used() - before]))
sys.exit(status and 1)
"""
# What differs from one look to the next.
RUNS = re.compile(
    r" ; (?:start_time|stop_time|pid|code|status)=[^;}]*(?= [;}])"
)  # of an ExecStart, by systemctl alone
MOVES = {"time", "free", "start", "mtime", "ctime", "seconds", "spaces"}


class Cost(NamedTuple):
    """Milliseconds of CPU time, the process' own and the whole node's, and of the clock; MB of its largest process."""

    own: float
    machine: float
    wall: float
    memory: float


def once(node: Node, argv: list[str], stdin: Path) -> tuple[Cost, str]:
    began = time.monotonic()
    done = subprocess.run(
        ["unshare", "-m", "sh", "-euc", f'{ONLY_CGROUP2}; exec "$@"', "sh", sys.executable, "-c", RUN,
         node.cgroup, str(node.leader), str(stdin), *argv],
        capture_output=True, text=True, env=ENVIRONMENT, check=True,
    )  # fmt: skip
    wall = (time.monotonic() - began) * 1000
    told, _, last = done.stderr.rpartition("\n")
    memory = max((int(word) / 1024 for word in told.split()[-2:] if word.isdigit()), default=0.0)
    own, machine = json.loads(last)
    return Cost(own, machine, wall, memory), done.stdout


def measured(node: Node, programs: dict[str, Path], repeat: int) -> tuple[dict[str, Cost], dict[str, str]]:
    """Medians by program, in turns, and what each answered last."""
    runs: dict[str, list[Cost]] = {}
    said = {}
    for _ in range(repeat):
        runs.setdefault("pass", []).append(once(node, ["python3", "-c", "pass"], Path(os.devnull))[0])
        for name, path in programs.items():
            cost, said[name] = once(node, PROBE, path)
            runs.setdefault(name, []).append(cost)
    return {
        name: Cost(*map(statistics.median, zip(*found, strict=True))) for name, found in runs.items()
    }, said


def differences(then: Any, now: Any, where: str = "") -> Iterator[str]:
    """What two states of one host say differently, where both could be read. Names of two records are those that both have."""
    if isinstance(then, Reading) and isinstance(now, Reading):
        if then.value is not None and now.value is not None:
            yield from differences(then.value, now.value, where)
    elif hasattr(then, "_fields") and type(then) is type(now):
        for name in then._fields:
            if name not in MOVES:
                yield from differences(getattr(then, name), getattr(now, name), f"{where}.{name}")
    elif isinstance(then, dict) and isinstance(now, dict):
        for name in then.keys() & now.keys():
            yield from differences(then[name], now[name], f"{where}[{name}]")
    elif isinstance(then, tuple) and isinstance(now, tuple) and len(then) == len(now):
        if then and all(hasattr(each, "names") for each in (*then, *now)):
            # Docker lists images of one second in any order, and of those of one size any are the largest.
            yield from differences(by_name(then), by_name(now), where)
            return
        for number, pair in enumerate(zip(then, now, strict=True)):
            yield from differences(*pair, f"{where}[{number}]")
    elif None not in (then, now) and RUNS.sub("", str(then)) != RUNS.sub("", str(now)):
        yield f"{where}: {str(then)[:100]!r} then, {str(now)[:100]!r} now"


def as_sent_now(answer: dict[str, Any], program: Path) -> dict[str, Any]:
    """An answer whose program sent all files as base64, without saying so."""
    if "PLAIN_TEXT" not in program.read_text():
        inside = answer["inside"].values()
        for items in (
            answer["files"],
            *(each["files"] for each in inside),
            *({"": each["mountinfo"]} for each in inside),
        ):
            for item in items.values():
                item["base64"] = True
    return answer


def by_name(records: tuple[Any, ...]) -> dict[str, Any]:
    return {str(each.names): each for each in records}


def compared(node: Node, programs: dict[str, Path], repeat: int) -> tuple[list[list[Any]], list[str]]:
    """Rows of the page, and what the answers say differently."""
    rows: list[list[Any]] = []
    unlike: list[str] = []
    for kind in ("healthy", "full"):
        if kind == "full":
            node.sh(MANY, str(IMAGES), str(CONTAINERS), images.BASE, timeout=900)
        costs, said = measured(node, programs, repeat)
        states = [
            parse(Snapshot(as_sent_now(json.loads(unpacked(said[name])), programs[name])))
            for name in ("then", "now")
        ]
        unlike += differences(*states, kind)
        rows += [[kind, name, *cost] for name, cost in costs.items()]
        for row in rows[-3:]:
            sys.stderr.write(f"{row}\n")
    return rows, unlike


def main(commit: str, repeat: int = 7) -> int:
    """The page of measurements has a table of it; 1 where an answer is another."""
    with tempfile.TemporaryDirectory(prefix="gpumend-bench-") as name, Lab() as lab:
        old = Path(name) / "tree"
        subprocess.run(["git", "worktree", "add", "-q", "--detach", str(old), commit], cwd=ROOT, check=True)
        try:
            argv = [sys.executable, "-c", PROGRAM]
            text = subprocess.run(
                argv, cwd=old, env={"PYTHONPATH": str(old)}, capture_output=True, text=True, check=True
            )
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(old)], cwd=ROOT, check=True)
        programs = {"then": Path(name) / "then.py", "now": Path(name) / "now.py"}
        programs["then"].write_text(telling(text.stdout))
        programs["now"].write_text(telling(probe_program()))
        node = lab.boot("trixie")
        scenarios.apply(node, "healthy")
        as_in_the_field(node)
        rows, unlike = compared(node, programs, repeat)
    page = ROOT / "docs" / "bench.md"
    found = json.loads(page.with_suffix(".json").read_text())
    found["probe"] = {"commit": commit, "repeat": repeat, "rows": rows, "unlike": unlike}
    page.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    page.write_text(table(found))
    sys.stderr.write("".join(f"{line}\n" for line in unlike))
    return int(bool(unlike))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2], *map(int, sys.argv[2:])))
