"""The lab itself: nodes are what they say, scenarios break as they say, and nothing stays behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.nodes import gpu, images, scenarios, toolkit
from tests.nodes.base import SUITES
from tests.nodes.lab import Lab, LabError, Node
from tests.nodes.slot import Slot, mounts_below, wait_for

Boot = Callable[..., Node]

DOCKER = {"bookworm": "20.10.", "trixie": "26.1.", "sid": "28.5.", "noble": "29.1."}
REFUSAL = (
    "invoking the NVIDIA Container Runtime Hook directly (e.g. specifying the docker --gpus flag) is not "
    "supported. Please use the NVIDIA Container Runtime (e.g. specify the --runtime=nvidia flag) instead"
)
BY_RUNTIME = ("--runtime=nvidia", "-e", "NVIDIA_VISIBLE_DEVICES=all")


def docker_run(node: Node, *arguments: str) -> subprocess.CompletedProcess[str]:
    return node.run(["docker", "run", "--rm", *arguments], check=False)


def sees_gpu(node: Node, *arguments: str) -> bool:
    done = docker_run(node, *arguments, images.BASE, "ls", "/dev/nvidia0")
    return done.returncode == 0 and done.stdout.strip() == "/dev/nvidia0"


def ssh(lab: Lab, target: str, *command: str) -> subprocess.CompletedProcess[str]:
    argv = ["ssh", "-F", str(lab.ssh_config), "-o", "BatchMode=yes", target, *command]
    return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)


# -- nodes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suite", SUITES)
def test_node_boots_with_docker_of_its_generation(boot: Boot, suite: str) -> None:
    node = boot(suite, None)
    assert node.run(["docker", "version", "-f", "{{.Server.Version}}"]).stdout.startswith(DOCKER[suite])
    info = node.run(["docker", "info", "-f", "{{.Driver}} {{.CgroupDriver}} {{.CgroupVersion}}"]).stdout
    store = (
        "overlayfs" if suite == "noble" else "overlay2"
    )  # a new Docker 29 keeps images in containerd's store
    assert info.strip() == f"{store} systemd 2"
    images.import_image(node)
    assert docker_run(node, images.BASE, "echo", "hello").stdout == "hello\n"
    assert node.run(["systemctl", "is-system-running"]).stdout.strip() == "running"


def test_node_without_docker_running(lab: Lab) -> None:
    node = lab.boot("trixie", docker=False, files={"/etc/docker/daemon.json": "{}\n"})
    try:
        assert not node.is_active("docker")
        assert node.main_pid("docker") == 0
        assert node.read("/etc/docker/daemon.json") == b"{}\n"
    finally:
        node.stop()


def test_ssh_with_strict_host_keys_and_its_sessions(lab: Lab, boot: Boot) -> None:
    node = boot("trixie", None)
    assert node.ssh_sessions() == 0
    assert ssh(lab, node.name, "id", "-un").stdout == "root\n"
    assert ssh(lab, f"ops@{node.name}", "sudo", "-n", "id", "-un").stdout == "root\n"
    assert ssh(lab, f"nosudo@{node.name}", "sudo", "-n", "id", "-un").returncode != 0
    assert node.ssh_sessions() == 3
    other = lab.slot.directory / "other_known_hosts"
    other.write_text("")
    argv = ["ssh", "-F", str(lab.ssh_config), "-o", f"UserKnownHostsFile={other}", "-o", "BatchMode=yes"]
    refused = subprocess.run(
        [*argv, node.name, "true"], capture_output=True, text=True, timeout=30, check=False
    )
    assert refused.returncode == 255
    assert "Host key verification failed" in refused.stderr


def test_files_and_trees(boot: Boot) -> None:
    node = boot("trixie", None)
    node.write("/etc/some/where.txt", "one", 0o600)
    node.sh("ln -s where.txt /etc/some/link")
    before = node.tree("/etc/some", "/etc/nothing")
    assert set(before) == {"/etc/some", "/etc/some/where.txt", "/etc/some/link"}
    assert before["/etc/some/where.txt"][1:4] == (0o600, 0, 0)
    assert before["/etc/some/link"][0] == "-> where.txt"
    assert node.tree("/etc/some", "/etc/nothing") == before
    node.sh("touch /etc/some/where.txt")
    assert node.tree("/etc/some") != before
    assert node.exists("/etc/some/link")
    assert not node.exists("/etc/nothing")


IDENTITY = ("/machine-id", "/hostname", "/hosts", "/ssh_host_")


def test_node_with_a_copied_disk_is_as_one_that_was_made(lab: Lab, boot: Boot) -> None:
    """Files, images and what runs are the same; name, address and keys are its own."""
    made = boot("trixie", None)
    scenarios.apply(made, "healthy", "1.18.2")
    disk = lab.slot.directory / "copied"
    made.save(disk)
    copied = lab.boot("trixie", disk=disk)
    try:
        state = []
        for node in (made, copied):
            tree = {path: entry[:4] for path, entry in node.tree("/etc", "/usr/bin", "/var/run/cdi").items()}
            images_ = node.run(["docker", "images", "--no-trunc", "-q"]).stdout
            info = node.run(
                ["docker", "info", "-f", "{{.Driver}} {{json .Runtimes}} {{json .CDISpecDirs}}"]
            ).stdout
            own = {path for path in tree if any(word in path for word in IDENTITY)}
            state.append(({path: tree[path] for path in tree.keys() - own}, images_, info))
            assert sees_gpu(node, *BY_RUNTIME) and sees_gpu(node, "--device", "nvidia.com/gpu=all")
            assert ssh(lab, node.name, "hostname").stdout == f"{node.name}\n"
        assert {path for path in state[0][0] if state[0][0][path] != state[1][0].get(path)} == set()
        assert state[0] == state[1]
        assert made.read("/etc/machine-id") != copied.read("/etc/machine-id")
        assert made.is_active("docker.service") and made.is_active("docker.socket")
    finally:
        copied.stop()


def test_restart_and_reload_are_told_apart(boot: Boot) -> None:
    node = boot("trixie", None)
    pid, since = node.main_pid("docker"), node.start_time("docker")
    node.sh("systemctl reload docker")
    assert (node.main_pid("docker"), node.start_time("docker")) == (pid, since)
    node.restart("docker")
    assert node.main_pid("docker") != pid
    assert node.start_time("docker") > since


def test_command_that_hangs_is_killed(boot: Boot) -> None:
    node = boot("trixie", None)
    with pytest.raises(LabError, match="took more than"):
        node.run(["sleep", "4711"], timeout=0.3)
    wait_for(
        "no sleep left", lambda: node.run(["pgrep", "-f", "sleep 4711"], check=False).returncode == 1, 5.0
    )


# -- the GPU that is not there ------------------------------------------------------------------------------


def test_gpu_survives_a_reboot_and_changes_its_driver(lab: Lab, boot: Boot) -> None:
    node = boot("trixie", "healthy", "1.18.2", "550.163.01")
    gpu.set_driver(node, "580.159.04")
    node.reboot()
    assert b"580.159.04  Release Build" in node.read("/proc/driver/nvidia/version")
    assert node.read("/sys/module/nvidia/version") == b"580.159.04\n"
    query = [
        "nvidia-smi",
        "--query-gpu=name,uuid,driver_version,memory.total",
        "--format=csv,noheader,nounits",
    ]
    assert node.run(query).stdout == f"{gpu.NAME}, {gpu.UUID}, 580.159.04, 81559\n"
    assert "libcuda.so.1 " in node.run(["/sbin/ldconfig", "-p"]).stdout
    # The refresh unit has made a new spec at boot, of the new driver.
    assert b"libcuda.so.580.159.04" in node.read("/var/run/cdi/nvidia.yaml")
    assert ssh(lab, node.name, "true").returncode == 0
    assert sees_gpu(node, *BY_RUNTIME)
    gpu.unload(node)
    done = node.run(["nvidia-smi"], check=False)
    assert done.returncode == 9
    assert "couldn't communicate with the NVIDIA driver" in done.stdout
    done = node.run(["nvidia-ctk", "cdi", "generate"], check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "failed to initialize NVML: Driver Not Loaded" in done.stderr


def test_container_without_permission_has_no_gpu(boot: Boot) -> None:
    """The device cgroup is real on a node: a node that is only made, not allowed, cannot be opened."""
    node = boot("trixie", "healthy")
    made = docker_run(node, images.BASE, "sh", "-c", "mknod /dev/nvidiactl c 195 255 && cat /dev/nvidiactl")
    assert "Operation not permitted" in made.stderr
    given = docker_run(node, *BY_RUNTIME, images.BASE, "cat", "/dev/nvidiactl")
    assert "No such device or address" in given.stderr  # allowed, and no driver is behind it


# -- scenarios ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suite", SUITES)
def test_report_002_fails_and_can_be_mended_by_hand(boot: Boot, suite: str) -> None:
    node = boot(suite, "report_002")
    failed = docker_run(node, *BY_RUNTIME, images.BASE, "ls", "/dev/nvidia0")
    assert failed.returncode == 125
    assert (
        "nknown runtime specified nvidia" in failed.stderr or "invalid runtime name: nvidia" in failed.stderr
    )

    node.sh(
        """sed -i 's|"@/sbin/ldconfig.real"|"@/sbin/ldconfig"|; s|^mode = "auto"|mode = "cdi"|' "$1" """,
        toolkit.CONFIG,
    )
    settings = json.loads(node.read(scenarios.DAEMON))
    settings["runtimes"]["nvidia"] = scenarios.RUNTIME
    if suite == "trixie":
        settings["features"]["cdi"] = True
    scenarios.write_daemon(node, settings)
    unresolved = docker_run(node, *BY_RUNTIME, images.BASE, "ls", "/dev/nvidia0")
    assert "unresolvable CDI devices nvidia.com/gpu=all" in unresolved.stderr
    toolkit.generate_spec(node)
    assert sees_gpu(node, *BY_RUNTIME)
    assert images.cuinit(node, *BY_RUNTIME).stdout == "0\n"
    if suite != "bookworm":  # Docker 20.10 does not know CDI
        assert sees_gpu(node, "--device", "nvidia.com/gpu=0")
    refused = docker_run(node, "--gpus", "all", images.BASE, "true")
    assert refused.returncode == 125
    assert REFUSAL in refused.stderr


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("version", ["1.17.8", "1.20.0"])
def test_healthy_gives_containers_the_gpu(boot: Boot, suite: str, version: str) -> None:
    node = boot(suite, "healthy", version)
    assert sees_gpu(node, *BY_RUNTIME)
    assert sees_gpu(node, "--gpus", "all") == (scenarios.runtime_mode(version) == "auto")
    if suite != "bookworm":
        assert sees_gpu(node, "--device", "nvidia.com/gpu=all")
    if suite == "sid":
        found = node.run(["docker", "info", "-f", "{{json .DiscoveredDevices}}"]).stdout
        assert f"nvidia.com/gpu={gpu.UUID}" in found


def test_old_toolkit_takes_ldconfig_as_it_is_written(boot: Boot) -> None:
    """Catalogue #1: before 1.15 the hook does not correct @/sbin/ldconfig.real."""
    node = boot("trixie", "report_002", "1.14.6")
    failed = docker_run(node, "--gpus", "all", images.BASE, "true")
    text = "nvidia-container-cli: ldcache error: open failed: /sbin/ldconfig.real: no such file or directory"
    assert text in failed.stderr
    toolkit.configure(node, "1.17.8")
    assert sees_gpu(node, "--gpus", "all")


