"""The wanted driver by Debian sid's dnf and zypper on a node whose packages are rpm's: NVIDIA's names and module streams, from a
signed repository; kernel module, libraries and initramfs are stand-ins."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from gpumend.rules.driver.driver_packages import TEXTS, module_text
from gpumend.rules.finding import Component
from gpumend.state.driver_packages import LEFT_ALONE
from tests.nodes import mirror, yum
from tests.nodes.apt import Deb
from tests.nodes.conftest import Boot
from tests.nodes.crashes import kill_at_every_step
from tests.nodes.drive import Ran, Target, carry_out, planned, result_of, start
from tests.nodes.driver_packages import BRANCH, BUS, CALLS, INITRAMFS, KERNEL, MODULE, NEXT, plug_in
from tests.nodes.driver_rpms import KMP, MODULE_FILE, PLUGIN, debs, headers, names, of_dnf, streams
from tests.nodes.faults import fault
from tests.nodes.lab import Lab, Node
from tests.nodes.mirror import ADDRESS, Key, Signer
from tests.nodes.slot import wait_for

pytestmark = pytest.mark.exhaustive

RUN = "20261129T000000Z-d71f"
UNDO = {"verb": "rollback", "who": "test", "restarts": "idle"}
SUSE = 'ID=sles\nID_LIKE="suse"\nVERSION_ID="15.6"\nPRETTY_NAME="SUSE Linux Enterprise Server 15 SP6, as tests see it"\n'
RELEASES = {"dnf": yum.OS_RELEASE, "zypper": SUSE}
DRIVER = {
    "dnf": ("nvidia-driver-cuda", "kmod-nvidia-open-dkms", "nvidia-persistenced"),
    "zypper": (KMP, "nvidia-compute-utils-G06", "nvidia-persistenced"),
}
LOCKS = {"dnf": "/etc/dnf/plugins/versionlock.list", "zypper": "/etc/zypp/locks"}
SETTINGS = {path: text for path, text in TEXTS.items() if path != LEFT_ALONE}
WATCHED = ("/etc", "/lib/modules", "/usr/lib/systemd/system", "/var/lib/dnf/modulefailsafe")


@pytest.fixture(scope="module")
def booted(shared_boot: Boot, signer: Signer, key: Key) -> Iterator[Node]:
    node = shared_boot("sid+rpm", None)
    mirror.serve(node)
    yum.becomes_rpm_s(node, signer, key)
    plug_in(node)
    node.write("/usr/sbin/update-initramfs", INITRAMFS, 0o755)
    yield node


@pytest.fixture
def node(booted: Node) -> Node:
    """The same node with no driver and no repository."""
    booted.sh(
        'for name in "$@"; do rpm -q "$name" >/dev/null && rpm -e --allmatches --nodeps "$name"; done 2>/dev/null; :',
        *names("dnf"), *names("zypper"), "nvidia-legacy-tools", "nvidia-driver-common", "kernel-core", "kernel-devel",
    )  # fmt: skip
    booted.sh(
        'rm -rf /var/lib/gpumend "$@" /usr/bin/nvidia-uninstall /etc/yum.repos.d/gpumend-* /etc/zypp/repos.d/gpumend-*; '
        "systemctl daemon-reload; : >/etc/dnf/plugins/versionlock.list; rm -rf /var/lib/dnf/modulefailsafe",
        CALLS, MODULE_FILE, LOCKS["zypper"], *TEXTS,
    )  # fmt: skip
    return booted


def repository(key: Key) -> dict[str, Any]:
    return {"uri": f"{ADDRESS}/rpm", "fingerprint": key.fingerprint, "key": key.public}


def wants(key: Key, **driver: Any) -> dict[str, Any]:
    return {
        "repositories": {"toolkit": repository(key)},
        "driver": {"branch": "580", "install": True, **driver},
    }


def known(
    node: Node,
    manager: str,
    by: Signer,
    key: Key,
    packages: list[Deb] | None = None,
    modules: str | None = None,
) -> None:
    """The node is of that manager, and has the repository with these packages; dnf's are in streams, but where that is said."""
    node.write("/etc/os-release", RELEASES[manager])
    if modules is None:
        modules = streams() if manager == "dnf" else ""
    yum.publish(node, "rpm", packages or debs(manager), by, key, modules)
    node.sh("rm -rf /var/cache/dnf /var/cache/zypp")
    data = planned(node, Component.REPOSITORIES, f"{RUN}r", wants(key))
    assert result_of(carry_out(node, data))["status"] == "changed"


