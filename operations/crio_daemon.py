"""The part of the program on a host that restarts CRI-O: stdlib only, Python 3.6 or newer.

It adds CRI-O to the daemons that a transaction can tell (services.py).
"""

import os

from operations.services import GATES, SERVICES, Service, accepts, active

CRIO_SOCKET = "/var/run/crio/crio.sock"


def monitors():
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
        except (OSError, IndexError):
            continue  # it ended while we looked
        if os.path.basename(argv[0]) == "conmon" and ours:
            ident = argv[argv.index("-c") + 1] if "-c" in argv[:-1] else "?"
            found["%s:%s" % (pid, start)] = "conmon %s of %s" % (pid, ident[:64])
    return found


class Crio(Service):
    """CRI-O. Always restarted: a reload shows new runtimes, and starts no pod with them (pkg/config/reload.go)."""

    reloads = False
    name = "CRI-O"

    @staticmethod
    def running():
        return monitors()

    @staticmethod
    def answers():
        return active("crio.service") and accepts(CRIO_SOCKET)

    def start_again(self):
        """A container whose conmon is gone cannot be started again: its name is all that can be told."""
        now = monitors()
        return sorted(name for ident, name in self.journal.record["running"].items() if ident not in now)


def crio_gate(policy):
    return "restarts is `never`" if policy == "never" else ""


SERVICES["crio.service"] = Crio
GATES["crio.service"] = crio_gate
