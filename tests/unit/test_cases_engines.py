"""Engines and orchestrators (issue 19, section 3): the cases of public reports have their right answers, and so have their kin."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest

from gpumend.reports.terminal import render
from gpumend.rules import data
from gpumend.rules.data.check import problems
from gpumend.rules.engines.containers import causes
from gpumend.rules.judge import RULES
from gpumend.rules.toolkit.versions import floors
from gpumend.text.version import Version
from tests.cases import (
    cri_disabled,
    default_runc,
    dind_fs,
    docker_cdi_restart_always,
    jetson_gpus,
    k0s,
    microk8s,
    podman_selinux,
    rootless_only,
    selinux,
    wsl_linux_driver,
)
from tests.cases.base import cfg
from tests.cases.k8s import KUBELET, kube
from tests.unit.build import (
    CONFIG,
    DAEMON_JSON,
    DYNAMIC,
    NOW,
    STATIC,
    Host,
    Item,
    a_directory,
    besides_its_age,
    container,
    daemon_json,
    file,
    findings,
    healthy,
    node,
    outcome,
    process,
    spec,
    the,
    verdict,
)
from tests.unit.test_storage import INNER_MOUNTS, daemon, dind_host, inside

AUTO: dict[str, Any] = {"runtime": {"mode": "auto"}}
CC = "/etc/containerd/config.toml"


def codes(host: Host, wanted: dict[str, Any] | None = None) -> dict[str, str]:
    """Code and status of everything that changes an exit status."""
    return {f.code: str(f.status) for f in verdict(host, wanted).findings if f.status != "note"}


# --- containers that failed to start (Engine API ContainerInspect State)

UNRESOLVABLE = "CDI device injection failed: unresolvable CDI devices nvidia.com/gpu=all"  # nct#146, nct#1239
REFUSED = (
    "failed to create task for container: OCI runtime create failed: runc create failed: error running prestart hook #0: "
    "exit status 1, stderr: Using requested mode 'cdi' invoking the NVIDIA Container Runtime Hook directly (e.g. specifying "
    "the docker --gpus flag) is not supported."  # nct#1246
)


def down(error: str = "", exit: int = 128, **more: Any) -> Item:
    return container("trainer", running=False, error=error, exit=exit, **more)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param(down(UNRESOLVABLE, cdi="nvidia.com/gpu=all"), "fail", id="cdi"),
        pytest.param(down(REFUSED, gpus=True), "fail", id="gpus"),
        pytest.param(
            down("exec: no such file", runtime="nvidia", env={"NVIDIA_VISIBLE_DEVICES": "all"}),
            "fail",
            id="runtime",
        ),
        pytest.param(down(exit=1, gpus=True, restart="always"), "warn", id="kept-by-its-policy"),
        pytest.param(down(exit=1, gpus=True), "note", id="a-job-that-failed"),
        pytest.param(down(exit=0, gpus=True), "ok", id="a-job-that-is-done"),
        pytest.param(down(exit=143, gpus=True, restart="unless-stopped"), "ok", id="stopped-by-hand"),
        pytest.param(down("port is already allocated"), "ok", id="wants-no-gpu"),
        pytest.param(container("trainer", gpus=True), "ok", id="runs"),
        pytest.param(
            down('adding custom device "/dev/nvidia0": no such file', devices=["/dev/nvidia0", "/dev/nvidiactl"]),
            "fail", id="device-nodes",
        ),
        pytest.param(down("no such file", devices=["/dev/dri/renderD128"]), "ok", id="other-device-nodes"),
    ],
)  # fmt: skip
def test_gm416(found: Item, expected: str) -> None:
    assert outcome(healthy().with_containers(found), "GM416") == expected


def test_a_failed_start_is_quoted_masked_and_led_to_its_finding() -> None:
    error = f"{UNRESOLVABLE}: https://user:pa55word@registry.example/x"
    found = the(healthy().with_containers(down(error, cdi="nvidia.com/gpu=all")), "GM416")
    assert "unresolvable CDI devices" in found.summary
    assert "pa55word" not in repr(found)
    assert "GM301" in found.cause
    assert "gpumend explain GM301" in found.remedy


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (REFUSED, "GM205"),
        ("unknown or invalid runtime name: nvidia", "GM403"),
        ('could not select device driver "cdi" with capabilities: []', "GM418"),
        ('could not select device driver "" with capabilities: [[gpu]]', "GM406"),
        ('failed to stat CDI host device "/dev/nvidia77": no such file or directory', "GM304"),
        ("nvidia-container-cli: ldcache error: open failed: /sbin/ldconfig.real", "GM201"),
        ("nvml error: driver/library version mismatch", "GM101"),
        ("nvml error: driver not loaded", "GM102"),
        ("error mounting /usr/lib/x86_64-linux-gnu/libcuda.so.535.54.03: no such file or directory", "GM304"),
        # containerd's shim where the runtime's program is gone: of the toolkit, and of a GPU Operator that was taken away
        ('exec: "nvidia-container-runtime": executable file not found in $PATH: unknown', "GM403"),
        ("fork/exec /usr/bin/nvidia-container-runtime: no such file or directory: unknown", "GM203"),
        (
            'exec: "/usr/local/nvidia/toolkit/nvidia-container-runtime": stat: no such file or directory',
            "GM010",
        ),
        ("Unknown runtime specified nvidia", "GM403"),  # Docker before 23
        ("bpf_prog_query(BPF_CGROUP_DEVICE) failed: operation not permitted", "GM215"),
        (
            'error gathering device information while adding custom device "/dev/nvidia0": no such file or directory',
            "GM105",
        ),
    ],
)
def test_each_text_belongs_to_a_finding_that_there_is(error: str, code: str) -> None:
    assert code in causes(error)
    assert set(causes(error)) <= set(RULES)


def test_an_unknown_text_leads_nowhere() -> None:
    assert causes("port is already allocated") == ()


# --- requests that cannot be met


GPU, OTHER = "GPU-ddcfa932-2616-cecb-a95e-350855afb5ab", "GPU-00000000-2616-cecb-a95e-350855afb5ab"


def asks(driver: str, ids: list[str] | None, *capabilities: str, count: int = 0, **more: Any) -> Item:
    request = {"Driver": driver, "Count": count, "DeviceIDs": ids, "Capabilities": [list(capabilities)]}
    return container("job", device_requests=[request], **more)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param(container(cdi="nvidia.com/gpu=0"), "ok", id="defined"),
        pytest.param(container(cdi="nvidia.com/gpu=7"), "fail", id="no-spec-has-it"),
        pytest.param(container(cdi="vendor.com/nic=7"), "ok", id="another-vendor's"),
        pytest.param(asks("nvidia", ["0"], "gpu"), "ok", id="gpu-0"),
        pytest.param(asks("nvidia", ["3"], "gpu"), "fail", id="no-such-index"),
        pytest.param(asks("", ["GPU-ddcfa932"], "gpu"), "ok", id="start-of-a-uuid"),
        pytest.param(asks("", ["GPU-00000000"], "gpu"), "fail", id="no-such-uuid"),
        pytest.param(asks("", None, "gpu", count=4), "fail", id="more-than-there-are"),
        pytest.param(asks("nvidia", ["0"], "compute", "utility"), "warn", id="without-gpu"),
        pytest.param(asks("amd", ["0"], "compute-amd"), "ok", id="another-driver"),
        pytest.param(
            asks("nvidia", ["0"], "gpu", env={"CUDA_VISIBLE_DEVICES": "1"}), "warn", id="cuda-beyond"
        ),
        pytest.param(asks("nvidia", ["0"], "gpu", env={"CUDA_VISIBLE_DEVICES": "0"}), "ok", id="cuda-within"),
        pytest.param(
            asks("nvidia", ["0"], "gpu", env={"NVIDIA_VISIBLE_DEVICES": "1"}), "warn", id="nvidia-other"
        ),
        pytest.param(
            asks("nvidia", ["0"], "gpu", env={"NVIDIA_VISIBLE_DEVICES": "all"}), "ok", id="image-default"
        ),
        pytest.param(
            container(runtime="nvidia", env={"NVIDIA_VISIBLE_DEVICES": "0", "CUDA_VISIBLE_DEVICES": "2"}),
            "warn",
            id="runtime-cuda-beyond",
        ),
        pytest.param(container(runtime="nvidia", env={"NVIDIA_VISIBLE_DEVICES": "5"}), "fail", id="runtime-no-such-index"),
        pytest.param(container(runtime="nvidia", env={"NVIDIA_VISIBLE_DEVICES": f"0,{OTHER}"}), "fail", id="runtime-no-such-uuid"),
        pytest.param(container(runtime="nvidia", env={"NVIDIA_VISIBLE_DEVICES": f"{GPU}"}), "ok", id="runtime-uuid"),
        pytest.param(container(runtime="nvidia", env={"NVIDIA_VISIBLE_DEVICES": "nvidia.com/gpu=all"}), "ok", id="runtime-cdi-name"),
        pytest.param(container(runtime="nvidia", env={"NVIDIA_VISIBLE_DEVICES": "0:1"}), "ok", id="runtime-mig"),
        pytest.param(container(env={"NVIDIA_VISIBLE_DEVICES": "5"}), "ok", id="of-an-image-under-runc"),
        pytest.param(container(cdi="nvidia.com/mig=0"), "fail", id="a-kind-that-no-spec-has"),
        pytest.param(asks("nvidia", ["0"], "gpu", env={"NVIDIA_VISIBLE_DEVICES": GPU}), "ok", id="the-same-by-uuid"),
        pytest.param(asks("nvidia", [GPU], "gpu", env={"NVIDIA_VISIBLE_DEVICES": "0"}), "ok", id="the-same-by-index"),
        pytest.param(asks("nvidia", ["0"], "gpu", env={"CUDA_VISIBLE_DEVICES": GPU}), "ok", id="cuda-by-uuid"),
        pytest.param(asks("nvidia", ["0"], "gpu", env={"CUDA_VISIBLE_DEVICES": OTHER}), "warn", id="cuda-by-another-uuid"),
        pytest.param(container(gpus=True, env={"CUDA_VISIBLE_DEVICES": "5"}), "warn", id="cuda-beyond-all"),
        pytest.param(container(gpus=True, env={"CUDA_VISIBLE_DEVICES": "0"}), "ok", id="cuda-of-all"),
        pytest.param(container(gpus=True, env={"CUDA_VISIBLE_DEVICES": ""}), "ok", id="cuda-none-by-intent"),
    ],
)  # fmt: skip
def test_gm417(found: Item, expected: str) -> None:
    wanted = {"docker": {"paths": ["runtime"]}}  # --gpus is judged where it is used, whatever this says
    assert outcome(healthy("29.7.2", "1.20.0").with_containers(found), "GM417", wanted) == expected


# --- Docker: restart policies, default runtime, 29


def test_docker_cdi_restart_always() -> None:
    host = docker_cdi_restart_always.HOST
    assert outcome(host, "GM418", docker_cdi_restart_always.WANTED) == "warn"
    assert "28.2" in the(host, "GM418").remedy


@pytest.mark.parametrize(
    ("version", "restart", "expected"),
    [
        ("28.1.1", "unless-stopped", "warn"),
        ("25.0.0", "always", "warn"),
        ("27.5.1", "no", "ok"),
        ("27.5.1", "on-failure", "ok"),
        ("28.2.0", "always", "ok"),
        ("24.0.7", "always", "ok"),
    ],
)
def test_gm418(version: str, restart: str, expected: str) -> None:
    host = healthy(version, "1.17.8").with_containers(container(cdi="nvidia.com/gpu=all", restart=restart))
    assert outcome(host, "GM418") == expected
    by_flag = healthy(version, "1.17.8").with_containers(container(gpus=True, restart=restart))
    assert outcome(by_flag, "GM418") == "ok"


FAILED = {
    "docker.service": {
        "LoadState": "loaded",
        "ActiveState": "failed",
        "Result": "exit-code",
        "UnitFileState": "enabled",
    }
}


def test_a_default_runtime_without_its_table_keeps_dockerd_down_and_is_said_so() -> None:
    host = healthy().but(
        files={DAEMON_JSON: json.dumps({"default-runtime": "nvidia"})},
        docker=None,
        processes=(),
        units=FAILED,
    )
    assert outcome(host, "GM419") == "fail"
    assert "GM419" in the(host, "GM403").refused
    assert "GM407" not in the(host, "GM403").refused


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        pytest.param(
            healthy().but(files={DAEMON_JSON: daemon_json("28.5.2", **{"default-runtime": "nvidia"})}),
            "ok",
            id="defined",
        ),
        pytest.param(
            healthy().but(files={DAEMON_JSON: daemon_json("28.5.2", **{"default-runtime": "runc"})}),
            "ok",
            id="runc",
        ),
        pytest.param(
            healthy().but(
                files={DAEMON_JSON: daemon_json("28.5.2", **{"default-runtime": "io.containerd.kata.v2"})}
            ),
            "ok",
            id="a-shim",
        ),
        pytest.param(
            healthy().but(files={DAEMON_JSON: json.dumps({"default-runtime": "nvidia"})}),
            "fail",
            id="still-runs",
        ),
        pytest.param(
            healthy()
            .but(files={DAEMON_JSON: json.dumps({"default-runtime": "nvidia"})})
            .flags("--add-runtime=nvidia=/usr/bin/nvidia-container-runtime"),
            "ok",
            id="by-flag",
        ),
    ],
)
def test_gm419(host: Host, expected: str) -> None:
    assert outcome(host, "GM419") == expected


def of_29(**info: Any) -> Host:
    rows = [["driver-type", "io.containerd.snapshotter.v1"]]
    return healthy("29.7.2").but(info={"Driver": "overlayfs", "DriverStatus": rows, **info})


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        pytest.param(of_29(), "ok", id="default"),
        pytest.param(of_29(DockerRootDir="/data/docker"), "note", id="data-root"),
        pytest.param(of_29(DockerRootDir="/data/docker", DriverStatus=[]), "ok", id="graph-driver"),
        pytest.param(
            of_29()
            .but(units={"containerd.service": {"LoadState": "loaded", "LimitNOFILESoft": "1024"}})
            .with_containers(container(gpus=True)),
            "note",
            id="nofile",
        ),
        pytest.param(
            of_29().but(units={"containerd.service": {"LoadState": "loaded", "LimitNOFILESoft": "1024"}}),
            "ok",
            id="nofile-and-no-container",
        ),
        pytest.param(
            healthy("28.5.2")
            .but(units={"containerd.service": {"LoadState": "loaded", "LimitNOFILESoft": "1024"}})
            .with_containers(container(gpus=True)),
            "note",
            id="containerd-2.1.5-under-docker-28",
        ),
        pytest.param(
            healthy("28.5.2")
            .but(units={"containerd.service": {"LoadState": "loaded", "LimitNOFILESoft": "1048576"}})
            .with_containers(container(gpus=True)),
            "ok",
            id="containerd-1.7",
        ),
    ],
)
def test_gm420(host: Host, expected: str) -> None:
    assert outcome(host, "GM420") == expected


def test_what_cdi_does_not_check_is_no_finding() -> None:
    """Docker 29.2 serves --gpus by CDI, which knows no NVIDIA_REQUIRE_CUDA."""
    asking = container(gpus=True, env={"NVIDIA_REQUIRE_CUDA": "cuda>=13.9"})
    assert outcome(healthy("28.5.2").with_containers(asking), "GM414") == "warn"
    assert outcome(healthy("29.2.0").with_containers(asking), "GM414") == "ok"
    without = healthy("29.2.0").but(files={DYNAMIC: None}).with_containers(asking)
    assert outcome(without, "GM414") == "warn"


# --- Kubernetes nodes


@pytest.mark.parametrize("label", sorted(cri_disabled.HOSTS))
def test_cri_disabled(label: str) -> None:
    host = cri_disabled.HOSTS[label]
    found = the(host, "GM514")
    assert found.status == "fail"
    assert CC in found.remedy
    assert "unknown service runtime.v1.RuntimeService" in found.symptoms


def test_the_cri_plugin_may_be_off_where_no_kubelet_is() -> None:
    host = cri_disabled.HOSTS["the same with CDI on"]
    alone = host.but(files={KUBELET: None}, processes=(process("/usr/bin/containerd"),))
    assert outcome(alone, "GM514") == "ok"
    removed = {"LoadState": "loaded", "ActiveState": "inactive", "UnitFileState": "disabled"}
    assert outcome(alone.but(units={"kubelet.service": removed}), "GM514") == "ok"
    joined = alone.but(
        files={"/var/lib/kubelet/pki/kubelet.crt": "x"}
    )  # its settings lie elsewhere, as kOps has them
    assert outcome(joined, "GM514") == "fail"
    wanted = {**removed, "UnitFileState": "enabled"}
    assert outcome(alone.but(units={"kubelet.service": wanted}), "GM514") == "fail"


def test_the_cri_plugin_may_be_off_where_cri_o_serves_the_kubelet() -> None:
    args = (
        "--config=/var/lib/kubelet/config.yaml",
        "--container-runtime-endpoint=unix:///var/run/crio/crio.sock",
    )
    assert outcome(kube("1.7.27", cri_disabled.STOCK, kubelet_args=args), "GM514") == "ok"


def test_default_runc() -> None:
    found = the(default_runc.HOST, "GM513")
    assert found.status == "warn"
    assert "default_runtime_name" in found.remedy
    assert "RuntimeClass" in found.remedy
    assert list(codes(default_runc.HOST)) == ["GM513"]


SOCKET = "/var/lib/kubelet/device-plugins/nvidia-gpu.sock"


@pytest.mark.parametrize(
    ("host", "wanted"),
    [
        pytest.param(default_runc.HOST.but(files={SOCKET: file("")}), None, id="a-plugin-serves"),
        pytest.param(default_runc.HOST, {"containerd": {"runtimes": ["nvidia"]}}, id="classes-are-meant"),
        pytest.param(
            kube("1.7.28", default_runc.B.replace('runtime_name = "runc"', 'runtime_name = "nvidia"')),
            None,
            id="nvidia-is-the-default",
        ),
    ],
)
def test_pods_that_get_the_gpu_are_no_finding(host: Host, wanted: dict[str, Any] | None) -> None:
    assert outcome(host, "GM513", wanted) == "ok"


def silent_on_unread(host: Host) -> None:
    for found in verdict(host).findings:
        assert found.status != "unknown", found.summary
        assert "readable" not in found.remedy


def test_k0s() -> None:
    plain, broken = k0s.HOSTS["plain k0s, no nvidia"], k0s.HOSTS["operator 24.9 drop-in"]
    silent_on_unread(plain)
    silent_on_unread(broken)
    assert "/etc/k0s/containerd.d" in the(plain, "GM503").remedy
    found = the(broken, "GM514")
    assert found.status == "fail"
    assert "/etc/k0s/containerd.d/nvidia.toml" in found.remedy


K0S_NVIDIA = """version = 2
[plugins."io.containerd.grpc.v1.cri"]
  enable_cdi = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "nvidia"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.nvidia]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.nvidia.options]
        BinaryName = "/usr/bin/nvidia-container-runtime"
