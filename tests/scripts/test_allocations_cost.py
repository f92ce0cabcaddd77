"""What a look at a large site's books costs the host: less than 2 s of CPU and 100 MB for 10,000 containers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from gpumend.payload.source import probe_source
from gpumend.state.allocations import books
from tests.bench.allocations import COUNT, lay_books

# Without a Docker to ask: what is measured is the books. Peak memory is of the process itself.
CALL = """
import resource
found = ledger(json.loads({spec!r}), {{"status": "ok", "processes": []}}, 1)
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([used.ru_utime + used.ru_stime, used.ru_maxrss / 1024.0, len(found["metadata"]["files"]),
                  len(entries_of(found)), found["docker"]["status"]]))
"""


def test_ten_thousand_containers_books_cost_less_than_two_seconds_and_100_mb(programs: Path) -> None:
    wanted = lay_books(programs)
    program = f"{probe_source()}\n{CALL.format(spec=json.dumps(books(wanted).spec()))}"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-"], input=program, capture_output=True, text=True, check=True
    )
    seconds, megabytes, files, entries, docker = json.loads(done.stdout)
    assert (files, entries, docker) == (COUNT, COUNT, "failed")
    assert seconds < 2 and megabytes < 100, (seconds, megabytes)
