"""A healthy host of each kind stays silent but for the notes that are listed, and its twin with one fault does not.

The GPU, its driver and its libraries are those of a captured H100 (tests/fixtures/h100), what is above it is made of the vendor's
file or the public report that a kind names. A program that a kind does not have is absent. Everything else that the probe asks and
no capture shows is unread: a rule that needed it would be `unknown` here, and the test would fail.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from gpumend.rules.judge import Verdict
from gpumend.state.flavours import FLAVOURS, Flavour
from gpumend.state.host_state import request
from tests.cases import aks, gpu_operator, jetson_gpus, lxc_no_cgroups, wsl_linux_driver
from tests.cases.base import SMI_Q
from tests.cases.k8s import kube
from tests.unit.build import (
    CONFIG,
    DAEMON_JSON,
    DYNAMIC,
    PROGRAMS,
    Command,
    Host,
    Item,
    a_directory,
    config,
    container,
    daemon_json,
    file,
    healthy,
    healthy_docker,
    process,
    spec,
    unread,
    verdict,
)
from tests.unit.farm import audit, record
from tests.unit.test_cases_engines import K0S_NVIDIA, MICROK8S_NVIDIA, k0s_host, microk8s_host, rootless, wsl
from tests.unit.test_cases_harm import EKS, UNPRIVILEGED, nix
from tests.unit.test_containerd import V3_PLUGIN, runtime
from tests.unit.test_cuda import smi

AUTO: dict[str, Any] = {"runtime": {"mode": "auto"}}
ASKED = set(request()["commands"])
# No kind below has these programs, unless its own answers say so: absent is what the probe would say.
NOT_HERE = (
    "rpm", "podman", "nvidia-smi-wsl", "crio", "crio-live", "crio-status", "criu", "criu-check", "criu-check-runc", "criu-watchers",
    "cuda-checkpoint", *(f"{name}-containerd{more}" for name in ("k0s", "k3s", "rke2", "microk8s") for more in ("", "-config")),
)  # fmt: skip
# What these programs say where all is well, each in its own words.
SAID: dict[str, Command | Item | None] = {
    "nvidia-smi-query": (0, SMI_Q, ""),  # captured on the H100
    "cuinit": (0, "0 1 /usr/local/nvidia/lib64/libcuda.so.1\n", ""),  # measured on an H100: one device
    "dockerd-validate": (0, "configuration OK\n", ""),  # dockerd 28.5.2
    "unit-dangers": (0, "Id=docker.service\nNRestarts=0\nStartLimitAction=none\nFailureAction=none\nSubState=running\nResult=success\n", ""),
    # Ubuntu 24.04's 20auto-upgrades and 50unattended-upgrades
    "apt-config": (0, 'APT::Periodic::Update-Package-Lists "1";\nAPT::Periodic::Unattended-Upgrade "1";\nUnattended-Upgrade::Allowed-Origins:: "Ubuntu:noble-security";\n', ""),
}  # fmt: skip
DOCKERS = ("dockerd-validate", "unit-dangers")


def told(host: Host, *but: str) -> Host:
    """The host with what its programs say; `but` names of SAID that this kind has not. What nobody told is unread."""
    commands: dict[str, Command | Item | None] = dict(host.commands)
    for name in ASKED - set(commands):
        said = SAID[name] if name in SAID and name not in but else None
        absent = name in NOT_HERE or name in but
        commands[name] = said if said is not None else None if absent else unread("failed")
    return replace(host, commands=commands)


def on_ubuntu(host: Host) -> Host:
    return told(host)


# --- Kubernetes

NVIDIA = {"BinaryName": "/usr/bin/nvidia-container-runtime", "SystemdCgroup": True}
KUBEADM = (
    'version = 2\n[plugins."io.containerd.grpc.v1.cri"]\n  enable_cdi = true\n'
    '  [plugins."io.containerd.grpc.v1.cri".containerd]\n    default_runtime_name = "nvidia"\n'
    + runtime("runc", SystemdCgroup=True)
    + runtime("nvidia", **NVIDIA)
)
RANCHERS = (
    f'version = 3\n[plugins."{V3_PLUGIN}"]\n  enable_cdi = true\n'
    + runtime("runc", V3_PLUGIN, SystemdCgroup=True)
    + runtime("nvidia", V3_PLUGIN, **NVIDIA)
)
# Both write a [grpc] and images' part besides, which no rule reads.
NODEADM = (
    f"version = 3\n[plugins.'{V3_PLUGIN}']\nenable_cdi = true\n"
    f"[plugins.'{V3_PLUGIN}'.containerd]\ndefault_runtime_name = 'nvidia'\n"
    + runtime("nvidia", V3_PLUGIN, **NVIDIA)
)


def rancher(flavour: Flavour, unit: str, verb: str, text: str = RANCHERS) -> Host:
    """k3s or RKE2 with the containerd that it brings: no other one, no Docker, no kubelet of its own."""
    argv = f"/usr/local/bin/{flavour.name} {verb}"
    ran = {
        "LoadState": "loaded",
        "ActiveState": "active",
        "ExecStart": f"{{ path=/usr/local/bin/x ; argv[]={argv} ; }}",
    }
    version = "containerd github.com/k3s-io/containerd v2.1.5-k3s1 x\n"
    return told(
        kube("2.1.5", None).but(
            files={
                "/etc/containerd/config.toml": None,
                "/var/lib/kubelet/config.yaml": None,
                flavour.directory: a_directory(),
                flavour.settings: "token: secret\n",
                flavour.generated: text,
            },
            programs={"containerd": None},
            commands={"containerd": None, f"{flavour.name}-containerd": (0, version, "")},
            units={"containerd.service": None, unit: ran},
            processes=(process(argv.split()[0], verb),),
        )
    )


def without_nvidia(text: str) -> str:
    head, _, _ = text.partition(f'[plugins."{V3_PLUGIN}".containerd.runtimes.nvidia]')
    assert head != text
    return head


def eks(text: str = NODEADM, version: str = "2.1.5") -> Host:
    return on_ubuntu(kube(version, text).but(files={"/etc/eks": a_directory()}))


def operator(**changes: Any) -> Host:
    return on_ubuntu(gpu_operator.op().but(**changes))


# --- other kinds


def lxc(no_cgroups: str = "true", *users: Item) -> Host:
    host = lxc_no_cgroups.lxc("1.20.0", "auto", "28.5.2", no_cgroups)
    return told(host.but(files={"/proc/self/uid_map": UNPRIVILEGED}).with_containers(*users), "apt-config")


# nct pkg/nvcdi/lib-wsl.go, driver-wsl.go: one device `all`, /dev/dxg, Windows' libraries and libdxcore.so
WSL_SPEC = """cdiVersion: 0.3.0
kind: nvidia.com/gpu
devices:
- name: all
  containerEdits:
    deviceNodes:
    - path: /dev/dxg