"""
K0S_RUNC = (
    k0s.CRI
    + """  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
"""
)


def k0s_host(drop_in: str, mtime: float = NOW - 86400.0) -> Host:
    return k0s.mk().but(
        files={
            "/run/k0s/containerd-cri.toml": K0S_RUNC,
            "/etc/k0s/containerd.d/nvidia.toml": {**file(drop_in), "mtime": mtime},
        }
    )


def test_a_k0s_node_that_is_right_is_no_finding() -> None:
    assert codes(k0s_host(K0S_NVIDIA)) == {}


@pytest.mark.parametrize(
    ("drop_in", "mtime", "code"),
    [
        pytest.param(
            K0S_NVIDIA.replace("containerd.grpc", "containerd.grcp"), NOW - 86400, "GM503", id="misspelt"
        ),
        pytest.param(K0S_NVIDIA, NOW - 60, "GM516", id="not-restarted"),
        pytest.param(K0S_NVIDIA.replace('name = "nvidia"', 'name = "runc"'), NOW - 86400, "GM513", id="runc"),
    ],
)
def test_a_k0s_node_with_one_fault(drop_in: str, mtime: float, code: str) -> None:
    assert code in codes(k0s_host(drop_in, mtime))
    assert "unknown" not in codes(k0s_host(drop_in, mtime)).values()


K0S_D, K0S_CRI = "/etc/k0s/containerd.d/nvidia.toml", "/run/k0s/containerd-cri.toml"
# k0s 1.34 and newer, component.go and configurer.go at 80256949: files of version 3 alone
K0S_V3 = {
    "/etc/k0s/containerd.toml": f'# k0s_managed=true\nimports = ["{K0S_CRI}"]\nversion = 3\n',
    K0S_CRI: 'version = 3\n[plugins."io.containerd.cri.v1.images".pinned_images]\nsandbox = "pause:3.10"\n'
    '[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]\nruntime_type = "io.containerd.runc.v2"\n',
}
K0S_NVIDIA_V3 = K0S_NVIDIA.replace("version = 2", "version = 3").replace(
    "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime"
)


def test_a_k0s_of_containerd_2_that_is_right_is_no_finding() -> None:
    assert codes(k0s_host(K0S_NVIDIA_V3).but(files=K0S_V3)) == {}
    without_number = K0S_NVIDIA_V3.replace("version = 3\n", "")
    assert codes(k0s_host(without_number).but(files=K0S_V3)) == {}


@pytest.mark.parametrize(
    ("host", "where"),
    [
        pytest.param(k0s_host("[plugins\n"), f"{K0S_D}:1: ", id="drop-in"),
        pytest.param(k0s_host(K0S_NVIDIA).but(files={K0S_CRI: "a = 1\n[x\n"}), f"{K0S_CRI}:2: ", id="merged"),
        pytest.param(
            k0s_host(K0S_NVIDIA).but(files={"/etc/k0s/containerd.toml": "x\n"}), "/etc/k0s/containerd.toml:1: ", id="own"
        ),
        pytest.param(k0s_host(K0S_NVIDIA).but(files=K0S_V3), f"{K0S_D}: version = 2", id="drop-in-of-version-2"),
        pytest.param(
            k0s_host(K0S_NVIDIA.replace("version = 2\n", "")).but(files=K0S_V3), f"{K0S_D}: [plugins", id="old-plugin"
        ),
        pytest.param(k0s_host(K0S_NVIDIA_V3), f"{K0S_D}: version = 3", id="drop-in-of-version-3"),
    ],
)  # fmt: skip
def test_what_k0s_cannot_take_is_one_finding(host: Host, where: str) -> None:
    """k0s#6547: with such a file k0s starts no containerd."""
    assert codes(host) == {"GM511": "fail"}
    found = the(host, "GM511")
    assert found.summary.startswith(where)
    assert found.change is None and "systemctl restart k0s" in found.remedy


