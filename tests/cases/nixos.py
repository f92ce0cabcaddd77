from tests.cases.base import *

SOURCE = "NixOS/nixpkgs#337873, #322400, #420638; NixOS-WSL#578: libraries in /run/opengl-driver/lib, programs in /nix/store, spec /var/run/cdi/nvidia-container-toolkit.json, dockerd --config-file=/nix/store/..."
EXPECT = "not 'libcuda.so.1 is not installed' and not 'install nvidia-container-toolkit with provision.py': this distribution is told apart, its spec is judged"
HOST = healthy("27.5.1", "1.18.2", mode="auto").but(
    files={
        CONFIG: None,
        DAEMON_JSON: None,
        DYNAMIC: None,
        "/sbin/ldconfig": None,
        "/sbin/ldconfig.real": None,
        "/etc/os-release": "ID=nixos\n",
        **{p: None for p in h100_files() if p.startswith("/usr/local/nvidia")},
        "/run/opengl-driver/lib/libcuda.so.1": file(""),
    },
    programs=dict.fromkeys(PROGRAMS),
    commands={"nvidia-ctk": None, "ldconfig": (0, "", "")},
    units={REFRESH: None},
    processes=(process("/nix/store/x-docker/bin/dockerd", "--config-file=/nix/store/y-daemon.json"),),
)
WANTED = AUTO
