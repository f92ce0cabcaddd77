"""What came to no end on this host: runs of gpumend's own, and the package manager's."""

from __future__ import annotations

from collections.abc import Iterator

from gpumend.rules.finding import Evidence, Finding, Status
from gpumend.rules.rule import Context, always, rule
from gpumend.state.runs import DIRECTORY, LOCK


@rule(
    "GM007",
    "no run of gpumend was left broken",
    "design promise 3: every file old or new",
    applies=always,
)
def broken_run(context: Context) -> Iterator[Finding]:
    for journal in context.state.runs.broken():
        yield Finding(
            code="GM007",
            status=Status.FAIL,
            summary=f"run {journal.run} failed in {journal.component}, and could not be undone",
            evidence=(Evidence(journal.path, f"state broken: {journal.told}"),),
            cause="A change failed, and so did what was to put back the state before it: what it left behind is told by no "
            "other finding for sure.",
            remedy=f"Look at these files beside their backups in {journal.path.rpartition('/')[0]}. Then "
            f"`gpumend runs ack {journal.run}`; a later change of {journal.component} that ends well settles it, too.",
        )


@rule(
    "GM008",
    "no package is half-installed",
    "dpkg-query(1) package-status; dpkg(1) --configure; dnf(8) remove --duplicates",
    applies=always,
)
def half_installed(context: Context) -> Iterator[Finding]:
    packages = context.state.packages
    for name, versions in sorted(packages.doubles.items()):
        yield Finding(
            code="GM008",
            status=Status.FAIL,
            summary=f"{name} is there in two versions: {versions}",
            evidence=(Evidence(f"rpm -q {name}", versions),),
            cause="An upgrade broke off between the new version and the removal of the old one: files of either may be there.",
            remedy="Its scripts may restart daemons: look at what runs, then remove the one that does not belong there, and\n"
            + f"dnf reinstall {name}",
        )
    halves = packages.halves.get() or {}
    if not halves:
        return
    names = sorted(halves)
    concerned = [name for name in names if name in packages.concerned(names)]
    yield Finding(
        code="GM008",
        status=Status.FAIL if concerned else Status.WARN,
        summary=f"{len(names)} package{'s are' if len(names) > 1 else ' is'} not whole: {', '.join(names[:5])}"
        + (f" and {len(names) - 5} more" if len(names) > 5 else ""),
        evidence=tuple(Evidence(f"dpkg-query: {name}", halves[name]) for name in names),
        cause="The package manager was killed or a package's script failed: what it holds may be there in part, and every "
        "further installation fails first.",
        remedy="Its scripts may restart daemons: look at what runs, then\n"
        + f"dpkg --configure {' '.join(names)}",
    )


@rule("GM009", "no other run is at work", "flock(2); proc(5) locks", applies=always)
def at_work(context: Context) -> Iterator[Finding]:
    run = context.state.runs.at_work
    if run:
        yield Finding(
            code="GM009",
            status=Status.NOTE,
            summary=f"run {run} is at work here",
            evidence=(Evidence(LOCK, f"held, and names run {run}"),),
            cause="Somebody mends this host just now, or a run goes on whose operator no longer waits for it: what this audit "
            "sees may be half of a change.",
            remedy=f"Audit it again when that is done; {DIRECTORY}/{run} has its journals.",
        )