def test_a_restart_is_not_advised_where_it_would_bring_no_containerd() -> None:
    """Seen on a booted node: GM516 said that pods keep running."""
    assert codes(k0s_host("[plugins\n", NOW - 60)) == {"GM511": "fail"}
    assert "GM516" in codes(k0s_host(K0S_NVIDIA, NOW - 60))


def test_what_a_distributions_containerd_refuses_is_told_in_its_words() -> None:
    """`containerd config dump` of 2.1.9, measured."""
    program = {"/var/lib/k0s/bin/containerd": file("", 0o755)}
    said = (
        "containerd: failed to unmarshal TOML at row 2 column 13: toml: cannot decode TOML string into struct field "
        "config.Config.OOMScore of type int\n"
    )
    host = k0s_host(K0S_NVIDIA).but(files=program, commands={"k0s-containerd-config": (1, "", said)})
    assert codes(host) == {"GM511": "fail"}
    assert "OOMScore" in the(host, "GM511").summary
    said = f'containerd: failed to load TOML from {K0S_CRI}: invalid disabled plugin URI "cri" expect io.containerd.x.vx\n'
    off = k0s_host('disabled_plugins = ["cri"]\n' + K0S_NVIDIA).but(
        files=program, commands={"k0s-containerd-config": (1, "", said)}
    )
    assert codes(off) == {"GM514": "fail"}
    assert "does not start again" in the(off, "GM514").cause
    assert "invalid disabled plugin URI" in str(the(off, "GM514").evidence)


