"""podman and CRIU as Debian has them: a device through podman after a mend, and CRIU judged by its own words."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gpumend.rules.finding import Component
from tests.nodes import gpu
from tests.nodes.conftest import Boot
from tests.nodes.drive import Target, audit, mend
from tests.nodes.faults import PATHS, Before, fault
from tests.nodes.images import busybox_tar
from tests.nodes.lab import Lab, Node
from tests.nodes.slot import wait_for

PODS = ["bookworm+pods", "trixie+pods", "sid+pods"]
GRIT: Mapping[str, Any] = {"grit": {"role": "both"}}
GRIT_TOML = "/etc/containerd/grit.toml"  # criu is asked on nodes of GRIT alone
RIGHT = 'BinaryName = "/usr/bin/nvidia-container-runtime"\n'


def podman(node: Node) -> subprocess.CompletedProcess[str]:
    """A container of podman that asks for the GPU lists its device node. The lab lends no controller of processes, and
    bookworm's crun raises RLIMIT_MEMLOCK, which the lab may not."""
    node.sh("mkdir -p /srv/rootfs")
    node.run_bytes(["tar", "-xf", "-", "-C", "/srv/rootfs"], busybox_tar(node.suite))
    words = ["podman", *(["--runtime=runc"] if node.suite == "bookworm" else []), "run"]
    options = ["--rm", "--network=none", "--pids-limit=0", "--device", "nvidia.com/gpu=all"]
    return node.run([*words, *options, "--rootfs", "/srv/rootfs", "/bin/ls", "/dev/nvidia0"], check=False)


STORAGE = '[storage]\ndriver = "vfs"\nrunroot = "/run/containers/storage"\ngraphroot = "/var/lib/containers/storage"\n'
PROVEN = {  # ctr takes CDI names from 2.0 on; bookworm's Docker has no CDI
    "bookworm+pods": ["runtime", "podman device", "containerd runtime"],
    "trixie+pods": ["runtime", "device", "podman device", "containerd runtime"],
    "sid+pods": ["runtime", "device", "podman device", "containerd runtime", "containerd device"],
}
ALL_ENGINES: Mapping[str, Any] = {
    "containerd": {"runtimes": ["nvidia"]},
    "prove": {
        "image": "base:1",
        "command": ["/bin/ls", "/dev/nvidia0"],
        "engines": ["docker", "podman", "containerd"],
    },
}


def lend_image(node: Node) -> None:
    """podman and containerd have Docker's image base:1, too. The lab's root is an overlay: podman copies."""
    node.write("/etc/containers/storage.conf", STORAGE)
    if node.suite == "bookworm":  # as in `podman`
        node.write("/etc/containers/containers.conf", '[engine]\nruntime = "runc"\n')
    node.sh(
        "docker save -o /srv/base.tar base:1; podman load -q -i /srv/base.tar; ctr images import /srv/base.tar"
    )


def ctr(node: Node, *options: str) -> subprocess.CompletedProcess[str]:
    """A container of containerd lists the GPU's device node."""
    words = ["ctr", "run", "--rm", "--cpu-shares", "0", *options, "docker.io/library/base:1", "by-hand"]
    return node.run([*words, "/bin/ls", "/dev/nvidia0"], check=False)


BY_RUNTIME = ("--runc-binary", "/usr/bin/nvidia-container-runtime", "--env", "NVIDIA_VISIBLE_DEVICES=all")


