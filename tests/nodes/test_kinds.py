"""Hosts that somebody else keeps, on booted nodes: what an audit says there is right for that kind, and mend harms nothing.

The layouts are the vendors' (each function names its source), the daemons in them are the suite's own, run from where that vendor
has them. MicroK8s' kubelite and the kubelet are not here: a program of that name stands in, which does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import pytest

from gpumend.state.flavours import FLAVOURS
from tests.cases import gpu_operator
from tests.nodes import gpu, images, scenarios, toolkit
from tests.nodes.conftest import Boot
from tests.nodes.drive import Ran, audit, mend
from tests.nodes.lab import Lab, Node
from tests.nodes.slot import wait_for
from tests.nodes.toolkit import CONFIG

VERSION = "1.18.2"
PROGRAMS = ("containerd", "containerd-shim-runc-v2", "dockerd", "docker", "docker-proxy", "docker-init")
(MICROK8S,) = (found for found in FLAVOURS if found.name == "microk8s")
OPERATORS = "/usr/local/nvidia/toolkit"
ARGS, SNAP_K8S = "/var/snap/microk8s/current/args", "/snap/microk8s/7394"
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
# A program of any name that stays: the suite's python3, copied. $1 its path, then its arguments.
STAYS = "import sys, time; time.sleep(10**6)"
UNIT = "[Service]\nEnvironment=PATH={path}:/usr/sbin:/usr/bin:/sbin:/bin\nExecStart={command}\nDelegate=yes\n"


class Kind(NamedTuple):
    """One layout. lay: brings a node without Docker into it. theirs: what the vendor, or the site, keeps. unit: the daemon that
    runs on. break_it: makes its one fault; code: what that fault is. gone: what else is taken away for the next layout."""

    lay: Callable[[Node], None]
    theirs: tuple[str, ...]
    unit: str
    break_it: Callable[[Node], None]
    code: str
    gone: tuple[str, ...] = ()


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


# -- one fault each


def lose_ctk(node: Node) -> None:
    node.sh('rm "$1/nvidia-ctk"', OPERATORS)


def two_cgroup_drivers(node: Node) -> None:
    node.sh('sed -i s/=cgroupfs/=systemd/ "$1/kubelet"', ARGS)


KINDS: Mapping[str, Kind] = {
    "microk8s": Kind(
        lay_microk8s,
        (ARGS,),
        MICROK8S.unit,
        two_cgroup_drivers,
        "GM505",
        ("/var/snap/microk8s", "/snap/microk8s"),
    ),
    "gpu-operator": Kind(
        lay_operator,
        (OPERATORS, "/run/nvidia/driver", "/etc/containerd"),
        "containerd.service",
        lose_ctk,
        "GM011",
    ),
}
UNITS = ("kubelet.service", MICROK8S.unit, MICROK8S.agent)


def strip(node: Node, containerd: bool) -> None:
    """Docker's packages are gone, and containerd's unless it stays; their programs lie in /srv/programs."""
    node.sh(
        'mkdir -p /srv/programs; for name; do found=$(command -v "$name" || find /usr/libexec /usr/sbin -name "$name" | head -n1); '
        '[ -z "$found" ] || cp "$found" /srv/programs/; done',
        *PROGRAMS,
    )
    packages = ["docker.io", "docker-cli", *([] if containerd else ["containerd"])]
    node.sh("systemctl stop docker.socket docker.service")
    if not containerd:
        node.sh("systemctl stop containerd.service")
    node.sh('dpkg --purge --force-depends "$@" >/dev/null 2>&1', *packages)
    node.sh("rm -rf /etc/docker; systemctl daemon-reload; systemctl reset-failed")


def harmless(lab: Lab, node: Node, kind: Kind, times: int) -> Ran:
    """So many mends that left everything of theirs, and what ran; the last's outcome."""
    tree, pid = node.tree(*kind.theirs), node.main_pid(kind.unit)
    for _ in range(times):
        ran = mend(lab, node)
        assert set(ran.statuses(node).values()) <= {"refused"}, ran.said
        assert node.tree(*kind.theirs) == tree and node.main_pid(kind.unit) == pid
    return ran


