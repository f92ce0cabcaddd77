"""Unknown is never ok, and never a reason to change anything: hosts with more than Docker on them, and single rules.

tests/unit/test_judge.py has the same for a host with Docker alone.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from gpumend.plan.plan import plan
from gpumend.rules.change import Action, SetValues, TellDaemon
from gpumend.rules.finding import Finding
from gpumend.rules.judge import Verdict, judge
from gpumend.rules.rule import Context
from gpumend.rules.storage.restarts import restart_gate
from gpumend.rules.wanted import parse as parse_wanted
from gpumend.state.snapshot import Snapshot
from tests.unit import test_containerd, test_crio, test_cuda, test_drift, test_grit, test_storage
from tests.unit.build import (
    CONFIG,
    DAEMON_JSON,
    DYNAMIC,
    STATIC,
    TODAY,
    Host,
    Item,
    a_directory,
    absent,
    config,
    daemon_json,
    edits_of,
    file,
    findings,
    h100,
    healthy,
    outcome,
    process,
    state,
    the,
    unread,
    verdict,
)
from tests.unit.test_judge import UNREAD, journal, with_part

Wanted = dict[str, Any]


def with_process(host: Host, *argv: str) -> Host:
    assert isinstance(host.processes, tuple)
    return host.but(processes=(*host.processes, process(*argv)))


# --- hosts with something wrong in rooms that test_judge's has not

KERNELS = test_drift.kernels(**{test_drift.KERNEL: "updates/dkms/nvidia.ko.zst:", test_drift.NEXT: None})
REBOOT = {"/run/reboot-required": "", "/run/reboot-required.pkgs": "linux-image-6.8.0-101-generic\n"}
DRIFTED = test_drift.host(
    test_drift.DRIVER, files={**KERNELS, **REBOOT}, commands={"modinfo": (0, "580.200.01\n", "")}
)
KUBELET = {test_containerd.KUBELET: "cgroupDriver: systemd\n"}
POD_NODE = with_process(
    test_containerd.node("1.7.24").but(files=KUBELET),
    "/usr/bin/kubelet",
    "--config=/var/lib/kubelet/config.yaml",
)
CRIO_NODE = test_crio.node(n10_mine='[crio.runtime]\ncdi_spec_dirs = ["/etc/cdi"]\n')
PODMAN = healthy().but(
    programs={"podman": "/usr/bin/podman"}, commands={"podman": (0, "podman version 5.5.1\n", "")}
)
NOUVEAU = healthy().but(
    files={
        "/proc/driver/nvidia/version": None,
        "/proc/modules": "nouveau 1 0 - Live 0x0\n",
        "/sys/bus/pci/drivers/nouveau/0000:00:06.0": a_directory(),
    }
)
VFS_AND_BTRFS = {"/var/lib/docker": {"status": "ok", "names": {"overlay2": 3, "btrfs": 2}}}
DIND = test_storage.dind_host(
    test_storage.inside(docker=test_storage.daemon("overlay2")), units=test_storage.OWNED
).but(files={"/etc/cron.d/gpu": "* * * * * root /opt/reconcile-gpu-state.sh\n"}, listings=VFS_AND_BTRFS)
COMPAT = test_cuda.captured().but(
    files={
        "/etc/ld.so.conf.d/x.conf": f"{test_cuda.COMPAT}\n",
        test_cuda.UNIT: f"[Service]\nEnvironment=LD_LIBRARY_PATH={test_cuda.COMPAT}\n",
        "/etc/environment": f'LD_LIBRARY_PATH="{test_cuda.COMPAT}"\n',
    }
)
SICK: dict[str, tuple[Host, Wanted]] = {
    "drift": (DRIFTED, {}),
    "containerd": (POD_NODE, {}),
    "crio": (CRIO_NODE, {}),
    "grit": (test_grit.grit('binary_name = "runc"\n'), test_grit.GRIT),
    "k3s": (test_containerd.k3s("x\n"), {}),
    "podman": (PODMAN, {}),
    "nouveau": (NOUVEAU, {}),
    "dind": (DIND, test_storage.WANTED),
    "compat": (COMPAT, {}),
    "wsl2": (test_cuda.wsl_host(), test_cuda.wanted("12.9")),
}
FOUND = {
    "drift": {"GM110", "GM112", "GM113", "GM114"},
    "containerd": {"GM503", "GM504", "GM505"},
    "crio": {"GM552", "GM553"},
    "grit": {"GM522", "GM523", "GM531"},
    "k3s": {"GM510"},
    "podman": {"GM541"},
    "nouveau": {"GM103"},
    "dind": {"GM701", "GM705", "GM706", "GM708"},
    "compat": {"GM603"},
    "wsl2": {"GM601", "GM608"},
}
HEALTHY = healthy().answer()


def parts(answer: Item) -> list[tuple[str, ...]]:
    """The path of every thing in an answer that may fail to be read by itself, as far as it is not as on the healthy host:
    test_judge.py has that."""
    sections = ("files", "stats", "globs", "commands", "programs", "listings", "inside")
    found: list[tuple[str, ...]] = [
        (section, key)
        for section in sections
        for key in answer[section]
        if answer[section][key] != HEALTHY[section].get(key)
    ]
    return [*found, ("docker",), ("units",), ("processes",)]


def context_of(answer: Item, wanted: Wanted) -> Context:
    return Context(state(answer), parse_wanted(wanted), "gpu1", TODAY)


@cache
def one_by_one(name: str, status: str) -> dict[tuple[str, ...], tuple[Context, Verdict]]:
    """What is judged of a host with each single thing unread. What a denial does not touch, the others do not."""
    host, wanted = SICK[name]
    base = host.answer()
    before = judge(state(base), parse_wanted(wanted), "gpu1", TODAY)
    paths = (
        parts(base)
        if status == "denied"
        else [path for path, (_, after) in one_by_one(name, "denied").items() if after != before]
    )
    found = {}
    for path in paths:
        item: Item = {"inside": {"x": 1, "mountinfo": unread(status)}}.get(path[0], unread(status))
        if path == ("processes",) and base["docker"]["status"] == "absent":
            changed = {**with_part(base, path, item), "docker": item}  # as the probe has it
        else:
            changed = with_part(base, path, item)
        context = context_of(changed, wanted)
        found[path] = (context, judge(context.state, context.wanted, "gpu1", TODAY))
    return found


@pytest.mark.parametrize("name", SICK)
def test_these_hosts_are_sick(name: str) -> None:
    host, wanted = SICK[name]
    assert {found.code for found in verdict(host, wanted).drift} >= FOUND[name]


CASES = [(name, status) for name in SICK for status in UNREAD]


@pytest.mark.parametrize(("name", "status"), CASES)
def test_no_finding_goes_unsaid(name: str, status: str) -> None:
    host, wanted = SICK[name]
    before = {finding.code for finding in verdict(host, wanted).findings}
    silent = []
    for path, (_, after) in one_by_one(name, status).items():
        now = {finding.code for finding in after.findings}
        if before - now and not after.unknown and not now - before:
            silent.append((*path, sorted(before - now)))
    assert silent == []


def changed(found: Finding) -> tuple[str, Action | None] | None:
    """The component and what it does besides setting values."""
    if found.change is None:
        return None
    plain = isinstance(found.change.action, SetValues | TellDaemon)
    return found.change.component, None if plain else found.change.action


@pytest.mark.parametrize(("name", "status"), CASES)
def test_nothing_is_changed_for_want_of_a_reading(name: str, status: str) -> None:
    """No other change than the host calls for; and a restart that would wait is not made at once."""
    host, wanted = SICK[name]
    context = context_of(host.answer(), wanted)
    before = verdict(host, wanted)
    known = {changed(found) for found in before.findings}
    held = bool(restart_gate(context))
    planned = {found.component: found.service for found in plan(context, before.findings).transactions}
    wrong = []
    for path, (after_context, after) in one_by_one(name, status).items():
        more = {changed(found) for found in after.findings if found.change} - known
        if more:
            wrong.append((*path, sorted(map(str, more))))
        for found in plan(after_context, after.findings).transactions:
            if found.component in planned and found.service != planned[found.component]:
                wrong.append((*path, [f"{found.component}: {found.service}"]))
        if held and not restart_gate(after_context):
            wrong.append((*path, ["the gate is open"]))
    assert wrong == []


# --- single rules


@pytest.mark.parametrize("status", UNREAD)
def test_dockerd_is_not_restarted_while_it_does_not_tell_what_runs(status: str) -> None:
    host = healthy("26.1.5").but(
        files={DAEMON_JSON: daemon_json("26.1.5", **{"cdi-spec-dirs": ["/etc/cdi"]})}, docker=unread(status)
    )
    found = the(host, "GM405")
    assert found.change is None and "GM407" in found.refused
    assert restart_gate(context_of(host.answer(), {})) != ""


def test_containerd_that_dockerd_is_bound_to_is_not_restarted_then() -> None:
    bound = {**test_containerd.GOOD_UNIT, "BoundBy": "docker.service"}
    host = POD_NODE.but(units={"containerd.service": bound}, docker=unread("timeout"))
    assert "docker.service is bound to it" in the(host, "GM503").refused


def test_a_reboot_that_waits_holds_dockerd_back_then() -> None:
    host = healthy().but(
        commands={"modinfo": (0, "580.200.01\n", "")},
        docker=unread("timeout"),
        units={"docker.service": None},
    )
    assert host.state().docker.may_run_containers


def test_whether_a_reboot_waits_may_not_be_known() -> None:
    """The driver's libraries could not be listed: nothing around the driver is changed."""
    host = healthy().but(
        files={"/dev/nvidia-uvm": None}, programs={"nvidia-modprobe": "/usr/bin/nvidia-modprobe"}
    )
    assert the(host, "GM105").change
    held = the(host.but(globs={"/usr/lib64/libcuda.so.*": unread("failed")}), "GM105")
    assert held.change is None and "not known" in held.refused