def test_drop_ins_beside_a_file_that_k0s_does_not_write_have_no_effect() -> None:
    """k0s docs/runtime.md: without its first line the file is its owner's."""
    owners = k0s.MAIN.replace("# k0s_managed=true\n", "")
    found = codes(k0s_host(K0S_NVIDIA).but(files={"/etc/k0s/containerd.toml": owners}))
    assert found == {"GM503": "fail", "GM512": "warn"}
    host = k0s_host(K0S_NVIDIA).but(files={"/etc/k0s/containerd.toml": owners})
    assert K0S_D in the(host, "GM512").summary
    assert "into /etc/k0s/containerd.toml" in the(host, "GM503").remedy
    imported = owners.replace(
        "\n]", '\n  "/etc/k0s/containerd.d/*.toml",\n]'
    )  # the last counts in containerd 1.7
    assert codes(k0s_host(K0S_NVIDIA).but(files={"/etc/k0s/containerd.toml": imported})) == {}


def test_microk8s() -> None:
    for host in microk8s.HOSTS.values():
        silent_on_unread(host)
        assert "containerd-template.toml" in the(host, "GM503").remedy
        assert outcome(host, "GM514") == "ok"  # Docker's own containerd beside has it off, rightly


MICROK8S_NVIDIA = (
    K0S_NVIDIA
    + """    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
"""
)


