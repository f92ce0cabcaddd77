"""What a look at a large site's books costs the host in memory: less than 100 MB for 10,000 containers. Its time is in
tests/bench/allocations.py."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from gpumend.payload.source import probe_source
from gpumend.state.allocations import books
from tests.bench.allocations import COUNT, lay_books

# Without a Docker to ask: what is measured is the books. VmHWM begins anew with the program; ru_maxrss has the parent's, too.
CALL = """
found = ledger(json.loads({spec!r}), {{"status": "ok", "processes": []}}, 1)
with open("/proc/self/status") as file:
    peak = next(int(line.split()[1]) / 1024.0 for line in file if line.startswith("VmHWM:"))
print(json.dumps([peak, len(found["metadata"]["files"]), len(entries_of(found)), found["docker"]["status"]]))
"""


def test_ten_thousand_containers_books_cost_less_than_100_mb(programs: Path) -> None:
    wanted = lay_books(programs)
    program = f"{probe_source()}\n{CALL.format(spec=json.dumps(books(wanted).spec()))}"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-"], input=program, capture_output=True, text=True, check=True
    )
    megabytes, files, entries, docker = json.loads(done.stdout)
    assert (files, entries, docker) == (COUNT, COUNT, "failed")
    assert megabytes < 100
