"""`make bench`: our audit beside its floor and its peers, in one run, as ratios; the table goes to docs/bench.md."""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from tests.bench import farm as farms
from tests.bench.contestants import ANSIBLE, CONTESTANTS, ROOT, Measured, Task

# Ansible takes minutes at 200 hosts, and shows nothing there that it does not at 50.
MOST = {"Ansible check": 50, "stock pyinfra": 50}


def prepare() -> None:
    """sshd and Ansible are here; both by name, from the machine's own package sources."""
    if not Path("/usr/sbin/sshd").exists():
        subprocess.run(
            ["apt-get", "install", "-y", "-qq", "openssh-server"], check=True, stdout=subprocess.DEVNULL
        )
    if not (ANSIBLE / "bin" / "ansible-playbook").exists():
        venv.create(ANSIBLE, with_pip=True)
        subprocess.run([str(ANSIBLE / "bin" / "pip"), "install", "-qq", "ansible-core"], check=True)


def median(runs: list[Measured]) -> Measured:
    """Each figure's own median."""
    return Measured(
        statistics.median(run.wall for run in runs),
        statistics.median(run.cpu for run in runs),
        statistics.median(run.memory for run in runs),
        int(statistics.median(run.execs for run in runs)),
    )


def rows(hosts: list[int], delays: list[float], repeat: int) -> list[tuple[float, int, str, Measured]]:
    """Every measurement: (round trip in ms, hosts, contestant, median of `repeat` runs taken in turns)."""
    found = []
    with farms.running() as farm:
        farm.write_known_hosts(max(hosts))
        for delay in delays:
            with farms.Delay(delay) if delay else contextlib.nullcontext():
                for count in hosts:
                    runs: dict[str, list[Measured]] = {}
                    for _ in range(repeat):
                        for name, contestant in CONTESTANTS.items():
                            if count > MOST.get(name, count):
                                continue
                            with tempfile.TemporaryDirectory() as folder:
                                runs.setdefault(name, []).append(
                                    contestant(Task(farm, count, bool(delay), Path(folder)))
                                )
                    for name, taken in runs.items():
                        found.append((delay, count, name, median(taken)))
                        sys.stderr.write(f"{delay:g} ms, {count} hosts, {name}: {median(taken)}\n")
    return found


def table(found: list[tuple[float, int, str, Measured]], command: str) -> str:
    """The measurements as Markdown, each beside its ratio to our audit of the same hosts in the same run."""
    ours = {(delay, count): m for delay, count, name, m in found if name == "gpumend audit"}
    lines = [
        "# Measured",
        "",
        f"`{command}` on {os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}. Client and all sshd share the",
        "cores: wall times at 50 hosts and more are sshd's. Medians; every row of a block is of one run. `x` is the wall time as",
        "a multiple of our audit's.",
        "",
        "| added RTT ms | hosts | program | wall s | x | client CPU s | CPU ms a host | memory MB | SSH execs |",
        "| --: | --: | --- | --: | --: | --: | --: | --: | --: |",
    ]
    for delay, count, name, m in found:
        ratio = m.wall / ours[(delay, count)].wall
        lines.append(
            f"| {delay:g} | {count} | {name} | {m.wall:.2f} | {ratio:.2f} | {m.cpu:.2f} | {m.cpu / count * 1000:.1f} | {m.memory:.0f} | {m.execs} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("--hosts", type=int, nargs="+", default=[1, 10, 50, 200])
    parser.add_argument("--rtt", type=float, nargs="+", default=[0, 10, 50])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "bench.md")
    asked = parser.parse_args()
    prepare()
    text = table(rows(asked.hosts, asked.rtt, asked.repeat), "make bench")
    asked.output.write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
