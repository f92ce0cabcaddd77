"""What asking CUDA costs and leaves, on a host with a GPU, as root: `PYTHONPATH=. python tests/bench/ask_cuda.py`.

Prints, for each of five rounds, the seconds of the probe with and without asking, of cuInit alone by hand (the same number
has to come out), and at the end what is on the host that was not there before: nothing has to be.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from gpumend.run.programs import probe_program
from gpumend.state.snapshot import unpacked

ARGV = [sys.executable, "-I", "-S", "-B"]
BY_HAND = (
    "import ctypes, time; began = time.monotonic(); c = ctypes.CDLL('libcuda.so.1'); n = ctypes.c_int(-1); "
    "r = c.cuInit(0); c.cuDeviceGetCount(ctypes.byref(n)); print(r, n.value, round(time.monotonic() - began, 3))"
)
PLACES = ("/dev", "/tmp", "/dev/shm", "/run", "/root/.nv", "/var/tmp")


def there() -> set[str]:
    """Modules, and names in the directories in which CUDA might leave something."""
    modules = Path("/proc/modules")  # gVisor has none
    lines = modules.read_text().splitlines() if modules.exists() else []
    found = {f"module {line.split()[0]}" for line in lines}
    for place in PLACES:
        for directory, _, files in os.walk(place):
            if directory.startswith(("/run/user", "/run/systemd", "/run/udev")):
                continue
            found.update(f"{directory}/{name}" for name in files)
            found.add(directory)
    return found


def probe(ask: bool) -> tuple[float, dict[str, Any]]:
    began = time.monotonic()
    found = subprocess.run([*ARGV, "-"], input=probe_program(ask), capture_output=True, text=True, check=True)
    return time.monotonic() - began, json.loads(unpacked(found.stdout))


def main() -> None:
    before = there()
    for _ in range(5):
        without, _answer = probe(False)
        with_, answer = probe(True)
        hand = subprocess.run([*ARGV, "-c", BY_HAND], capture_output=True, text=True, check=False)
        asked = answer["commands"]["cuinit"]
        sys.stdout.write(
            f"probe without {without:.3f} s, with {with_:.3f} s; by hand (number, devices, seconds) {hand.stdout.strip()}; "
            f"asked: {asked.get('out', '').strip() or asked}\n"
        )
    sys.stdout.write(f"left on the host: {sorted(there() - before) or 'nothing'}\n")


if __name__ == "__main__":
    main()