@pytest.mark.parametrize("suite", PODS)
def test_the_device_reaches_containers_of_every_engine_after_a_mend(boot: Boot, lab: Lab, suite: str) -> None:
    node = boot(suite, scenario="stale_spec")
    lend_image(node)
    assert podman(node).returncode != 0, "the breakage must be seen first"
    assert ctr(node, *BY_RUNTIME).returncode != 0, "the breakage must be seen first"
    target = Target(node, wanted=ALL_ENGINES)
    assert {"GM304", "GM503"} <= set(audit(lab, target).codes(node))
    done = mend(lab, target)
    assert done.rc == 0, done.said
    proof = done.host(node)["proof"]
    assert proof["status"] == "changed"
    assert proof["detail"] == f"proven in a container: {', '.join(PROVEN[suite])}", done.said
    for shown in (
        podman(node),
        ctr(node, *BY_RUNTIME),
        *([ctr(node, "--device", "nvidia.com/gpu=0")] if "containerd device" in PROVEN[suite] else ()),
    ):
        assert shown.stdout == "/dev/nvidia0\n", shown.stderr
    left = node.run(["ctr", "containers", "ls", "-q"]).stdout + node.run(["podman", "ps", "-aq"]).stdout
    assert left == "", "the proof leaves no container"
    again = mend(lab, target)
    assert again.rc == 0 and again.statuses(node) == {} and not again.host(node).get("proof"), again.said


def test_a_proof_that_fails_through_containerd_puts_all_back(boot: Boot, lab: Lab) -> None:
    node = boot("sid+pods")
    lend_image(node)
    config = "/etc/containerd/config.toml"
    prove = {"image": "base:1", "command": ["/bin/false"], "engines": ["containerd"]}
    with fault("proof that fails"):
        before = Before.of(node, *PATHS, config)
        failed = mend(lab, Target(node, wanted={**ALL_ENGINES, "prove": prove}))
        assert failed.rc == 4, failed.said
        assert failed.host(node)["proof"]["status"] == "put_back"
        assert failed.host(node)["proof"]["detail"].startswith("containerd runtime: "), failed.said
        assert before.check().files == before.old
        lacking = mend(lab, Target(node, wanted={**ALL_ENGINES, "prove": {**prove, "image": "nosuch:1"}}))
        assert lacking.rc == 4 and "containerd has no image nosuch:1" in lacking.host(node)["proof"]["detail"]
        good = {**ALL_ENGINES, "prove": {"image": "base:1", "command": ["/bin/true"]}}
        told = before.check_next(lab, Target(node, wanted=good))
        assert told.rc == 0 and "containerd runtime" in told.host(node)["proof"]["detail"], told.said


def test_a_spec_that_podman_is_too_old_for(boot: Boot, lab: Lab) -> None:
    """Toolkit 1.19.1 writes 0.7.0; bookworm's podman reads 0.5.0 and drops the whole file."""
    node = boot("bookworm+pods", toolkit="1.19.1")
    node.sh(
        "chgrp video /dev/nvidia*; systemctl restart nvidia-cdi-refresh.service"
    )  # a group's id is additional
    assert podman(node).returncode != 0, "the breakage must be seen first"
    assert "GM308" in audit(lab, node).codes(node)
    done = mend(lab, node)
    assert done.rc == 0, done.said
    assert podman(node).stdout == "/dev/nvidia0\n"


def test_bookworms_criu_is_too_old_with_the_reason(shared_boot: Boot, lab: Lab) -> None:
    node = shared_boot("bookworm+pods")
    node.write(GRIT_TOML, RIGHT)
    found = audit(lab, Target(node, wanted=GRIT))
    version = found.finding(node, "GM531")
    assert version["status"] == "fail" and "3.17.1 is too old" in version["summary"], found.said
    theirs = node.run(["criu", "check"], check=False)
    assert theirs.returncode != 0
    words = theirs.stderr.split("vdso: ")[1].splitlines()[0]
    assert any(words in item["text"] for item in found.finding(node, "GM532")["evidence"])


# What selinuxfs showed of an enforcing host, in its form (kernel security/selinux/selinuxfs.c); the lab's kernel has none.
ENFORCING = """
mount -o remount,rw /sys; mkdir -p "$1"; mount -t tmpfs tmpfs "$1"; mount -o remount,ro /sys
mkdir "$1/booleans"; printf 1 >"$1/enforce"; printf '0 0' >"$1/booleans/container_use_devices"
"""
SELINUX = "/sys/fs/selinux"