BROKEN = {  # scenario: what a container that wants the GPU by the runtime says
    "stale_spec": "libcuda.so.535.183.01: no such file or directory",
    "duplicate_spec": "unresolvable CDI devices nvidia.com/gpu=all",
    "docker_down": "Cannot connect to the Docker daemon",
    "invalid_config_toml": "failed to load specified config file",
    "no_gpu": "libnvidia-ml.so.1: cannot open shared object file",
    "daemon_json_is_directory": "nvidia",
    "non_utf8_config": "failed to load specified config file",
    "runtime_missing": "nvidia",
}
STILL_WORKING = {"invalid_daemon_json", "config_dangling_link", "leftover_static_spec", "wrong_uvm_major"}


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_broken_scenario_fails_as_it_says(boot: Boot, name: str) -> None:
    node = boot("trixie", name)
    failed = docker_run(node, *BY_RUNTIME, images.BASE, "ls", "/dev/nvidia0")
    assert failed.returncode != 0
    assert BROKEN[name] in failed.stderr


@pytest.mark.parametrize("name", sorted(STILL_WORKING))
def test_scenario_that_only_waits_to_break(boot: Boot, name: str) -> None:
    node = boot("trixie", name)
    assert sees_gpu(node, *BY_RUNTIME)


def test_wrong_uvm_major_breaks_cuda_only(boot: Boot) -> None:
    node = boot("sid", "wrong_uvm_major", "1.19.1")
    assert docker_run(node, *BY_RUNTIME, images.BASE, "nvidia-smi", "-L").returncode == 0
    assert images.cuinit(node, *BY_RUNTIME).stdout == "999\n"
    toolkit.generate_spec(node)
    assert images.cuinit(node, *BY_RUNTIME).stdout == "0\n"


