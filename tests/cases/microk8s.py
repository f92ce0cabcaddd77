"""canonical/microk8s#2474,#3219; gpu-operator#173: MicroK8s: containerd is the snap's, its configuration is rendered from /var/snap/microk8s/current/args/containerd-template.toml at each start"""

from tests.cases.k8s import *

T = """version = 2
[plugins."io.containerd.grpc.v1.cri"]
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes]
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
        runtime_type = "io.containerd.runc.v2"
"""
A = "/var/snap/microk8s/current/args"


def mk(kubelite="kubelite", system_containerd=False):
    h = kube("1.7.24", None, docker=False)
    files = {f"{A}/containerd.toml": T, f"{A}/containerd-template.toml": T, CC: None}
    procs = [
        process(
            "/snap/microk8s/7394/bin/containerd",
            "--config",
            f"{A}/containerd.toml",
            "--root",
            "/var/snap/microk8s/common/var/lib/containerd",
            "--state",
            "/var/snap/microk8s/common/run/containerd",
            "--address",
            "/var/snap/microk8s/common/run/containerd.sock",
        ),
        process(
            "/snap/microk8s/7394/kubelite",
            "--scheduler-args-file=/var/snap/microk8s/7394/args/kube-scheduler",
            "--kubelet-args-file=/var/snap/microk8s/7394/args/kubelet",
        ),
    ]
    if system_containerd:
        procs.insert(0, process("/usr/bin/containerd"))
        files[CC] = 'disabled_plugins = ["cri"]\n'
        return h.but(files=files, processes=tuple(procs))
    return h.but(
        files=files,
        processes=tuple(procs),
        programs={"containerd": None},
        commands={"containerd": None},
        units={"containerd.service": None},
    )


HOSTS = {"microk8s alone": mk(), "with docker.io containerd beside": mk(system_containerd=True)}
