"""containerd#4581, nct#410, minikube#3471: Docker's containerd.io brings disabled_plugins = ["cri"]; nvidia runtime configured; kubelet dies with unknown service runtime.v1.RuntimeService"""

from tests.cases.k8s import *

A = """disabled_plugins = ["cri"]
version = 2

[plugins]

  [plugins."io.containerd.grpc.v1.cri"]

    [plugins."io.containerd.grpc.v1.cri".containerd]
      default_runtime_name = "nvidia"

      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes]

        [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.nvidia]
          privileged_without_host_devices = false
          runtime_engine = ""
          runtime_root = ""
          runtime_type = "io.containerd.runc.v2"

          [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.nvidia.options]
            BinaryName = "/usr/bin/nvidia-container-runtime"
            SystemdCgroup = true
"""
CDI = A.replace(
    '    [plugins."io.containerd.grpc.v1.cri".containerd]\n',
    '    enable_cdi = true\n    [plugins."io.containerd.grpc.v1.cri".containerd]\n',
    1,
)
STOCK = 'disabled_plugins = ["cri"]\n'
HOSTS = {
    "nvidia-ctk on top of containerd.io stock, 1.7": kube("1.7.27", A),
    "the same with CDI on": kube("1.7.27", CDI),
    "containerd 2.1": kube("2.1.5", A),
    "stock containerd.io": kube("1.7.27", STOCK),
    "kubelet not running (crash loop between two starts)": kube("1.7.27", CDI).but(
        processes=(process("/usr/bin/containerd"),),
        units={"kubelet.service": {"LoadState": "loaded", "ActiveState": "activating"}},
    ),
}
