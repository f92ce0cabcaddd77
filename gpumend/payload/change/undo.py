"""The part of the program on a host that puts back: stdlib only, Python 3.6 or newer.

A transaction that failed, one that was interrupted (`recover`), or those of a run (`rollback`), by their journals.
"""

import os
import re
from typing import Any, Dict, Iterable, List, Tuple

from gpumend.payload.change.engine import Absent, docker_call, running_containers
from gpumend.payload.change.files import Failed, Refused, reason_of, remove_empty, replace
from gpumend.payload.change.inner import Unmet, runs_again
from gpumend.payload.change.journal import ROOT, Entry, Journal
from gpumend.payload.change.kinds import step_kind
from gpumend.payload.change.managers import ENGINE_UNITS
from gpumend.payload.change.services import (
    COMMAND_TIMEOUT,
    SERVICE_TIMEOUT,
    active,
    gate,
    inner_gate,
    main_process,
    reload_or_start,
    service_of,
    shims,
    stopped,
    systemd,
)
from gpumend.payload.change.toolkit_version import TOOLKIT
from gpumend.payload.change.watched import tell
from gpumend.payload.probe.running import run

Answer = Dict[str, Any]


def restart_inner(journal: Journal, entry: Entry) -> None:
    """A unit runs with its old text again, and what Docker was asked for with the new one is over: the directories that were
    made for it are gone, as far as they are empty. Raises Unmet."""
    run(["systemctl", "reset-failed", entry["unit"]], 20)  # the limit of starts counts others', too
    found = run(["systemctl", "restart", entry["unit"]], SERVICE_TIMEOUT)
    if found["status"] != "ok" or found["rc"] != 0:
        raise Unmet("systemctl restart %s: %s" % (entry["unit"], found.get("err", "").strip()))
    runs_again(entry["unit"], entry["container"])
    # A unit that restarts by itself may have had Docker make its directory anew before its old text counted again.
    for file in reversed(journal.files()):
        remove_empty(file["made"])


def undo(journal: Journal, restarts: str, inner: str = "") -> Tuple[List[str], str]:
    """Undo one journal's steps, newest first, and have its daemon work with what there is then. inner: what of restarts
    counts for Dockers in containers, where it is not the same.

    Returns what could not be done, and why a restart that it takes has to wait (an empty text where none does). A
    journal that cannot be written does not stop it; one that cannot say that all is back is taken away.
    """
    journal.strict = False
    problems = undo_steps(journal)
    for argv in journal.record["settle"]:
        # daemon-reload, ldconfig: what makes files count is what makes their absence count
        run(argv, COMMAND_TIMEOUT)
    more, held = undo_inner(journal, inner or restarts)
    problems.extend(more)
    if not problems:
        more, waits = undo_service(journal, restarts)
        problems.extend(more)
        held = waits or held
        if waits:
            journal.record["held"] = main_process(journal.record["service"][0])
    sweep(journal)
    journal.strict = True
    try:
        journal.end("broken" if problems else "put_back")
    except OSError:
        if not problems:
            journal.discard()
    return problems, held


def undo_steps(journal: Journal) -> List[str]:
    """Each step is undone by its own kind, newest first. Returns what could not be put back."""
    problems: List[str] = []
    for entry in reversed(journal.steps):
        try:
            problems.extend(step_kind(entry).undo(journal, entry))
        except (OSError, Failed, Refused) as error:
            problems.append(str(error))
    return problems


def undo_inner(journal: Journal, restarts: str) -> Tuple[List[str], str]:
    """Units of inner daemons run with their old text, as far as `restarts` allows. Returns problems, and why one waits."""
    problems: List[str] = []
    held = ""
    for entry in journal.record["inner"]:
        try:
            why = inner_gate(restarts, entry)
            if why:
                held = "%s still runs with the new storage: %s" % (entry["unit"], why)
            else:
                restart_inner(journal, entry)
        except Unmet as reason:
            problems.append(str(reason))
    return problems, held


def undo_service(journal: Journal, restarts: str) -> Tuple[List[str], str]:
    """The daemon that was told of new files is told of the old ones. Returns problems, and why its restart waits."""
    served, service = journal.record["served"], journal.record["service"]
    if not (served and service and systemd()):
        return [], ""
    unit = service[0]
    if stopped(unit):
        return [], ""  # somebody did that since: its next start has the old files
    teller = service_of(unit, journal)
    answers = teller.answers()
    # One that hangs does not say what runs under it, and a restart would stop that all the same.
    at_work = answers or (active(unit) and bool(shims()))
    held = gate(restarts, unit) if served == "restart" and at_work else ""
    try:
        if held:
            if teller.reloads and answers:
                tell(teller, "reload")
            return [], "%s still runs with the new configuration: %s" % (unit, held)
        tell(teller, "restart" if served == "restart" else reload_or_start(unit))
        return ["container %s did not come back" % name for name in teller.start_again()], ""
    except (OSError, Failed) as error:  # all but this is back by now: whoever reads it need not look for more
        return ["the files are as before, but %s" % reason_of(error)], str(held)


def sweep(journal: Journal) -> None:
    """What was staged in the journal's own directory is gone."""
    for leftover in os.listdir(journal.directory):
        if leftover.endswith(".gpumend"):
            try:
                os.unlink(os.path.join(journal.directory, leftover))
            except OSError:
                pass  # a disk that is read-only by now


