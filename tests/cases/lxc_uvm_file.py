"""Proxmox LXC: lxc.mount.entry ... optional,create=file made an empty regular file /dev/nvidia-uvm, since the host had not loaded nvidia-uvm yet: nvidia-smi works, cuInit 999; hosts without a spec"""

from tests.unit.build import *

HOST = healthy("29.3.0", "1.18.1", "auto", layout="debian").but(
    files={DYNAMIC: None, "/dev/nvidia-uvm": file(""), "/dev/nvidia-uvm-tools": file("")}
)
WANTED = {"runtime": {"mode": "auto"}, "docker": {"paths": ["gpus"]}}
