"""Debian sid's dnf and zypper on a node whose packages are rpm's: what is not added, and from a repository to a container with the
device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gpumend.rules.finding import Component
from gpumend.state.packages import TOOLKIT
from tests.nodes import cuda_toolkit, gpu, images, mirror, toolkit, yum
from tests.nodes.apt import AptLock, Deb
from tests.nodes.conftest import Boot
from tests.nodes.crashes import kill_at_every_step
from tests.nodes.drive import carry_out, planned, result_of
from tests.nodes.lab import Lab, Node
from tests.nodes.mirror import ADDRESS, Key, Signer
from tests.nodes.test_repositories import DEVICE, NEW, RUN, RUNTIME, handed_over, provision, sees_gpu, wants

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
    node: Node, lab: Lab, signer: Signer, key: Key, manager: str, tmp_path: Path
) -> None:
    node.write("/etc/os-release", RELEASES[manager])
    yum.publish(node, "rpm", toolkit.debs(NEW), signer, key)
    wanted = wants(f"{ADDRESS}/rpm", fingerprint=key.fingerprint, key=key.public)
    wanted["handover"] = str(tmp_path)
    trusted = node.run(["rpm", "-qa", "gpg-pubkey*"]).stdout
    # As a zypper leaves it that was killed, once its number is another's: zypp itself would wait for that one.
    other = node.main_pid("cron.service")
    node.write("/run/zypp.pid", f"{other}\n")
    done = provision(lab, node, wanted)
    assert done.rc == 0 and done.codes(node) == [], done.said
    assert node.exists(REPOS[manager])
    said = node.run(["rpm", "-q", "--qf", "%{VERSION}\n", *TOOLKIT]).stdout
    assert said.split() == [NEW] * len(TOOLKIT)
    assert sees_gpu(node, RUNTIME) and sees_gpu(node, DEVICE)
    if manager == "zypper":
        told = [each["detail"] for each in done.host(node)["changes"]]
        assert any(f"its number has process {other} (cron)" in each for each in told), told
    rows = {row["name"]: row for row in handed_over(tmp_path, node)["installed"]}
    assert {(rows[name]["from"], *rows[name]["fingerprints"]) for name in TOOLKIT} == {
        (f"{ADDRESS}/rpm", key.fingerprint)
    }
    again = provision(lab, node, wanted)
    assert again.rc == 0 and again.statuses(node) == {}, again.said
    undo = {"verb": "rollback", "run": done.report["run"], "who": "test", "restarts": "idle"}
    assert result_of(carry_out(node, undo))["status"] == "changed"
    assert (
        not node.exists(REPOS[manager]) and node.run(["rpm", "-q", TOOLKIT[0]], check=False).returncode != 0
    )
    if manager == "zypper":
        assert node.run(["rpm", "-qa", "gpg-pubkey*"]).stdout == trusted


@pytest.mark.parametrize("manager", REPOS)
def test_who_installs_by_rpm_is_waited_for_by_name(
    node: Node, signer: Signer, key: Key, manager: str
) -> None:
    wanted = known(node, manager, toolkit.debs(NEW), signer, key, toolkit={"install": True})
    before = rpms(node)
    data = planned(node, Component.PACKAGES, f"{RUN}p", wanted)
    with AptLock(node, "/var/lib/rpm/.rpm.lock"):
        told = result_of(carry_out(node, {**data, "package_wait": 1}))
    assert told["status"] == "refused" and rpms(node) == before, told
    assert f"{manager}'s lock is held by process" in told["detail"] and "(python3)" in told["detail"]
    taken_back(node, Component.REPOSITORIES)


UNDO = {"verb": "rollback", "who": "test", "restarts": "idle"}
FLAVOURS = {
    "libraries": ("cuda-libraries-12-4", "cuda-cudart-12-4"),
    "libraries-dev": ("cuda-libraries-devel-12-4", "cuda-cudart-devel-12-4"),
    "build": ("cuda-minimal-build-12-4", "cuda-nvcc-12-4", "cuda-libraries-devel-12-4"),
    "toolkit": ("cuda-toolkit-12-4", "cuda-nvcc-12-4", "cuda-cupti-devel-12-4"),
}


def done_alone(node: Node, component: Component, wanted: dict[str, Any]) -> dict[str, Any]:
    """What became of one component's transaction, without SSH."""
    return result_of(carry_out(node, planned(node, component, f"{RUN}{component}", wanted)))


def known(node: Node, manager: str, debs: list[Deb], by: Signer, key: Key, **more: Any) -> dict[str, Any]:
    """The desired state, on a node that knows the repository with these packages already."""
    node.write("/etc/os-release", RELEASES[manager])
    node.sh("rm -rf /var/lib/gpumend /etc/yum.repos.d/gpumend-* /etc/zypp/repos.d/gpumend-*")
    yum.publish(node, "rpm", debs, by, key)
    wanted = {**wants(f"{ADDRESS}/rpm", fingerprint=key.fingerprint, key=key.public), **more}
    assert done_alone(node, Component.REPOSITORIES, wanted)["status"] == "changed"
    return wanted


def rpms(node: Node) -> set[str]:
    return set(node.run(["rpm", "-qa", "--qf", "%{NAME}\n"]).stdout.split())


def taken_back(node: Node, *components: Component) -> None:
    for component in components:
        told = result_of(carry_out(node, {**UNDO, "run": f"{RUN}{component}"}))
        assert told["status"] == "changed", told