containerEdits:
  hooks:
  - hookName: createContainer
    path: /usr/bin/nvidia-cdi-hook
    args: [nvidia-cdi-hook, update-ldcache, --folder, /usr/lib/wsl/lib]
  mounts:
  - hostPath: /usr/lib/wsl/lib/libdxcore.so
    containerPath: /usr/lib/wsl/lib/libdxcore.so
    options: [ro, nosuid, nodev, rbind, rprivate]
  - hostPath: /usr/lib/wsl/lib/libcuda.so.1
    containerPath: /usr/lib/wsl/lib/libcuda.so.1
    options: [ro, nosuid, nodev, rbind, rprivate]
"""
WSL_LIB = "/usr/lib/wsl/lib"


def wsl2(**files: Any) -> Host:
    names = ("libdxcore.so", "libcuda.so.1", "libnvidia-ml.so.1")
    docker = healthy_docker("28.5.2")
    docker["info"]["DiscoveredDevices"] = [{"Source": "cdi", "ID": "nvidia.com/gpu=all"}]
    host = wsl().but(
        files={
            CONFIG: config("auto", "@/sbin/ldconfig"),
            DAEMON_JSON: daemon_json("28.5.2"),
            DYNAMIC: WSL_SPEC,
            "/sbin/ldconfig": file("\x7fELF", 0o755),
            "/run/systemd/system": a_directory(),
            **{f"{WSL_LIB}/{name}": file("") for name in names},
            **{
                f"/usr/bin/{name}": file("", 0o755)
                for name in ("nvidia-container-runtime", "nvidia-cdi-hook")
            },
            **files,
        },
        programs={name: f"/usr/bin/{name}" for name in PROGRAMS},
        commands={
            "nvidia-ctk": (0, "NVIDIA Container Toolkit CLI version 1.20.0\n", ""),
            "dockerd": (0, "Docker version 28.5.2, build 0a1b2c3\n", ""),
            "nvidia-smi-wsl": (0, smi("GeForce", "Ada Lovelace", "581.57", "13.0"), ""),
            "ldconfig": (0, f"\tlibcuda.so.1 (libc6,x86-64) => {WSL_LIB}/libcuda.so.1\n", ""),
            "systemd-version": (0, "systemd 255\n", ""),
        },
        docker=docker,
        units={"docker.service": {"LoadState": "loaded", "ActiveState": "active", "Result": "success"}},
        processes=(process("/usr/bin/dockerd", "-H", "fd://"),),
    )
    return told(
        host, "nvidia-smi", "nvidia-smi-version", "nvidia-smi-query", "cuinit"
    )  # not asked without /dev/nvidiactl


def jetson(*users: Item) -> Host:
    host = jetson_gpus.HOST.but(
        commands={"nvidia-ctk": (0, "NVIDIA Container Toolkit CLI version 1.20.0\n", "")}
    )
    return told(host.with_containers(*users))


def nixos(text: str | None = None) -> Host:
    """No dpkg, no apt, and the daemon's file lies in the store."""
    return told(nix(text).but(commands={"dpkg": None}), "apt-config")