@pytest.mark.parametrize("home", ["denied", "failed"])
def test_no_cgroups_stays_where_homes_could_not_be_looked_into(home: str) -> None:
    """A rootless Docker may need it; homes on NFS are closed to root."""
    text = config().replace("#no-cgroups = false", "no-cgroups = true")
    host = healthy().but(files={CONFIG: text})
    assert the(host, "GM209").change
    found = the(host.but(globs={"/home/*/.config/docker/daemon.json": unread(home)}), "GM209")
    assert found.change is None and "not known" in found.refused


@pytest.mark.parametrize("part", ["units", "refresh-env"])
def test_no_spec_is_written_while_its_writer_is_not_known(part: str) -> None:
    """A static spec beside nvidia-cdi-refresh is GM309's fault: it outlives every driver."""
    env = "/etc/nvidia-container-toolkit/nvidia-cdi-refresh.env"
    host = healthy().but(files={DYNAMIC: None})
    assert the(host, "GM301").change
    answer = host.answer()
    answer = (
        with_part(answer, ("units",), unread("timeout"))
        if part == "units"
        else with_part(answer, ("files", env), unread("denied"))
    )
    found = the(answer, "GM301")
    assert found.change is None and "not known" in found.refused


def test_no_spec_is_written_while_the_drivers_libraries_are_not_known() -> None:
    host = healthy().but(files={DYNAMIC: None}, globs={"/usr/lib64/libcuda.so.*": unread("failed")})
    found = the(host, "GM301")
    assert found.change is None and "could not be read" in found.refused


