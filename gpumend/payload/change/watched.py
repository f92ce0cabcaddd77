"""The part of the program on a host that knows which daemons are being watched after their restarts, and takes them along where
one of them is restarted with another: stdlib only, Python 3.6 or newer.

A journal that has a `watch` and is still `working` is one whose change is made and proven, and whose daemon has not lived long
enough yet. For a gpumend that does not know of watches it is an interrupted run, which it puts back.
"""

from typing import Any, Dict, List, Set

from gpumend.payload.change.journal import Journal, journals
from gpumend.payload.change.services import (
    PROOF_TIMEOUT,
    SERVICE_TIMEOUT,
    Service,
    main_process,
    service_of,
    wait_for,
)
from gpumend.payload.probe.running import run

# systemd.unit(5): a restart of a unit restarts those, too, that require it, are bound to it, or are part of it.
RESTARTED_WITH = ("RequiredBy", "RequisiteOf", "BoundBy", "ConsistsOf")


def is_watched(record: Dict[str, Any]) -> bool:
    """Whether a transaction is done and proven, and its daemon is watched."""
    return record["state"] == "working" and "watch" in record


def watching(run_id: str) -> List[Journal]:
    """The journals of a run whose daemons are watched, the oldest first."""
    found = [journal for journal in journals(run_id) if is_watched(journal.record)]
    return sorted(found, key=lambda journal: journal.number)


def restarted_with(unit: str) -> Set[str]:
    """The units that systemd restarts with this one, and those with them."""
    found: Set[str] = set()
    left = [unit]
    while left:
        argv = ["systemctl", "show", left.pop()]
        for name in RESTARTED_WITH:
            argv += ["-p", name]
        for row in run(argv, 20).get("out", "").splitlines():
            new = set(row.partition("=")[2].split()) - found - {unit}
            found |= new
            left.extend(sorted(new))
    return found


def at_rest(unit: str) -> bool:
    """Whether a unit is active, and nothing of it is still to be started or stopped."""
    said = run(["systemctl", "show", "-p", "ActiveState", "-p", "Job", unit], 20).get("out", "").split()
    return "ActiveState=active" in said and not any(
        row.startswith("Job=") and row not in ("Job=", "Job=0") for row in said
    )


def tell(service: Service, action: str) -> None:
    """Reload or restart a daemon (Service.tell). A daemon that is watched, lived until then and was restarted with it by systemd
    is watched from this start of its own on: a restart that was planned is no crash. Raises Failed."""
    mine = service.journal
    others = [journal for journal in watching(mine.record["run"]) if journal.path != mine.path]
    lived = [
        each for each in others if main_process(each.record["watch"]["unit"]) == each.record["watch"]["main"]
    ]
    service.tell(action)
    if action != "restart" or not lived:
        return
    along = restarted_with(service.unit) | {service.unit}
    for journal in lived:
        watch = journal.record["watch"]
        unit = watch["unit"]
        if unit not in along:
            continue
        wait_for(lambda unit=unit: at_rest(unit), SERVICE_TIMEOUT)  # type: ignore[misc]
        wait_for(service_of(unit, journal).answers, PROOF_TIMEOUT)
        now = main_process(unit)
        if now != watch["main"]:
            watch["main"] = now
            journal.log("%s was restarted with %s" % (unit, service.unit))