@pytest.mark.parametrize("manager", REPOS)
def test_each_flavour_of_cuda(node: Node, signer: Signer, key: Key, manager: str) -> None:
    debs = yum.devel(cuda_toolkit.debs())
    wanted = known(node, manager, debs, signer, key)
    before = rpms(node)
    for flavour, there in FLAVOURS.items():
        asked = {
            **wanted,
            "cuda_toolkit": {"version": "12.4", "flavour": flavour, "default": flavour == "toolkit"},
        }
        done = done_alone(node, Component.CUDA_TOOLKIT, asked)
        assert done["status"] == "changed" and "CUDA 12.4 is in /usr/local/cuda-12.4" in done["detail"], done
        assert rpms(node) - before >= set(there) and not rpms(node) & {"cuda-drivers", "cuda-runtime-12-4"}
        if flavour == "toolkit":
            assert node.run(["readlink", "-f", "/usr/local/cuda"]).stdout == f"{cuda_toolkit.TREE}\n"
        with pytest.raises(LookupError):
            planned(node, Component.CUDA_TOOLKIT, "again", asked)
        taken_back(node, Component.CUDA_TOOLKIT)
        left = node.sh('[ ! -e "$1" ] || find "$1" ! -type d', cuda_toolkit.TREE).stdout
        assert rpms(node) == before and left == "", "rpm leaves directories that no package has"
    taken_back(node, Component.REPOSITORIES)


@pytest.mark.parametrize("manager", REPOS)
def test_a_package_of_cuda_that_pulls_a_driver_is_refused(
    node: Node, signer: Signer, key: Key, manager: str
) -> None:
    debs = [deb for deb in yum.devel(cuda_toolkit.debs()) if deb.name != "cuda-toolkit-12-4"]
    debs.append(Deb("cuda-toolkit-12-4", "12.4.1-1", "cuda-runtime-12-4"))
    wanted = known(node, manager, debs, signer, key, cuda_toolkit={"version": "12.4", "flavour": "toolkit"})
    before = rpms(node)
    done = done_alone(node, Component.CUDA_TOOLKIT, wanted)
    assert done["status"] == "refused" and rpms(node) == before, done
    assert "the driver's cuda-drivers" in done["detail"] or "which pulls a driver" in done["detail"]
    taken_back(node, Component.REPOSITORIES)


@pytest.mark.parametrize("manager", REPOS)
def test_killed_before_every_step_of_adding_and_installing(
    node: Node, signer: Signer, key: Key, manager: str
) -> None:
    asked = [["sh", "-c", "rpm -qa | sort"]]
    wanted = known(node, manager, toolkit.debs(NEW), signer, key, toolkit={"install": True})
    data = planned(node, Component.PACKAGES, f"{RUN}p", wanted)
    installing = kill_at_every_step(node, data, ["/etc/nvidia-container-runtime", "/usr/bin"], asked)
    assert len(installing) >= 5, installing
    node.sh("rm -rf /var/lib/gpumend /etc/yum.repos.d/gpumend-* /etc/zypp/repos.d/gpumend-*")
    data = planned(node, Component.REPOSITORIES, RUN, wanted)
    adding = kill_at_every_step(node, data, [REPOS[manager].rpartition("/")[0], "/etc/pki/rpm-gpg"], asked)
    assert len(adding) >= 5, adding
    print(
        f"{manager}: killed {len(installing)} times while it installed, {len(adding)} while it added the repository"
    )


PODMAN = b'#!/bin/sh\n[ "$1" = --version ] && exec echo podman version 5.4.0\nexit 125\n'


@pytest.mark.parametrize("manager", REPOS)
def test_podman_comes_by_its_own_name_and_goes_again(
    node: Node, signer: Signer, key: Key, manager: str
) -> None:
    podman = Deb("podman", "5.4.0-1", files={"/usr/bin/podman": (PODMAN, 0o755)})
    wanted = known(node, manager, [podman], signer, key, engine="podman")
    before = rpms(node)
    done = done_alone(node, Component.ENGINE, wanted)
    assert done["status"] == "changed" and rpms(node) - before == {"podman"}, done
    with pytest.raises(LookupError):
        planned(node, Component.ENGINE, "again", wanted)
    taken_back(node, Component.ENGINE)
    assert rpms(node) == before and not node.exists("/usr/bin/podman")
    taken_back(node, Component.REPOSITORIES)


def test_a_bare_node_of_rpms_gets_docker_ce_and_its_containers_the_device(
    node: Node, lab: Lab, signer: Signer, key: Key
) -> None:
    node.write("/etc/os-release", RELEASES["dnf"])
    node.sh(
        "dpkg --purge docker.io docker-cli containerd runc >/dev/null 2>&1; "
        "rm -rf /etc/docker /var/lib/docker/* /var/lib/containerd/* /var/lib/gpumend /etc/cdi /var/run/cdi"
    )
    assert node.run(["sh", "-c", "command -v dockerd || command -v containerd"], check=False).returncode != 0
    yum.publish(node, "rpm", [*yum.docker_ce("sid+rpm"), *toolkit.debs(NEW)], signer, key)
    wanted = wants(f"{ADDRESS}/rpm", fingerprint=key.fingerprint, key=key.public)
    wanted["engine"] = "docker-ce"
    done = provision(lab, node, wanted)
    assert done.rc == 0 and done.codes(node) == [], done.said
    assert {"docker-ce", "docker-ce-cli", "containerd.io", *TOOLKIT} <= rpms(node)
    images.import_image(node)
    assert sees_gpu(node, RUNTIME) and sees_gpu(node, DEVICE)
    again = provision(lab, node, wanted)
    assert again.rc == 0 and again.statuses(node) == {}, again.said