def test_running_container_of_the_hook(boot: Boot) -> None:
    node = boot("trixie", "gpus_container_running")
    assert node.run(["docker", "exec", "trainer", "nvidia-smi", "-L"]).stdout.startswith("GPU 0: ")


@pytest.mark.parametrize("suite", SUITES)
def test_cdi_switched_off(boot: Boot, suite: str) -> None:
    node = boot(suite, "cdi_feature_off")
    assert not sees_gpu(node, "--device", "nvidia.com/gpu=all")
    assert sees_gpu(node, *BY_RUNTIME)


@pytest.mark.parametrize("suite", SUITES)
def test_no_docker(boot: Boot, suite: str) -> None:
    node = boot(suite, "no_docker")
    assert node.run(["sh", "-c", "command -v docker dockerd"], check=False).stdout == ""
    assert node.show("docker.service", "LoadState") == "not-found"


def test_toolkit_faults(boot: Boot) -> None:
    node = boot("trixie", "healthy")
    toolkit.configure(node, faults=["nvidia-ctk fails"])
    assert node.run(["nvidia-ctk", "cdi", "list"], check=False).returncode == 1
    toolkit.configure(node, faults=["nvidia-ctk hangs"])
    with pytest.raises(LabError, match="took more than"):
        node.run(["nvidia-ctk", "--version"], timeout=0.5)


