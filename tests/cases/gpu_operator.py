"""GPU Operator node: toolkit in /usr/local/nvidia/toolkit, conf.d/99-nvidia.toml; driver preinstalled or in /run/nvidia/driver. Healthy: pods get GPUs"""

from tests.cases.k8s import *

ROOT = """imports = ["/etc/containerd/conf.d/*.toml"]
version = 2

[plugins]
  [plugins."io.containerd.grpc.v1.cri"]
    [plugins."io.containerd.grpc.v1.cri".containerd]
      default_runtime_name = "runc"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes]
        [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
          runtime_type = "io.containerd.runc.v2"
          [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
            SystemdCgroup = true
"""


def rt(name, binary):
    return f"""        [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{name}]
          privileged_without_host_devices = false
          runtime_engine = ""
          runtime_root = ""
          runtime_type = "io.containerd.runc.v2"
          [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{name}.options]
            BinaryName = "/usr/local/nvidia/toolkit/{binary}"
            SystemdCgroup = true
"""


DROP = (
    """version = 2

[plugins]
  [plugins."io.containerd.grpc.v1.cri"]
    enable_cdi = true
    [plugins."io.containerd.grpc.v1.cri".containerd]
      default_runtime_name = "runc"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes]
        [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
          runtime_type = "io.containerd.runc.v2"
          [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
            SystemdCgroup = true
"""
    + rt("nvidia", "nvidia-container-runtime")
    + rt("nvidia-cdi", "nvidia-container-runtime.cdi")
    + rt("nvidia-legacy", "nvidia-container-runtime.legacy")
)
NOTOOL = dict.fromkeys(
    (
        "nvidia-ctk",
        "nvidia-cdi-hook",
        "nvidia-container-runtime",
        "nvidia-container-runtime-hook",
        "nvidia-container-cli",
    )
)
TK = "/usr/local/nvidia/toolkit/"


def op(version="1.7.24", preinstalled=True, root=ROOT, drop=DROP):
    h = kube(version, root, **{"99-nvidia": drop})
    files = {
        CONFIG: None,
        DYNAMIC: None,
        "/usr/bin/nvidia-container-runtime": None,
        "/usr/bin/nvidia-ctk": None,
        "/usr/bin/nvidia-cdi-hook": None,
    }
    for n in (
        "nvidia-container-runtime",
        "nvidia-container-runtime.cdi",
        "nvidia-container-runtime.legacy",
        "nvidia-ctk",
        "nvidia-cdi-hook",
        "nvidia-container-cli",
        "nvidia-container-runtime-hook",
    ):
        files[TK + n] = file("#! /bin/sh\n", 0o755)
    files["/usr/local/nvidia/toolkit/.config/nvidia-container-runtime/config.toml"] = config("auto")
    h = h.but(files=files, programs=NOTOOL, commands={"nvidia-ctk": None}, units={REFRESH: None})
    if not preinstalled:
        fs = {}
        for n in ("libcuda", "libnvidia-ml"):
            for p in (f"/usr/local/nvidia/lib64/{n}.so.580.159.04", f"/usr/local/nvidia/lib64/{n}.so.1"):
                fs[p] = None
            real = f"/run/nvidia/driver/usr/lib/x86_64-linux-gnu/{n}.so.580.159.04"
            fs[real] = file("")
            fs[f"/run/nvidia/driver/usr/lib/x86_64-linux-gnu/{n}.so.1"] = link(
                f"{n}.so.580.159.04", file(""), real
            )
        fs["/dev/nvidia0"] = None
        fs["/dev/nvidiactl"] = None
        fs["/dev/nvidia-uvm"] = None
        fs["/dev/nvidia-uvm-tools"] = None
        fs["/dev/nvidia-modeset"] = None
        for n in ("nvidia0", "nvidiactl", "nvidia-uvm"):
            fs[f"/run/nvidia/driver/dev/{n}"] = node_(n)
        h = h.but(
            files=fs,
            commands={
                "nvidia-smi": None,
                "nvidia-smi-version": None,
                "nvidia-smi-query": None,
                "modinfo": (1, "", "modinfo: ERROR: Module nvidia not found.\n"),
                "ldconfig": (0, "\tlibc.so.6 (libc6,x86-64) => /lib/x86_64-linux-gnu/libc.so.6\n", ""),
            },
        )
    return h


def node_(n):
    from tests.unit.build import node as dn

    return dn(195, 0)


HOSTS = {"driver preinstalled": op(), "driver container": op(preinstalled=False)}
