"""The part of the program on a host that reboots it: stdlib only, Python 3.6 or newer.

Nothing running is stopped unasked: what a reboot would end is looked up first, by the same policy as a daemon's restart.
"""

import os
from typing import Any, Callable, Dict, List

from gpumend.payload.change.engine import running_containers
from gpumend.payload.change.files import Failed, Refused
from gpumend.payload.change.gpu_use import gpu_users
from gpumend.payload.change.journal import Journal
from gpumend.payload.change.managers import last_line
from gpumend.payload.change.package_locks import packages_changed_by
from gpumend.payload.change.services import NO_SYSTEMD, clients_at_work, systemd
from gpumend.payload.probe.processes import boot_id
from gpumend.payload.probe.running import run

DELAY = 5  # seconds between the answer and the reboot: as long as the answer takes to its reader
COMPONENT = "host.rebooted"  # in the journals, and so in `gpumend runs`
DOCKER_SOCKET = "/run/docker.sock"
# What holds a container of containerd's, CRI-O's or podman's; comm has 15 characters.
CONTAINER_HOLDERS = ("containerd-shim", "conmon")


def held_containers() -> int:
    """How many shims run, whoever's containers they hold."""
    count = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/comm" % pid, errors="replace") as handle:
                count += handle.read().startswith(CONTAINER_HOLDERS)
        except OSError:
            continue  # it ended
    return count


def running_work() -> List[str]:
    """What a reboot would end, in words. Raises OSError or ValueError where dockerd does not answer."""
    names = sorted(running_containers().values()) if os.path.exists(DOCKER_SOCKET) else []
    found = ["%d running: %s" % (len(names), ", ".join(names[:8]))] if names else []
    others = held_containers() - len(names)
    if others > 0:
        found.append("%d containers of other engines" % others)
    users = gpu_users()
    if users:
        found.append("what has the GPU open: %s" % ", ".join(users[:8]))
    busy = clients_at_work()
    return found + (["what is at work: %s" % ", ".join(busy)] if busy else [])


def held_back(policy: str, holder: str, look: Callable[[], List[str]]) -> str:
    """Why a host may not be rebooted now, by the policy of restarts, who changes packages, and a look at what runs; an empty text
    where it may."""
    if holder:
        return "packages are being changed by %s" % holder
    if policy == "allow":
        return ""
    if policy == "never":
        return "restarts is `never`"
    try:
        work = look()
    except (OSError, ValueError) as error:
        return "whether containers run is not known: %s" % error
    return "it would stop %s" % "; ".join(work) if work else ""


def reboot_gate(policy: str) -> str:
    """Why this host may not be rebooted now; an empty text where it may."""
    return held_back(policy, packages_changed_by(), running_work) if systemd() else NO_SYSTEMD % "init"


def reboot(wanted: Dict[str, Any]) -> Dict[str, Any]:
    """The answer of the verb `reboot`: the host goes down in a moment, or is as it was. `boot`: the boot that was judged."""
    if boot_id() != wanted["boot"]:
        raise Refused("it was rebooted since it was read", "moved")
    waits = reboot_gate(wanted["restarts"])
    if waits:
        return {"status": "pending", "detail": waits}
    journal = Journal.begin(dict(wanted, component=COMPONENT))
    try:
        journal.log("reboot of boot %s" % wanted["boot"])
        journal.end("done")  # nothing of it is to be put back, whenever the power goes
        argv = ["systemd-run", "--quiet", "--collect", "--on-active=%d" % wanted.get("delay", DELAY)]
        found = run(argv + ["--timer-property=AccuracySec=100ms", "systemctl", "reboot"], 30)
        if found["status"] != "ok" or found["rc"] != 0:
            raise Failed("systemd-run: %s" % last_line(found))
    except (OSError, Failed) as error:
        journal.discard()
        raise Refused(str(error))
    return {"status": "changed", "detail": "it goes down"}
