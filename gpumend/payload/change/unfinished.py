"""The part of the program on a host that finishes packages which an interrupted run of ours has left half-installed, so that
its package manager works again: stdlib only, Python 3.6 or newer.

Those of the run's own journal and no others: whose script may do what is not known of theirs.
"""

import glob
import os
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Sequence

from gpumend.payload.change.apt import HALF, dpkg, half_installed
from gpumend.payload.change.dnf import broken_off, redo
from gpumend.payload.change.files import Refused, current, forget, replace, sha256
from gpumend.payload.change.journal import Journal, restore
from gpumend.payload.change.managers import Unfit
from gpumend.payload.change.package_locks import wait_for_lock
from gpumend.payload.change.packaging import status_of
from gpumend.payload.change.services import LOCK_WAIT, active, gate
from gpumend.payload.probe.running import run

POLICY = "/usr/sbin/policy-rc.d"  # invoke-rc.d and deb-systemd-invoke ask it; 101: action forbidden by policy
HELD = (
    b"#!/bin/sh\n# gpumend finishes packages of an interrupted run: no service is started by them\nexit 101\n"
)
SCRIPTS = "/var/lib/dpkg/info"
UPDATES = "/var/lib/dpkg/updates"  # what dpkg has not yet written into its status; while any is there apt does nothing


def ours(journals: Sequence[Journal]) -> List[Dict[str, Any]]:
    """What these journals say of packages."""
    return [
        entry for journal in journals for step in journal.steps for entry in step.get("packages", ())
    ]  # fmt: skip


def half(entries: Sequence[Dict[str, Any]]) -> List[str]:
    """Of these packages the ones that dpkg can finish. rpm has no such state: there it is dnf's transaction that broke off."""
    names = sorted(set(entry["name"] for entry in entries if entry["manager"] == "apt"))
    return [name for name in names if status_of("apt", name)[0] in HALF[:2]]


def take_in_updates(entries: Sequence[Dict[str, Any]]) -> None:
    """dpkg's database is whole where one that broke off has left it in parts, and no package is touched for it: each dpkg that may
    write takes them in first, and this one is given no selection to set. Raises Unfit."""
    by_apt = any(entry["manager"] == "apt" for entry in entries)
    if by_apt and os.path.isdir(UPDATES) and os.listdir(UPDATES):
        dpkg("--set-selections")


def half_done(journal: Journal) -> str:
    """The number of this journal's own transaction of dnf where it broke off, or an empty text."""
    by_dnf = any(entry["manager"] == "dnf" for entry in ours([journal]))
    return broken_off(journal.mark()) if by_dnf else ""


def why_not(entries: Sequence[Dict[str, Any]], restarts: str, numbers: Sequence[str]) -> str:
    """Why they are not finished now: the restart of what runs, which a script of theirs might make. An empty text where
    none can, or where it may. Raises Refused where it cannot be done without touching others' packages."""
    mine = [entry for entry in entries if entry["manager"] == "apt"]
    others = sorted(set(half_installed()) - set(entry["name"] for entry in mine)) if mine else []
    if others and any(entry["before"] is not None for entry in mine):
        told = " ".join(others)
        raise Refused(
            "apt would finish %s as well, which is not ours: `dpkg --configure %s` first" % (told, told)
        )
    names = half(mine)
    scripted = [name for name in names if glob.glob("%s/%s.p*inst" % (SCRIPTS, name))]
    scripted += [name for name in names if glob.glob("%s/%s:*.p*inst" % (SCRIPTS, name))]
    scripted += ["dnf's transaction %s" % number for number in numbers]
    for unit in ("docker.service", "containerd.service") if scripted else ():
        held = gate(restarts, unit) if active(unit) else ""
        if held:
            return "scripts of %s may restart %s: %s" % (", ".join(scripted), unit, held)
    return ""


@contextmanager
def services_held(journal: Journal) -> Iterator[None]:
    """Packages start no service meanwhile. The journal says so before: where this process is killed, the next run takes
    the policy away. Raises Refused where there is another policy that lets them."""
    found = current(POLICY)
    if found not in (None, HELD):
        if run([POLICY, "docker", "restart"], 20).get("rc") != 101:
            raise Refused("%s is there, and lets packages restart docker" % POLICY)
        yield
        return
    entry = journal.begin_step("write", journal.keep(POLICY, None))
    entry["after"] = sha256(HELD)
    journal.write()
    replace(POLICY, HELD, mode=0o755)
    try:
        yield
    finally:
        restore(journal, dict(entry, before=None))
        forget(entry["real"])
        journal.forget(entry["real"])
        journal.write()


def finish(journals: Sequence[Journal], restarts: str) -> str:
    """The packages of these journals are whole, as far as their own scripts let them: what is to be undone is undone by the
    package manager after that. Returns why it has to wait; raises Refused where the manager is at work, or others' packages
    would be touched."""
    try:
        for manager in sorted(set(entry["manager"] for entry in ours(journals))):
            wait_for_lock(manager, LOCK_WAIT)
        numbers = [half_done(journal) for journal in journals]
        waits = why_not(ours(journals), restarts, [number for number in numbers if number])
        if waits:
            return waits
        for journal, number in zip(journals, numbers):
            if number:
                journal.log("finish dnf's transaction %s" % number)
                try:
                    redo(journal.mark(), number)
                except Unfit as error:  # as below
                    journal.log("finish: %s" % error)
            names = half(ours([journal]))
            if not names:
                take_in_updates(ours([journal]))
                continue
            journal.log("finish %s" % " ".join(names))
            with services_held(journal):
                try:
                    dpkg("--configure", *names)
                except Unfit as error:  # they are taken away all the same
                    journal.log("finish: %s" % error)
    except Unfit as error:
        raise Refused(str(error))
    return ""
