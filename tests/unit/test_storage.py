"""Storage: which file system takes what, which rule chose a driver, what vfs costs, and what is dangerous to restart."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from gpumend.payload.change.inner import Unmet, with_options
from gpumend.payload.probe.files import matches
from gpumend.plan.plan import plan
from gpumend.rules.finding import Component
from gpumend.rules.storage.inner import DEAD, REFUSED_MOUNT
from gpumend.rules.storage.overlay import UPPER
from gpumend.state.storage import (
    LOG_LINES,
    OVERRIDES,
    SHOWN,
    ImageSize,
    Mount,
    below,
    choice,
    mounts_of,
    vfs_bytes,
)
from tests.unit.build import (
    Host,
    Item,
    container,
    file,
    fixture,
    healthy,
    outcome,
    process,
    the,
    unread,
    verdict,
)

EXPERIMENT = json.loads(fixture("dind/overlay_mount_experiment.json"))
REPORT_LOG = fixture("dind/ratio1_dind_failure_logs.txt")
# Rows as `/proc/self/mountinfo` of a node and of a container on it has them.
HOST_MOUNTS = (
    "600 500 0:60 / / rw - overlay overlay rw,lowerdir=/b\n"
    "601 600 253:0 /srv /srv rw shared:1 - ext4 /dev/vda rw\n"
    "602 600 253:1 / /data\\040disk rw - xfs /dev/vdb rw\n"
    "603 600 0:70 / /net rw - nfs4 nas:/x rw\n"
)
INNER_MOUNTS = "700 650 0:61 / / rw - overlay overlay rw\n"
GB = 10**9


@pytest.mark.parametrize(
    ("what", "fstype"),
    [
        ("upperdir on overlay", "overlay"),
        ("upper on tmpfs", "tmpfs"),
        ("lowerdir on overlay, upper on ext4", "ext4"),
    ],
)
def test_the_table_says_what_the_experiment_measured(what: str, fstype: str) -> None:
    assert UPPER[fstype][0] == (EXPERIMENT[what]["mount_rc"] == 0)


def test_xfs_is_what_its_ftype_is() -> None:
    assert UPPER["xfs"][0] == (EXPERIMENT["xfs default"]["overlay_rc"] == 0)
    assert EXPERIMENT["xfs default"]["xfs_info"] == "ftype=1"


@pytest.mark.parametrize(
    ("said", "expected"),
    [("ftype=1\n", True), ("ftype=0\n", False), ("\n", None)],
)
def test_an_xfs_info_that_tells_no_ftype(said: str, expected: bool | None) -> None:
    assert healthy().but(commands={"xfs-info": (0, said, "")}).state().storage.ftype.value is expected


def test_every_row_of_the_table_has_a_source() -> None:
    assert [name for name, (_, source) in UPPER.items() if len(source) < 10] == []


def test_mounts() -> None:
    mounts = mounts_of(HOST_MOUNTS)
    assert below(mounts, "/srv/dind/edge") == Mount("/srv", "ext4", "/dev/vda")
    assert below(mounts, "/srvother") == Mount("/", "overlay", "overlay")
    assert below(mounts, "/data disk/x") == Mount("/data disk", "xfs", "/dev/vdb")
    with pytest.raises(ValueError, match="mountinfo"):
        mounts_of("nonsense\n")


# version, DOCKER_DRIVER or storage-driver, features.containerd-snapshotter, drivers with data -> rule (systems.md C.2)
CHOICES = [
    ((29, 0), "overlay2", True, (), 2),
    ((29, 0), "", False, ("overlay2",), 2),
    ((29, 1), "", None, ("overlay2",), 3),
    ((29, 1), "", None, ("vfs",), 5),
    ((29, 1), "overlay2", None, (), 4),
    ((29, 2), "", None, (), 5),
    ((28, 5), "vfs", None, ("overlay2",), 1),
    ((26, 1), "", None, ("fuse-overlayfs",), 3),
    ((26, 1), "", None, (), 5),
]


@pytest.mark.parametrize(("version", "named", "feature", "prior", "rule"), CHOICES)
def test_which_rule_chose(
    version: tuple[int, ...], named: str, feature: bool | None, prior: tuple[str, ...], rule: int
) -> None:
    assert choice(version, named, feature, prior, "overlay2", False).rule == rule


@pytest.mark.parametrize(
    ("images", "containers", "expected"),
    [
        ((), 0, 0),
        ((ImageSize(("a",), 3 * GB, (GB, GB, GB)),), 0, 6 * GB),  # 1, 1+1, 1+1+1
        ((ImageSize(("a",), 3 * GB, (3 * GB,)),), 0, 3 * GB),
        ((ImageSize(("a",), 3 * GB, (3 * GB,)),), 2, 15 * GB),  # an init layer and its own for each container
        ((ImageSize(("a",), 50_000_000, None),), 0, 50_000_000),
    ],
)
def test_what_vfs_costs(images: tuple[ImageSize, ...], containers: int, expected: int) -> None:
    assert vfs_bytes(images, containers) == expected


def test_the_reports_own_log_is_understood() -> None:
    kept = [found.group() for found in re.finditer(LOG_LINES, REPORT_LOG)]
    assert any(REFUSED_MOUNT.search(row) for row in kept)
    assert DEAD.search(
        "failed to start daemon: error initializing graphdriver: driver not supported: overlay2"
    )


# -- a container with a Docker in it


def inside(
    mountinfo: str = INNER_MOUNTS, docker: Item | None = None, fuse: bool = False, **files: str
) -> Item:
    stats: dict[str, Item] = {
        "/dev/fuse": {"status": "ok", "kind": "char"} if fuse else {"status": "absent"},
        "/usr/bin/fuse-overlayfs": {"status": "ok", "kind": "file"},
        "/var/lib/docker": {"status": "ok", "kind": "dir", "free": 5 * GB},
    }
    config: Item = {"/etc/docker/daemon.json": {"status": "absent"}}
    found: Item = {"pid": 9, "mountinfo": file(mountinfo), "files": config, "stats": stats}
    if docker is not None:
        found["docker"] = docker
    return found


def daemon(driver: str = "overlayfs", *sizes: Item) -> Item:
    info = {"Driver": driver, "DockerRootDir": "/var/lib/docker", "ServerVersion": "29.2.0"}
    return {"status": "ok", "info": info, "containers": [], "images": [], "sizes": list(sizes)}


def dind_host(found: Item, log: tuple[str, ...] = (), units: str = "", **more: Any) -> Host:
    edge = container("edge", privileged=True, id="0123456789ab", image="edge:1", log=list(log), **more)
    files: dict[str, Any] = {
        "/proc/self/mountinfo": HOST_MOUNTS,
        "/proc/filesystems": "nodev\toverlay\nnodev\tfuse\n",
    }
    if units:
        files["/etc/systemd/system/edge.service"] = units
    return healthy().but(files=files, inside={"0123456789ab": found}).with_containers(edge)


UNIT = "[Service]\nExecStart=/usr/bin/docker run --rm --name edge --privileged -e TOKEN=s3cret edge:1\n"
OWNED = "# Managed by ratio1.multi_node_launcher\n[Unit]\nStartLimitAction=reboot\n" + UNIT
WANTED: dict[str, Any] = {"dind": {"containers": ["edge"]}}

ON_EXT4 = INNER_MOUNTS + "701 700 253:0 /srv /var/lib/docker rw - ext4 /dev/vda rw\n"


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param(dind_host(inside(docker=daemon("overlayfs"))), "fail", id="store-on-overlay"),
        pytest.param(dind_host(inside(docker=daemon("overlay2"))), "fail", id="overlay2-on-overlay"),
        pytest.param(dind_host(inside(ON_EXT4, docker=daemon("overlay2"))), "ok", id="volume-on-ext4"),
        pytest.param(dind_host(inside(docker=daemon("vfs"))), "ok", id="vfs"),
        pytest.param(dind_host(inside(docker=daemon("fuse-overlayfs"), fuse=True)), "ok", id="fuse"),
        pytest.param(dind_host(inside(docker=unread("timeout"))), "unknown", id="no-answer"),
        pytest.param(dind_host(inside(docker=unread("failed"))), "unknown", id="no-sense"),
        pytest.param(dind_host(inside()), "ok", id="privileged-without-a-dockerd"),
        pytest.param(
            dind_host(inside(docker=unread("absent")), log=("driver not supported: overlay2",)),
            "fail",
            id="died",
        ),
        pytest.param(
            dind_host({**inside(docker=daemon("overlay2")), "mountinfo": unread("denied")}),
            "unknown",
            id="mounts-unread",
        ),
    ],
)
def test_gm701(found: Host, expected: str) -> None:
    assert outcome(found, "GM701") == expected


GONE: Item = {"pid": 9, "ended": True, "docker": unread("failed")}


def test_a_container_that_ended_while_it_was_looked_at() -> None:
    """What it holds is not known: not that it holds nothing. A restart loop of a second shows it in a probe of a hundred."""
    assert outcome(dind_host(GONE), "GM701") == "unknown"
    assert "/run/docker.sock in edge" in the(dind_host(GONE), "GM701").summary
    assert outcome(dind_host({"pid": 9, "ended": True}), "GM701") == "ok", "no dockerd was seen in it"
    host = dind_host(GONE, log=("driver not supported: overlay2",), units=UNIT)
    for driver in ("fuse-overlayfs", "vfs", "overlay2"):
        found = the(host, "GM701", {"dind": {"containers": ["edge"], "driver": driver}})
        assert found.status == "fail" and found.change and not found.refused


@pytest.mark.parametrize(
    ("restarts", "expected"),
    [
        pytest.param("NRestarts=4\n", "fail", id="in-a-loop"),
        pytest.param("SubState=auto-restart\n", "fail", id="waits-for-its-second-start"),
        pytest.param("", "unknown", id="first-start-since-it-was-changed"),
    ],
)
def test_a_container_that_has_just_begun_is_judged_by_its_loop(restarts: str, expected: str) -> None:
    """Its own log has no death yet: the unit's is of the last start, which counts where systemd repeats the same one."""
    said = "edge.service[9]: failed to start daemon: error initializing graphdriver: driver not supported: overlay2\n"
    host = dind_host(GONE, log=('msg="[graphdriver] trying configured driver: overlay2"',), units=UNIT).but(
        commands={"unit-log": (0, said, ""), "unit-dangers": (0, f"Id=edge.service\n{restarts}", "")}
    )
    assert outcome(host, "GM701") == expected


