"""GM0xx: the host itself, and gpumend's own traces on it."""

from __future__ import annotations

from collections.abc import Iterator

from gpumend.rules.change import RecoverRun
from gpumend.rules.finding import Change, Component, Evidence, Finding, Risk, Status
from gpumend.rules.rule import Context, always, rule


@rule(
    "GM001",
    "gpumend has the rights to read the host",
    "design promise 4: unknown is never ok",
    applies=always,
)
def rights(context: Context) -> Iterator[Finding]:
    host = context.state.host
    if not host.root:
        yield Finding(
            code="GM001",
            status=Status.UNKNOWN,
            summary=f"the probe ran as uid {host.uid}, not as root: what only root may read is not known",
            evidence=(Evidence("geteuid()", str(host.uid)),),
            remedy="Set `_sudo = True` for this host, or connect as root.",
        )


@rule(
    "GM002",
    "there is an NVIDIA GPU",
    "PCI vendor 10de, class 03 (pci.ids); /proc/driver/nvidia/gpus",
    applies=always,
)
def gpu_present(context: Context) -> Iterator[Finding]:
    host, gpus = context.state.host, context.state.gpus
    if host.wsl2 or host.tegra or gpus.present().need():
        return
    yield Finding(
        code="GM002",
        status=Status.FAIL,
        summary="this host has no NVIDIA GPU",
        evidence=(
            Evidence("/sys/bus/pci/devices", "no display controller of vendor 0x10de"),
            Evidence("/proc/driver/nvidia/gpus", "no GPU"),
        ),
        cause="The GPU is not passed through to this machine, has fallen off the bus, or was never there.",
        remedy="Take the host out of this inventory, or look at the hypervisor, the BIOS and `dmesg`. "
        "Nothing that needs a GPU was judged or changed.",
    )


@rule("GM003", "no run was interrupted", "design promise 3: every file old or new", applies=always)
def interrupted(context: Context) -> Iterator[Finding]:
    for journal in context.state.runs.interrupted():
        watched = journal.state == "watching"
        yield Finding(
            code="GM003",
            status=Status.FAIL,
            summary=f"run {journal.run} was interrupted {'while it watched the daemon of' if watched else 'in'} {journal.component}",
            evidence=(Evidence(journal.path, f"state {journal.state}: {journal.told}"),),
            cause="The change was made and proven, and nobody saw that the daemon lived after its restart."
            if watched
            else "The host went down or the program was killed before its change was proven.",
            remedy="Mend watches the daemon: where it lives and the proof holds, the change stays; else it is put back."
            if watched
            else "Mend puts the files of that run back as they were, and then starts afresh.",
            risk=Risk.RELOAD,
            change=Change(Component.RECOVER, RecoverRun(journal.path)),
        )


@rule("GM004", "no waiver has expired", "design: waivers are for a time", applies=always)
def expired_waiver(context: Context) -> Iterator[Finding]:
    for waiver in context.wanted.waivers:
        if waiver.covers(waiver.code, context.host) and waiver.until < context.today:
            yield Finding(
                code="GM004",
                status=Status.WARN,
                summary=f"the waiver of {waiver.code} by {waiver.owner} expired on {waiver.until}",
                evidence=(Evidence("gpumend.waivers", f"{waiver.code} {waiver.host}: {waiver.reason}"),),
                remedy="Renew it with a new date, or take it out.",
            )


@rule(
    "GM006",
    "daemons are what they call themselves",
    "proc(5): cmdline is the process's own word, exe and Uid are the kernel's; execve(2)",
    applies=always,
)
def impostors(context: Context) -> Iterator[Finding]:
    for found in context.state.host.impostors.need():
        where = f" in container {found.container}" if found.container else ""
        uids = ", ".join(map(str, found.uids))
        yield Finding(
            code="GM006",
            status=Status.WARN,
            summary=f"process {found.pid}{where} calls itself {found.name} and is not: {found.why}",
            evidence=(
                Evidence(f"/proc/{found.pid}/exe", found.exe or "unknown"),
                Evidence(f"/proc/{found.pid}/status", f"Uid: {uids}"),
            ),
            cause="Whoever starts a program chooses its argv[0]. This one is not the daemon, or it lies where somebody "
            "other than root can change it. Nothing that it says was believed, and it was not asked.",
            remedy=f"Look at it: `ls -l /proc/{found.pid}/exe; ps -o pid,user,ruser,lstart,args -p {found.pid}`. Where it is "
            "the daemon after all, give its program and each directory above it to root, writable by root alone.",
        )
