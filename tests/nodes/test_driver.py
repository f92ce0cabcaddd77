"""The wanted driver on a booted node: real apt and dpkg with packages of NVIDIA's names from a signed repository, real modinfo and
systemd; kernel module, libraries and initramfs are stand-ins."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from gpumend.rules.driver.driver_packages import TEXTS
from gpumend.rules.finding import Component
from tests.nodes import mirror
from tests.nodes.apt import Deb, installed
from tests.nodes.base import SUITE
from tests.nodes.conftest import Boot
from tests.nodes.crashes import KILL
from tests.nodes.drive import Ran, Target, carry_out, planned, result_of, start
from tests.nodes.driver_packages import (
    BRANCH,
    BUS,
    CALLS,
    INITRAMFS,
    KERNEL,
    MODULE,
    NAMES,
    NEWER,
    NEXT,
    debs,
    plug_in,
)  # fmt: skip
from tests.nodes.faults import fault
from tests.nodes.lab import Lab, Node
from tests.nodes.mirror import ADDRESS, Key, Signer
from tests.nodes.slot import wait_for

WATCHED = ("/etc", "/lib/modules", "/var/lib/dpkg/info", "/usr/lib/systemd/system")
RUN = "20261129T000000Z-d71e"
JOURNAL = f"/var/lib/gpumend/runs/{RUN}/{Component.DRIVER_PACKAGES}/journal.json"
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
    node.sh("rm -rf /etc/apt/sources.list.d/* /var/lib/apt/lists/* /var/cache/apt/archives/*.deb")
    node.run(["apt-get", "update", "-qq"])


def run(lab: Lab, node: Node, key: Key, dry: bool = False, **driver: Any) -> Ran:
    return start(lab, Target(node, wanted=wants(key, **driver)), deploy="driver", dry=dry).finish()


def version(node: Node, name: str) -> str:
    return node.run(["dpkg-query", "-W", "-f=${Version}", name]).stdout if installed(node, name) else ""


def asked(node: Node, **driver: Any) -> dict[str, Any]:
    """The transaction's data for the program; the repository is NVIDIA's. Raises LookupError where nothing is planned."""
    wanted: dict[str, Any] = {"driver": {"branch": "580", "install": True, "origin": "nvidia", **driver}}
    wanted["repositories"] = {"cuda": {"uri": f"{ADDRESS}/cuda"}}
    return planned(node, Component.DRIVER_PACKAGES, RUN, wanted)


def state_of(node: Node) -> tuple[Any, ...]:
    """What a driver's installation changes: files, packages, holds, units."""
    rows = node.sh(
        "dpkg-query -W -f '${db:Status-Abbrev} ${Package} ${Version}\\n' | grep ^.i; apt-mark showhold"
    ).stdout
    files = {path: entry for path, entry in node.tree("/etc").items() if entry[0] != "directory"}
    files.pop("/etc/ld.so.cache", None)
    return rows, files


@pytest.fixture
def stocked(node: Node, signer: Signer, key: Key) -> Node:
    """The node, which knows the repository already."""
    listed(node, signer, key, *debs())
    return node


def test_the_driver_of_the_branch_and_its_fabric_manager_in_one_version(stocked: Node) -> None:
    node = stocked
    for name, text in {"vendor": "0x10de\n", "class": "0x068000\n"}.items():
        node.write(f"{BUS}/devices/0000:07:00.0/{name}", text)  # an NVSwitch
    try:
        before = state_of(node)
        done = result_of(carry_out(node, asked(node)))
        assert done["status"] == "changed", done
        assert {version(node, name) for name in (*OPEN[1:], "nvidia-fabricmanager-580")} == {f"{BRANCH}-1"}
        assert f"the open module {BRANCH}" in done["detail"]
        assert node.read(CALLS).decode() == "-u -k all 3\n", "the initramfs has the file"
        assert {*OPEN, "nvidia-fabricmanager-580"} <= set(node.run(["apt-mark", "showhold"]).stdout.split())
        assert not node.exists("/proc/driver/nvidia/version"), "nothing is loaded"
        with pytest.raises(LookupError):
            asked(node)
        assert result_of(carry_out(node, UNDO))["status"] == "changed"
        assert state_of(node) == before and not node.exists(MODULE)
        assert node.read(CALLS).decode().splitlines()[-1] == "-u -k all 0", "and has it no longer"
    finally:
        node.sh('rm -rf "$1"', f"{BUS}/devices/0000:07:00.0")


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("what", "status", "words"),
    [
        ("a name that became transitional", "put_back", "not of branch 580"),
        ("a build that fails", "put_back", "package nvidia-kernel-open-dkms (--configure)"),
        ("a package that is in its way", "refused", "it would remove"),
        ("another kernel along with it", "refused", "which kernel boots"),
        ("packages of two versions", "put_back", "different versions"),
    ],
)
def test_what_cannot_end_well_leaves_the_node_as_it_was(
    node: Node, signer: Signer, key: Key, what: str, status: str, words: str
) -> None:
    found = {deb.name + deb.version: deb for deb in debs(fails=what == "a build that fails")}
    pin = Deb("nvidia-driver-pinning-580", "580-1")  # one that pins nothing, as for a branch that has ended
    if what == "a name that became transitional":
        found[pin.name + pin.version] = pin
    if what == "a package that is in its way":
        listed(node, signer, key, Deb("nvidia-legacy-tools"))
        node.run(["apt-get", "install", "-qq", "-y", "nvidia-legacy-tools"])
        old = found.pop(pin.name + pin.version)
        found["p"] = Deb(old.name, old.version, conflicts="nvidia-legacy-tools", files=old.files)
    if what == "another kernel along with it":
        found[pin.name + pin.version] = Deb(pin.name, pin.version, "linux-image-6.99-amd64")
        found["k"] = Deb("linux-image-6.99-amd64")
    if what == "packages of two versions":
        found["p"] = Deb("nvidia-persistenced", "580.1-1")
        modules = found.pop(f"nvidia-kernel-open-dkms{BRANCH}-1")
        found["m"] = Deb(modules.name, f"{NEWER}-1", files=modules.files, scripts=modules.scripts)
        found[f"nvidia-driver-cuda{BRANCH}-1"] = Deb("nvidia-driver-cuda", f"{BRANCH}-1")
    listed(node, signer, key, *found.values())
    try:
        before = state_of(node)
        with fault(what):
            done = result_of(carry_out(node, asked(node)))
            assert done["status"] == status and words in done["detail"].lower(), done
            assert state_of(node) == before and not node.exists(MODULE)
    finally:
        node.sh("apt-get -qq -y purge nvidia-legacy-tools >/dev/null 2>&1 || true")


