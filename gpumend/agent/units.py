"""The agent's units, as text. What each line is for stands in docs/agent.md."""

from __future__ import annotations

import os

from gpumend.agent.config import Config
from gpumend.agent.places import PROGRAM, STATE

AUDIT, MEND = "gpumend-audit", "gpumend-mend"
# What the agent may be allowed to change, and the directories that this writes to. One that is not there is not made.
WRITES = {
    "cdi.spec_current": ("/etc/cdi", "/run/cdi"),
    "toolkit.runtime_config": ("/etc/nvidia-container-runtime",),
    "containerd.config": ("/etc/containerd",),
    "docker.daemon_config": ("/etc/docker",),
    "allocations.reconciled": (),  # and where the desired state says that the books lie
}
# What nvidia-smi and cuInit open: by the names in /proc/devices (nvidia-frontend before driver 550), and by path, for what
# stands there under another number. A path that is not there is passed over (systemd.resource-control(5)).
DEVICES = (
    "char-nvidia", "char-nvidia-frontend", "char-nvidia-uvm", "char-nvidia-caps", "char-nvidia-nvswitch",
    "/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia-modeset",
    *(f"/dev/nvidia{number}" for number in range(16)),
)  # fmt: skip


def service(config: Config, python: str) -> str:
    """The audit. ProtectKernelModules, PrivateDevices, PrivateTmp and ProtectHome are not here: they would hide from the
    audit what it judges (systemd.exec(5): /usr/lib/modules becomes inaccessible)."""
    writes = " ".join((STATE, *((f"-{config.textfile}",) if config.textfile else ())))
    own = """# 0 as wanted, 1 something is not known, 3 drift: the report and the journal say it
SuccessExitStatus=1 3
TimeoutStartSec=300
Nice=10
IOSchedulingClass=idle
MemoryMax=256M"""
    return _service(
        "audit of what containers need to use the GPU", f"{python} -I -S -B {PROGRAM} audit", own, writes
    )


def _service(what: str, command: str, own: str, writes: str) -> str:
    """What both services have. Temporary files lie in the state directory: /tmp is read-only, and everybody's."""
    devices = "\n".join(f"DeviceAllow={device} rw" for device in DEVICES)
    return f"""[Unit]
Description=gpumend: {what}
Documentation=file:{PROGRAM}
After=docker.service containerd.service nvidia-persistenced.service nvidia-cdi-refresh.service

[Service]
Type=oneshot
ExecStart={command}
{own}
TasksMax=256
Environment=TMPDIR={STATE}
ProtectSystem=strict
ReadWritePaths={writes}
RestrictAddressFamilies=AF_UNIX
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
DevicePolicy=closed
{devices}
"""


def _books(config: Config, component: str) -> list[str]:
    """The directories of the state file and the log, and that of the metadata, where the agent may free allocations."""
    wanted = config.wanted.get("allocations") or {}
    if component != "allocations.reconciled":
        return []
    files = (os.path.dirname(str(wanted[key])) for key in ("state", "log") if wanted.get(key))
    return [*files, *([str(wanted["metadata"])] if wanted.get("metadata") else [])]


def mend_service(config: Config, python: str) -> str:
    """The mend of what is allowed. Its transactions are not ended in the middle, so nothing here ends them; they write below
    /run (lock, staged trees), to gpumend's own state, and to what the allowed components are kept in."""
    paths = [path for name in config.mend for path in (*WRITES[name], *_books(config, name))]
    paths += [config.textfile] if config.textfile else []
    writes = " ".join(("/var/lib/gpumend", "/run", *(f"-{path}" for path in dict.fromkeys(paths))))
    own = """# 1 something is not known, 4 a change was put back: the report and the journal say it. 5 is a failure of the unit, too
SuccessExitStatus=1 4
TimeoutStartSec=infinity
# a transaction that takes longer than its answer may goes on when this has ended
KillMode=process"""
    return _service(f"mend of {', '.join(config.mend)}", f"{python} -I -S -B {PROGRAM} mend", own, writes)


def timer(config: Config, what: str) -> str:
    """RandomizedDelaySec spreads a fleet's audits; AccuracySec must be small for it (systemd.timer(5))."""
    return f"""[Unit]
Description=gpumend: {what} every {config.interval} minutes

[Timer]
OnBootSec=2min
OnUnitInactiveSec={config.interval}min
RandomizedDelaySec={max(config.interval * 60 // 10, 1)}
AccuracySec=1us

[Install]
WantedBy=timers.target
"""


def path(name: str) -> str:
    """A driver was changed: its module is another, or its package. Neither /proc nor /sys tells inotify anything;
    modules.dep is what depmod renames into place, as nvidia-cdi-refresh.path has it (toolkit 1.18). It is watched alone: beside a
    path that is not there, systemd 257 watches all anew at every event in the directory and loses the other's (seen)."""
    return f"""[Unit]
Description=gpumend: the driver's modules have changed

[Path]
PathChanged=/lib/modules/%v/modules.dep
Unit={name}.service

[Install]
WantedBy=paths.target
"""


def texts(config: Config, python: str) -> dict[str, str]:
    """Every unit by name."""
    found = {f"{AUDIT}.service": service(config, python)}
    if config.mend:
        found[f"{MEND}.service"] = mend_service(config, python)
    for name in names(config):
        found[f"{name}.timer"] = timer(config, "an audit" if name == AUDIT else "a mend")
        found[f"{name}.path"] = path(name)
    return found


def cron(config: Config, python: str) -> str:
    """The same for a host without systemd, as crontab(5) has it. Minutes are those of a full hour, from an hour on hours.
    Standard output goes nowhere: cron would send it by mail every time."""
    hours = config.interval // 60
    when = f"*/{config.interval} * * * *" if hours == 0 else f"0 */{min(hours, 23)} * * *"
    verbs = ("audit", "mend") if config.mend else ("audit",)
    spread = max(config.interval * 60 // 10, 1)
    lines = (
        f"{when} root {python} -I -S -B {PROGRAM} {verb} --spread {spread} >/dev/null 2>&1\n"
        for verb in verbs
    )
    return "# gpumend's agent, on a host without systemd\nSHELL=/bin/sh\n" + "".join(lines)


def slurm(python: str) -> str:
    """What slurm.conf names as HealthCheckProgram: it has no arguments there."""
    return f"#!/bin/sh\nexec {python} -I -S -B {PROGRAM} slurm\n"


def names(config: Config) -> tuple[str, ...]:
    return (AUDIT, MEND) if config.mend else (AUDIT,)


def started(name: str) -> tuple[str, str]:
    """What starts an audit or a mend."""
    return f"{name}.timer", f"{name}.path"
