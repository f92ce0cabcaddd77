"""The part of the program on a host that puts back: stdlib only, Python 3.6 or newer.

A transaction that failed, one that was interrupted (`recover`), or those of a run (`rollback`), by their journals.
"""

import os
import re

from gpumend.payload.change.files import (
    Failed,
    Refused,
    clean,
    current,
    reason_of,
    remove_empty,
    replace,
    sha256,
)
from gpumend.payload.change.inner import Unmet, forget_trials, runs_again
from gpumend.payload.change.journal import ROOT, Journal, restore
from gpumend.payload.change.packaging import Unfit, take_back
from gpumend.payload.change.services import (
    COMMAND_TIMEOUT,
    LOCK_WAIT,
    SERVICE_TIMEOUT,
    gate,
    inner_gate,
    reload_or_start,
    service_of,
    systemd,
)
from gpumend.payload.probe import run


def restart_inner(journal, entry):
    """A unit runs with its old text again, and what Docker was asked for with the new one is over: the directories that were
    made for it are gone, as far as they are empty. Raises Unmet."""
    run(["systemctl", "reset-failed", entry["unit"]], 20)  # the limit of starts counts others', too
    found = run(["systemctl", "restart", entry["unit"]], SERVICE_TIMEOUT)
    if found["status"] != "ok" or found["rc"] != 0:
        raise Unmet("systemctl restart %s: %s" % (entry["unit"], found.get("err", "").strip()))
    runs_again(entry["unit"], entry["container"])
    # A unit that restarts by itself may have had Docker make its directory anew before its old text counted again.
    for file in reversed(journal.record["files"]):
        remove_empty(file["made"])


def undo_packages(journal):
    """Packages are as they were, and after them the files that their scripts write. Returns what could not be done."""
    problems, found = [], []
    for entry in journal.record["files"]:
        if entry.get("of_package"):
            try:
                found.append((entry, current(entry["path"])))
            except (OSError, Refused) as error:
                problems.append(str(error))
    try:
        take_back(journal.record.get("packages", ()), LOCK_WAIT)
    except Unfit as error:
        problems.append(str(error))
    for entry, data in found:
        have = None if data is None else sha256(data)
        try:
            if entry["after"] in ("", have) or have == entry["before"]:
                entry["after"] = ""  # the scripts may have written it anew just now
                restore(journal, entry)
                continue
            if data is not None and current(entry["path"]) != data:
                replace(entry["real"], data, like=entry["real"] if os.path.exists(entry["real"]) else None)
            problems.append("%s was changed by somebody else since: it is left as it is" % entry["path"])
        except (OSError, Failed, Refused) as error:
            problems.append(str(error))
    return problems


def undo(journal, restarts):
    """Put one journal's files back, newest first, and its daemon to work with them.

    Returns what could not be done, and why a restart that it takes has to wait (an empty text where none does). A
    journal that cannot be written does not stop it; one that cannot say that all is back is taken away.
    """
    journal.strict = False
    problems, held = [], ""
    for directory in journal.record.get("trials", ()):
        forget_trials(directory)
    for entry in reversed([entry for entry in journal.record["files"] if not entry.get("of_package")]):
        try:
            restore(journal, entry)
            clean(entry["real"])
        except (OSError, Failed, Refused) as error:
            problems.append(str(error))
    problems.extend(undo_packages(journal))
    for argv in journal.record.get("settle", ()):
        run(
            argv, COMMAND_TIMEOUT
        )  # daemon-reload, ldconfig: what makes files count is what makes their absence count
    for entry in journal.record.get("inner", ()):
        try:
            why = inner_gate(restarts, entry)
            if why:
                held = "%s still runs with the new storage: %s" % (entry["unit"], why)
            else:
                restart_inner(journal, entry)
        except Unmet as reason:
            problems.append(str(reason))
    served, service = journal.record["served"], journal.record["service"]
    if served and service and systemd() and not problems:
        teller = service_of(service[0], journal)
        held = gate(restarts, service[0]) if served == "restart" and teller.answers() else ""
        try:
            if held:
                if teller.reloads:
                    teller.tell("reload")
                held = "%s still runs with the new configuration: %s" % (service[0], held)
            else:
                teller.tell("restart" if served == "restart" else reload_or_start(service[0]))
                problems.extend("container %s did not come back" % name for name in teller.start_again())
        except (
            OSError,
            Failed,
        ) as error:  # all but this is back by now: whoever reads it need not look for more
            problems.append("the files are as before, but %s" % reason_of(error))
    for leftover in os.listdir(journal.directory):
        if leftover.endswith(".gpumend"):
            try:
                os.unlink(os.path.join(journal.directory, leftover))
            except OSError:
                pass  # a disk that is read-only by now
    journal.strict = True
    try:
        journal.end("broken" if problems else "put_back")
    except OSError:
        if not problems:
            journal.discard()
    return problems, held


def newest_first(journals):
    return sorted(journals, key=lambda journal: (journal.number, journal.record["started"]), reverse=True)


def recover(wanted):
    """Interrupted runs are put back, newest first. A restart that this takes is made as `restarts` allows."""
    problems, waits, done = [], [], []
    for path in wanted["journals"]:
        if not re.match(re.escape(ROOT) + r"/runs/[\w.-]+/[\w.-]+/journal\.json$", path):
            raise Refused("%s is no journal" % path)
    for journal in newest_first(Journal.load(path) for path in wanted["journals"]):
        if journal.record["state"] == "working":
            failed, held = undo(journal, wanted["restarts"])
            problems.extend(failed)
            waits.extend([held] if held else [])
            done.append(journal)
    return undone(problems, waits, done, "put back as before the interrupted run")


def undone(problems, waits, journals, detail):
    """The answer of a verb that puts back."""
    if problems:
        return {"status": "broken", "detail": "; ".join(problems)}
    paths = [entry["path"] for journal in journals for entry in journal.record["files"]]
    if waits:
        return {"status": "pending", "files": paths, "detail": "; ".join(waits)}
    return {"status": "changed" if journals else "unchanged", "files": paths, "detail": detail}


def rollback(wanted):
    """All transactions of one run (or of one component of it) are undone, newest first. Files that somebody changed
    since are left and named."""
    directory = os.path.join(ROOT, "runs", wanted["run"])
    if not re.match(r"[\w.-]+$", wanted["run"]) or not os.path.isdir(directory):
        raise Refused("there is no run %s on this host" % wanted["run"])
    journals = []
    for name in os.listdir(directory):
        path = os.path.join(directory, name, "journal.json")
        if os.path.isfile(path) and wanted.get("component", "") in ("", name):
            journals.append(Journal.load(path))
    problems, waits, done = [], [], []
    for journal in newest_first(journals):
        if journal.record["state"] == "put_back":
            continue
        failed, held = undo(journal, wanted["restarts"])
        problems.extend(failed)
        waits.extend([held] if held else [])
        done.append(journal)
    return undone(problems, waits, done, "put back as before run %s" % wanted["run"])