def microk8s_host(text: str, args: str = "--cgroup-driver=cgroupfs\n") -> Host:
    return microk8s.mk().but(
        files={
            f"{microk8s.A}/containerd.toml": text,
            f"{microk8s.A}/containerd-template.toml": text,
            f"{microk8s.A}/kubelet": "--container-runtime-endpoint=${SNAP_COMMON}/run/containerd.sock\n"
            + args,
        }
    )


def test_a_microk8s_node_that_is_right_is_no_finding() -> None:
    assert codes(microk8s_host(MICROK8S_NVIDIA)) == {}


@pytest.mark.parametrize(
    ("host", "code"),
    [
        pytest.param(microk8s_host(MICROK8S_NVIDIA, "--cgroup-driver=systemd\n"), "GM505", id="cgroups"),
        pytest.param(microk8s_host('disabled_plugins = ["cri"]\n' + MICROK8S_NVIDIA), "GM514", id="cri-off"),
    ],
)
def test_a_microk8s_node_with_one_fault(host: Host, code: str) -> None:
    assert list(codes(host)) == [code]


# canonical/microk8s microk8s-resources/default-args/containerd-template.toml at 08a8c4aa, less its comments and registry
MICROK8S_TEMPLATE = """version = 2
oom_score = 0
[grpc]
  uid = 0
[plugins."io.containerd.grpc.v1.cri"]
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "${SNAPSHOTTER}"
    default_runtime_name = "${RUNTIME}"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.nvidia-container-runtime]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.nvidia-container-runtime.options]
        BinaryName = "nvidia-container-runtime"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "${SNAP_DATA}/opt/cni/bin"
"""


def rendered(runtime: str) -> Host:
    text = MICROK8S_TEMPLATE.replace("${RUNTIME}", runtime).replace("${SNAPSHOTTER}", "overlayfs")
    return microk8s_host(text).but(files={f"{microk8s.A}/containerd-template.toml": MICROK8S_TEMPLATE})


def test_microk8s_own_template_is_no_finding_once_its_gpu_addon_is_on() -> None:
    assert codes(rendered("nvidia-container-runtime")) == {}
    assert "GM503" in codes(rendered("runc")) or "GM513" in codes(rendered("runc"))


@pytest.mark.parametrize(
    ("host", "path"),
    [
        pytest.param(microk8s_host("[x\n"), f"{microk8s.A}/containerd.toml", id="rendered"),
        pytest.param(
            microk8s_host(MICROK8S_NVIDIA).but(files={f"{microk8s.A}/containerd-template.toml": "a = 1\na = 2\n"}),
            f"{microk8s.A}/containerd-template.toml", id="template",
        ),
    ],
)  # fmt: skip
def test_what_microk8s_containerd_cannot_read_is_one_finding(host: Host, path: str) -> None:
    assert codes(host) == {"GM511": "fail"}
    assert the(host, "GM511").summary.startswith(path)


def other(path: str, text: str | None) -> Host:
    return kube("1.7.28", None, cargs=("--config", path)).but(files={path: text, CC: None})


def test_a_containerd_with_a_file_of_its_own_is_one_finding() -> None:
    host = other("/etc/cri/containerd.toml", "version = 2\n")  # Talos
    assert codes(host) == {"GM515": "unknown"}
    assert "/etc/cri/containerd.toml" in the(host, "GM515").summary


def test_a_containerd_of_docker_with_a_file_of_its_own_is_none() -> None:
    host = other("/opt/containerd.toml", None).but(files={KUBELET: None}, processes=())
    assert outcome(host, "GM515") == "ok"