def test_selinux_by_recorded_facts(shared_boot: Boot, lab: Lab) -> None:
    node = shared_boot("sid+pods")
    before = audit(lab, node)
    assert "GM542" not in before.codes(node), before.said
    node.sh(ENFORCING, SELINUX)
    try:
        found = audit(lab, node)
        assert sorted(found.codes(node)) == sorted([*before.codes(node), "GM542"]), found.said
        told = found.finding(node, "GM542")
        assert (told["status"], told["mends"]) == ("warn", None) and "podman" in told["summary"]
        assert "setsebool -P container_use_devices on" in told["remedy"]
        tree = node.tree("/etc", SELINUX)
        done = mend(lab, node)
        assert "GM542" in done.codes(node) and node.tree("/etc", SELINUX) == tree, done.said

        node.write(f"{SELINUX}/booleans/container_use_devices", "1 1")  # what setsebool does
        fine = audit(lab, node)
        assert fine.codes(node) == before.codes(node), fine.said
        assert mend(lab, node).statuses(node) == {}
    finally:
        node.sh('umount "$1"', SELINUX)


SERVICE = """[Service]
ExecStart=/usr/bin/podman run --rm --name whisper --network=none --pids-limit=0 --device nvidia.com/gpu=all \\
  --rootfs /srv/rootfs /bin/sleep 86400
KillSignal=SIGKILL
[Install]
WantedBy=multi-user.target
"""


def test_a_service_of_podman_that_failed_is_told_until_it_is_started(shared_boot: Boot, lab: Lab) -> None:
    node = shared_boot("sid+pods")
    assert podman(node).returncode == 0
    node.sh("mv /etc/cdi/nvidia.yaml /srv/")
    node.write("/etc/systemd/system/whisper.service", SERVICE)
    node.sh("systemctl daemon-reload; systemctl start whisper.service")
    try:
        wait_for("it has failed", lambda: node.show("whisper", "ActiveState") == "failed")
        broken = audit(lab, node)
        told = broken.finding(node, "GM545")
        assert (told["status"], told["mends"]) == ("fail", None), broken.said
        assert "unresolvable CDI devices nvidia.com/gpu=all" in told["summary"] and "GM301" in told["cause"]
        done = mend(lab, node)
        assert done.statuses(node)[Component.CDI] == "changed", done.said
        again = mend(lab, node)
        for ran in (done, again):
            assert "GM545" in ran.codes(node) and ran.rc == 3, ran.said
        assert again.statuses(node) == {}

        node.sh("systemctl restart whisper.service")
        listed = ["podman", "exec", "whisper", "ls", "/dev/nvidia0"]
        wait_for("the container has its device", lambda: node.run(listed, check=False).returncode == 0)
        fine = audit(lab, node)
        assert "GM545" not in fine.codes(node), fine.said
    finally:
        node.sh(
            "systemctl kill --signal=KILL whisper.service; podman rm --force --time=0 whisper", check=False
        )
        node.sh("rm /etc/systemd/system/whisper.service; systemctl daemon-reload; systemctl reset-failed")


def test_sids_criu_is_judged_by_its_own_check(shared_boot: Boot, lab: Lab) -> None:
    node = shared_boot("sid+pods")
    node.run(["rm", "-f", "/run/criu.kdat"])
    node.write(GRIT_TOML, RIGHT)
    found = audit(lab, Target(node, wanted=GRIT))
    assert not node.exists("/run/criu.kdat"), "an audit writes nothing, CRIU's cache included"
    assert "GM531" not in found.codes(node), found.said
    theirs = node.run(["criu", "check"], check=False)
    assert ("GM532" in found.codes(node)) == (theirs.returncode != 0)
    if theirs.returncode != 0:
        assert any(
            row.partition(": ")[2] in found.finding(node, "GM532")["summary"]
            for row in theirs.stderr.splitlines()
            if row.startswith("Error")
        )


