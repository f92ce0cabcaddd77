"""libnvidia-container#154 / nct#1246-like: Docker in an unprivileged LXC (Proxmox), no-cgroups = true is what makes it work"""

from tests.unit.build import *


def cfg(mode, nc="true"):
    t = config(mode, "@/sbin/ldconfig")
    t = re.sub(r"(?m)^#?no-cgroups = .*$", f"no-cgroups = {nc}", t)
    assert f"no-cgroups = {nc}" in t
    return t


def lxc(toolkit, mode, docker="27.5.1", nc="true"):
    h = healthy(docker, toolkit, mode, layout="debian")
    return h.but(
        files={
            CONFIG: cfg(mode, nc),
            "/run/systemd/container": "lxc",
            "/proc/1/environ": "container=lxc\0",
            "/run/host/container-manager": "lxc",
        },
        commands={"modinfo": (1, "", "modinfo: ERROR: Module nvidia not found.\n")},
        system={"kernel": "6.8.12-9-pve"},
    )


HOSTS = {
    "toolkit 1.17.8 auto, default wanted": lxc("1.17.8", "auto"),
    "toolkit 1.18.1 auto": lxc("1.18.1", "auto"),
}