def test_a_daemon_that_answers_has_ended_its_loop() -> None:
    """Right after a mend: the unit's log still has the deaths, and systemd still counts them. Seen on a busy host, whose change
    was undone for it."""
    said = 'edge.service[9]: level=error msg="failed to mount overlay: invalid argument" storage-driver=overlay2\n'
    host = dind_host(inside(ON_EXT4, docker=daemon("overlay2")), units=UNIT).but(
        commands={"unit-log": (0, said, ""), "unit-dangers": (0, "Id=edge.service\nNRestarts=4\n", "")}
    )
    assert outcome(host, "GM701") == "ok"


@pytest.mark.parametrize(
    ("driver", "more", "expected"),
    [
        pytest.param("vfs", {}, ("warn", True), id="not-told"),
        pytest.param("vfs", {"env": {"DOCKER_DRIVER": "vfs"}}, ("unknown", False), id="told-vfs"),
        pytest.param("overlay2", {}, ("warn", True), id="no-volume"),
        pytest.param(
            "overlay2",
            {"mounts": [{"source": "/srv/dind/edge", "target": "/var/lib/docker", "type": "bind"}]},
            ("unknown", False),
            id="has-the-volume",
        ),
    ],
)
def test_a_container_whose_driver_is_not_known(
    driver: str, more: dict[str, Any], expected: tuple[str, bool]
) -> None:
    """It is told what is wanted of it once; whether it does so is nobody's guess."""
    host = dind_host(inside(), units=UNIT, running=False, **more)
    found = the(host, "GM701", {"dind": {"containers": ["edge"], "driver": driver}})
    assert (found.status, found.change is not None) == expected
    assert outcome(host, "GM701", WANTED) == "ok", "auto asks nothing more of one that does not run"