def watcher() -> bytes:
    """A program without libraries that watches the path it is given."""
    with tempfile.TemporaryDirectory() as directory:
        program = Path(directory) / "watch"
        subprocess.run(["gcc", "-static", "-O1", "-o", program, gpu.STANDINS / "watch.c"], check=True)
        return program.read_bytes()


def test_a_process_that_watches_overlay_is_named(shared_boot: Boot, lab: Lab) -> None:
    """The node's root is an overlay. Docker's containers are no pods: a watch in one of them is not counted."""
    node = shared_boot("sid+pods")
    node.write(GRIT_TOML, RIGHT)
    node.sh("mkdir -p /opt/rootfs")
    node.run_bytes(["tar", "-xf", "-", "-C", "/opt/rootfs"], busybox_tar(node.suite))
    node.write("/opt/rootfs/watch", watcher(), 0o755)
    docker = [
        "docker",
        "run",
        "--detach",
        "--name",
        "watch",
        "--volume",
        "/opt/rootfs/watch:/watch",
        "base:1",
    ]
    node.run([*docker, "/watch", "/etc"])
    ctr = ["ctr", "run", "--detach", "--cpu-shares", "0", "--rootfs", "/opt/rootfs", "watch"]
    node.run([*ctr, "/watch", "/etc"])
    try:
        pid = node.run(["ctr", "tasks", "ls"]).stdout.splitlines()[1].split()[1]
        held = f"grep -rqs fhandle-type:f8 /proc/{pid}/fdinfo"
        wait_for("the watch", lambda: node.sh(held, check=False).returncode == 0)
        found = audit(lab, Target(node, wanted=GRIT)).finding(node, "GM536")
        assert found["status"] == "fail" and found["summary"].startswith("1 process in pods"), found
        text = "watch watches a file on overlay (fhandle-type:f8)"
        assert {"source": f"/proc/{pid}/fdinfo", "text": text} in found["evidence"]
    finally:
        node.sh("ctr tasks rm -f watch; ctr containers rm watch; docker rm -f watch")
    found = audit(lab, Target(node, wanted=GRIT)).finding(node, "GM536")
    assert found["status"] == "warn", found


CONFS = {
    "mntns-compat-mode": ("tcp-established\nmntns-compat-mode\n", 2),
    "unknown": ("force-irmapp\n", 1),
    "valid": ("tcp-established\nexternal mnt[]:sm\nforce-irmap\n", 0),
}


def test_a_criu_built_from_source_is_asked_too(shared_boot: Boot, lab: Lab) -> None:
    """It lies in /usr/local/sbin: a line of runc.conf that it does not know is certain."""
    node = shared_boot("sid+pods")
    node.write(GRIT_TOML, RIGHT)
    node.write("/etc/criu/runc.conf", "force-irmapp\n")
    node.run(["mv", "/usr/sbin/criu", "/usr/local/sbin/criu"])
    try:
        found = audit(lab, Target(node, wanted=GRIT))
        told = found.finding(node, "GM534")
        assert told["status"] == "fail" and "criu check --config" in told["evidence"][1]["source"], found.said
        theirs = node.run(["criu", "check"], check=False)
        assert ("GM532" in found.codes(node)) == (theirs.returncode != 0)
    finally:
        node.run(["mv", "/usr/local/sbin/criu", "/usr/sbin/criu"])
        node.run(["rm", "/etc/criu/runc.conf"])


@pytest.mark.parametrize("name", CONFS)
def test_runc_conf_is_judged_as_criu_does(shared_boot: Boot, lab: Lab, name: str) -> None:
    node = shared_boot("sid+pods")
    node.write(GRIT_TOML, RIGHT)
    text, line = CONFS[name]
    node.write("/etc/criu/runc.conf", text)
    try:
        found = audit(lab, Target(node, wanted=GRIT))
        judged = [f["evidence"][0]["source"] for f in found.host(node)["findings"] if f["code"] == "GM534"]
        assert judged == ([f"/etc/criu/runc.conf:{line}"] if line else []), found.said
    finally:
        node.run(["rm", "/etc/criu/runc.conf"])
