"""Hosts that somebody else keeps, as layouts on a node: what lies where, which daemons run, one fault, and its remedy.

The layouts are the vendors' (each function names its source), the daemons in them are the suite's own, run from where that vendor
has them. MicroK8s' kubelite, k0s and the kubelet are not here: a program of that name stands in. k0s' starts the other two, as k0s
does; the rest do nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from gpumend.state.flavours import FLAVOURS
from tests.cases import gpu_operator
from tests.nodes import gpu, images, toolkit
from tests.nodes.lab import Node
from tests.nodes.slot import wait_for
from tests.nodes.toolkit import CONFIG

VERSION = "1.18.2"
K0S, MICROK8S = FLAVOURS[2:]
OPERATORS = "/usr/local/nvidia/toolkit"
ARGS, SNAP_K8S = "/var/snap/microk8s/current/args", "/snap/microk8s/7394"
SNAP, SNAP_DATA = "/snap/docker/3505", "/var/snap/docker/3505"
SNAP_JSON, SNAP_CONFIG = (
    f"{SNAP_DATA}/config/daemon.json",
    f"{SNAP_DATA}/etc/nvidia-container-runtime/config.toml",
)
SNAP_UNIT = "snap.docker.dockerd.service"
SNAP_SETTINGS = f'''{{
    "log-level": "error",
    "runtimes": {{"nvidia": {{"args": [], "path": "{SNAP}/usr/bin/nvidia-container-runtime"}}}}
}}
'''
REFRESH = "/etc/systemd/system/nvidia-cdi-refresh"
K0S_DROP, K0S_CRI = f"{K0S.directory}/containerd.d/nvidia.toml", "/run/k0s/containerd-cri.toml"
V2 = 'plugins."io.containerd.grpc.v1.cri"'
NVIDIA = f"""version = 2
[{V2}]
  enable_cdi = true
  [{V2}.containerd]
    default_runtime_name = "nvidia"
    [{V2}.containerd.runtimes.nvidia]
      runtime_type = "io.containerd.runc.v2"
      [{V2}.containerd.runtimes.nvidia.options]
        BinaryName = "/usr/bin/nvidia-container-runtime"
