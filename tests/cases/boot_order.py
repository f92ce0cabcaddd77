from tests.cases.base import *

SOURCE = "NixOS/nixpkgs#353059, #451912; nct PR#1638 (1.19.0: After=multi-user.target); unit files at v1.18.0-v1.20.0 have no Before=docker.service"
EXPECT = "no change to mode cdi while containers with a restart policy use the runtime and the spec lies on tmpfs; or order the units (docker.service After=nvidia-cdi-refresh.service) / keep auto (jit-cdi needs no file)"
HOST = healthy("28.5.2", "1.19.0", mode="auto").with_containers(
    container("plex", runtime="nvidia", restart="always", env={"NVIDIA_VISIBLE_DEVICES": "all"})
)
WANTED = {}