def rootless_docker(version: str = "28.5.2") -> Host:
    host = rootless(version)
    return told(host.but(commands={"nvidia-ctk": (0, "NVIDIA Container Toolkit CLI version 1.20.0\n", "")}))


@dataclass(frozen=True)
class Kind:
    """made_of: what it was made from. notes: codes of the notes that it has. twin: the same with one fault; code, status: what
    is found there and not here."""

    name: str
    made_of: str
    host: Host
    twin: Host
    code: str
    status: str
    notes: tuple[str, ...] = ("GM221",)  # the captured driver has an advisory since September 2026
    wanted: Mapping[str, Any] = field(default_factory=dict)


GPUS = container("tts", gpus=True, running=False)
RUNTIME = container("tts", runtime="nvidia")
KINDS = (
    Kind(
        "bare Docker", "capture h100; moby 28.5.2 daemon.json, docker info; nct 1.20.0",
        on_ubuntu(healthy()),
        on_ubuntu(healthy().but(files={DAEMON_JSON: daemon_json("28.5.2", features={"cdi": False})}, info={"CDISpecDirs": []})),
        "GM404", "fail",
    ),
    Kind(
        "kubeadm", "kubernetes.io, container runtimes: SystemdCgroup; NVIDIA/k8s-device-plugin README: default_runtime_name nvidia",
        on_ubuntu(kube("1.7.28", KUBEADM)), on_ubuntu(kube("1.7.28", KUBEADM, driver="cgroupfs")), "GM505", "fail",
    ),
    Kind(
        "k3s", "k3s-io/k3s pkg/agent/templates/templates_linux.go at 06be48b6 (ExtraRuntimes), version 3 of containerd 2",
        rancher(FLAVOURS[0], "k3s.service", "server"),
        rancher(FLAVOURS[0], "k3s.service", "server", without_nvidia(RANCHERS)), "GM503", "fail",
    ),
    Kind(
        "RKE2", "rancher/rke2: k3s' templates, /var/lib/rancher/rke2/agent; docs.rke2.io, GPU operators",
        rancher(FLAVOURS[1], "rke2-agent.service", "agent"),
        rancher(FLAVOURS[1], "rke2-agent.service", "agent", without_nvidia(RANCHERS)), "GM503", "fail",
    ),
    Kind(
        "k0s", "k0sproject/k0s docs/runtime.md at 0e245d0e: /etc/k0s/containerd.d merged into /run/k0s/containerd-cri.toml",
        on_ubuntu(k0s_host(K0S_NVIDIA)), on_ubuntu(k0s_host('disabled_plugins = ["cri"]\n' + K0S_NVIDIA)), "GM514", "fail",
    ),
    Kind(
        "MicroK8s", "canonical/microk8s microk8s-resources/default-args/containerd-template.toml at 08a8c4aa",
        on_ubuntu(microk8s_host(MICROK8S_NVIDIA)),
        on_ubuntu(microk8s_host(MICROK8S_NVIDIA, "--cgroup-driver=systemd\n")), "GM505", "fail",
    ),
    Kind(
        "GPU Operator", "gpu-operator#1323 and nct cmd/nvidia-ctk-installer: /usr/local/nvidia/toolkit, conf.d/99-nvidia.toml",
        operator(), operator(files={f"{gpu_operator.TK}nvidia-ctk": None}), "GM011", "fail",
    ),
    Kind(
        "GPU Operator with its driver container", "gpu-operator: /run/nvidia/driver (driver.enabled=true)",
        on_ubuntu(gpu_operator.op(preinstalled=False)),
        on_ubuntu(gpu_operator.op(preinstalled=False).but(files={"/run/nvidia/driver/dev/nvidiactl": None})), "GM105", "fail",
    ),
    Kind(
        "AKS", "Azure/AgentBaker, containerd's template of a GPU node (EnableNvidia, CgroupV2)",
        on_ubuntu(aks.HOST.but(files={"/opt/azure/containers": a_directory()})),
        on_ubuntu(kube("1.7.24", aks.AKS.replace("enable_cdi = true", "enable_cdi = false"))), "GM504", "fail",
    ),
    Kind(
        "EKS", "awslabs/amazon-eks-ami nodeadm, containerdv2-runtime-config-nvidia/expected-containerd-configv3.toml at 274fc763",
        eks(), eks(NODEADM.replace("enable_cdi = true", "enable_cdi = false")), "GM504", "fail",
    ),
    Kind(
        "EKS with containerd 1.7", "awslabs/amazon-eks-ami nodeadm, containerdv1-runtime-config-nvidia at 274fc763",
        eks(EKS, "1.7.24"), eks(EKS.replace("enable_cdi = true", "enable_cdi = false"), "1.7.24"), "GM504", "fail",
    ),
    Kind(
        "unprivileged LXC", "libnvidia-container#154: Docker in Proxmox' LXC, no-cgroups = true",
        lxc(), lxc("false", GPUS), "GM215", "fail",
    ),
    Kind(
        "WSL2", "report 000 (GeForce, /dev/dxg); nct pkg/nvcdi/lib-wsl.go, driver-wsl.go; learn.microsoft.com, WSL",
        wsl2(), wsl2(**{f"{wsl_linux_driver.L}/libcuda.so.535.309.01": file("")}), "GM223", "fail", wanted=AUTO, notes=(),
    ),
    Kind(
        "Jetson", "dusty-nv/jetson-containers#1577; nct internal/info: auto is csv on Tegra",
        jetson(RUNTIME), jetson(GPUS), "GM205", "fail", wanted=AUTO, notes=(),
    ),
    Kind(
        "NixOS", "NixOS/nixpkgs#337873, #420638: /run/opengl-driver/lib, nvidia-container-toolkit.json, --config-file in the store",
        nixos(), nixos(spec(None, ("libcuda.so.580.159.04", "libcuda.so.570.1.2"))), "GM012", "fail", wanted=AUTO,
    ),
    Kind(
        "rootless Docker", "nct#1487, nct#85: docker.service disabled, the user's own dockerd",
        rootless_docker(), rootless_docker("26.1.5"), "GM424", "warn", wanted=AUTO,
    ),
)  # fmt: skip