def test_kops_is_judged_and_left_alone() -> None:
    path = "/etc/containerd/config-kops.toml"
    assert codes(other(path, default_runc.B.replace('name = "runc"', 'name = "nvidia"'))) == {}
    found = the(other(path, "version = 2\n"), "GM503")
    assert found.change is None
    assert "kOps" in found.refused


# --- SELinux, AppArmor


@pytest.mark.parametrize("host", [podman_selinux.HOST, selinux.HOST])
def test_selinux(host: Host) -> None:
    found = the(host, "GM542", AUTO)
    assert found.status == "warn"
    assert "label=disable" in found.remedy


BOOLEAN = "/sys/fs/selinux/booleans/container_use_devices"
XSERVER = "/sys/fs/selinux/booleans/container_use_xserver_devices"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({BOOLEAN: "1 1"}, "ok"),
        ({BOOLEAN: "0 0"}, "warn"),
        ({BOOLEAN: "0 0", XSERVER: "1 1"}, "ok"),
        ({BOOLEAN: "0 1"}, "warn"),  # pending alone
        ({"/sys/fs/selinux/enforce": "0"}, "ok"),
    ],
)
def test_gm542(files: dict[str, str], expected: str) -> None:
    assert outcome(podman_selinux.HOST.but(files=files), "GM542") == expected


def test_docker_without_selinux_confines_nothing() -> None:
    host = healthy().but(files={"/sys/fs/selinux/enforce": "1"})
    assert outcome(host, "GM542") == "ok"


# Ubuntu's kernel 6.8, of a profile for nvidia_modprobe (LP#2046844)
DENIED = (
    'audit: type=1400 audit(1718000000.123:45): apparmor="DENIED" operation="open" class="file" profile="nvidia_modprobe" '
    'name="/proc/sys/kernel/modprobe" pid=2211 comm="nvidia-modprobe" requested_mask="r" denied_mask="r" fsuid=0 ouid=0\n'
)
HARMLESS = 'audit: type=1400 apparmor="DENIED" operation="open" profile="snap.firefox" name="/etc/fstab" comm="firefox"\n'


@pytest.mark.parametrize(("log", "expected"), [(DENIED, "warn"), (HARMLESS, "ok"), (DENIED * 3, "warn")])
def test_gm423(log: str, expected: str) -> None:
    host = healthy().but(commands={"apparmor-denials": (0, log, "")})
    assert outcome(host, "GM423") == expected


# --- rootless engines


def test_rootless_only() -> None:
    assert codes(rootless_only.HOST, rootless_only.WANTED) == {}
    by_hook = rootless_only.HOST.but(files={DAEMON_JSON: None})
    assert codes(by_hook, rootless_only.WANTED) == {}


def rootless(version: str, no_cgroups: str = "false", **files: Any) -> Host:
    return rootless_only.HOST.but(
        files={CONFIG: cfg(no_cgroups=no_cgroups), **files},
        commands={"dockerd": (0, f"Docker version {version}, build 1", "")},
    )


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        pytest.param(rootless("28.5.2"), "ok", id="by-cdi"),
        pytest.param(rootless("26.1.5"), "warn", id="does-not-see-the-spec"),
        pytest.param(rootless("27.5.1"), "warn", id="cdi-is-off"),
        pytest.param(rootless("26.1.5", "true"), "ok", id="by-hook"),
    ],
)
def test_gm424(host: Host, expected: str) -> None:
    assert outcome(host, "GM424", AUTO) == expected


def test_a_rootful_docker_that_is_down_is_still_told() -> None:
    enabled = {
        "LoadState": "loaded",
        "ActiveState": "failed",
        "UnitFileState": "enabled",
        "Result": "exit-code",
    }
    host = rootless_only.HOST.but(units={"docker.service": enabled})
    assert outcome(host, "GM407", AUTO) == "fail"


HOME = "/home/ada/.local/share/containers/storage"


def rootless_podman(**files: Any) -> Host:
    return podman_selinux.HOST.but(
        files={
            "/sys/fs/selinux/enforce": "0",
            HOME: {**a_directory(), "uid": 1000},
            "/etc/subuid": "ada:100000:65536\n",
            **files,
        }
    )


def test_rootless_podman_that_is_right_is_no_finding() -> None:
    assert codes(rootless_podman()) == {}


def test_rootless_podman_with_one_fault() -> None:
    closed = {**node(195, 0), "mode": 0o660}
    assert outcome(rootless_podman(**{"/dev/nvidia0": closed}), "GM543") == "warn"
    assert outcome(rootless_podman(**{"/etc/subuid": "bob:100000:65536\n"}), "GM543") == "note"
    settings = '[engine]\ncdi_spec_dirs = ["/opt/cdi"]\nenv = ["TOKEN=s3cret"]\n'
    path = "/home/ada/.config/containers/containers.conf"
    host = rootless_podman(**{path: settings})
    assert outcome(host, "GM544") == "warn"
    assert "s3cret" not in json.dumps(host.answer())
    both = '[engine]\ncdi_spec_dirs = ["/etc/cdi", "/var/run/cdi"]\n'
    assert outcome(rootless_podman(**{path: both}), "GM544") == "ok"


# --- Jetson, WSL2


def test_jetson_gpus() -> None:
    found = the(jetson_gpus.HOST, "GM205", jetson_gpus.WANTED)
    assert found.status == "fail"
    assert "--runtime nvidia" in found.remedy
    assert codes(jetson_gpus.HOST, jetson_gpus.WANTED) == {"GM205": "fail"}
    assert outcome(jetson_gpus.HOST, "GM204") == "ok"  # with the default desired state, too


def test_a_jetson_that_uses_the_runtime_is_no_finding() -> None:
    host = jetson_gpus.HOST.with_containers(container(runtime="nvidia", running=True))
    assert codes(host, AUTO) == {}
    legacy = host.but(files={CONFIG: cfg("legacy")})
    assert outcome(legacy, "GM205", AUTO) == "ok"


