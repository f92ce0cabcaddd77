"""The wanted driver on a booted node: real apt and dpkg with packages of NVIDIA's names from a signed repository, real modinfo and
systemd; kernel module, libraries and initramfs are stand-ins."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from gpumend.rules.driver.driver_packages import TEXTS
from gpumend.rules.finding import Component
from tests.nodes import mirror
from tests.nodes.apt import Deb, installed
from tests.nodes.base import SUITE
from tests.nodes.conftest import Boot
from tests.nodes.drive import Ran, Target, carry_out, planned, result_of, start
from tests.nodes.driver_packages import BRANCH, CALLS, INITRAMFS, KERNEL, MODULE, NAMES, debs, plug_in
from tests.nodes.lab import Lab, Node
from tests.nodes.mirror import ADDRESS, Key, Signer

WATCHED = ("/etc", "/lib/modules", "/var/lib/dpkg/info", "/usr/lib/systemd/system")
RUN = "20261129T000000Z-d71e"
UNDO = {"verb": "rollback", "run": RUN, "who": "test", "restarts": "idle"}
OPEN = ("nvidia-driver-pinning-580", "nvidia-driver-cuda", "nvidia-kernel-open-dkms", "nvidia-persistenced")


@pytest.fixture(scope="module")
def booted(shared_boot: Boot, signer: Signer, key: Key) -> Iterator[Node]:
    node = shared_boot(SUITE, None)
    node.write("/etc/dpkg/dpkg.cfg.d/fast", "force-unsafe-io\n")
    mirror.serve(node)
    mirror.publish(node, "cuda", mirror.packed(debs()), signer, key)
    plug_in(node)
    node.write("/usr/sbin/update-initramfs", INITRAMFS, 0o755)
    node.sh("rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/*")
    yield node


@pytest.fixture
def node(booted: Node) -> Node:
    """The same node with no driver, and with the repository that has one."""
    booted.sh(
        'apt-mark -qq unhold "$@" >/dev/null 2>&1 || true; apt-get -qq -y purge "$@" >/dev/null 2>&1 || true',
        *NAMES,
    )
    booted.sh(
        'rm -rf /var/lib/gpumend "$@" /usr/bin/nvidia-uninstall; systemctl daemon-reload', CALLS, *TEXTS
    )
    return booted


def wants(key: Key, **driver: Any) -> dict[str, Any]:
    repository = {"uri": f"{ADDRESS}/cuda", "fingerprint": key.fingerprint, "key": key.public}
    return {"repositories": {"cuda": repository}, "driver": {"branch": "580", "install": True, **driver}}


def listed(node: Node, signer: Signer, key: Key, *packages: Deb) -> None:
    """The repository has these packages and no others, and apt knows them."""
    mirror.publish(node, "cuda", mirror.packed(packages), signer, key)
    node.write("/etc/apt/trusted.gpg.d/tests.asc", key.public)
    node.write("/etc/apt/sources.list", f"deb {ADDRESS}/cuda ./\n")
    node.run(["apt-get", "update", "-qq"])


def run(lab: Lab, node: Node, key: Key, dry: bool = False, **driver: Any) -> Ran:
    return start(lab, Target(node, wanted=wants(key, **driver)), deploy="driver", dry=dry).finish()


def alone(node: Node, **driver: Any) -> dict[str, Any]:
    """What became of the transaction by itself, without SSH; the repository is NVIDIA's."""
    wanted = {"driver": {"branch": "580", "install": True, "origin": "nvidia", **driver}}
    wanted["repositories"] = {"cuda": {"uri": f"{ADDRESS}/cuda"}}
    return result_of(carry_out(node, planned(node, Component.DRIVER_PACKAGES, RUN, wanted)))


def version(node: Node, name: str) -> str:
    return node.run(["dpkg-query", "-W", "-f=${Version}", name]).stdout if installed(node, name) else ""


def test_a_driver_is_installed_for_the_next_boot_and_a_second_run_changes_nothing(
    node: Node, lab: Lab, key: Key
) -> None:
    tree = node.tree(*WATCHED)
    found = run(lab, node, key, dry=True)
    assert found.rc == 3 and "GM126" in found.codes(node) and node.tree(*WATCHED) == tree, found.said
    done = run(lab, node, key)
    assert done.statuses(node)[Component.DRIVER_PACKAGES] == "changed", done.said
    assert {version(node, name) for name in OPEN[1:]} == {f"{BRANCH}-1"}, (
        "and not apt's own choice, the newer branch"
    )
    assert version(node, "nvidia-driver-pinning-580") and version(node, f"linux-headers-{KERNEL}")
    assert node.run(["modinfo", "-F", "version", "nvidia"]).stdout == f"{BRANCH}\n"
    assert {path: node.read(path).decode() for path in TEXTS} == TEXTS
    assert set(OPEN) <= set(node.run(["apt-mark", "showhold"]).stdout.split())
    assert node.run(["systemctl", "is-enabled", "nvidia-persistenced"]).stdout == "enabled\n"
    assert not node.exists("/proc/driver/nvidia/version"), "nothing is loaded"
    assert "GM126" not in done.codes(node) and "GM127" in done.codes(node)
    assert done.host(node)["reboot"] == [f"driver {BRANCH} is installed and not loaded"]
    tree = node.tree(*WATCHED)
    again = run(lab, node, key)
    assert again.statuses(node) == {} and node.tree(*WATCHED) == tree, again.said
    undo = {**UNDO, "run": done.report["run"]}
    assert result_of(carry_out(node, undo))["status"] == "changed"
    assert not any(installed(node, name) for name in OPEN) and not node.exists(MODULE)