def test_a_named_container_that_runs_without_a_dockerd_is_not_known() -> None:
    """Its entry point may still be at work, or hang: that its Docker works was not seen."""
    host = dind_host(inside())
    assert outcome(host, "GM701", WANTED) == "unknown"
    assert outcome(host, "GM701") == "ok", "a privileged container that nobody calls a Docker"


def test_a_container_that_ended_and_is_gone_is_nothing_to_mend() -> None:
    other = dind_host(inside()).but(inside={"fedcba987654": GONE})
    assert outcome(other, "GM701") == "ok"


def test_gm701_names_a_container_that_is_not_there() -> None:
    assert outcome(healthy(), "GM701", WANTED) == "warn"


@pytest.mark.parametrize(
    ("host", "wanted", "refused", "says"),
    [
        pytest.param(dind_host(inside(docker=daemon())), {}, "not named in dind.containers", "-v /srv/dind/edge:/var/lib/docker", id="not-named"),
        pytest.param(dind_host(inside(docker=daemon())), WANTED, "whoever ran `docker run`", "docker run -v /srv/dind/edge", id="no-unit"),
        pytest.param(dind_host(inside(docker=daemon()), units=OWNED), WANTED, "Managed by ratio1.multi_node_launcher", "-v /srv/dind/edge", id="another-tool"),
        pytest.param(dind_host(inside(docker=daemon()), labels={"com.docker.compose.project": "p", "com.docker.compose.service": "node"}), WANTED, "the compose project p", 'services: node: volumes: ["/srv/dind/edge:/var/lib/docker"]', id="compose"),
        pytest.param(dind_host(inside(docker=daemon()), units=UNIT), {"dind": {"containers": ["edge"], "manage": False}}, "dind.manage is false", "-v", id="not-managed"),
        pytest.param(dind_host(inside(docker=daemon()), units=UNIT), {"dind": {"containers": ["edge"], "driver": "overlay2", "root": "/opt"}}, "would lie on overlay", "-v DIRECTORY", id="root-on-overlay"),
        pytest.param(dind_host(inside(docker=daemon()), units=UNIT), {"dind": {"containers": ["edge"], "driver": "overlay2", "fs": "xfs"}}, "not on xfs", "-v DIRECTORY", id="wanted-xfs"),
        pytest.param(dind_host(inside(docker=daemon()), units=UNIT), {"dind": {"containers": ["edge"], "driver": "overlay2", "root": "/net"}}, "would lie on nfs4", "-v DIRECTORY", id="network"),
    ],
)  # fmt: skip
def test_what_is_not_ours_is_left_and_told(
    host: Host, wanted: dict[str, Any], refused: str, says: str
) -> None:
    finding = the(host, "GM701", wanted)
    assert finding.change is None
    assert refused in finding.refused
    assert says in finding.remedy


