"""gpu-operator#1323, k8s-device-plugin#826: k0s worker: containerd --config=/etc/k0s/containerd.toml, drop-ins in /etc/k0s/containerd.d"""

from tests.cases.k8s import *

MAIN = """# k0s_managed=true
version = 2
imports = [
  "/run/k0s/containerd-cri.toml",
]
"""
CRI = """version = 2
[plugins]
  [plugins."io.containerd.grpc.v1.cri"]
    sandbox_image = "quay.io/k0sproject/pause:3.9"
"""
BROKEN = (
    'disabled_plugins = ["cri"]\nimports = ["/etc/containerd/config.toml"]\nversion = 2\n'
    + """[plugins]
  [plugins."io.containerd.grpc.v1.cri"]
    [plugins."io.containerd.grpc.v1.cri".containerd]
      default_runtime_name = "nvidia"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes]
        [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.nvidia]
          runtime_type = "io.containerd.runc.v2"
          [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.nvidia.options]
            BinaryName = "/usr/local/nvidia/toolkit/nvidia-container-runtime"
"""
)


def mk(drop=None):
    h = kube(
        "1.7.24",
        None,
        kubelet_args=(
            "--config=/var/lib/k0s/kubelet-config.yaml",
            "--container-runtime-endpoint=unix:///run/k0s/containerd.sock",
            "--root-dir=/var/lib/k0s/kubelet",
        ),
    )
    files = {
        "/etc/k0s/containerd.toml": MAIN,
        "/run/k0s/containerd-cri.toml": CRI,
        CC: None,
        "/var/lib/k0s/kubelet-config.yaml": "cgroupDriver: cgroupfs\n",
        KUBELET: None,
    }
    if drop:
        files["/etc/k0s/containerd.d/nvidia.toml"] = drop
    procs = (
        process(
            "/var/lib/k0s/bin/containerd",
            "--root=/var/lib/k0s/containerd",
            "--state=/run/k0s/containerd",
            "--address=/run/k0s/containerd.sock",
            "--log-level=info",
            "--config=/etc/k0s/containerd.toml",
        ),
        process(
            "/var/lib/k0s/bin/kubelet",
            "--config=/var/lib/k0s/kubelet-config.yaml",
            "--container-runtime-endpoint=unix:///run/k0s/containerd.sock",
            "--root-dir=/var/lib/k0s/kubelet",
        ),
    )
    return h.but(
        files=files,
        processes=procs,
        programs={"containerd": None},
        commands={"containerd": None},
        units={"containerd.service": None},
    )


HOSTS = {"plain k0s, no nvidia": mk(), "operator 24.9 drop-in": mk(BROKEN)}
