"""The agent's units, as text. What each line is for stands in docs/agent.md."""

from __future__ import annotations

from gpumend.agent.config import Config
from gpumend.agent.places import PROGRAM, STATE

SERVICE, TIMER, PATH = "gpumend-audit.service", "gpumend-audit.timer", "gpumend-audit.path"
# They start the audit; in this order they are started.
STARTED = (TIMER, PATH)
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
    devices = "\n".join(f"DeviceAllow={device} rw" for device in DEVICES)
    writes = " ".join((STATE, *((f"-{config.textfile}",) if config.textfile else ())))
    return f"""[Unit]
Description=gpumend: audit of what containers need to use the GPU
Documentation=file:{PROGRAM}
After=docker.service containerd.service nvidia-persistenced.service nvidia-cdi-refresh.service

[Service]
Type=oneshot
ExecStart={python} -I -S -B {PROGRAM} audit
# 0 as wanted, 1 something is not known, 3 drift: the report and the journal say it
SuccessExitStatus=1 3
TimeoutStartSec=300
Nice=10
IOSchedulingClass=idle
MemoryMax=256M
TasksMax=256
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


def timer(config: Config) -> str:
    """RandomizedDelaySec spreads a fleet's audits; AccuracySec must be small for it (systemd.timer(5))."""
    return f"""[Unit]
Description=gpumend: an audit every {config.interval} minutes

[Timer]
OnBootSec=2min
OnUnitInactiveSec={config.interval}min
RandomizedDelaySec={max(config.interval * 60 // 10, 1)}
AccuracySec=1us

[Install]
WantedBy=timers.target
"""


def path() -> str:
    """A driver was changed: its module is another, or its package. Neither /proc nor /sys tells inotify anything;
    modules.dep is what depmod renames into place, as nvidia-cdi-refresh.path has it (toolkit 1.18). It is watched alone: beside a
    path that is not there, systemd 257 watches all anew at every event in the directory and loses the other's (seen)."""
    return f"""[Unit]
Description=gpumend: an audit when the driver's modules or packages change

[Path]
PathChanged=/lib/modules/%v/modules.dep
Unit={SERVICE}

[Install]
WantedBy=paths.target
"""


def texts(config: Config, python: str) -> dict[str, str]:
    """Every unit by name."""
    return {SERVICE: service(config, python), TIMER: timer(config), PATH: path()}
