"""GM706 to GM708, and whether dockerd may be restarted now: whose containers would stop, and what would follow."""

from __future__ import annotations

import re
from collections.abc import Iterator

from gpumend.rules.finding import Evidence, Finding, Status
from gpumend.rules.rule import Context, rule
from gpumend.rules.storage.overlay import rootful
from gpumend.state.docker import Container

REBOOTS = (
    "reboot",
    "reboot-force",
    "reboot-immediate",
    "poweroff",
    "poweroff-force",
    "poweroff-immediate",
    "halt",
    "kexec",
)
LOOP = 3  # restarts; dockerd's own back-off has doubled three times by then (moby restartmanager)


def by_hand(context: Context, action: str, daemon: str = "dockerd") -> str:
    """Why a daemon is told by hand, and how: where no systemd booted the host, nothing else starts it again. Else empty."""
    if context.state.host.systemd:
        return ""
    process = context.state.docker.process.value if daemon == "dockerd" else None
    how = f"`kill -HUP {process.pid}`" if action == "reload" and process else f"{action} {daemon} by hand"
    return f"this host was not booted by systemd: {how}, then audit it again"


def gate_of(context: Context, daemon: str) -> str:
    """Why a restart of a daemon whose containers outlive it would have to wait now, or an empty text."""
    return by_hand(context, "restart", daemon) or (
        "restarts is `never`" if context.wanted.restarts == "never" else ""
    )


def restart_gate(context: Context) -> str:
    """Why a restart of dockerd would have to wait on this host now, or an empty text."""
    state, policy = context.state.docker, context.wanted.restarts
    if not context.state.host.systemd:
        return by_hand(context, "restart")
    if policy == "allow":
        return ""
    if policy == "never":
        return "restarts is `never`"
    if state.info.absent or (state.info.value or {}).get("LiveRestoreEnabled") is True:
        return ""
    if not state.containers.ok:
        return f"whether containers run is not known: {state.containers.detail}"
    running = [found.label() for found in state.containers.value or () if found.running]
    return f"it would stop {len(running)} running: {', '.join(sorted(running))}" if running else ""


def reboots(context: Context) -> dict[str, str]:
    """Units that run containers, and the action of theirs that would take the host down. Raises Unread."""
    found = {}
    context.state.storage.units_read.get()
    for unit in context.state.storage.units:
        shown = (context.state.storage.dangers.get() or {}).get(unit.name, {})
        for key in ("StartLimitAction", "FailureAction"):
            action = shown.get(key) or unit.settings.get(key, "")
            if action in REBOOTS:
                found[unit.name] = f"{key}={action}"
    return found


@rule(
    "GM706",
    "no unit reboots the host when a container fails",
    "systemd.unit(5) StartLimitAction=; ratio1 r1setup edge_node.service (systems.md C.1)",
    applies=rootful,
)
def reboot_units(context: Context) -> Iterator[Finding]:
    by_name = {unit.name: unit for unit in context.state.storage.units}
    for name, action in reboots(context).items():
        unit = by_name[name]
        burst = unit.settings.get("StartLimitBurst", "5 (the default)")
        yield Finding(
            code="GM706",
            status=Status.WARN,
            summary=f"{name} reboots this host when its container fails {burst} times: {action}",
            evidence=(Evidence(unit.path, f"{action}; {unit.owner or 'no owner named'}"),),
            cause="A restart of Docker that its container does not survive becomes a loop, and the loop a reboot.",
            remedy=f"Before Docker is changed: `systemctl stop {name}`, or a drop-in with StartLimitAction=none.",
            refused="whether the host may reboot by itself is its owner's decision",
        )


@rule(
    "GM707",
    "nothing is in a restart loop",
    "systemd.service(5) Restart=; docker inspect RestartCount (moby restartmanager)",
    applies=rootful,
)
def restart_loops(context: Context) -> Iterator[Finding]:
    for name, shown in sorted((context.state.storage.dangers.get() or {}).items()):
        restarts, now = int(shown.get("NRestarts") or 0), shown.get("SubState", "")
        # systemd before 262 keeps the last exit as Result when it gives a unit up, seen with 257.
        given_up = shown.get("Result") == "start-limit-hit" or (now == "failed" and restarts > 0)
        if given_up or (now.startswith("auto-restart") and restarts >= LOOP):
            yield _loop(
                name,
                f"systemctl show {name}",
                f"{restarts} restarts, {'given up' if given_up else 'waits for the next'}",
            )
    docker = context.state.docker
    for found in (docker.containers.get() if docker.running else None) or ():
        if found.restarting and found.restarts >= LOOP:
            yield _loop(found.label(), f"docker inspect {found.name}", _ends(found))


def _ends(found: Container) -> str:
    return f"RestartCount {found.restarts}, exit status {found.exit}"


def _loop(name: str, source: str, text: str) -> Finding:
    return Finding(
        code="GM707",
        status=Status.WARN,
        summary=f"{name} is in a restart loop: {text}",
        evidence=(Evidence(source, text),),
        cause="What it runs ends by itself; its log says why.",
        remedy=f"`journalctl -u {name}` or `docker logs {name.split(' ')[0]}`, before Docker is restarted for anything else.",
        refused="the cause is not known from outside",
    )


@rule(
    "GM708",
    "no cron job takes a stopped Docker for an empty one",
    "systems.md B.3, run: ds01 reconcile-gpu-state.sh frees every live allocation while Docker is down",
    applies=rootful,
)
def reconcilers(context: Context) -> Iterator[Finding]:
    for path, scripts in sorted((context.state.storage.cron.get() or {}).items()):
        mine = [script for script in scripts if re.search(r"reconcil|gpu[-_]state", script)]
        if mine:
            yield Finding(
                code="GM708",
                status=Status.WARN,
                summary=f"{path} runs {', '.join(mine)}: while dockerd restarts it may take every container for gone",
                evidence=(Evidence(path, ", ".join(mine)),),
                cause="A job that compares allocations with running containers sees none in the seconds in which dockerd is down.",
                remedy="Have it stop where `docker version` fails, or hold it (its lock, or the cron line) while Docker is changed.",
                refused="a site's own job is the site's",
            )