LABELS = {
    "com.docker.compose.project": "site",
    "com.docker.compose.service": "node",
    "com.docker.compose.project.working_dir": "/srv/site",
    "com.docker.compose.project.config_files": "/srv/site/compose.yaml",
}
OURS = "edge -v /srv/dind/edge:/var/lib/docker"


@pytest.mark.parametrize(
    ("beside", "labels", "refused"),
    [
        pytest.param({}, LABELS, "", id="none-yet"),
        pytest.param({"compose.override.yaml": OURS}, LABELS, "", id="ours"),
        pytest.param({"compose.override.yaml": "edge -e X=1"}, LABELS, "says something else", id="ours-of-another-wish"),
        pytest.param({"compose.override.yaml": ""}, LABELS, "compose.override.yaml is there", id="the-sites-own"),
        pytest.param({"docker-compose.override.yml": OURS}, LABELS, "docker-compose.override.yml is there", id="another-name"),
        pytest.param({}, {**LABELS, "com.docker.compose.project.config_files": "/srv/site/prod.yaml"}, "prod.yaml", id="named-by-f"),
        pytest.param({}, {**LABELS, "com.docker.compose.project.config_files": "/srv/site/compose.yaml,/etc/more.yaml"}, "more.yaml", id="files-elsewhere"),
    ],
)  # fmt: skip
def test_a_compose_override_is_made_only_where_there_is_none(
    beside: dict[str, str], labels: dict[str, str], refused: str
) -> None:
    answer = dind_host(inside(docker=daemon()), labels=labels).answer()
    for name in OVERRIDES:
        found = {"status": "ok", "kind": "file", "found": {"any": [beside[name]] if beside.get(name) else []}}
        answer["stats"][f"/srv/site/{name}"] = found if name in beside else {"status": "absent"}
    finding = the(answer, "GM701", WANTED)
    assert (finding.change is None) == bool(refused), finding.refused
    assert refused in finding.refused


