"""Debian sid's dnf and zypper on a node whose packages are rpm's: what is not added, and from a repository to a container with the
device."""

from __future__ import annotations

import pytest

from gpumend.rules.finding import Component
from gpumend.state.packages import TOOLKIT
from tests.nodes import gpu, images, mirror, toolkit, yum
from tests.nodes.conftest import Boot
from tests.nodes.drive import carry_out, planned, result_of
from tests.nodes.lab import Lab, Node
from tests.nodes.mirror import ADDRESS, Key, Signer
from tests.nodes.test_repositories import DEVICE, NEW, RUN, RUNTIME, provision, sees_gpu, wants

pytestmark = pytest.mark.exhaustive


@pytest.fixture(scope="module")
def node(shared_boot: Boot, signer: Signer, key: Key) -> Node:
    node = shared_boot("sid+rpm", None)
    gpu.install(node)
    images.import_image(node)
    mirror.serve(node)
    yum.becomes_rpm_s(node, signer, key)
    return node


SUSE = 'ID=sles\nID_LIKE="suse"\nVERSION_ID="15.6"\nPRETTY_NAME="SUSE Linux Enterprise Server 15 SP6, as tests see it"\n'
RELEASES = {"dnf": yum.OS_RELEASE, "zypper": SUSE}
REPOS = {
    "dnf": "/etc/yum.repos.d/gpumend-toolkit.repo",
    "zypper": "/etc/zypp/repos.d/gpumend-toolkit.repo",
}


@pytest.mark.parametrize("manager", REPOS)
@pytest.mark.parametrize("what", ["signed by another", "brings its own key", "gone"])
def test_what_the_manager_would_not_trust_is_not_added(
    node: Node, signer: Signer, key: Key, what: str, manager: str
) -> None:
    node.write("/etc/os-release", RELEASES[manager])
    other = signer.key(f"{what} {manager}".replace(" ", "-"))
    yum.publish(node, "rpm", toolkit.debs(NEW), signer, key if what == "gone" else other)
    if what == "brings its own key":
        node.write(f"{mirror.ROOT}/rpm/repodata/repomd.xml.key", other.public)
    uri = f"{ADDRESS}/{'gone' if what == 'gone' else 'rpm'}"
    wanted = wants(uri, fingerprint=key.fingerprint, key=key.public)
    trusted = node.run(["rpm", "-qa", "gpg-pubkey*"]).stdout
    done = result_of(carry_out(node, planned(node, Component.REPOSITORIES, RUN, wanted)))
    assert done["status"] == "refused" and uri in done["detail"], done
    assert not node.exists(REPOS[manager]) and node.run(["rpm", "-qa", "gpg-pubkey*"]).stdout == trusted


@pytest.mark.parametrize("manager", REPOS)
def test_a_node_of_rpms_gets_the_toolkit_and_its_containers_the_device(
    node: Node, lab: Lab, signer: Signer, key: Key, manager: str
) -> None:
    node.write("/etc/os-release", RELEASES[manager])
    yum.publish(node, "rpm", toolkit.debs(NEW), signer, key)
    wanted = wants(f"{ADDRESS}/rpm", fingerprint=key.fingerprint, key=key.public)
    trusted = node.run(["rpm", "-qa", "gpg-pubkey*"]).stdout
    done = provision(lab, node, wanted)
    assert done.rc == 0 and done.codes(node) == [], done.said
    assert node.exists(REPOS[manager])
    said = node.run(["rpm", "-q", "--qf", "%{VERSION}\n", *TOOLKIT]).stdout
    assert said.split() == [NEW] * len(TOOLKIT)
    assert sees_gpu(node, RUNTIME) and sees_gpu(node, DEVICE)
    again = provision(lab, node, wanted)
    assert again.rc == 0 and again.statuses(node) == {}, again.said
    undo = {"verb": "rollback", "run": done.report["run"], "who": "test", "restarts": "idle"}
    assert result_of(carry_out(node, undo))["status"] == "changed"
    assert (
        not node.exists(REPOS[manager]) and node.run(["rpm", "-q", TOOLKIT[0]], check=False).returncode != 0
    )
    if manager == "zypper":
        assert node.run(["rpm", "-qa", "gpg-pubkey*"]).stdout == trusted