def test_wsl_linux_driver() -> None:
    found = the(wsl_linux_driver.HOST, "GM223", wsl_linux_driver.WANTED)
    assert found.status == "fail"
    assert "libnvidia-compute-535" in found.remedy


WSL_LIB = "/usr/lib/wsl/lib"


def wsl(**files: Any) -> Host:
    lib = wsl_linux_driver.L
    return wsl_linux_driver.HOST.but(
        files={
            **{f"{lib}/{name}.so.535.309.01": None for name in ("libcuda", "libnvidia-ml")},
            **files,
        },
        commands={"dpkg": (0, "ii \tcuda-toolkit-12-6\t12.6.3-1\nii \tlibnvidia-container1\t1.18.2-1\n", "")},
    )


def test_wsl_without_a_linux_driver_is_no_finding() -> None:
    assert outcome(wsl(), "GM223", AUTO) == "ok"


def test_wsl_with_one_fault() -> None:
    copied = wsl(**{f"{wsl_linux_driver.L}/libcuda.so.535.309.01": file("")})
    assert outcome(copied, "GM223", AUTO) == "fail"
    assert outcome(wsl(**{STATIC: spec()}), "GM223", AUTO) == "fail"  # of a Linux driver: no libdxcore.so


# --- Dockers inside of containers


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("fuse.shfs overlay2", "fail"),
        ("fuse.shfs overlay2 with the log", "fail"),
        ("zfs overlayfs (store)", "fail"),
        ("virtiofs", "fail"),
        ("9p", "fail"),
        ("vfs fallback (moby#42171)", "warn"),
    ],
)
def test_dind_fs(label: str, expected: str) -> None:
    assert outcome(dind_fs.HOSTS[label], "GM701") == expected


ZFS = "/sys/module/zfs/version"


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        pytest.param(dind_fs.on("zfs").but(files={ZFS: "2.1.5-1ubuntu6\n"}), "fail", id="zfs-2.1"),
        pytest.param(dind_fs.on("zfs").but(files={ZFS: "2.2.2-0ubuntu9\n"}), "ok", id="zfs-2.2"),
        pytest.param(dind_fs.on("nfs4"), "fail", id="nfs"),
        pytest.param(dind_fs.on("cifs"), "fail", id="cifs"),
        pytest.param(dind_fs.on("fuseblk"), "fail", id="ntfs"),
        pytest.param(dind_fs.on("ext4", log=dind_fs.L[1:]), "fail", id="the-log-alone"),
        pytest.param(dind_fs.on("ext4"), "ok", id="ext4"),
        pytest.param(dind_host(inside(docker=daemon("vfs"), fuse=True)), "ok", id="vfs-without-the-log"),
    ],
)
def test_file_systems_that_take_no_upper(host: Host, expected: str) -> None:
    assert outcome(host, "GM701") == expected


def test_a_vfs_that_was_asked_for_is_no_fallback() -> None:
    host = dind_host(inside(docker=daemon("vfs")), log=dind_fs.L[:1], env={"DOCKER_DRIVER": "vfs"})
    assert outcome(host, "GM701") == "ok"


def test_a_sysbox_container_is_named() -> None:
    found = inside(INNER_MOUNTS, docker=daemon("overlay2"))
    host = healthy().but(inside={"0123456789ab": found})
    judged = the(host.with_containers(container("box", runtime="sysbox-runc")), "GM701")
    assert judged.summary.startswith("box (sysbox-runc): ")
    assert "emptyDir" not in judged.remedy


def test_fuse_overlayfs_is_no_remedy_on_fuse() -> None:
    wanted = {"dind": {"containers": ["edge"], "driver": "fuse-overlayfs"}}
    found = the(dind_fs.HOSTS["fuse.shfs overlay2"], "GM701", wanted)
    assert found.change is None
    assert "fuse-overlayfs does not work on fuse.shfs" in found.refused


def test_a_docker_in_a_pod_is_judged_without_a_docker_on_the_host() -> None:
    pod = inside(INNER_MOUNTS, docker=daemon("overlay2"))
    host = kube("1.7.28", default_runc.B).but(inside={"fedcba987654": pod})
    found = the(host, "GM701")
    assert found.status == "fail"
    assert "emptyDir" in found.remedy
    assert "docker run" not in found.remedy
    with_volume = inside(
        INNER_MOUNTS + "701 700 253:0 /x /var/lib/docker rw - ext4 /dev/vda rw\n", docker=daemon("overlay2")
    )
    assert outcome(host.but(inside={"fedcba987654": with_volume}), "GM701") == "ok"


# --- versions and switches


def test_the_tables_are_whole() -> None:
    assert problems() == []


@pytest.mark.parametrize(
    ("component", "version", "minimum"),
    [
        ("toolkit", (1, 20, 0), None),
        ("toolkit", (1, 17, 8), (1, 19, 1)),
        ("docker", (29, 6, 9), (29, 7, 0)),
        ("runc", (1, 2, 5), (1, 2, 8)),
        ("runc", (1, 3, 6), None),
        ("runc", (1, 5, 0), None),
        ("containerd", (1, 7, 27), (1, 7, 33)),
        ("containerd", (1, 7, 33), None),
        ("containerd", (2, 0, 7), None),  # no release of 2.0 has what June 2026 fixed elsewhere
        ("containerd", (2, 1, 8), (2, 1, 9)),
        ("containerd", (2, 2, 5), None),
        ("containerd", (2, 3, 4), (2, 3, 5)),
        ("containerd", (2, 3, 5), None),
        ("driver", (580, 95, 5), (580, 178, 4)),
        ("driver", (580, 159, 4), (580, 178, 4)),
        ("driver", (580, 178, 4), None),
        ("driver", (595, 71, 5), (595, 91, 7)),
        ("driver", (610, 57, 4), None),
        ("driver", (615, 60, 1), (615, 71, 9)),
        ("driver", (590, 48, 1), None),  # bulletin 5861's Linux builds are of 580, 595, 610 and 615
        ("driver", (550, 163, 1), None),  # a branch that the table does not know
    ],
)
def test_floors(component: str, version: Version, minimum: Version | None) -> None:
    found = floors(component, version)
    assert (found[0].minimum if found else None) == minimum
    assert all(row.source for row in found)