@pytest.mark.parametrize(
    ("dind", "expected"),
    [
        ({}, ("-v", "/srv/dind/edge:/var/lib/docker")),
        (
            {"root": "/opt/dind"},
            ("--device", "/dev/fuse", "-e", "DOCKER_DRIVER=fuse-overlayfs"),
        ),  # root on overlay
        ({"driver": "vfs"}, ("-e", "DOCKER_DRIVER=vfs")),
    ],
)
def test_the_first_that_fits_is_planned(dind: dict[str, Any], expected: tuple[str, ...]) -> None:
    wanted = {"dind": {"containers": ["edge"], **dind}}
    host = dind_host(inside(docker=daemon()), units=UNIT)
    assert the(host, "GM701", wanted).change is not None
    transaction = planned(host, wanted)
    [step] = [step for step in transaction.steps if step.do == "dropin"]
    assert (step.unit, step.container, step.options) == ("/etc/systemd/system/edge.service", "edge", expected)
    assert transaction.service is None, "the outer daemon is not touched"
    assert ("directory" in {found.do for found in transaction.steps}) == (expected[0] == "-v")


def planned(host: Host, wanted: dict[str, Any]) -> Any:
    import datetime

    from gpumend.rules.rule import Context
    from gpumend.rules.wanted import parse

    context = Context(host.state(), parse(wanted), "gpu1", datetime.date(2026, 11, 23))
    found = plan(context, verdict(host, wanted).findings).get(Component.STORAGE)
    assert found is not None
    return found


def test_a_container_named_fuse_gets_its_storage() -> None:
    """Its name is that of another change of the same component, which loads a module."""
    found = container("fuse", privileged=True, id="0123456789ab", image="edge:1")
    host = dind_host(inside(docker=daemon())).with_containers(found)
    host = host.but(files={"/etc/systemd/system/fuse.service": UNIT.replace("edge", "fuse")})
    transaction = planned(host, {"dind": {"containers": ["fuse"]}})
    assert [step.do for step in transaction.steps] == ["directory", "dropin"]
    assert [daemon.container for daemon in transaction.inner] == ["fuse"]


def test_a_unit_whose_command_another_drop_in_sets_is_left() -> None:
    """Drop-ins count in the order of their names: `override.conf` would beat ours."""
    dropins = "/etc/systemd/system/edge.service.d"
    host = dind_host(inside(docker=daemon()), units=UNIT)
    ours = host.but(files={f"{dropins}/gpumend-dind.conf": UNIT})
    assert the(ours, "GM701", WANTED).change is not None
    theirs = host.but(files={f"{dropins}/override.conf": UNIT})
    assert "override.conf" in the(theirs, "GM701", WANTED).refused


def test_no_secret_of_a_unit_leaves_the_host() -> None:
    host = dind_host(inside(docker=daemon()), units=UNIT)
    assert "s3cret" not in json.dumps(host.answer()["stats"])


def test_gm702_inner() -> None:
    assert outcome(dind_host(inside(docker=daemon("fuse-overlayfs"))), "GM702") == "fail"
    assert outcome(dind_host(inside(docker=daemon("fuse-overlayfs"), fuse=True)), "GM702") == "ok"
    assert outcome(dind_host(inside(docker=daemon("fuse-overlayfs"))), "GM701") == "ok", "told once"


@pytest.mark.parametrize(
    ("device", "expected"),
    [(None, "fail"), ({"status": "ok", "kind": "char", "mode": 438}, "ok"), (unread("denied"), "unknown")],
)
def test_gm702_outer(device: Item | None, expected: str) -> None:
    host = healthy().but(info={"Driver": "fuse-overlayfs"}, files={"/dev/fuse": device})
    assert outcome(host, "GM702") == expected


@pytest.mark.parametrize(("layers", "expected"), [([GB, GB], "ok"), ([GB] * 4, "fail")])
def test_gm703_predicts_a_full_disk(layers: list[int], expected: str) -> None:
    """5 GB are left: two layers of 1 GB take 3, four take 10."""
    size = {"id": "1", "names": ["big:1"], "size": sum(layers), "layers": layers}
    host = dind_host(inside(ON_EXT4, docker=daemon("overlay2", size)), units=UNIT)
    wanted = {"dind": {"containers": ["edge"], "driver": "vfs"}}
    assert outcome(host, "GM703", wanted) == expected
    changes = [found for found in verdict(host, wanted).findings if found.change]
    assert [found.code for found in changes] == ([] if expected == "fail" else ["GM701"])
    if expected == "fail":
        assert "10.0 GB, and 5.0 GB are left" in the(host, "GM703", wanted).summary