def test_a_toolkit_of_no_known_version_gets_the_mode_that_each_takes() -> None:
    """It may be 1.18.0, which makes no spec in mode cdi."""
    host = healthy(toolkit="1.17.8").but(files={CONFIG: config("banana")})
    assert edits_of([the(host, "GM207")]) == {"nvidia-container-runtime.mode": "cdi"}
    host = host.but(commands={"nvidia-ctk": unread("timeout")})
    assert edits_of([the(host, "GM207")]) == {"nvidia-container-runtime.mode": "auto"}


def test_why_docker_has_its_storage_is_not_guessed() -> None:
    host = healthy()
    assert host.state().storage.choice.ok
    for other in (
        host.but(files={DAEMON_JSON: unread("denied")}),
        host.but(listings={"/var/lib/docker": unread("denied")}),
    ):
        assert not other.state().storage.choice.known


def test_a_spec_that_went_while_it_was_looked_at_is_no_broken_one() -> None:
    answer = healthy().but(files={STATIC: "x"}).answer()
    answer["files"][STATIC] = absent()
    assert findings(answer, "GM302") == []


def test_a_journal_that_went_hides_no_other() -> None:
    directory = "/var/lib/gpumend/runs/20261123T041200Z-1"
    gone, left = f"{directory}/a/journal.json", f"{directory}/b/journal.json"
    answer = healthy().but(files={gone: journal(state="done"), left: journal()}).answer()
    answer["stats"][gone] = absent()
    assert outcome(answer, "GM003") == "fail"


