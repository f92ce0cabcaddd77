"""`make bench`: our audit and mend beside their floors and their peers, in one run; docs/bench.{md,json,svg}."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

from tests.bench import alone
from tests.bench import farm as farms
from tests.bench.contestants import (
    AUDITS,
    COMMANDS,
    FILES,
    MENDS,
    PEERS,
    ROOT,
    STATS,
    Contestant,
    Measured,
    Task,
)  # fmt: skip
from tests.bench.report import table, worse

# The most hosts at which a program is measured, without and with an added round trip: Ansible takes ten minutes for 50
# hosts and shows nothing at 200 that it does not there.
MOST: dict[str, tuple[int, int]] = {
    "Ansible --check": (50, 1),
    "Ansible": (1, 1),
    "stock pyinfra facts": (50, 10),
    "stock pyinfra": (50, 1),
    "gpumend mend": (200, 50),
    "gpumend audit, drifted, replayed": (200, 0),
    "paramiko, one exec": (200, 0),
}
# From so many hosts on a program runs once: the run is long, and what disturbs it evens out.
ONCE = {"Ansible --check": 1, "Ansible": 1, "stock pyinfra facts": 10, "stock pyinfra": 10}
ALL_ONCE = 200
PARTS = ("ssh", "fake", "commands", "docker")


def prepare() -> None:
    """Ansible and what draws the plot are here, by name, from the machine's own package sources."""
    if not (PEERS / "bin" / "ansible-playbook").exists() or not list(
        PEERS.glob("lib/*/site-packages/matplotlib")
    ):
        venv.create(PEERS, with_pip=True)
        pip = str(PEERS / "bin" / "pip")
        subprocess.run(
            [pip, "install", "-qq", "--disable-pip-version-check", "ansible-core", "matplotlib"], check=True
        )


def median(runs: list[Measured]) -> Measured:
    """Each figure's own median."""
    return Measured(
        statistics.median(run.wall for run in runs),
        statistics.median(run.cpu for run in runs),
        statistics.median(run.memory for run in runs),
        int(statistics.median(run.execs for run in runs)),
        statistics.median(run.machine for run in runs),
    )


def block(
    farm: farms.Farm, contestants: dict[str, Contestant], hosts: int, rtt: float, repeat: int
) -> list[dict[str, Any]]:
    """Every contestant on so many hosts, in turns; the median of `repeat` runs each."""
    runs: dict[str, list[Measured]] = {}
    for turn in range(repeat):
        for name, contestant in contestants.items():
            if hosts > MOST.get(name, (hosts, hosts))[bool(rtt)]:
                continue
            if turn and hosts >= ONCE.get(name, ALL_ONCE):
                continue
            farm.anew()
            with tempfile.TemporaryDirectory() as directory:
                runs.setdefault(name, []).append(contestant(Task(farm, hosts, bool(rtt), Path(directory))))
    found = []
    for name, taken in runs.items():
        middle = median(taken)
        found.append({"rtt": rtt, "hosts": hosts, "program": name, "runs": len(taken), **vars(middle)})
        sys.stderr.write(f"{rtt:g} ms, {hosts} hosts, {name}: {middle}\n")
    return found


def over_ssh(
    hosts: list[int], rtts: list[float], repeat: int, programs: list[str]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Every row over SSH, of these programs where any are named, and what the farm's host says of the probe."""
    audits, mends = (
        {name: each for name, each in table.items() if name in (programs or table)}
        for table in (AUDITS, MENDS)
    )
    rows: list[dict[str, Any]] = []
    with (
        tempfile.TemporaryDirectory(prefix="gpumend-bench-") as directory,
        farms.running(Path(directory)) as farm,
    ):
        about = {"probe_seconds": farm.quiet}
        for rtt in rtts:
            with farms.Delay(rtt) if rtt else contextlib.nullcontext():
                for count in hosts:
                    rows += block(farm, audits, count, rtt, repeat)
                    if mends:
                        with farm.broken():
                            rows += block(farm, mends, count, rtt, repeat)
        return rows, about


def label(rows: list[dict[str, Any]]) -> str:
    """A run's name: the letter after the last one's, the day and the commit."""
    letter = chr(ord(max((row.get("run", "A") for row in rows), default="@")[0]) + 1)
    said = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return f"{letter}: {datetime.date.today()}, commit {said.stdout.strip()}"


def kept(rows: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the page with those of a new run; of an older run all, or none where the newer ones have all of its rows: what it
    has is compared within it."""

    def key(row: dict[str, Any]) -> tuple[Any, ...]:
        return row["program"], row["hosts"], row["rtt"]

    runs: dict[str, list[dict[str, Any]]] = {}
    for row in [*rows, *new]:
        runs.setdefault(row.get("run", ""), []).append(row)
    found: list[dict[str, Any]] = []
    for each in reversed(runs.values()):
        if not {key(row) for row in each} <= {key(row) for row in found}:
            found = [*each, *found]
    return found


def main() -> int:
    """Writes the page; 1 where a ratio has grown since the one that is there."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("--hosts", type=int, nargs="+", default=[1, 10, 50, 200])
    parser.add_argument("--rtt", type=float, nargs="+", default=[0, 10, 50])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "bench")
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=PARTS, help="the others stay as they are"
    )
    parser.add_argument(
        "--programs", nargs="+", choices=[*AUDITS, *MENDS], default=[], help="of the rows over SSH"
    )
    asked = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # what a program loads is compiled once, as anywhere else
    prepare()
    committed = asked.output.with_suffix(".json")
    before = json.loads(committed.read_text()) if committed.exists() else {}
    found = {
        **before,
        "command": "make bench",
        "machine": f"{os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}",
        "read": f"{len(FILES)} files, the metadata of {len(STATS)}, the output of {len(COMMANDS)} commands",
    }
    run = label(before.get("rows", []))
    if "ssh" in asked.parts:
        rows, about = over_ssh(asked.hosts, asked.rtt, asked.repeat, asked.programs)
        found["rows"] = kept(before.get("rows", []), [{**row, "run": run} for row in rows])
        found.update(about)
    if "fake" in asked.parts:
        found["fake"] = alone.fake_fleet(repeat=asked.repeat)
        found["fake_run"] = f" ({run.partition(': ')[2]})"
    if "commands" in asked.parts:
        found["commands"] = alone.commands()
    if "docker" in asked.parts:
        found["full_docker"] = alone.full_docker()
    grown = worse(found, before) if before else []
    committed.write_text(json.dumps(found, indent=1) + "\n")
    text = table(found)
    asked.output.with_suffix(".md").write_text(text)
    plot = [str(PEERS / "bin" / "python"), str(Path(__file__).parent / "plot.py")]
    subprocess.run(
        [*plot, str(asked.output.with_suffix(".json")), str(asked.output.with_suffix(".svg"))], check=True
    )
    sys.stdout.write(text)
    sys.stderr.write("".join(f"dearer than before: {line}\n" for line in grown))
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
