"""The part of the program on a host that restarts CRI-O: stdlib only, Python 3.6 or newer.

It adds CRI-O to the daemons that a transaction can tell, and to those that can be asked for proof (services.py).
"""

import os
import re
from typing import Dict, Optional

from gpumend.payload.change.services import (
    ENGINES,
    GATES,
    SAYS,
    SERVICES,
    Monitored,
    accepts,
    active,
    wait_for,
)
from gpumend.payload.probe.execution import which
from gpumend.payload.probe.files import Json
from gpumend.payload.probe.processes import genuine
from gpumend.payload.probe.running import run

CRIO_SOCKET = "/var/run/crio/crio.sock"


def monitors() -> Dict[str, str]:
    """CRI-O's containers by their conmon: `pid:start` -> a name. conmon is in a cgroup of its own, so that a restart of
    CRI-O leaves it alone. The start (proc(5), field 22) tells a pid from its successor."""
    found = {}
    for pid in os.listdir("/proc"):
        if not pid.isdigit():
            continue
        try:
            with open("/proc/%s/cmdline" % pid, "rb") as handle:
                argv = handle.read().decode("utf-8", "replace").split("\0")
            with open("/proc/%s/stat" % pid) as handle:
                start = handle.read().rpartition(")")[2].split()[19]
            with open("/proc/%s/cgroup" % pid) as handle:
                ours = "crio" in handle.read()
            monitor = ours and os.path.basename(argv[0]) == "conmon" and genuine(pid, "conmon")
        except (OSError, IndexError):
            continue  # it ended while we looked
        if monitor:
            ident = argv[argv.index("-c") + 1] if "-c" in argv[:-1] else "?"
            found["%s:%s" % (pid, start)] = "conmon %s of %s" % (pid, ident[:64])
    return found


class Crio(Monitored):
    """CRI-O. Always restarted: a reload shows new runtimes, and starts no pod with them (pkg/config/reload.go)."""

    name = "CRI-O"

    @staticmethod
    def running() -> Dict[str, str]:
        return monitors()

    @staticmethod
    def answers() -> bool:
        return active("crio.service") and accepts(CRIO_SOCKET)


def crio_gate(policy: str) -> str:
    return "restarts is `never`" if policy == "never" else ""


def told_runtimes(text: str) -> Dict[str, str]:
    """Each runtime's program in CRI-O's account of its configuration, by name."""
    # a table's name, and its runtime_path before the next table
    table = (
        r'(?m)^\s*\[crio\.runtime\.runtimes\.([^\]\s]+)\]\s*\n(?:(?!\s*\[).*\n)*?\s*runtime_path = "([^"]*)"'
    )
    return dict(re.findall(table, text))


def crio_runtimes() -> Optional[Json]:
    """The runtimes of the running CRI-O and their programs, by its own account, as tables; None where it gives none.
    `crio-status` is a program of its own before 1.29."""
    for argv in (["crio", "status", "config"], ["crio-status", "config"]):
        found = run(argv, 20) if which(argv[0]) else {"status": "absent"}
        if found["status"] == "ok" and found["rc"] == 0:
            rows = told_runtimes(found["out"]).items()
            return {"crio": {"runtime": {"runtimes": {name: {"runtime_path": path} for name, path in rows}}}}
    return None


def can_ask_crio() -> bool:
    """Whether CRI-O tells its configuration: a moment after its start, or never where it is too old."""
    return wait_for(lambda: crio_runtimes() is not None, 5)


ENGINES["crio"] = (can_ask_crio, crio_runtimes)
SAYS["crio"] = "crio status config"
SERVICES["crio.service"] = Crio
GATES["crio.service"] = crio_gate
