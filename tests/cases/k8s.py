"""helpers: a kubeadm-like node whose pods containerd serves"""

from gpumend.state.containerd import CONFIG as CC
from tests.unit.build import *
from tests.unit.test_containerd import GOOD_UNIT, node

KUBELET = "/var/lib/kubelet/config.yaml"


def kube(
    version,
    config_text,
    dump=None,
    kubelet_args=(
        "--config=/var/lib/kubelet/config.yaml",
        "--container-runtime-endpoint=unix:///run/containerd/containerd.sock",
    ),
    driver="systemd",
    docker=False,
    cargs=(),
    **drop,
):
    h = node(version, config_text, dump, **drop)
    procs = [
        p
        for p in h.processes
        if "containerd" in p["exe"].rpartition("/")[2] or docker and "dockerd" in p["exe"]
    ]
    procs = [process("/usr/bin/containerd", *cargs)] + (
        [p for p in h.processes if "dockerd" in p["exe"]] if docker else []
    )
    procs.append(process("/usr/bin/kubelet", *kubelet_args))
    changes = dict(
        files={
            KUBELET: f"apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\ncgroupDriver: {driver}\n"
        },
        processes=tuple(procs),
    )
    h = h.but(**changes)
    if not docker:
        h = h.but(
            docker=None,
            programs={"dockerd": None, "docker": None},
            commands={"dockerd": None},
            units={"docker.service": None},
            files={DAEMON_JSON: None},
        )
        from dataclasses import replace

        h = replace(h, docker=None)
    return h
