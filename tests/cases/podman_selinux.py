"""redhat-et/triton-dev-containers#61, nct troubleshooting, LocalAI#7412, nd#676: Fedora/RHEL, SELinux enforcing, podman + CDI: NVML Insufficient Permissions; cure container_use_devices or label=disable"""

from dataclasses import replace

from tests.unit.build import *

h = healthy("28.5.2", "1.18.1", "cdi", layout="debian")
h = h.but(
    docker=None,
    processes=(),
    programs={"dockerd": None, "docker": None, "podman": "/usr/bin/podman"},
    commands={"dockerd": None, "podman": (0, "podman version 5.6.0\n", "")},
    units={"docker.service": None},
    files={
        DAEMON_JSON: None,
        "/sys/fs/selinux/enforce": "1",
        "/etc/os-release": 'PRETTY_NAME="Fedora Linux 42 (Server Edition)"\nID=fedora\nVERSION_ID=42\n',
        "/dev/nvidia0": {**node(195, 0), "selinux": "system_u:object_r:xserver_misc_device_t:s0"},
    },
)
h = replace(h, docker=None)
HOST = h