def test_a_driver_of_the_runfile_stays(stocked: Node) -> None:
    stocked.write("/usr/bin/nvidia-uninstall", "#!/bin/sh\n# STAND-IN for tests\n", 0o755)
    with pytest.raises(LookupError):
        asked(stocked)


@pytest.mark.exhaustive
def test_another_branch_comes_by_opt_in_alone_and_not_under_somebody_at_work(
    node: Node, signer: Signer, key: Key
) -> None:
    listed(node, signer, key, *debs())
    assert result_of(carry_out(node, asked(node, hold=False)))["status"] == "changed"
    with pytest.raises(LookupError):
        asked(node, branch="590", hold=False)
    node.sh("mknod -m 666 /dev/nvidia0 c 1 3; rm -rf /var/lib/gpumend")
    job = ["systemd-run", "--quiet", "--unit=job", "sh", "-c", "exec 3</dev/nvidia0; exec sleep 1000"]
    node.run(job)
    try:
        wanted = asked(node, branch="590", replace=True, hold=False)
        wait_for(
            "the job has it open",
            lambda: "nvidia0" in node.sh("ls -l /proc/$(systemctl show --value -p MainPID job)/fd").stdout,
            30,
        )
        done = result_of(carry_out(node, wanted))
        assert done["status"] == "refused" and "in use by sleep" in done["detail"], done
        assert version(node, "nvidia-driver-cuda") == f"{BRANCH}-1"
        node.run(["systemctl", "stop", "job"])
        done = result_of(carry_out(node, wanted))
        assert done["status"] == "changed" and version(node, "nvidia-driver-cuda") == f"{NEXT}-1", done
    finally:
        node.sh("systemctl stop job 2>/dev/null || true; rm -f /dev/nvidia0")


def killed(node: Node, nth: int) -> bool:
    """Whether the transaction was at work still when it was killed after the journal's nth entry; the next run puts it back."""
    node.sh("rm -rf /var/lib/gpumend")
    data, before = asked(node), state_of(node)
    recover = {"verb": "recover", "journals": [JOURNAL], "run": "next", "who": "test", "restarts": "idle"}
    with fault("kill -9"):
        if carry_out(node, data, KILL.format(nth=nth)).returncode == 0:
            assert result_of(carry_out(node, UNDO))["status"] == "changed"
            return False
        if json.loads(node.read(JOURNAL))["state"] == "done":  # all of it was, but the answer
            assert result_of(carry_out(node, UNDO))["status"] == "changed"
            return False
        assert result_of(carry_out(node, recover))["status"] in ("changed", "unchanged"), nth
        assert state_of(node) == before and not node.exists(MODULE), nth
    return True


@pytest.mark.exhaustive
def test_killed_at_every_step(stocked: Node) -> None:
    nth = 1
    while killed(stocked, nth):
        nth += 1
    print(f"killed at {nth - 1} steps")
    assert nth > 6
    assert result_of(carry_out(stocked, asked(stocked)))["status"] == "changed", "begun anew"


@pytest.mark.exhaustive
def test_a_driver_is_installed_for_the_next_boot_and_a_second_run_changes_nothing(
    node: Node, lab: Lab, signer: Signer, key: Key
) -> None:
    node.sh("rm -f /etc/apt/sources.list /etc/apt/trusted.gpg.d/tests.asc; rm -rf /var/lib/apt/lists/*")
    mirror.publish(node, "cuda", mirror.packed(debs()), signer, key)
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