# -- the host's own storage

OUTER = {"docker": {"storage_driver": "fuse-overlayfs"}}


def outer_host(*containers: Item, images: int = 0, **info: Any) -> Host:
    host = healthy().but(
        files={"/proc/self/mountinfo": HOST_MOUNTS},
        info={"Driver": "overlay2", "DockerRootDir": "/var/lib/docker", "Images": images, **info},
        listings={"/var/lib/docker": {"status": "ok", "names": {"overlay2": 4, "image": 1, "vfs": 0}}},
    )
    return host.with_containers(*containers)


REBOOTS = "[Unit]\nFailureAction=reboot-force\n" + UNIT


@pytest.mark.parametrize(
    ("host", "wanted", "refused"),
    [
        pytest.param(outer_host(), OUTER, "", id="nothing-to-hide"),
        pytest.param(outer_host(images=3), OUTER, "it would hide 3 images", id="images"),
        pytest.param(outer_host(images=3), {**OUTER, "allow_storage_switch": True}, "", id="images-opted-in"),
        pytest.param(outer_host(container("job", running=False)), OUTER, "1 containers (job)", id="a-stopped-container"),
        pytest.param(outer_host(container("job")), {**OUTER, "allow_storage_switch": True}, "it would stop 1 running", id="waits"),
        pytest.param(outer_host(container("job"), LiveRestoreEnabled=True), {**OUTER, "allow_storage_switch": True}, "live-restore", id="live-restore"),
        pytest.param(outer_host().but(listings={"/var/lib/docker": {"status": "ok", "names": {"btrfs": 2}}}), OUTER, "data of btrfs", id="older-data"),
        pytest.param(outer_host().but(files={"/etc/systemd/system/edge.service": REBOOTS}), {**OUTER, "allow_storage_switch": True}, "GM706", id="would-reboot"),
        pytest.param(outer_host().flags("--storage-driver=overlay2"), OUTER, "--storage-driver", id="flag"),
        pytest.param(outer_host(), {"docker": {**OUTER["docker"], "manage": False}}, "docker.manage", id="not-managed"),
    ],
)  # fmt: skip
def test_gm704(host: Host, wanted: dict[str, Any], refused: str) -> None:
    finding = the(host, "GM704", wanted)
    assert (finding.change is None) == bool(refused), finding.refused
    assert refused in finding.refused


def test_gm704_only_where_it_is_wanted() -> None:
    assert outcome(outer_host(images=3), "GM704") == "ok"
    assert outcome(outer_host(images=3), "GM704", {"docker": {"storage_driver": "overlay2"}}) == "ok"


@pytest.mark.parametrize(
    ("names", "config", "expected"),
    [
        ({"overlay2": 3, "fuse-overlayfs": 2}, "{}", "fail"),
        ({"overlay2": 3, "fuse-overlayfs": 2}, '{"storage-driver": "overlay2"}', "ok"),
        ({"overlay2": 3, "fuse-overlayfs": 0}, "{}", "ok"),
        ({"overlay2": 3, "vfs": 2}, "{}", "ok"),
    ],
)
def test_gm705(names: dict[str, int], config: str, expected: str) -> None:
    host = healthy().but(
        files={"/etc/docker/daemon.json": config},
        listings={"/var/lib/docker": {"status": "ok", "names": names}},
    )
    assert outcome(host, "GM705") == expected


# -- what is dangerous to restart


@pytest.mark.parametrize(
    ("shown", "text", "expected"),
    [
        pytest.param("", OWNED, "warn", id="by-its-file"),
        pytest.param("Id=edge.service\nStartLimitAction=reboot\n", UNIT, "warn", id="by-a-drop-in"),
        pytest.param("Id=edge.service\n", UNIT, "ok", id="none"),
        pytest.param("Id=other.service\nFailureAction=reboot\n", UNIT, "ok", id="a-unit-without-containers"),
    ],
)
def test_gm706(shown: str, text: str, expected: str) -> None:
    host = healthy().but(
        files={"/etc/systemd/system/edge.service": text}, commands={"unit-dangers": (0, shown, "")}
    )
    assert outcome(host, "GM706") == expected


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        ("Id=edge.service\nNRestarts=9\nSubState=auto-restart\n", "warn"),
        ("Id=edge.service\nNRestarts=1\nSubState=auto-restart\n", "ok"),
        ("Id=edge.service\nNRestarts=9\n", "ok"),
        ("Id=edge.service\nResult=start-limit-hit\n", "warn"),
        ("Id=edge.service\nNRestarts=3\nSubState=failed\n", "warn"),
        ("Id=edge.service\nSubState=failed\n", "ok"),
    ],
)
def test_gm707_units(shown: str, expected: str) -> None:
    assert outcome(healthy().but(commands={"unit-dangers": (0, shown, "")}), "GM707") == expected