def asked(node: Node, key: Key, **driver: Any) -> dict[str, Any]:
    """The transaction's data for the program. Raises LookupError where nothing is planned."""
    return planned(node, Component.DRIVER_PACKAGES, RUN, wants(key, **driver))


def done(node: Node, data: dict[str, Any]) -> dict[str, Any]:
    return result_of(carry_out(node, data))


def taken_back(node: Node) -> None:
    told = result_of(carry_out(node, {**UNDO, "run": RUN}))
    assert told["status"] == "changed", told


def rpms(node: Node) -> dict[str, str]:
    rows = node.run(["rpm", "-qa", "--qf", "%{NAME} %{VERSION}\n"]).stdout.splitlines()
    return dict(row.split() for row in rows)


def state_of(node: Node) -> tuple[Any, ...]:
    """What a driver's installation changes: packages, files and locks, modules."""
    files = {path: entry for path, entry in node.tree(*WATCHED).items() if entry[0] != "directory"}
    for path in ("/etc/ld.so.cache", *(each for each in files if "/modules." in each)):
        files.pop(path, None)
    return rpms(node), files


@pytest.mark.parametrize("manager", DRIVER)
def test_the_driver_of_the_branch_and_its_fabric_manager_in_one_version(
    node: Node, signer: Signer, key: Key, manager: str
) -> None:
    known(node, manager, signer, key)
    for name, text in {"vendor": "0x10de\n", "class": "0x068000\n"}.items():
        node.write(f"{BUS}/devices/0000:07:00.0/{name}", text)  # an NVSwitch
    try:
        before = state_of(node)
        told = done(node, asked(node, key))
        assert told["status"] == "changed", told
        there = rpms(node)
        numbers = {there[name].partition("_")[0] for name in (*DRIVER[manager], "nvidia-fabricmanager")}
        assert numbers == {BRANCH}, "and not the newest Fabric Manager"
        assert f"the open module {BRANCH}" in told["detail"]
        assert node.read(CALLS).decode() == "-u -k all 3\n", "the initramfs has the file"
        assert not node.exists("/proc/driver/nvidia/version"), "nothing is loaded"
        locked = node.read(LOCKS[manager]).decode()
        assert all(name in locked for name in (*DRIVER[manager], "nvidia-fabricmanager")), locked
        with pytest.raises(LookupError):
            asked(node, key)
        taken_back(node)
        assert state_of(node) == before and not node.exists(MODULE)
        assert node.read(CALLS).decode().splitlines()[-1] == "-u -k all 0", "and has it no longer"
    finally:
        node.sh('rm -rf "$1"', f"{BUS}/devices/0000:07:00.0")


@pytest.mark.parametrize("manager", DRIVER)
def test_a_driver_is_installed_for_the_next_boot_and_a_second_run_changes_nothing(
    node: Node, lab: Lab, signer: Signer, key: Key, manager: str
) -> None:
    node.write("/etc/os-release", RELEASES[manager])
    yum.publish(node, "rpm", debs(manager), signer, key, streams() if manager == "dnf" else "")
    node.sh("rm -rf /var/cache/dnf /var/cache/zypp")
    before, tree = rpms(node), node.tree(*WATCHED)
    found = run(lab, node, key, dry=True)
    assert found.rc == 3 and "GM126" in found.codes(node) and node.tree(*WATCHED) == tree, found.said
    told = run(lab, node, key)
    assert told.statuses(node)[Component.DRIVER_PACKAGES] == "changed", told.said
    assert {rpms(node)[name].partition("_")[0] for name in DRIVER[manager]} == {BRANCH}, (
        "and not the newer branch"
    )
    assert node.run(["modinfo", "-F", "version", "nvidia"]).stdout == f"{BRANCH}\n"
    assert {path: node.read(path).decode() for path in SETTINGS} == SETTINGS and not node.exists(LEFT_ALONE)
    assert node.run(["systemctl", "is-enabled", "nvidia-persistenced"]).stdout == "enabled\n"
    if manager == "dnf":
        assert node.read(MODULE_FILE) == module_text("580-open")
        assert PLUGIN in rpms(node) and node.exists(f"/lib/modules/{KERNEL}/build/Makefile")
    assert not node.exists("/proc/driver/nvidia/version"), "nothing is loaded"
    assert "GM126" not in told.codes(node) and "GM127" in told.codes(node)
    assert told.host(node)["reboot"] == [f"driver {BRANCH} is installed and not loaded"]
    tree = node.tree(*WATCHED)
    again = run(lab, node, key)
    assert again.statuses(node) == {} and node.tree(*WATCHED) == tree, again.said
    undo = {**UNDO, "run": told.report["run"]}
    assert result_of(carry_out(node, undo))["status"] == "changed"
    assert rpms(node) == before and not node.exists(MODULE) and not node.exists(MODULE_FILE)


