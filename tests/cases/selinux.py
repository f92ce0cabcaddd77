from tests.cases.base import *

SOURCE = "nct#210, fedora-selinux/selinux-policy#1695, redhat-et/triton-dev-containers#61; the fact selinux_enforcing is read and no rule uses it"
EXPECT = "warn where SELinux is enforcing and podman, or a Docker with selinux, is here: NVML: Insufficient Permissions without container_use_devices / container_use_xserver_devices or label=disable"
HOST = healthy("28.5.2", "1.18.2", mode="auto").but(
    files={"/sys/fs/selinux/enforce": "1"},
    commands={"podman": (0, "podman version 5.4.0\n", "")},
    info={"SecurityOptions": ["name=selinux"]},
)
WANTED = AUTO