@pytest.mark.parametrize(
    ("version", "shown"),
    [(257, {"NRestarts": "4", "SubState": "auto-restart"}), (262, {"NRestarts": "5"})],
)
def test_a_property_is_its_own_units(version: int, shown: dict[str, str]) -> None:
    """Captured: systemd 257 prints NRestarts before the Id that it is of, 262 after it."""
    kept = matches(f"(?m){SHOWN}", fixture(f"dind/systemctl_show_{version}.txt"))
    host = healthy().but(commands={"unit-dangers": (0, "\n".join(kept) + "\n", "")})
    assert host.state().storage.dangers.value == {"edge.service": shown}


@pytest.mark.parametrize(
    ("restarting", "restarts", "expected"), [(True, 7, "warn"), (True, 1, "ok"), (False, 7, "ok")]
)
def test_gm707_containers(restarting: bool, restarts: int, expected: str) -> None:
    host = healthy().with_containers(container(restarting=restarting, restarts=restarts, exit=1))
    assert outcome(host, "GM707") == expected


def test_unread_dangers_are_not_taken_for_none() -> None:
    assert outcome(healthy().but(commands={"unit-dangers": unread("timeout")}), "GM707") == "unknown"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("* * * * * root /opt/ds01-infra/scripts/reconcile-gpu-state.sh -p s3cret\n", "warn"),
        ("# * * * * * root /opt/reconcile-gpu-state.sh\n", "ok"),
        ("0 4 * * * root /usr/local/bin/docker-prune.sh\n", "ok"),
    ],
)
def test_gm708(line: str, expected: str) -> None:
    host = healthy().but(files={"/etc/cron.d/site": line})
    assert outcome(host, "GM708") == expected
    assert "s3cret" not in json.dumps(host.answer()["stats"])


def test_an_inner_daemon_is_not_the_hosts_own() -> None:
    mine, theirs = process("/usr/bin/dockerd"), {**process("/usr/bin/dockerd", "-s", "vfs"), "nested": True}
    assert healthy().but(processes=(theirs, mine)).state().docker.flags == {}
    theirs = {**theirs, "nested": False, "container": "0123456789ab"}  # --pid=host
    assert healthy().but(processes=(theirs, mine)).state().docker.flags == {}


# -- the drop-in


@pytest.mark.parametrize(
    ("unit", "options", "expected"),
    [
        ("ExecStart=/usr/bin/docker run --rm img\n", ["-v", "/a:/b"], "/usr/bin/docker run -v /a:/b --rm img"),
        ("ExecStart = docker container run \\\n  --rm \\\n  img x\n", ["-v", "/a:/b"], "docker container run -v /a:/b \\\n  --rm \\\n  img x"),
        ("ExecStart=docker run -e DOCKER_DRIVER=overlay2 img\n", ["-e", "DOCKER_DRIVER=vfs"], "docker run -e DOCKER_DRIVER=vfs img"),
        ("ExecStart=docker run -v /a:/b img\n", ["-v", "/a:/b"], "docker run -v /a:/b img"),
        ("#ExecStart=docker run old\nExecStart=docker run img\n", ["-e", "A=1"], "docker run -e A=1 img"),
    ],
)  # fmt: skip
def test_the_drop_in_keeps_every_other_word(unit: str, options: list[str], expected: str) -> None:
    assert with_options(f"[Service]\n{unit}", options) == f"[Service]\nExecStart=\nExecStart={expected}\n"


@pytest.mark.parametrize(
    "unit",
    [
        "ExecStart=/opt/start.sh\n",
        "ExecStart=docker run a\nExecStart=docker run b\n",
        "",
        "ExecStart=sh -c 'docker run a; docker run b'\n",
    ],
)
def test_a_unit_that_is_not_understood_is_left(unit: str) -> None:
    with pytest.raises(Unmet):
        with_options(f"[Service]\n{unit}", ["-v", "/a:/b"])