def test_a_docker_that_gives_no_version_is_one() -> None:
    """dockerd is stopped, systemd does not run, and its program hangs: it is there all the same."""
    host = healthy().but(
        docker=None, processes=(), units={"docker.service": None}, commands={"dockerd": unread("timeout")}
    )
    assert host.state().docker.installed and verdict(host).unknown
    assert not h100().state().docker.installed


def test_a_docker_of_no_known_version_is_not_taken_for_an_old_one() -> None:
    """29 chooses its image store by what is on disk: without a number nothing is put back, and CDI is not known."""
    status = [["driver-type", "io.containerd.snapshotter.v1"]]
    host = healthy().but(info={"ServerVersion": "dev", "DriverStatus": status})
    assert outcome(host, "GM411") == "unknown" and outcome(host, "GM404") == "unknown"


@pytest.mark.parametrize(
    ("active", "expected"), [("active", "unknown"), ("deactivating", "unknown"), ("failed", "fail")]
)
def test_a_dockerd_in_the_middle_of_its_restart(active: str, expected: str) -> None:
    unit = {"LoadState": "loaded", "ActiveState": active, "Result": "success"}
    host = healthy().but(docker=None, processes=(), units={"docker.service": unit})
    assert outcome(host, "GM407") == expected


def test_processes_unread_without_docker() -> None:
    """No fault of a Docker that is not there, and no silence either."""
    answer = h100().answer()
    for name in ("processes", "docker"):
        answer = with_part(answer, (name,), unread("denied"))
    found = verdict(answer)
    assert found.unknown and not [each for each in found.drift if each.code.startswith("GM4")]


@pytest.mark.parametrize("status", UNREAD)
def test_a_link_whose_end_could_not_be_read_does_not_lead_nowhere(status: str) -> None:
    """/usr/local/cuda on an NFS server that is gone."""
    item = {"link": "/net/cuda", "real": "/net/cuda", **unread(status)}
    answer = h100().answer()
    answer["globs"]["/usr/local/cuda*"] = {"status": "ok", "paths": ["/usr/local/cuda"]}
    answer["stats"]["/usr/local/cuda"] = item
    assert Snapshot(answer).dangling("/usr/local/cuda") is None
    assert outcome(answer, "GM607") == "unknown"


def test_a_unit_that_systemctl_left_out_is_not_missing() -> None:
    answer = healthy().answer()
    del answer["units"]["units"]["nvidia-cdi-refresh.service"]
    assert outcome(answer, "GM310") == "unknown"


def test_a_command_that_was_killed_has_said_nothing() -> None:
    """`containerd config dump` that the kernel ended refuses no configuration."""
    host = POD_NODE.but(commands={"containerd-config": (-9, "", "")})
    assert outcome(host, "GM501") == "ok"
    assert outcome(POD_NODE.but(commands={"containerd-config": (1, "", "no\n")}), "GM501") == "fail"


def test_a_compat_directory_that_could_not_be_looked_for() -> None:
    host = COMPAT.but(globs={"/etc/profile.d/*.sh": unread("denied")})
    assert outcome(host, "GM604") == "unknown"
    bare = h100().but(globs={"/usr/local/cuda*/compat/libcuda.so.*.*": unread("failed")})
    assert outcome(bare, "GM603") == "unknown"