def said(found: Verdict, *statuses: str) -> list[tuple[str, str]]:
    return [(item.code, str(item.status)) for item in found.findings if str(item.status) in statuses]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_healthy_host_is_silent(kind: Kind) -> None:
    found = verdict(kind.host, kind.wanted)
    assert said(found, "fail", "warn", "unknown") == [], found.findings
    assert tuple(item.code for item in found.findings) == kind.notes
    document = audit([record("a", kind.host, wanted=dict(kind.wanted))])
    assert (document["exit"], document["hosts"]["a"]["plan"]) == (0, [])


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_its_twin_with_one_fault_is_not(kind: Kind) -> None:
    found = verdict(kind.twin, kind.wanted)
    assert (kind.code, kind.status) in said(found, kind.status), found.findings
    assert audit([record("a", kind.twin, wanted=dict(kind.wanted))])["hosts"]["a"]["exit"] in (1, 3)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_it_says_what_it_was_made_of_and_assumes_nothing(kind: Kind) -> None:
    assert kind.made_of
    assumed = {name for name in ASKED if name not in kind.host.commands}
    assert assumed == set(), "each answer is told, absent or unread"
    assert any(isinstance(item, dict) and item["status"] == "failed" for item in kind.host.commands.values())


@pytest.mark.parametrize(
    "answer",
    [
        (9, "", "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n"),
        (6, "", "No devices were found\n"),
        unread("timeout"),
    ],
)
def test_a_wsl_to_which_windows_gives_no_gpu(answer: Any) -> None:
    """nct#155, nd#1786: `WSL environment detected but no adapters were found`."""
    host = wsl2(**{DYNAMIC: None}).but(commands={"nvidia-smi-wsl": answer})
    found = verdict(host, AUTO)
    assert said(found, "fail", "warn", "unknown") == [("GM107", "fail"), ("GM301", "fail")]
    assert "Windows" in found.findings[0].cause
    assert not any(item.change for item in found.findings), "no spec is made meanwhile"


def test_each_kind_of_the_issue_is_there() -> None:
    """Issue 19, "Accepted when" 3."""
    named = "bare Docker|kubeadm|k3s|RKE2|k0s|MicroK8s|GPU Operator|AKS|EKS|unprivileged LXC|WSL2|Jetson|NixOS|rootless Docker"
    assert set(named.split("|")) <= {kind.name for kind in KINDS}


def test_the_unread_is_what_no_rule_needs() -> None:
    """A kind whose GPU was not asked is unknown, not healthy."""
    silent = replace(KINDS[0].host, commands={**KINDS[0].host.commands, "nvidia-smi-query": unread("failed")})
    assert said(verdict(silent), "unknown") != []