def newest_first(found: Iterable[Journal]) -> List[Journal]:
    return sorted(found, key=lambda journal: (journal.number, journal.record["started"]), reverse=True)


def undo_all(found: Iterable[Journal], restarts: str, detail: str, inner: str = "") -> Answer:
    """The answer of a verb that undoes journals, which are told newest first."""
    problems: List[str] = []
    waits: List[str] = []
    paths: List[str] = []
    done = 0
    for journal in found:
        if brought_toolkit(journal) and waits:
            # nct#2023: a daemon whose runtime is not there starts no container.
            waits.append("the container toolkit stays until then: roll back once more after the restart")
            continue
        failed, held = undo(journal, restarts, inner)
        problems.extend(failed)
        waits.extend([held] if held else [])
        paths.extend(journal.paths())
        done += 1
    if problems:
        return {"status": "broken", "detail": "; ".join(problems)}
    if waits:
        return {"status": "pending", "files": paths, "detail": "; ".join(waits)}
    return {"status": "changed" if done else "unchanged", "files": paths, "detail": detail}


def directory_of(run_id: str) -> str:
    """Where a run's journals lie. Raises Refused where there is no such run."""
    directory = os.path.join(ROOT, "runs", run_id)
    if not re.match(r"\w[\w.-]*$", run_id) or not os.path.isdir(directory):
        raise Refused("there is no run %s on this host" % run_id)
    return directory


def acknowledge(wanted: Dict[str, Any]) -> Answer:
    """Somebody has taken note of how a run ended: its directory says so, and who."""
    path = os.path.join(directory_of(wanted["run"]), "acknowledged")
    if os.path.lexists(path):
        return {"status": "unchanged", "detail": "run %s was acknowledged before" % wanted["run"]}
    replace(path, ("%s\n" % wanted["who"]).encode("utf-8", "backslashreplace"), mode=0o600)
    return {"status": "changed", "files": [path], "detail": "run %s is acknowledged" % wanted["run"]}


def brought_toolkit(journal: Journal) -> bool:
    """Whether undoing this takes the container toolkit's programs away."""
    packages = [each for entry in journal.steps if entry["do"] == "package" for each in entry["packages"]]
    return any(each["name"] in TOOLKIT and each["before"] is None for each in packages)


def by_its_runtime() -> List[str]:
    """Running containers of Docker's that end, or start again, by a program of the toolkit's. Raises OSError or ValueError."""
    runtimes = docker_call("/info").get("Runtimes") or {}
    theirs = [name for name in runtimes if "nvidia" in os.path.basename(str(runtimes[name].get("path", "")))]
    found = []
    for ident, name in running_containers().items():
        try:
            shown = docker_call("/containers/%s/json" % ident)
        except Absent:
            continue  # it ended
        if (shown.get("HostConfig") or {}).get("Runtime") in theirs:
            found.append(name)
    return sorted(found)


def toolkit_at_work(every: Iterable[Journal], left: Iterable[Journal], restarts: str) -> str:
    """Why the toolkit that these runs installed is not taken away now; an empty text where it may be, or there is none: containers
    run by its runtime, or a daemon still has the configuration that names it (nct#2023)."""
    if not any(brought_toolkit(journal) for journal in left):
        return ""
    if restarts != "allow" and active("docker.service"):
        try:
            names = by_its_runtime()
        except (OSError, ValueError) as error:
            return (
                "the container toolkit stays, and all of its run: which containers need it is not known: %s"
                % error
            )
        if names:
            told = ", ".join(names)
            return "the container toolkit stays, and all of its run: its runtime runs %s" % told
    for journal in every:
        unit = (journal.record.get("service") or [""])[0]
        if journal.record.get("held") and journal.record["held"] == main_process(unit):
            return "the container toolkit stays: %s still runs with the configuration that names it" % unit
    return ""


def engine_at_work(found: Iterable[Journal], restarts: str) -> str:
    """Why an engine that these runs installed is not taken away now; an empty text where it may be, or there is none."""
    for journal in found:
        packages = [each for entry in journal.steps if entry["do"] == "package" for each in entry["packages"]]
        gone = [each["name"] for each in packages if each["before"] is None]
        unit = next((ENGINE_UNITS[name] for name in ENGINE_UNITS if name in gone), "")
        if unit and active(unit):
            why = gate(restarts, unit)
            if why:
                return "%s stays, and all of its run: %s" % (unit, why)
    return ""


def rollback(wanted: Dict[str, Any]) -> Answer:
    """All transactions of one run (or of one component of it) are undone, newest first. Files that somebody changed
    since are left and named."""
    directory = directory_of(wanted["run"])
    found = []
    for name in os.listdir(directory):
        path = os.path.join(directory, name, "journal.json")
        if os.path.isfile(path) and wanted.get("component", "") in ("", name):
            found.append(Journal.load(path))
    left = [journal for journal in newest_first(found) if journal.record["state"] != "put_back"]
    at_work = engine_at_work(left, wanted["restarts"])
    at_work = at_work or toolkit_at_work(found, left, wanted["restarts"])
    if at_work:
        raise Refused(at_work)
    detail = "put back as before run %s" % wanted["run"]
    return undo_all(left, wanted["restarts"], detail, wanted.get("inner", ""))
