"""What dnf of Debian sid says of a repository before it is added, on a node whose packages are rpm's."""

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
REPO = "/etc/yum.repos.d/gpumend-toolkit.repo"


@pytest.fixture(scope="module")
def node(shared_boot: Boot, signer: Signer, key: Key) -> Node:
    node = shared_boot("sid+rpm", None)
    gpu.install(node)
    images.import_image(node)
    mirror.serve(node)
    yum.becomes_rpm_s(node, signer, key)
    return node


@pytest.mark.parametrize("what", ["signed by another", "gone"])
def test_what_dnf_would_not_trust_is_not_added(node: Node, signer: Signer, key: Key, what: str) -> None:
    yum.publish(
        node, "rpm", toolkit.debs(NEW), signer, signer.key("other") if what == "signed by another" else key
    )
    uri = f"{ADDRESS}/{'rpm' if what == 'signed by another' else 'gone'}"
    wanted = wants(uri, fingerprint=key.fingerprint, key=key.public)
    done = result_of(carry_out(node, planned(node, Component.REPOSITORIES, RUN, wanted)))
    assert done["status"] == "refused" and uri in done["detail"], done
    assert not node.exists(REPO)


def test_a_node_of_rpms_gets_the_toolkit_and_its_containers_the_device(
    node: Node, lab: Lab, signer: Signer, key: Key
) -> None:
    yum.publish(node, "rpm", toolkit.debs(NEW), signer, key)
    wanted = wants(f"{ADDRESS}/rpm", fingerprint=key.fingerprint, key=key.public)
    done = provision(lab, node, wanted)
    assert done.rc == 0 and done.codes(node) == [], done.said
    assert node.exists(REPO)
    said = node.run(["rpm", "-q", "--qf", "%{VERSION}\n", *TOOLKIT]).stdout
    assert said.split() == [NEW] * len(TOOLKIT)
    assert sees_gpu(node, RUNTIME) and sees_gpu(node, DEVICE)
    again = provision(lab, node, wanted)
    assert again.rc == 0 and again.statuses(node) == {}, again.said
    undo = {"verb": "rollback", "run": done.report["run"], "who": "test", "restarts": "idle"}
    assert result_of(carry_out(node, undo))["status"] == "changed"
    assert not node.exists(REPO) and node.run(["rpm", "-q", TOOLKIT[0]], check=False).returncode != 0
