"""`python -m tests.bench.reports [HOSTS]`: what `gpumend fleet` takes for so many reports (10,000): seconds and MB.

Every report is as an agent writes it (indented), and what its host says is its own: names, evidence and sums differ.
"""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from tests.unit import farm
from tests.unit.build import healthy

KINDS = (healthy(),) * 6 + (farm.no_cdi(1), farm.no_docker_answer(1), farm.sick(1), farm.no_cdi(2))


def write(directory: Path, count: int) -> int:
    """So many reports lie there, four in ten of sick hosts; returns their bytes."""
    now = datetime.datetime.now(datetime.UTC).isoformat()
    kinds = [farm.audit([farm.record("HOSTNAME", host)]) for host in KINDS]
    for kind in kinds:
        kind["started"] = now
        for finding in kind["hosts"]["HOSTNAME"]["findings"]:
            for item in finding["evidence"]:
                item["text"] += " (seen on HOSTNAME)"
    texts = [json.dumps(kind, indent=1) for kind in kinds]
    size = 0
    for number in range(count):
        name = f"gpu{number:06}"
        text = texts[number % len(texts)].replace("HOSTNAME", name)
        size += (directory / f"{name}.json").write_text(text)
    return size


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory(prefix="gpumend-reports-") as scratch:
        directory = Path(scratch, "reports")
        directory.mkdir()
        size = write(directory, count)
        ways = {
            "summary": [],
            "history": ["--history", f"{scratch}/history.json"],
            "diff": ["--against", str(directory)],
            "one document": ["--report", f"{scratch}/all.json"],
        }
        for what, more in ways.items():
            began = time.monotonic()
            argv = [sys.executable, "-m", "gpumend.cli.main", "fleet", str(directory), *more]
            child = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
            _, status, used = os.wait4(child.pid, 0)
            click.echo(
                f"{count} reports, {size / 1e6:.0f} MB, {what}: "
                f"{time.monotonic() - began:.1f} s, {used.ru_utime + used.ru_stime:.1f} s of CPU, "
                f"{used.ru_maxrss / 1024:.0f} MB, exit status {os.waitstatus_to_exitcode(status)}"
            )


if __name__ == "__main__":
    main()
