"""What one audit of the agent costs its host: `python -m tests.bench.agent`, as root, on a booted node.

CPU time is systemd's own accounting of the unit (CPUUsageNSec), probe and all its commands
included, beside that of a unit that runs `python3 -c pass`, in turn. Memory is each process' high-water mark: nodes have no
memory controller.
"""

from __future__ import annotations

import statistics
import sys

from gpumend.run.programs import probe_program
from tests.nodes import scenarios
from tests.nodes.lab import Lab, Node
from tests.nodes.test_agent import PROGRAM, agent

ROUNDS = 7
UNIT = "gpumend-audit.service"
MOST = 12.0  # times `python3 -c pass`
# The high-water mark of the agent's own process and of the interpreters that it starts (the probe), looked at all the while.
MEMORY = r"""
import os, re, subprocess, sys
top = {}
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
while child.poll() is None:
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            status = open("/proc/%s/status" % pid).read()
        except OSError:
            continue
        parent, mark = re.search(r"PPid:\t(\d+)", status), re.search(r"VmHWM:\s+(\d+)", status)
        if mark and "Name:\tpython3" in status:
            kind = "agent" if int(pid) == child.pid else "probe" if int(parent.group(1)) == child.pid else ""
            if kind:
                top[kind] = max(top.get(kind, 0), int(mark.group(1)))
print(top.get("agent", 0), top.get("probe", 0))
"""


def used(node: Node, unit: str) -> float:
    """CPU seconds that systemd counted for a unit that stays after its program has ended; it is stopped then."""
    said = node.run(["systemctl", "show", unit, "-p", "CPUUsageNSec", "--value"]).stdout
    node.run(["systemctl", "stop", unit])
    return int(said) / 1e9


def main() -> int:
    with Lab() as lab:
        node = lab.boot("trixie")
        scenarios.apply(node, "healthy")
        agent(lab, node, "install", {"agent": {"interval": 1440}})
        node.run(["systemctl", "stop", "gpumend-audit.timer", "gpumend-audit.path"])
        node.sh(
            f"mkdir -p /run/systemd/system/{UNIT}.d; printf '[Service]\\nRemainAfterExit=yes\\nCPUAccounting=yes\\n' > /run/systemd/system/{UNIT}.d/stays.conf; systemctl daemon-reload"
        )
        node.run(["systemctl", "start", UNIT])  # what is compiled and cached at a first run is
        used(node, UNIT)
        node.write("/run/gpumend-bench-probe.py", probe_program().encode())
        nothing, probes, audits = [], [], []
        for number in range(ROUNDS):
            name = f"gpumend-bench-{number}.service"
            stays = ["-p", "RemainAfterExit=yes", "-p", "CPUAccounting=yes", "-p", "Type=oneshot"]
            node.run(["systemd-run", "--quiet", "--unit", name, *stays, "python3", "-c", "pass"])
            nothing.append(used(node, name))
            name = f"gpumend-bench-probe-{number}.service"
            node.run(
                [
                    "systemd-run",
                    "--quiet",
                    "--unit",
                    name,
                    *stays,
                    "python3",
                    "-I",
                    "-S",
                    "/run/gpumend-bench-probe.py",
                ]
            )
            probes.append(used(node, name))
            node.run(["systemctl", "reset-failed", UNIT], check=False)  # its limit of starts in a short time
            node.run(["systemctl", "start", UNIT])
            audits.append(used(node, UNIT))
        start = node.run(["systemctl", "show", UNIT, "-p", "ExecStart", "--value"]).stdout
        argv = start.split("argv[]=")[1].split(" ;")[0].split()
        memory = [int(word) / 1024 for word in node.run(["python3", "-c", MEMORY, *argv]).stdout.split()]
    floor, probe, audit = (statistics.median(seconds) for seconds in (nothing, probes, audits))
    sys.stdout.write(
        f"python3 -c pass: {floor * 1000:.0f} ms of CPU by systemd's accounting\n"
        f"an audit of the agent ({PROGRAM}): {audit:.2f} s, {audit / floor:.1f} times that\n"
        f"the probe alone, as an operator's audit sends it: {probe:.2f} s, {probe / floor:.1f} times\n"
        f"above the probe: {audit - probe:.2f} s, {(audit - probe) / floor:.1f} times (at most {MOST:.0f}, or 0.5 s)\n"
        f"most memory: the agent's process {memory[0]:.0f} MB, the probe's {memory[1]:.0f} MB; between audits there is no process\n"
    )
    return int(audit - probe > 0.5 and (audit - probe) / floor > MOST)


if __name__ == "__main__":
    sys.exit(main())