"""
RUNC = f"""    [{V2}.containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
"""
V3 = 'plugins."io.containerd.cri.v1.runtime"'
NVIDIA_V3 = f"""[{V3}.containerd]
  default_runtime_name = "nvidia"
[{V3}.containerd.runtimes.nvidia]
  runtime_type = "io.containerd.runc.v2"
[{V3}.containerd.runtimes.nvidia.options]
  BinaryName = "/usr/bin/nvidia-container-runtime"
"""
# Starts what it is given, one program an argument, and stays.
STARTS = (
    "import subprocess, sys; [*map(lambda each: subprocess.Popen(each.split()), sys.argv[1:])][-1].wait()"
)
# A program of any name that stays: the suite's python3, copied. $1 its path, then its arguments.
STAYS = "import sys, time; time.sleep(10**6)"
UNIT = "[Service]\nEnvironment=PATH={path}:/usr/sbin:/usr/bin:/sbin:/bin\nExecStart={command}\nDelegate=yes\nTimeoutStopSec=5\n"


class Kind(NamedTuple):
    """One layout. lay: brings a node without Docker into it. theirs: what the vendor, or the site, keeps. unit: the daemons that
    run on. break_it: makes its one fault; code: what that fault is; heal: does what its remedy says. ours: the toolkit is the
    host's own, for mend to mend. gone: what else is taken away for the next layout; leave: what else that takes."""

    lay: Callable[[Node], None]
    theirs: tuple[str, ...]
    unit: str
    break_it: Callable[[Node], None]
    code: str
    heal: Callable[[Node], None]
    ours: bool = True
    gone: tuple[str, ...] = ()
    leave: Callable[[Node], None] = lambda node: None


def unit(node: Node, name: str, command: str, path: str = "/usr/bin") -> None:
    """The service runs."""
    node.write(f"/etc/systemd/system/{name}", UNIT.format(command=command, path=path))
    node.sh('systemctl daemon-reload; systemctl restart "$1"', name)
    node.wait_active(name)


def kubelet(node: Node, program: str, *arguments: str) -> None:
    node.sh('mkdir -p "${1%/*}"; cp -f /usr/bin/python3 "$1"', program)
    unit(node, "kubelet.service", f"{program} -c '{STAYS}' {' '.join(arguments)}")


def answers(node: Node, socket: str) -> None:
    """containerd listens there."""
    wait_for(f"{socket} listens", lambda: node.run(["test", "-S", socket], check=False).returncode == 0)


def processes(node: Node, unit: str) -> list[str]:
    """The daemons of a unit, by pid."""
    script = 'cat "/sys/fs/cgroup$(systemctl show --value -p ControlGroup "$1")/cgroup.procs"'
    return sorted(node.sh(script, unit).stdout.split())


# -- the kinds


def lay_operator(node: Node) -> None:
    """nct cmd/nvidia-ctk-installer: wrappers in /usr/local/nvidia/toolkit, a drop-in for containerd; gpu-operator
    assets/state-driver: the driver container's root. Its drop-in is that of tests/cases/gpu_operator.py."""
    node.sh(
        'mkdir -p "$1/.config/nvidia-container-runtime"; for name in nvidia-ctk nvidia-container-runtime nvidia-cdi-hook '
        'nvidia-container-runtime-hook; do mv "/usr/bin/$name" "$1/"; done; '
        'cp "$1/nvidia-container-runtime" "$1/nvidia-container-runtime.cdi"; '
        'cp "$1/nvidia-container-runtime" "$1/nvidia-container-runtime.legacy"; mv "$2" "$1/.config/nvidia-container-runtime/"',
        OPERATORS,
        CONFIG,
    )
    node.sh("systemctl disable -q --now nvidia-cdi-refresh.path nvidia-cdi-refresh.service")
    node.sh(
        'rm -f /etc/systemd/system/nvidia-cdi-refresh.* /var/run/cdi/nvidia.yaml; to="/run/nvidia/driver$1"; mkdir -p "$to" '
        '/run/nvidia/driver/dev; mv "$1"/libcuda.so* "$1"/libnvidia-ml.so* "$to"; mv /usr/bin/nvidia-smi /run/nvidia/driver/usr/bin '
        "2>/dev/null || { mkdir -p /run/nvidia/driver/usr/bin; mv /usr/bin/nvidia-smi /run/nvidia/driver/usr/bin; }; "
        "cp -a /dev/nvidia* /run/nvidia/driver/dev/; /sbin/ldconfig",
        gpu.LIBRARIES,
    )
    node.write("/etc/containerd/config.toml", gpu_operator.ROOT)
    node.write("/etc/containerd/conf.d/99-nvidia.toml", gpu_operator.DROP)
    node.restart("containerd")
    node.write("/var/lib/kubelet/config.yaml", "cgroupDriver: systemd\n")
    kubelet(node, "/usr/bin/kubelet", "--config=/var/lib/kubelet/config.yaml")


def lay_microk8s(node: Node) -> None:
    """canonical/microk8s microk8s-resources/wrappers/run-containerd-with-args: containerd.toml is rendered from the template."""
    for name in ("containerd-template.toml", "containerd.toml"):
        node.write(f"{ARGS}/{name}", NVIDIA + RUNC)
    node.write(
        f"{ARGS}/kubelet",
        "--container-runtime-endpoint=${SNAP_COMMON}/run/containerd.sock\n--cgroup-driver=cgroupfs\n",
    )
    node.sh(
        'mkdir -p "$1/bin" /var/snap/microk8s/common/run; cp /srv/programs/containerd "$1/bin/"; ln -sfn "$1" "${1%/*}/current"; '
        'cp /usr/bin/python3 "$1/kubelite"',
        SNAP_K8S,
    )
    common = "/var/snap/microk8s/common"
    unit(
        node,
        MICROK8S.unit,
        f"{SNAP_K8S}/bin/containerd --config {ARGS}/containerd.toml --root /srv/microk8s "
        f"--state {common}/run/containerd --address {common}/run/containerd.sock",
    )
    unit(
        node, MICROK8S.agent, f"{SNAP_K8S}/kubelite -c '{STAYS}' --kubelet-args-file={SNAP_K8S}/args/kubelet"
    )
    answers(node, f"{common}/run/containerd.sock")


def lay_k0s(node: Node) -> None:
    """k0sproject/k0s docs/runtime.md; pkg/component/worker/containerd component.go, configurer.go (1.34: files of version 3). One
    unit: k0s starts containerd and the kubelet. The drop-in is merged as k0s merges it."""
    node.write(K0S_DROP, f"version = 3\n{NVIDIA_V3}")
    node.write(
        K0S_CRI,
        'version = 3\n[plugins."io.containerd.cri.v1.images".pinned_images]\n  sandbox = "registry.k8s.io/pause:3.10"\n'
        f'[{V3}.containerd.runtimes.runc]\n  runtime_type = "io.containerd.runc.v2"\n{NVIDIA_V3}',
    )
    node.write(K0S.config, f'# k0s_managed=true\nimports = ["{K0S_CRI}"]\nversion = 3\n')
    node.write("/var/lib/k0s/kubelet-config.yaml", "cgroupDriver: cgroupfs\n")
    node.sh(
        "mkdir -p /var/lib/k0s/bin; cp /srv/programs/containerd* /var/lib/k0s/bin/; cp /usr/bin/python3 /usr/local/bin/k0s; "
        "cp /usr/bin/python3 /var/lib/k0s/bin/kubelet"
    )
    node.write("/var/lib/k0s/kubelet.py", STAYS)
    containerd = (
        f"{K0S.program} --root=/srv/k0s --state=/run/k0s/containerd --address=/run/k0s/containerd.sock "
        f"--log-level=info --config={K0S.config}"
    )
    kubelet = (
        "/var/lib/k0s/bin/kubelet /var/lib/k0s/kubelet.py --root-dir=/var/lib/k0s/kubelet "
        "--config=/var/lib/k0s/kubelet-config.yaml --container-runtime-endpoint=unix:///run/k0s/containerd.sock"
    )
    unit(node, K0S.unit, f"/usr/local/bin/k0s -c '{STARTS}' '{kubelet}' '{containerd}'", "/var/lib/k0s/bin")
    answers(node, "/run/k0s/containerd.sock")


def lay_snap(node: Node) -> None:
    """canonical/docker-snap bin/dockerd-wrapper, nvidia/lib: its own toolkit, runtime, spec and daemon.json; none on the host."""
    node.sh("systemctl disable -q --now nvidia-cdi-refresh.path nvidia-cdi-refresh.service")
    node.sh(
        'mkdir -p "$1/bin" "$1/usr/bin" "$2/etc/nvidia-container-runtime" "$2/etc/cdi"; cp /srv/programs/* "$1/bin/"; '
        'ln -sfn "$1" "${1%/*}/current"; ln -sfn "$2" "${2%/*}/current"; mv "$3" "$2/etc/nvidia-container-runtime/"; shift 3; '
        'for name; do mv "/usr/bin/$name" /snap/docker/3505/usr/bin/; done',
        SNAP,
        SNAP_DATA,
        CONFIG,
        *toolkit.PROGRAMS,
    )
    node.sh(
        'mv /var/run/cdi/nvidia.yaml "$1/etc/cdi/"; mkdir -p /srv/aside; mv "$2"* /srv/aside/',
        SNAP_DATA,
        REFRESH,
    )
    node.write(SNAP_JSON, SNAP_SETTINGS)
    node.sh("groupadd -f docker; systemctl daemon-reload")
    unit(
        node,
        SNAP_UNIT,
        f"{SNAP}/bin/dockerd --group docker --exec-root=/run/snap.docker --data-root=/srv/snap-docker "
        f"--pidfile=/run/snap.docker/docker.pid --config-file={SNAP_JSON}",
        f"{SNAP}/bin",
    )
    docker = f"{SNAP}/bin/docker"
    wait_for("dockerd answers", lambda: node.run([docker, "version"], check=False).returncode == 0)
    node.run_bytes([docker, "import", "-c", images.PATH, "-", images.BASE], images.busybox_tar(node.suite))
    node.run([docker, "run", "-d", "--network=none", "--stop-signal=KILL", images.BASE, "sleep", "86400"])


def leave_snap(node: Node) -> None:
    node.sh('systemctl stop "$1"', SNAP_UNIT)
    node.sh(
        'mv "$1/usr/bin"/* /usr/bin/; mv "$2" "$3"; mv /srv/aside/* "$4"',
        SNAP,
        SNAP_CONFIG,
        CONFIG,
        "/etc/systemd/system/",
    )
    toolkit.install_refresh_units(node, VERSION)


# -- one fault each, and what its remedy says


def lose_ctk(node: Node) -> None:
    node.sh('mv "$1/nvidia-ctk" /srv/', OPERATORS)


def find_ctk(node: Node) -> None:
    node.sh('mv /srv/nvidia-ctk "$1/"', OPERATORS)


def two_cgroup_drivers(node: Node) -> None:
    node.sh('sed -i s/=cgroupfs/=systemd/ "$1/kubelet"', ARGS)


def one_cgroup_driver(node: Node) -> None:
    node.sh('sed -i s/=systemd/=cgroupfs/ "$1/kubelet"', ARGS)


def old_drop_in(node: Node) -> None:
    """What tools for containerd 1.7 write; k0s then leaves what there is, and starts no containerd (k0s#6547)."""
    node.write(K0S_DROP, NVIDIA)


def new_drop_in(node: Node) -> None:
    node.write(K0S_DROP, f"version = 3\n{NVIDIA_V3}")
    node.sh('systemctl restart "$1"', K0S.unit)
    answers(node, "/run/k0s/containerd.sock")


def half_a_file(node: Node) -> None:
    node.write(SNAP_JSON, '{\n  "runtimes": {\n')


def whole_file(node: Node) -> None:
    node.write(SNAP_JSON, SNAP_SETTINGS)


KINDS: Mapping[str, Kind] = {
    "k0s": Kind(
        lay_k0s,
        (K0S.directory, K0S_CRI, "/var/lib/k0s"),
        K0S.unit,
        old_drop_in,
        "GM511",
        new_drop_in,
        gone=("/etc/k0s", "/run/k0s", "/var/lib/k0s", "/usr/local/bin/k0s"),
    ),
    "microk8s": Kind(
        lay_microk8s,
        (ARGS,),
        MICROK8S.unit,
        two_cgroup_drivers,
        "GM505",
        one_cgroup_driver,
        gone=("/var/snap/microk8s", "/snap/microk8s"),
    ),
    "docker-snap": Kind(
        lay_snap,
        (SNAP, SNAP_DATA),
        SNAP_UNIT,
        half_a_file,
        "GM401",
        whole_file,
        ours=False,
        gone=("/var/snap/docker", "/snap/docker"),
        leave=leave_snap,
    ),
    "gpu-operator": Kind(
        lay_operator,
        (OPERATORS, "/run/nvidia/driver", "/etc/containerd"),
        "containerd.service",
        lose_ctk,
        "GM011",
        find_ctk,
        ours=False,
    ),
}
UNITS = ("kubelet.service", K0S.unit, MICROK8S.unit, MICROK8S.agent, SNAP_UNIT)