def test_toolkit_1_18_0_takes_the_runtimes_mode_for_its_own(boot: Boot) -> None:
    """Catalogue #25."""
    node = boot("trixie", "healthy", "1.17.8")
    toolkit.configure(node, "1.18.0")
    done = node.run(["nvidia-ctk", "cdi", "generate"], check=False)
    assert done.returncode == 1
    assert "invalid discovery mode: cdi" in done.stderr


def test_every_scenario_is_tested() -> None:
    elsewhere = {"healthy", "report_002", "no_docker", "gpus_container_running", "cdi_feature_off"}
    assert set(scenarios.SCENARIOS) == {*BROKEN, *STILL_WORKING, *elsewhere}


# -- what is left behind ------------------------------------------------------------------------------------

CHILD = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # who was started in the background ignores it
from tests.nodes.lab import Lab
with Lab() as lab:
    node = lab.boot("trixie")
    print(lab.slot.number, node.name, flush=True)
    sys.stdin.read()
"""


def start_child() -> tuple[subprocess.Popen[str], int, str]:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert child.stdout is not None
    number, name = child.stdout.readline().split()
    return child, int(number), name


def traces(number: int, name: str) -> list[str]:
    """What of a node is still on the machine: processes (dead ones aside), interface, mounts, files."""
    found = mounts_below(Path("/var/tmp/gpumend-lab") / f"slot-{number}")
    if Path(f"/sys/class/net/ve-{name}").exists():
        found.append("interface")
    if (Path("/var/tmp/gpumend-lab") / f"slot-{number}" / name).exists():
        found.append("directory")
    for entry in Path("/proc").glob("[0-9]*/cgroup"):
        try:
            if f"/{name}.node" in entry.read_text(encoding="utf-8") and "\nState:\tZ" not in (
                entry.with_name("status").read_text(encoding="utf-8")
            ):
                found.append(f"process {entry.parent.name}")
        except OSError:
            continue
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_lab_that_is_told_to_end_leaves_nothing(lab: Lab, number: signal.Signals) -> None:
    child, slot, name = start_child()
    assert traces(slot, name)
    child.send_signal(number)
    child.wait(90)
    assert traces(slot, name) == []


def test_lab_that_is_killed_is_cleaned_by_the_next(lab: Lab) -> None:
    child, number, name = start_child()
    child.kill()
    child.wait(30)
    assert traces(number, name)
    # The lowest free slot is the killed lab's, unless another lab on this machine has just ended.
    held: list[Slot] = []
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        held.append(Slot())
        if held[-1].number == number:
            break
    for slot in held:
        slot.release()
    assert traces(number, name) == []


def test_failed_boot_leaves_nothing(lab: Lab) -> None:
    def broken(upper: Path) -> None:
        (upper / "usr/lib/systemd").mkdir(parents=True)
        (upper / "usr/lib/systemd/systemd").write_text("not a program")

    before = len(lab.nodes)
    with pytest.raises(LabError):
        lab.boot("trixie", prepare=broken)
    assert len(lab.nodes) == before
    assert os.listdir("/sys/class/net").count(f"ve-{lab.slot.prefix}") == 0
    assert mounts_below(lab.slot.directory) == []
