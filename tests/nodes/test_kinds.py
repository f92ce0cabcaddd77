"""Hosts that somebody else keeps, on booted nodes: what an audit says there is right for that kind, mend harms nothing of theirs and
mends what is the host's own beside it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gpumend.rules.finding import Component
from tests.nodes import gpu, images, scenarios, toolkit
from tests.nodes.conftest import Boot
from tests.nodes.drive import audit, mend
from tests.nodes.lab import Lab, Node
from tests.nodes.layouts import KINDS, UNITS, VERSION, Kind, processes
from tests.nodes.toolkit import CONFIG

PROGRAMS = ("containerd", "containerd-shim-runc-v2", "dockerd", "docker", "docker-proxy", "docker-init")


def strip(node: Node, containerd: bool) -> None:
    """Docker's packages are gone, and containerd's unless it stays; their programs lie in /srv/programs."""
    node.sh(
        'mkdir -p /srv/programs; for name; do found=$(command -v "$name" || find /usr/libexec /usr/sbin -name "$name" | head -n1); '
        '[ -z "$found" ] || cp "$found" /srv/programs/; done',
        *PROGRAMS,
    )
    packages = ["docker.io", "docker-cli", *([] if containerd else ["containerd"])]
    node.sh("systemctl stop docker.socket docker.service")
    if not containerd:
        node.sh("systemctl stop containerd.service")
    node.sh('dpkg --purge --force-depends "$@" >/dev/null 2>&1', *packages)
    node.sh("rm -rf /etc/docker; systemctl daemon-reload; systemctl reset-failed")


@pytest.fixture(scope="module")
def bare(shared_boot: Boot) -> Node:
    """A node with the toolkit, and neither Docker nor containerd of its own."""
    node = shared_boot("sid", "healthy", VERSION)
    strip(node, containerd=False)
    return node


@pytest.fixture
def with_containerd(boot: Boot) -> Node:
    node = boot("sid", "healthy", VERSION)
    strip(node, containerd=True)
    return node


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_is_judged_by_its_own_measure_and_left(
    lab: Lab, name: str, request: pytest.FixtureRequest
) -> None:
    kind = KINDS[name]
    node: Node = request.getfixturevalue("with_containerd" if name == "gpu-operator" else "bare")
    try:
        judged_and_left(lab, node, kind)
    finally:  # the next layout finds nothing of this one
        kind.leave(node)
        node.sh('for each; do systemctl stop "$each" 2>/dev/null || true; done', *UNITS)
        node.sh('cd /etc/systemd/system; rm -f -- "$@"', *UNITS)
        node.sh('rm -rf -- "$@"; systemctl daemon-reload', *(kind.theirs if kind.gone else ()), *kind.gone)


def judged_and_left(lab: Lab, node: Node, kind: Kind) -> None:
    """Healthy it is fine; a fault of theirs is told and left, one in the toolkit's file mended beside it; then all is fine."""
    kind.lay(node)
    found = audit(lab, node)
    assert (found.rc, found.codes(node)) == (0, []), found.said

    kind.break_it(node)
    if kind.ours:
        toolkit.write_config(node, mode="legacy")
    broken = audit(lab, node)
    assert (broken.rc, sorted(broken.codes(node))) == (3, sorted([kind.code, *["GM204"] * kind.ours])), (
        broken.said
    )
    told = broken.finding(node, kind.code)
    assert (told["status"], told["mends"]) == ("fail", None), told
    tree, running = node.tree(*kind.theirs), processes(node, kind.unit)
    done = mend(lab, node)
    assert done.codes(node) == [kind.code], done.said
    assert done.statuses(node) == ({Component.TOOLKIT: "changed"} if kind.ours else {}), done.said
    assert node.tree(*kind.theirs) == tree and processes(node, kind.unit) == running

    kind.heal(node)
    found = audit(lab, node)
    assert (found.rc, found.codes(node)) == (0, []), found.said
    tree, running = node.tree(*kind.theirs, "/etc"), processes(node, kind.unit)
    again = mend(lab, node)
    assert (again.rc, again.statuses(node)) == (0, {}), again.said
    assert node.tree(*kind.theirs, "/etc") == tree and processes(node, kind.unit) == running


# -- an unprivileged LXC: a user namespace, device nodes of the outer host's, a Docker of its own


@pytest.fixture(scope="module")
def unprivileged(lab: Lab) -> Iterator[Node]:
    node = lab.boot("sid", devices=gpu.DEVICE_NODES)
    scenarios.equip(node, VERSION, gpu.DEFAULT_DRIVER)
    toolkit.write_config(node)
    toolkit.install_refresh_units(node, VERSION)
    scenarios.write_daemon(node, scenarios.daemon_settings(node))
    yield node
    node.stop()


def no_cgroups(node: Node, value: str) -> None:
    node.sh('sed -i "s/^#\\?no-cgroups = .*/no-cgroups = $2/" "$1"', CONFIG, value)
    assert f"\nno-cgroups = {value}\n" in node.read(CONFIG).decode()


def test_docker_in_an_unprivileged_container(lab: Lab, unprivileged: Node) -> None:
    node = unprivileged
    no_cgroups(node, "true")
    run = ("docker", "run", "-d", "--name", "keep", "--network=none", "--device", "nvidia.com/gpu=0")
    node.run([*run, images.BASE, "sleep", "86400"])
    assert node.run(["docker", "exec", "keep", "ls", "/dev/nvidia0"]).stdout == "/dev/nvidia0\n"
    tree, pid = node.tree("/etc"), node.main_pid("docker.service")
    found = audit(lab, node)
    assert (found.rc, found.codes(node)) == (0, []), found.said
    done = mend(lab, node)
    assert (done.rc, done.statuses(node)) == (0, {}), done.said
    assert node.tree("/etc") == tree and node.main_pid("docker.service") == pid

    no_cgroups(node, "false")
    node.run(["docker", "create", "--name", "tts", "--gpus", "all", images.BASE, "true"])
    broken = audit(lab, node)
    assert "GM215" in broken.codes(node), broken.said
    mended = mend(lab, node)
    assert "GM215" not in mended.codes(node), mended.said
    assert "\nno-cgroups = true\n" in node.read(CONFIG).decode()
    assert node.main_pid("docker.service") == pid
    assert node.run(["docker", "exec", "keep", "echo", "here"]).stdout == "here\n"
    assert mend(lab, node).statuses(node) == {}