def run(lab: Lab, node: Node, key: Key, dry: bool = False, **driver: Any) -> Ran:
    return start(lab, Target(node, wanted=wants(key, **driver)), deploy="driver", dry=dry).finish()


# --- module streams


def test_the_stream_in_the_file_is_the_one_that_dnf_takes(node: Node, signer: Signer, key: Key) -> None:
    """Real dnf obeys the file, and writes the same bytes by itself."""
    known(node, "dnf", signer, key)

    def candidates() -> set[str]:
        asked = ["dnf", "-q", "repoquery", "--qf", "%{version}", "nvidia-driver-cuda"]
        return set(node.run(asked).stdout.split())

    assert candidates() == {NEXT}, "the default stream hides the others"
    node.write(MODULE_FILE, module_text("580-open"))
    assert candidates() == {BRANCH}
    node.sh('rm "$1"', MODULE_FILE)
    node.run(["dnf", "-q", "-y", "module", "enable", "nvidia-driver:580-open"])
    assert node.read(MODULE_FILE) == module_text("580-open")


def test_without_the_module_the_version_alone_leads_to_the_branch(
    node: Node, signer: Signer, key: Key
) -> None:
    known(node, "dnf", signer, key, modules="")  # RHEL 10
    before = state_of(node)
    assert done(node, asked(node, key))["status"] == "changed"
    assert {rpms(node)[name] for name in DRIVER["dnf"]} == {BRANCH} and not node.exists(MODULE_FILE)
    node.run(["dnf", "-q", "-y", "upgrade"])
    assert {rpms(node)[name] for name in DRIVER["dnf"]} == {BRANCH}, "and the locks keep it there"
    taken_back(node)
    assert state_of(node) == before


def test_a_stream_that_somebody_chose_stays(node: Node, signer: Signer, key: Key) -> None:
    known(node, "dnf", signer, key)
    data = asked(node, key)
    node.run(["dnf", "-q", "-y", "module", "enable", "nvidia-driver:590-open"])
    with pytest.raises(LookupError):
        asked(node, key)
    before = state_of(node)
    told = done(node, data)
    assert told["status"] == "moved" and "changed since it was read" in told["detail"], told
    assert state_of(node) == before
    assert done(node, asked(node, key, replace=True))["status"] == "changed"
    assert rpms(node)["nvidia-driver-cuda"] == BRANCH
    taken_back(node)
    assert rpms(node) == before[0] and node.read(MODULE_FILE) == module_text("590-open")


def test_headers_of_another_kernel_stay_beside_those_that_come(node: Node, signer: Signer, key: Key) -> None:
    found = debs("dnf")
    [lead] = [deb for deb in found if deb.name == "nvidia-driver-cuda" and BRANCH in deb.version]
    found = instead(found, lead.name, depends=f"{lead.depends}, kernel-devel (= 2.0)")
    found += [Deb("kernel-devel", f"{version}-1") for version in ("1.0", "2.0")]
    known(node, "dnf", signer, key, found)
    node.run(["dnf", "-q", "-y", "install", "kernel-devel-1.0"])
    before = state_of(node)
    told = done(node, asked(node, key))
    assert told["status"] == "changed", told
    assert len(node.run(["rpm", "-q", "kernel-devel"]).stdout.split()) == 2
    taken_back(node)
    assert state_of(node) == before and "kernel-devel-1.0" in node.run(["rpm", "-q", "kernel-devel"]).stdout


