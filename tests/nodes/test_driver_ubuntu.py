"""Ubuntu's own driver on a booted Ubuntu: the packages of its restricted archive with their scripts, real apt, dpkg, systemd and
modinfo; the module of this machine's kernel is a stand-in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from gpumend.rules.driver.driver_packages import TEXTS
from gpumend.rules.finding import Component
from tests.nodes import mirror, ubuntu_driver
from tests.nodes.apt import installed
from tests.nodes.conftest import Boot
from tests.nodes.drive import Ran, Target, carry_out, result_of, start
from tests.nodes.driver_packages import INITRAMFS, MODULE, plug_in
from tests.nodes.lab import Lab, Node
from tests.nodes.mirror import ADDRESS, Key, Signer

WATCHED = ("/etc", "/lib/modules", "/var/lib/dpkg/info", "/usr/lib/systemd/system")


@pytest.fixture(scope="module")
def node(shared_boot: Boot, signer: Signer, key: Key) -> Iterator[Node]:
    node = shared_boot("noble", None)
    node.write("/etc/dpkg/dpkg.cfg.d/fast", "force-unsafe-io\n")
    mirror.serve(node)
    packages = [*ubuntu_driver.packages(), *mirror.packed(ubuntu_driver.modules())]
    mirror.publish(node, "ubuntu", packages, signer, key, label="Ubuntu")
    plug_in(node)
    node.write("/usr/sbin/update-initramfs", INITRAMFS, 0o755)
    node.write("/etc/apt/trusted.gpg.d/tests.asc", key.public)
    node.sh("rm -rf /etc/apt/sources.list.d/* /var/lib/apt/lists/*")
    node.write("/etc/apt/sources.list", f"deb {ADDRESS}/ubuntu ./\n")
    node.run(["apt-get", "update", "-qq"])
    yield node


def run(lab: Lab, node: Node, dry: bool = False, **driver: Any) -> Ran:
    wanted = {"driver": {"branch": "580", "install": True, "origin": "distribution", **driver}}
    return start(lab, Target(node, wanted=wanted), deploy="driver", dry=dry).finish()


def test_a_branch_that_is_gone_is_not_the_one_that_was_wanted(lab: Lab, node: Node) -> None:
    tree = node.tree(*WATCHED)
    done = run(lab, node, branch="570")
    assert done.statuses(node)[Component.DRIVER_PACKAGES] == "refused", done.said
    told = next(each["detail"] for each in done.host(node)["changes"] if each["status"] == "refused")
    assert "would be of different versions" in told and "580" in told, told
    assert node.tree(*WATCHED) == tree


def test_ubuntus_packages_come_for_the_next_boot_and_go_again(lab: Lab, node: Node) -> None:
    tree = node.tree(*WATCHED)
    found = run(lab, node, dry=True)
    assert found.rc == 3 and "GM126" in found.codes(node) and node.tree(*WATCHED) == tree, found.said
    done = run(lab, node)
    assert done.statuses(node)[Component.DRIVER_PACKAGES] == "changed", done.said
    names = (*ubuntu_driver.ASKED, *ubuntu_driver.BELOW, ubuntu_driver.MODULES)
    assert all(installed(node, name) for name in names)
    assert node.run(["modinfo", "-F", "version", "nvidia"]).stdout == f"{ubuntu_driver.version()}\n"
    assert {path: node.read(path).decode() for path in TEXTS} == TEXTS
    assert set(names) <= set(node.run(["apt-mark", "showhold"]).stdout.split())
    assert "GM126" not in done.codes(node) and "GM127" in done.codes(node), done.said
    tree = node.tree(*WATCHED)
    again = run(lab, node)
    assert again.statuses(node) == {} and node.tree(*WATCHED) == tree, again.said
    undo = {"verb": "rollback", "run": done.report["run"], "who": "test", "restarts": "idle"}
    assert result_of(carry_out(node, undo))["status"] == "changed"
    assert not any(installed(node, name) for name in names) and not node.exists(MODULE)