def test_a_vulnerable_version_is_a_note_with_its_advisory() -> None:
    found = findings(healthy("28.5.2", "1.17.7"), "GM221")
    assert {str(each.status) for each in found} == {"note"}
    assert "CVE-2025-23266" in found[0].summary
    [driver] = findings(healthy("29.7.2", "1.20.0"), "GM221")
    assert driver.summary.startswith("driver 580.159.04 is below 580.178.04")
    assert "bulletin 5861" in driver.evidence[1].source


def test_a_distributions_own_build_is_not_judged_by_its_number() -> None:
    upstream = healthy("28.5.2", "1.20.0").but(commands={"dpkg": (0, "ii \tdocker-ce\t5:28.5.2-1\n", "")})
    debian = healthy("28.5.2", "1.20.0").but(commands={"dpkg": (0, "ii \tdocker.io\t28.5.2+dfsg1-1\n", "")})
    assert [found.summary.split(" is ")[0] for found in besides_its_age(findings(upstream, "GM221"))] == [
        "Docker 28.5.2"
    ]
    assert besides_its_age(findings(debian, "GM221")) == ()


@pytest.mark.parametrize(
    ("toolkit", "mode", "expected"),
    [
        ("1.14.0", "cdi", "warn"),
        ("1.14.1", "cdi", "ok"),
        ("1.17.0", "legacy", "warn"),
        ("1.17.1", "cdi", "note"),
        ("1.17.2", "legacy", "ok"),
        ("1.18.0", "auto", "note"),
        ("1.19.0", "auto", "note"),
        ("1.19.1", "auto", "ok"),
    ],
)
def test_gm220(toolkit: str, mode: str, expected: str) -> None:
    assert outcome(healthy(toolkit=toolkit, mode=mode), "GM220", {"runtime": {"mode": "keep"}}) == expected


@pytest.mark.parametrize(("days", "told"), [(0, False), (90, False), (91, True), (730, True)])
def test_old_data_is_a_line_of_the_summary_and_nothing_else(days: int, told: bool) -> None:
    as_of = datetime.date.fromisoformat(data.load("security_floors")["as_of"])
    day = as_of + datetime.timedelta(days=days)
    assert bool(data.old(day)) is told
    document = {
        "run": "x",
        "kind": "audit",
        "started": f"{day}T00:00:00Z",
        "seconds": 1.0,
        "exit": 0,
        "hosts": {},
    }
    assert ("vulnerable versions" in render(document)) is told


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, "ok"),
        ({"accept_nvidia_visible_devices_as_volume_mounts": "true"}, "note"),
        (
            {
                "accept_nvidia_visible_devices_as_volume_mounts": "true",
                "accept_nvidia_visible_devices_envvar_when_unprivileged": "false",
            },
            "ok",
        ),
    ],
)
def test_gm222(keys: dict[str, str], expected: str) -> None:
    assert outcome(healthy(mode="auto").but(files={CONFIG: cfg(**keys)}), "GM222", AUTO) == expected


def test_gm222_ldconfig_of_the_container() -> None:
    text = cfg() + "\n[features]\nallow-ldconfig-from-container = true\n"
    assert "CVE-2024-0136" in the(healthy(mode="auto").but(files={CONFIG: text}), "GM222", AUTO).summary


def test_gm222_in_a_cluster_with_a_device_plugin() -> None:
    text = cfg(accept_nvidia_visible_devices_envvar_when_unprivileged="true")
    host = default_runc.HOST.but(files={CONFIG: text, SOCKET: file("")})
    assert outcome(host, "GM222", AUTO) == "note"
    assert outcome(default_runc.HOST.but(files={CONFIG: text}), "GM222", AUTO) == "ok"


@pytest.mark.parametrize(
    ("keys", "there", "expected"),
    [
        ({"root": '"/run/nvidia/driver"'}, False, "fail"),
        ({"root": '"/run/nvidia/driver"'}, True, "ok"),
        ({"path": '"/opt/nvidia-container-cli"'}, False, "fail"),
        ({}, False, "ok"),
    ],
)
def test_gm224(keys: dict[str, str], there: bool, expected: str) -> None:
    files: dict[str, Any] = {CONFIG: cfg(**keys)}
    if there:
        files["/run/nvidia/driver"] = a_directory()
    assert outcome(healthy(mode="auto").but(files=files), "GM224", AUTO) == expected


# --- GRIT and CRIU

GRIT: dict[str, Any] = {"grit": {"role": "both"}}


def restoring(version: str, more: str = "") -> Host:
    text = f"""version = 3
[plugins."io.containerd.cri.v1.runtime"]
{more}enable_cdi = true
"""
    return kube(version, text).but(files={"/etc/containerd/grit.toml": 'BinaryName = "/usr/bin/runc"\n'})


SWITCHES = "enable_criu = true\nenable_experimental_restore_via_create = true\n"


@pytest.mark.parametrize(
    ("version", "more", "expected"),
    [
        ("2.2.6", "", "ok"),
        ("2.2.7", "", "fail"),
        ("2.2.7", SWITCHES, "ok"),
        ("2.3.3", "", "ok"),
        ("2.3.4", "", "fail"),
        ("2.4.0", SWITCHES, "fail"),
    ],
)
def test_gm517(version: str, more: str, expected: str) -> None:
    assert outcome(restoring(version, more), "GM517", GRIT) == expected


def test_gm517_only_where_something_is_restored() -> None:
    assert outcome(restoring("2.3.4"), "GM517", {"grit": {"role": "checkpoint"}}) == "ok"