def test_modules_beside_the_kernel_that_are_there_are_not_asked_for(
    node: Node, signer: Signer, key: Key
) -> None:
    """Amazon Linux 2023 needs kernel-modules-extra with kernel-devel, and may have the one."""
    name, version, release = f"kernel-modules-extra-{KERNEL}".rsplit("-", 2)
    known(node, "dnf", signer, key, [*debs("dnf"), Deb(name, f"{version}-{release}")])
    node.write("/etc/os-release", 'ID=amzn\nID_LIKE="fedora"\nVERSION_ID="2023"\n')
    node.run(["dnf", "-q", "-y", "install", name])
    try:
        before = state_of(node)
        told = done(node, asked(node, key))
        assert told["status"] == "changed", told
        assert headers().name in rpms(node)
        taken_back(node)
        assert state_of(node) == before and name in rpms(node)
    finally:
        node.run(["rpm", "-e", name])


# --- what cannot end well


def instead(found: list[Deb], name: str, **changes: Any) -> list[Deb]:
    """The packages, of which those of this name and branch 580 are otherwise."""
    return [replace(deb, **changes) if deb.name == name and BRANCH in deb.version else deb for deb in found]


@pytest.mark.parametrize(
    ("manager", "what", "status", "words"),
    [
        (
            "dnf",
            "another branch alone",
            "refused",
            "no repository has the module stream nvidia-driver:580-open",
        ),
        ("zypper", "another branch alone", "refused", "in one version of branch 580"),
        (
            "dnf",
            "no headers of this kernel",
            "refused",
            f"no repository has kernel-devel-matched-{KERNEL} or kernel-devel-{KERNEL}",
        ),
        ("dnf", "another kernel along with it", "put_back", "which kernel boots"),
        ("zypper", "another kernel along with it", "refused", "which kernel boots"),
        ("dnf", "a package that is in its way", "put_back", "nvidia-legacy-tools"),
        ("zypper", "a package that is in its way", "refused", "nvidia-legacy-tools"),
        ("dnf", "a dependency of another branch", "put_back", "different versions"),
        ("zypper", "a dependency of another branch", "refused", "different versions"),
        ("dnf", "a build that fails", "put_back", "scriptlet failed"),
        ("zypper", "a build that fails", "put_back", "scriptlet failed"),
    ],
)
def test_what_cannot_end_well_leaves_the_node_as_it_was(
    node: Node, signer: Signer, key: Key, manager: str, what: str, status: str, words: str
) -> None:
    found, modules = debs(manager, fails=what == "a build that fails"), None
    lead = DRIVER[manager][0] if manager == "dnf" else "nvidia-compute-utils-G06"
    if what == "another branch alone":
        found = [deb for deb in found if BRANCH not in deb.version]
        modules = (
            yum.modulemd("nvidia-driver", "open-dkms", {"open-dkms": of_dnf(NEXT)})
            if manager == "dnf"
            else ""
        )
    if what == "no headers of this kernel":
        found = [deb for deb in found if deb.name != headers().name]
    if what == "another kernel along with it":
        [depends] = {deb.depends for deb in found if deb.name == lead and BRANCH in deb.version}
        found = instead(found, lead, depends=", ".join(filter(None, (depends, "kernel-core"))))
        found.append(Deb("kernel-core", "6.99-1"))
    if what == "a package that is in its way":
        found = instead(found, lead, conflicts="nvidia-legacy-tools")
        found.append(Deb("nvidia-legacy-tools"))
    if what == "a dependency of another branch":
        [depends] = {deb.depends for deb in found if deb.name == lead and BRANCH in deb.version}
        found = instead(found, lead, depends=", ".join(filter(None, (depends, "nvidia-driver-common"))))
        found.append(Deb("nvidia-driver-common", f"{NEXT}-1"))
    known(node, manager, signer, key, found, modules)
    if what == "a package that is in its way":
        argv = {"dnf": ["dnf", "-q", "-y"], "zypper": ["zypper", "--non-interactive"]}[manager]
        node.run([*argv, "install", "nvidia-legacy-tools"])
    before = state_of(node)
    with fault(what):
        told = done(node, asked(node, key))
        assert told["status"] == status and words in told["detail"], told
        assert state_of(node) == before and not node.exists(MODULE)


