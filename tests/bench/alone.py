"""What is measured without SSH: a thousand hosts by pyinfra's @fake connector, start-up, the probe on a full Docker."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from gpumend.run.programs import probe_program
from gpumend.state.snapshot import unpacked
from tests.bench.contestants import ROOT, peak
from tests.nodes import images, scenarios
from tests.nodes.lab import Lab, Node

PROBE = ["python3", "-I", "-S", "-B", "-"]
IMAGES, CONTAINERS = 500, 200
# The probe says at its end what it took; not part of the shipped program.
TOLD = """
import resource
def _told(status, end=os._exit):
    own, below = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    sys.stderr.write("%d %d" % (own.ru_maxrss, below.ru_maxrss))
    sys.stderr.flush()
    end(status)
os._exit = _told
"""
MANY = r"""
cd /tmp && mkdir -p layer
for number in $(seq "$1"); do
    echo "$number" >layer/file
    [ $((number % 4)) = 0 ] && name=CUDA_VERSION=12.4.$number || name=OTHER=$number
    tar -C layer -c . | docker import -c "ENV $name" -c 'CMD ["sleep", "1"]' - "image$number:1" >/dev/null
done
for number in $(seq "$2"); do
    docker create --name "container$number" -e "NUMBER=$number" "$3" sleep 86400 >/dev/null
done
"""


def timed(argv: list[str], good: tuple[int, ...], cwd: Path = ROOT, **env: str) -> tuple[float, float, float]:
    """Wall and CPU in seconds and peak memory in MB of one process."""
    began = time.monotonic()
    child = subprocess.Popen(
        argv, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, **env},
    )  # fmt: skip
    memory = 0.0
    while True:
        memory = max(memory, peak(child.pid))
        pid, status, usage = os.wait4(child.pid, os.WNOHANG)
        if pid:
            break
        time.sleep(0.01)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode not in good:
        raise RuntimeError(f"{argv!r}: exit status {child.returncode}")
    return time.monotonic() - began, usage.ru_utime + usage.ru_stime, memory


def healthy_answer() -> str:
    """What a healthy host answers to our probe."""
    with Lab() as lab:
        node = lab.boot("trixie")
        scenarios.apply(node, "healthy")
        return node.run(PROBE, input=probe_program()).stdout


# Hosts of @fake, each of which answers with times of its own for all its files, made when it is asked. pyinfra looks at what a host
# would answer before it connects, too; when each is asked, and the CPU time until then, stands last. pyinfra is prepared as our
# inventory.py does it.
FAKE = r"""
import atexit, itertools, json, re, time
from gpumend.deploy import guard as _guard
from pyinfra.context import state as _state
_guard.install(_state)
_spent = []
atexit.register(lambda: json.dump(_spent[-{size}:], open({asks!r}, "w")))
answer = re.sub(r'("[mc]time": \d+)\.\d+', r'\1.@@', open({answer!r}).read())
number = itertools.count(100000)
class Answers(dict):
    def items(self):
        _spent.append(time.process_time())
        return (("python3", answer.replace("@@", str(next(number)))),)
    def __bool__(self):
        return True
    def __setitem__(self, key, value):
        pass  # pyinfra copies a host's data: an answer is kept by nobody
hosts = [
    (f"@fake/host{{n}}", dict(fake_responses=Answers(), fake_delay=0, fake_delay_jitter=0)) for n in range({size})
]
"""
THOUSAND = 1000
SIZES = (1, 1000, 4000, 5000)


def fake_fleet(sizes: tuple[int, ...] = SIZES, repeat: int = 3, answer: str = "") -> list[dict[str, Any]]:
    """An audit of so many hosts of pyinfra's own @fake connector, each of which gives the answer of a healthy host: what
    is measured is this program and pyinfra, without SSH. Medians, in turns. asked: CPU seconds from the first host's ask to the
    last one's, first and last: for the first and the last THOUSAND of them. These are of one process, whose pace is one."""
    runs: dict[int, list[dict[str, float]]] = {size: [] for size in sizes}
    with tempfile.TemporaryDirectory(prefix="gpumend-bench-") as directory:
        path, asks = Path(directory) / "answer", Path(directory) / "asks"
        path.write_text(unpacked(answer or healthy_answer()))
        for _ in range(repeat):
            for size, found in runs.items():
                inventory = Path(directory) / f"fake{size}.py"
                inventory.write_text(FAKE.format(answer=str(path), size=size, asks=str(asks)))
                argv = [sys.executable, "-m", "pyinfra", str(inventory), "deploys/gpu_host.py", "--dry"]
                wall, cpu, memory = timed(argv, (0,), PYINFRA_PROGRESS="off")
                spent = json.loads(asks.read_text())
                few = min(THOUSAND, size - 1)
                found.append({
                    "wall": wall, "cpu": cpu, "memory": memory,
                    "asked": spent[-1] - spent[0], "first": spent[few] - spent[0], "last": spent[-1] - spent[-1 - few],
                })  # fmt: skip
                sys.stderr.write(f"@fake, {size} hosts: {found[-1]}\n")
    return [
        {"hosts": size, **{key: statistics.median(one[key] for one in found) for key in found[0]}}
        for size, found in runs.items()
    ]


def commands(repeat: int = 7) -> dict[str, float]:
    """Seconds to the answer of what needs no host, the median."""
    program = str(Path(sys.executable).parent / "gpumend")
    asked = {
        "gpumend explain GM304": ([program, "explain", "GM304"], (0,)),
        "gpumend mend --no-such-option": ([program, "mend", "--no-such-option"], (2,)),
    }
    return {
        name: statistics.median(timed(argv, good)[0] for _ in range(repeat))
        for name, (argv, good) in asked.items()
    }


def full_docker(repeat: int = 7) -> dict[str, Any]:
    """The probe on a host with CONTAINERS containers and IMAGES images, a quarter of which name a CUDA version."""
    with Lab() as lab:
        node = lab.boot("trixie")
        scenarios.apply(node, "healthy")
        empty = _probe(node, repeat)
        node.sh(MANY, str(IMAGES), str(CONTAINERS), images.BASE)
        return {"images": IMAGES, "containers": CONTAINERS, "empty": empty, "full": _probe(node, repeat)}


def telling(program: str) -> str:
    """A probe's program that says what it took. One of before 2026-11-30 ends like any other."""
    definitions, _, call = program.rpartition("\nmain(")
    return f"{definitions}{TOLD}main({call}os._exit(0)\n"


def _probe(node: Node, repeat: int) -> dict[str, float]:
    """The probe's wall seconds, the median, and the most memory that it or a command of its takes, in MB."""
    seconds, memory = [], 0.0
    for _ in range(repeat):
        began = time.monotonic()
        done = node.run(PROBE, input=telling(probe_program()))
        seconds.append(time.monotonic() - began)
        memory = max(memory, *(int(word) / 1024 for word in done.stderr.split()[-2:-1]))
    return {"seconds": statistics.median(seconds), "memory": memory}