@pytest.fixture(scope="module")
def bare(shared_boot: Boot) -> Node:
    """A node with the toolkit, and neither Docker nor containerd of its own."""
    node = shared_boot("sid", "healthy", VERSION)
    strip(node, containerd=False)
    return node


@pytest.fixture
def with_containerd(boot: Boot) -> Node:
    node = boot("sid", "healthy", VERSION)
    strip(node, containerd=True)
    return node


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_is_judged_by_its_own_measure_and_left(
    lab: Lab, name: str, request: pytest.FixtureRequest
) -> None:
    kind = KINDS[name]
    node: Node = request.getfixturevalue("with_containerd" if name == "gpu-operator" else "bare")
    try:
        judged_and_left(lab, node, kind)
    finally:  # the next layout finds nothing of this one
        node.sh('systemctl stop "$@" 2>/dev/null || true; cd /etc/systemd/system; rm -f -- "$@"', *UNITS)
        node.sh('rm -rf -- "$@"; systemctl daemon-reload', *(kind.theirs if kind.gone else ()), *kind.gone)


def judged_and_left(lab: Lab, node: Node, kind: Kind) -> None:
    kind.lay(node)
    found = audit(lab, node)
    assert (found.rc, found.codes(node)) == (0, []), found.said
    assert harmless(lab, node, kind, 1).codes(node) == []

    kind.break_it(node)
    broken = audit(lab, node)
    assert (broken.rc, broken.codes(node)) == (3, [kind.code]), broken.said
    told = broken.finding(node, kind.code)
    assert (told["status"], told["mends"]) == ("fail", None), told
    assert harmless(lab, node, kind, 2).codes(node) == [kind.code]


# -- an unprivileged LXC: a user namespace, device nodes of the outer host's, a Docker of its own


@pytest.fixture(scope="module")
def unprivileged(lab: Lab) -> Iterator[Node]:
    node = lab.boot("sid", devices=gpu.DEVICE_NODES)
    scenarios.equip(node, VERSION, gpu.DEFAULT_DRIVER)
    toolkit.write_config(node)
    toolkit.install_refresh_units(node, VERSION)
    scenarios.write_daemon(node, scenarios.daemon_settings(node))
    yield node
    node.stop()


def no_cgroups(node: Node, value: str) -> None:
    node.sh('sed -i "s/^#\\?no-cgroups = .*/no-cgroups = $2/" "$1"', CONFIG, value)
    assert f"\nno-cgroups = {value}\n" in node.read(CONFIG).decode()


def test_docker_in_an_unprivileged_container(lab: Lab, unprivileged: Node) -> None:
    node = unprivileged
    no_cgroups(node, "true")
    run = ("docker", "run", "-d", "--name", "keep", "--network=none", "--device", "nvidia.com/gpu=0")
    node.run([*run, images.BASE, "sleep", "86400"])
    assert node.run(["docker", "exec", "keep", "ls", "/dev/nvidia0"]).stdout == "/dev/nvidia0\n"
    tree, pid = node.tree("/etc"), node.main_pid("docker.service")
    found = audit(lab, node)
    assert (found.rc, found.codes(node)) == (0, []), found.said
    done = mend(lab, node)
    assert (done.rc, done.statuses(node)) == (0, {}), done.said
    assert node.tree("/etc") == tree and node.main_pid("docker.service") == pid

    no_cgroups(node, "false")
    node.run(["docker", "create", "--name", "tts", "--gpus", "all", images.BASE, "true"])
    broken = audit(lab, node)
    assert "GM215" in broken.codes(node), broken.said
    mended = mend(lab, node)
    assert "GM215" not in mended.codes(node), mended.said
    assert "\nno-cgroups = true\n" in node.read(CONFIG).decode()
    assert node.main_pid("docker.service") == pid
    assert node.run(["docker", "exec", "keep", "echo", "here"]).stdout == "here\n"
    assert mend(lab, node).statuses(node) == {}