@pytest.mark.parametrize("manager", DRIVER)
def test_another_branch_comes_by_opt_in_alone_and_not_under_somebody_at_work(
    node: Node, signer: Signer, key: Key, manager: str
) -> None:
    # SUSE's names have the generation in them: what follows G06 there is no new version of it.
    other = NEXT if manager == "dnf" else "570.195.03"
    old, new = sorted((BRANCH, other))
    known(node, manager, signer, key, debs(manager, beside=other))
    assert done(node, asked(node, key, branch=old[:3], hold=False))["status"] == "changed"
    with pytest.raises(LookupError):
        asked(node, key, branch=new[:3], hold=False)
    node.sh("mknod -m 666 /dev/nvidia0 c 1 3; rm -rf /var/lib/gpumend")
    job = ["systemd-run", "--quiet", "--unit=job", "sh", "-c", "exec 3</dev/nvidia0; exec sleep 1000"]
    node.run(job)
    lead = "nvidia-driver-cuda" if manager == "dnf" else "nvidia-compute-utils-G06"
    before = rpms(node)
    try:
        wanted = asked(node, key, branch=new[:3], replace=True, hold=False)
        wait_for(
            "the job has it open",
            lambda: "nvidia0" in node.sh("ls -l /proc/$(systemctl show --value -p MainPID job)/fd").stdout,
            30,
        )
        told = done(node, wanted)
        assert told["status"] == "refused" and "in use by sleep" in told["detail"], told
        assert rpms(node) == before
        node.run(["systemctl", "stop", "job"])
        told = done(node, wanted)
        assert told["status"] == "changed" and (before[lead], rpms(node)[lead]) == (old, new), told
        assert node.exists(MODULE_FILE) == (manager == "dnf")
        assert manager == "zypper" or node.read(MODULE_FILE) == module_text("590-open")
        taken_back(node)
        assert manager == "zypper" or node.read(MODULE_FILE) == module_text("580-open")
        assert rpms(node) == before, "with the old stream its packages can be had again"
    finally:
        node.sh("systemctl stop job 2>/dev/null || true; rm -f /dev/nvidia0")


@pytest.mark.parametrize("manager", DRIVER)
def test_a_branch_that_brings_a_package_more_can_be_taken_back(
    node: Node, signer: Signer, key: Key, manager: str
) -> None:
    """As libnvidia-gpucomp came: what depends on it has to be the old one again before it can go."""
    old = "570.195.03"
    lead = "nvidia-driver-cuda" if manager == "dnf" else "nvidia-compute-utils-G06"
    found = debs(manager, beside=old)
    [depends] = {deb.depends for deb in found if deb.name == lead and BRANCH in deb.version}
    found = instead(found, lead, depends=", ".join(filter(None, (depends, "libnvidia-gpucomp"))))
    found.append(Deb("libnvidia-gpucomp", f"{BRANCH}-1"))
    known(node, manager, signer, key, found, "")
    assert done(node, asked(node, key, hold=False, branch=old[:3]))["status"] == "changed"
    before = rpms(node)
    node.sh("rm -rf /var/lib/gpumend")
    try:
        told = done(node, asked(node, key, hold=False, replace=True))
        assert told["status"] == "changed" and "libnvidia-gpucomp" in rpms(node), told
        taken_back(node)
        assert rpms(node) == before
    finally:
        node.sh("rpm -e --nodeps libnvidia-gpucomp 2>/dev/null || :")


def test_a_library_that_nothing_else_needed_any_more_stays(node: Node, signer: Signer, key: Key) -> None:
    """dnf takes along what came for another package once nobody needs it (dnf.conf(5), clean_requirements_on_remove)."""
    found = debs("dnf")
    [depends] = {deb.depends for deb in found if deb.name == "nvidia-driver-cuda" and BRANCH in deb.version}
    found = instead(found, "nvidia-driver-cuda", depends=f"{depends}, libold")
    found += [Deb("libold"), Deb("oldtool", depends="libold")]
    known(node, "dnf", signer, key, found, "")
    node.run(["dnf", "-q", "-y", "install", "oldtool"])
    node.run(["rpm", "-e", "oldtool"])
    before = rpms(node)
    try:
        told = done(node, asked(node, key, hold=False))
        assert told["status"] == "changed", told
        taken_back(node)
        assert rpms(node) == before and "libold" in before
    finally:
        node.sh("rpm -e --nodeps libold 2>/dev/null || :")


