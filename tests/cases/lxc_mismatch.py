"""Proxmox LXC: the host's driver was upgraded, the container's libraries were not: a reboot of the container does not help"""

import importlib.util
import pathlib

from tests.unit.build import *

h = healthy("27.5.1", "1.18.1", "cdi", layout="debian")
files = dict(h.files)
v = files["/proc/driver/nvidia/version"]
new = v.replace("580.159.04", "580.178.04")
HOST = h.but(
    files={
        "/proc/driver/nvidia/version": new,
        "/sys/module/nvidia/version": "580.178.04\n",
        "/run/systemd/container": "lxc",
    },
    commands={
        "modinfo": (1, "", "modinfo: ERROR: Module nvidia not found.\n"),
        "nvidia-smi": (
            18,
            "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.159\n",
            "",
        ),
    },
    system={"kernel": "6.8.12-9-pve"},
)