def test_a_dangling_linker_file_is_nothing_unread() -> None:
    answer = test_cuda.captured().answer()
    path = "/etc/ld.so.conf.d/gone.conf"
    answer["globs"]["/etc/ld.so.conf.d/*.conf"]["paths"].append(path)
    answer["files"][path] = {"link": "/none", "real": "/none", **absent()}
    assert state(answer).cuda.looked.ok


# --- storage


def dind(**more: Any) -> Host:
    return test_storage.dind_host(
        test_storage.inside(docker=test_storage.daemon("overlay2")), units=test_storage.UNIT
    ).but(**more)


DROPINS = "/etc/systemd/system/*.service.d/*.conf"


def test_a_drop_in_that_could_not_be_read_may_have_an_execstart() -> None:
    """Ours beside it would replace the command that somebody else has set."""
    want: Wanted = {"dind": {"containers": ["edge"], "driver": "vfs"}}
    assert the(dind(), "GM701", want).change
    path = "/etc/systemd/system/edge.service.d/10.conf"
    whole = dind(globs={DROPINS: {**unread("denied"), "paths": []}})
    answer = dind().answer()
    answer["globs"][DROPINS] = {"status": "ok", "paths": [path]}
    answer["stats"][path] = unread("failed")
    for found in (the(whole, "GM701", want), the(answer, "GM701", want)):
        assert found.change is None and "could not be read" in found.refused
    assert outcome(whole, "GM706", want) == outcome(answer, "GM706", want) == "unknown"


def test_a_unit_that_could_not_be_read_may_reboot_the_host() -> None:
    answer = healthy().answer()
    answer["globs"]["/etc/systemd/system/*.service"] = {
        "status": "ok",
        "paths": ["/etc/systemd/system/x.service"],
    }
    answer["stats"]["/etc/systemd/system/x.service"] = unread("failed")
    assert outcome(answer, "GM706") == "unknown"


@pytest.mark.parametrize("found", [unread("denied"), unread("failed"), file("{"), a_directory()])
def test_an_inner_daemon_json_that_could_not_be_read(found: Item) -> None:
    within = test_storage.inside(docker=test_storage.daemon("overlay2"))
    within["files"]["/etc/docker/daemon.json"] = found
    host = test_storage.dind_host(within, units=test_storage.UNIT)
    for driver in ("vfs", "fuse-overlayfs"):
        judged = the(host, "GM701", {"dind": {"containers": ["edge"], "driver": driver}})
        assert judged.change is None and "not known" in judged.refused


def test_a_fuse_device_that_could_not_be_looked_for() -> None:
    within = test_storage.inside(docker=test_storage.daemon("fuse-overlayfs"), fuse=True)
    assert outcome(test_storage.dind_host(within), "GM702") == "ok"
    within["stats"]["/dev/fuse"] = unread("failed")
    assert outcome(test_storage.dind_host(within), "GM702") == "unknown"


@pytest.mark.parametrize("missing", ["space", "images"])
def test_docker_is_not_switched_to_vfs_without_a_sum(missing: str) -> None:
    want: Wanted = {"docker": {"storage_driver": "vfs"}, "allow_storage_switch": True}
    host = healthy().but(
        files={"/proc/self/mountinfo": "1 1 8:1 / / rw - ext4 /dev/sda rw\n"},
        spaces={"/": {"status": "ok", "free": 10**12}},
    )
    assert the(host, "GM704", want).change
    answer = host.but(spaces={} if missing == "space" else host.spaces).answer()
    if missing == "images":
        answer["docker"]["unread"] = {"containers": [], "images": ["GET /images/x/json: HTTP 500"]}
    found = the(answer, "GM704", want)
    assert found.change is None and "not known" in found.refused


def test_a_docker_root_that_could_not_be_listed() -> None:
    host = healthy().but(listings={"/var/lib/docker": unread("denied")})
    assert outcome(host, "GM705") == "unknown"


def test_cron_files_that_could_not_be_read() -> None:
    answer = healthy().answer()
    answer["globs"]["/etc/cron.d/*"] = {"status": "ok", "paths": ["/etc/cron.d/x"]}
    answer["stats"]["/etc/cron.d/x"] = unread("denied")
    assert outcome(answer, "GM708") == "unknown"