# --- locks, and kills


@pytest.mark.parametrize("manager", DRIVER)
def test_locks_that_somebody_sets_afterwards_stay(node: Node, signer: Signer, key: Key, manager: str) -> None:
    known(node, manager, signer, key)
    assert done(node, asked(node, key))["status"] == "changed"
    argv = {"dnf": ["dnf", "-q", "versionlock", "add"], "zypper": ["zypper", "--non-interactive", "addlock"]}
    node.run([*argv[manager], "filesystem"])
    taken_back(node)
    left = node.read(LOCKS[manager]).decode()
    assert "filesystem" in left and "nvidia" not in left, left


@pytest.mark.parametrize("manager", DRIVER)
def test_another_branch_than_the_locked_one_is_refused_with_the_locks(
    node: Node, signer: Signer, key: Key, manager: str
) -> None:
    """To dnf a version that is locked away is not there."""
    old = "570.195.03"
    known(node, manager, signer, key, debs(manager, beside=old), "")
    assert done(node, asked(node, key, branch=old[:3]))["status"] == "changed"
    before = state_of(node)
    told = done(node, asked(node, key, replace=True))
    assert told["status"] == "refused" and "there are locks of" in told["detail"], told
    assert all(name in told["detail"].rpartition("locks of")[2] for name in DRIVER[manager][:2]), told
    assert state_of(node) == before


@pytest.mark.parametrize("manager", DRIVER)
def test_a_driver_that_is_there_is_held_later(node: Node, signer: Signer, key: Key, manager: str) -> None:
    known(node, manager, signer, key)
    assert done(node, asked(node, key, hold=False))["status"] == "changed"
    assert PLUGIN not in rpms(node) and "nvidia" not in lock_text(node, manager)
    node.sh("rm -rf /var/lib/gpumend")
    before = state_of(node)
    assert done(node, asked(node, key))["status"] == "changed"
    assert all(name in lock_text(node, manager) for name in DRIVER[manager])
    assert (PLUGIN in rpms(node)) == (manager == "dnf")
    with pytest.raises(LookupError):
        asked(node, key)
    taken_back(node)
    assert state_of(node) == before


def test_who_has_zypps_lock_is_waited_for_before_locks_are_set(node: Node, signer: Signer, key: Key) -> None:
    """zypper addlock wants it, too, and may come right after PackageKit has seen new packages."""
    known(node, "zypper", signer, key)
    assert done(node, asked(node, key, hold=False))["status"] == "changed"
    node.sh("rm -rf /var/lib/gpumend; rm -f /run/words; mkfifo /run/words")
    words = "exec 3<>/run/words; exec zypper shell <&3"
    node.run(["systemd-run", "--quiet", "--unit=other", "bash", "-c", words])
    try:
        wait_for(
            "zypper has its lock",
            lambda: node.sh("cat /run/zypp.pid 2>/dev/null || :").stdout.strip() != "",
            30,
        )
        data = {**asked(node, key), "package_wait": 1}
        told = done(node, data)
        assert told["status"] == "refused" and "zypper's lock is held by process" in told["detail"], told
        node.run(["systemctl", "stop", "other"])
        assert done(node, data)["status"] == "changed"
    finally:
        node.sh("systemctl stop other 2>/dev/null; rm -f /run/words")


def lock_text(node: Node, manager: str) -> str:
    return node.sh('cat "$1" 2>/dev/null || :', LOCKS[manager]).stdout


@pytest.mark.parametrize("manager", DRIVER)
def test_killed_before_every_step(node: Node, signer: Signer, key: Key, manager: str) -> None:
    known(node, manager, signer, key)
    watched = ["/etc/dnf/modules.d", "/etc/modprobe.d", "/etc/modules-load.d", "/etc/systemd/system"]
    said = [["sh", "-c", f"rpm -qa | sort; cat {LOCKS[manager]} {MODULE}"]]
    killed = kill_at_every_step(node, asked(node, key), watched, said, containers=False, timeout=1500.0)
    print(f"{manager}: killed at {len(killed)} steps")
    assert len(killed) > 12, killed
    assert done(node, asked(node, key))["status"] == "changed", "begun anew"
