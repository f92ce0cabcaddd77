"""podman and CRIU as Debian has them: a device through podman after a mend, and CRIU judged by its own words."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from typing import Any

import pytest

from tests.nodes.conftest import Boot
from tests.nodes.drive import Target, audit, mend
from tests.nodes.images import busybox_tar
from tests.nodes.lab import Lab, Node

PODS = ["bookworm+pods", "trixie+pods", "sid+pods"]
GRIT: Mapping[str, Any] = {"grit": {"role": "both"}}
GRIT_TOML = "/etc/containerd/grit.toml"  # criu is asked on nodes of GRIT alone
RIGHT = 'BinaryName = "/usr/bin/nvidia-container-runtime"\n'


def podman(node: Node) -> subprocess.CompletedProcess[str]:
    """A container of podman that asks for the GPU lists its device node. The lab lends no cgroups to it."""
    node.sh("mkdir -p /srv/rootfs")
    node.run_bytes(["tar", "-xf", "-", "-C", "/srv/rootfs"], busybox_tar(node.suite))
    options = ["--rm", "--network=none", "--cgroups=disabled", "--device", "nvidia.com/gpu=all"]
    return node.run(
        ["podman", "run", *options, "--rootfs", "/srv/rootfs", "/bin/ls", "/dev/nvidia0"], check=False
    )


@pytest.mark.parametrize("suite", PODS)
def test_the_device_reaches_a_container_of_podman_after_a_mend(boot: Boot, lab: Lab, suite: str) -> None:
    node = boot(suite, scenario="stale_spec")
    assert podman(node).returncode != 0, "the breakage must be seen first"
    assert "GM304" in audit(lab, node).codes(node)
    done = mend(lab, node)
    assert done.rc == 0, done.said
    shown = podman(node)
    assert shown.stdout == "/dev/nvidia0\n", shown.stderr
    assert audit(lab, node).rc == 0


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


CONFS = {
    "mntns-compat-mode": ("tcp-established\nmntns-compat-mode\n", 2),
    "unknown": ("force-irmapp\n", 1),
    "valid": ("tcp-established\nexternal mnt[]:sm\nforce-irmap\n", 0),
}


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
