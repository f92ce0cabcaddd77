"""GM401-GM415: Docker, across its generations."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from gpumend.plan.plan import plan
from gpumend.rules.finding import Component
from gpumend.rules.rule import Context
from gpumend.rules.wanted import Wanted
from gpumend.state.docker import exec_start, flags_of
from gpumend.state.reading import Status
from gpumend.text.mask import mask
from tests.unit.build import (
    DAEMON_JSON,
    NOW,
    TODAY,
    Host,
    a_directory,
    besides_its_age,
    container,
    daemon_json,
    dangling,
    edits_of,
    findings,
    healthy,
    mended,
    outcome,
    process,
    program,
    the,
    unread,
    verdict,
)

VERSIONS = ("20.10.24", "26.1.5", "28.5.2", "29.2.1")
RELOAD, RESTART = ("docker.service", "reload"), ("docker.service", "restart")
DEVICE: dict[str, Any] = {"docker": {"paths": ["device"]}}
GPUS: dict[str, Any] = {"docker": {"paths": ["gpus"]}}
HANDS_OFF: dict[str, Any] = {"docker": {"manage": False}}


def daemon(docker: str, content: Any, **info: Any) -> Host:
    """A host whose daemon.json is this object (or bytes), and dockerd says this."""
    text = json.dumps(content, indent=2) if isinstance(content, dict) and "status" not in content else content
    return healthy(docker).but(files={DAEMON_JSON: text}, info=info)


def services(host: Host, code: str, wanted: dict[str, Any] | None = None) -> list[tuple[str, str] | None]:
    return [found.change.service for found in findings(host, code, wanted) if found.change]


STOPPED: dict[str, Any] = {"docker": None, "processes": ()}


# --- GM401: daemon.json can be read

BROKEN: dict[str, tuple[Any, str]] = {
    "comment": ('{\n  // no\n  "a": 1\n}', "line 2 column 3"),
    "trailing-comma": ('{"a": 1,}', "line 1 column "),  # Python 3.13 names the comma, older ones what follows
    "list": ("[]", "a JSON list, not an object"),
    "text": ('"x"', "a JSON str, not an object"),
    "not-utf-8": (b'{"a": "\xff"}', "not UTF-8 at byte 7"),
    "half-a-utf-16": (b"\xff\xfe{", "truncated data"),
    "directory": (a_directory(), "a dir, not a file"),
    "dangling-link": (dangling("/srv/daemon.json"), "a link to /srv/daemon.json, which does not exist"),
    "nested-too-deep": ('{"a":' * 100_000, "recursion"),
}


@pytest.mark.parametrize(("content", "words"), BROKEN.values(), ids=BROKEN.keys())
def test_gm401(content: Any, words: str) -> None:
    host = healthy().but(files={DAEMON_JSON: content})
    found = the(host, "GM401")
    assert found.status == "fail" and words in found.summary and found.change is None and found.refused
    assert not [other for other in verdict(host).findings if other.change and other.change.edits]


@pytest.mark.parametrize(
    "content",
    [None, "", "\n", "\ufeff{}", "{}", "{}".encode("utf-16")],
    ids=["absent", "empty", "newline", "bom", "object", "utf-16"],
)
def test_gm401_what_dockerd_takes_is_fine(content: Any) -> None:
    """moby getConflictFreeConfiguration: byte order marks are skipped, an empty file is an empty object."""
    host = healthy("28.5.2").but(files={DAEMON_JSON: content})
    assert outcome(host, "GM401") == "ok"
    assert host.state().docker.config.value == ({} if content is not None else None)


def test_gm401_of_a_key_that_stands_twice_the_last_counts() -> None:
    """As in Go's encoding/json, which dockerd reads it with."""
    host = healthy().but(files={DAEMON_JSON: '{"debug": true, "debug": false}'})
    assert outcome(host, "GM401") == "ok" and host.state().docker.value("debug") is False


@pytest.mark.parametrize("status", ["denied", "timeout", "failed"])
def test_gm401_unread_is_unknown(status: str) -> None:
    """`failed`: an input or output error, or what read it for the probe has ended."""
    assert outcome(healthy().but(files={DAEMON_JSON: unread(status)}), "GM401") == "unknown"


def test_gm401_another_file_by_flag_is_not_called_broken_unread() -> None:
    """dockerd --config-file: what was not read is not known; it is no fault of the file (promise 4)."""
    host = healthy().flags("--config-file", "/srv/docker.json")
    assert host.state().docker.config_path == "/srv/docker.json"
    assert outcome(host, "GM401") == "unknown"


def test_gm401_the_running_daemon_is_told_apart_from_the_stopped() -> None:
    host = healthy().but(files={DAEMON_JSON: "{"})
    assert "still runs" in the(host, "GM401").cause
    assert "cannot start" in the(host.but(**STOPPED), "GM401").cause


# --- flags


@pytest.mark.parametrize(
    ("argv", "flags"),
    [
        ("-H fd:// --containerd=/run/c.sock", {"host": "fd://", "containerd": "/run/c.sock"}),
        ("-H fd:// -H tcp://0.0.0.0:2375", {"host": "fd://,tcp://0.0.0.0:2375"}),
        ("--log-driver json-file --debug", {"log-driver": "json-file", "debug": "true"}),
        ("--debug --log-level=warn", {"debug": "true", "log-level": "warn"}),
        ("--default-runtime=nvidia", {"default-runtime": "nvidia"}),
        ("-D", {}),
        ("", {}),
    ],
)
def test_flags_of(argv: str, flags: dict[str, str]) -> None:
    assert flags_of(("/usr/bin/dockerd", *argv.split())) == flags


def test_a_boolean_flag_takes_no_word() -> None:
    """`--debug fd://` leaves fd:// a stray word in dockerd's own parser (pflag); what matters: no flag is lost."""
    assert flags_of(("dockerd", "--live-restore", "--icc=false")) == {"live-restore": "true", "icc": "false"}


def test_exec_start() -> None:
    text = "{ path=/usr/bin/dockerd ; argv[]=/usr/bin/dockerd -H fd:// $OPTS ; ignore_errors=no ; start_time=[n/a] ; pid=0 }"
    assert exec_start(text) == ("/usr/bin/dockerd", "-H", "fd://", "$OPTS")
    assert exec_start("") == ()


def test_a_stopped_dockerds_flags_come_from_its_unit() -> None:
    unit = {
        "LoadState": "loaded",
        "ActiveState": "inactive",
        "ExecStart": "{ path=/usr/bin/dockerd ; argv[]=/usr/bin/dockerd --data-root /srv ; }",
    }
    host = healthy().but(units={"docker.service": unit}, **STOPPED)
    assert host.state().docker.flags == {"data-root": "/srv"}


# --- GM402: a directive in both places

CONFLICT: list[tuple[str, tuple[str, ...], dict[str, Any], str | None]] = [
    # id, dockerd's flags, daemon.json, the key in both
    ("none", ("-H", "fd://"), {"log-driver": "local"}, None),
    ("hosts", ("-H", "fd://"), {"hosts": ["fd://"]}, "hosts"),
    ("same-value-too", ("--log-driver=local",), {"log-driver": "local"}, "log-driver"),
    ("exec-opts", ("--exec-opt", "native.cgroupdriver=systemd"), {"exec-opts": []}, "exec-opts"),
    ("registry-mirrors", ("--registry-mirror=https://x",), {"registry-mirrors": []}, "registry-mirrors"),
    ("cdi-spec-dirs", ("--cdi-spec-dir=/etc/cdi",), {"cdi-spec-dirs": []}, "cdi-spec-dirs"),
    ("default-runtime", ("--default-runtime=nvidia",), {"default-runtime": "nvidia"}, "default-runtime"),
    # moby daemon/config skipDuplicates: runtimes of both places are merged
    ("runtimes-are-merged", ("--add-runtime=x=/x",), {"runtimes": {}}, None),
    # moby configValuesSet: all objects but a few are flattened before they are compared
    (
        "proxies-are-flattened",
        ("--http-proxy=http://x",),
        {"proxies": {"http-proxy": "http://x"}},
        "http-proxy",
    ),
]


@pytest.mark.parametrize(
    ("argv", "content", "key"), [row[1:] for row in CONFLICT], ids=[row[0] for row in CONFLICT]
)
def test_gm402(argv: tuple[str, ...], content: dict[str, Any], key: str | None) -> None:
    host = healthy().but(files={DAEMON_JSON: json.dumps({**healthy().daemon(), **content})}).flags(*argv)
    found = findings(host, "GM402")
    assert [item.status.value for item in found] == (["fail"] if key else [])
    if key:
        assert key in found[0].summary and found[0].change is None


def test_gm402_holds_every_other_change_back() -> None:
    host = daemon("26.1.5", {"hosts": ["fd://"]}, Runtimes={"runc": {}}, CDISpecDirs=[])
    changes = [found.code for found in verdict(host).findings if found.change]
    assert changes == [] and {"GM402", "GM403", "GM404"} <= {found.code for found in verdict(host).findings}


def test_gm402_no_secret_of_a_flag_is_shown() -> None:
    """Promise 10: a proxy's password stands in the flag's value."""
    host = daemon("28.5.2", {"http-proxy": "x"}).flags("--http-proxy=http://user:hunter2@proxy:3128")
    shown = mask(repr(the(host, "GM402")))
    assert "http-proxy" in shown and "hunter2" not in shown


# --- GM403: the nvidia runtime

RUNC = {"runc": {"path": "runc"}}
PATH = "/usr/bin/nvidia-container-runtime"
SNAPS = (process("/snap/docker/current/bin/dockerd"),)


@pytest.mark.parametrize("docker", VERSIONS)
@pytest.mark.parametrize(
    ("content", "info", "expected", "edits"),
    [
        pytest.param({"runtimes": {"nvidia": {"path": PATH}}}, {}, "ok", {}, id="registered"),
        pytest.param({"runtimes": {"nvidia": {"path": "nvidia-container-runtime"}}}, {}, "ok", {}, id="relative-path"),
        pytest.param(
            {}, {}, "fail", {"runtimes.nvidia.path": PATH, "runtimes.nvidia.args": []}, id="only-the-running-daemon-has-it",
        ),
        pytest.param(
            {}, {"Runtimes": RUNC}, "fail", {"runtimes.nvidia.path": PATH, "runtimes.nvidia.args": []}, id="not-registered",
        ),
        pytest.param(
            {"runtimes": {"kata": {"path": "/k"}}}, {"Runtimes": RUNC}, "fail",
            {"runtimes.nvidia.path": PATH, "runtimes.nvidia.args": []}, id="another-registered",
        ),
        pytest.param({"runtimes": {"nvidia": {"path": PATH}}}, {"Runtimes": RUNC}, "fail", {}, id="not-told"),
        pytest.param(
            {"runtimes": {"nvidia": {"path": "/opt/gone", "runtimeArgs": ["-x"]}}}, {}, "fail",
            {"runtimes.nvidia.path": PATH}, id="path-gone-keeps-arguments",
        ),
    ],
)  # fmt: skip
def test_gm403(
    docker: str, content: dict[str, Any], info: dict[str, Any], expected: str, edits: dict[str, Any]
) -> None:
    features = {"features": {"cdi": True}}  # so that GM404 has no say
    host = daemon(docker, {**features, **content}, **info)
    assert outcome(host, "GM403") == expected
    assert edits_of(findings(host, "GM403")) == edits
    if expected == "fail":
        assert services(host, "GM403") == [RELOAD], "SIGHUP suffices: nothing is stopped for it"


@pytest.mark.parametrize("docker", ["20.10.24", "26.1.5", "28.5.2", "29.2.1"])
def test_gm403_a_runtime_by_flag_stays(docker: str) -> None:
    flagged = process("/usr/bin/dockerd", f"--add-runtime=nvidia={PATH}")
    host = daemon(docker, {"features": {"cdi": True}}).but(processes=(flagged,))
    assert outcome(host, "GM403") == "ok"


@pytest.mark.parametrize(
    ("host", "wanted", "why"),
    [
        pytest.param(daemon("28.5.2", {}, Runtimes=RUNC), HANDS_OFF, "docker.manage is false", id="not-managed"),
        pytest.param(daemon("28.5.2", {}, Runtimes=RUNC).but(**STOPPED), {}, "does not run", id="stopped"),
        pytest.param(daemon("28.5.2", {}, Runtimes=RUNC).but(processes=SNAPS, files={"/var/snap/docker/current/config/daemon.json": "{}"}), {}, "snap", id="snap"),
        pytest.param(daemon("28.5.2", "{", Runtimes=RUNC), {}, "GM401", id="unreadable"),
    ],
)  # fmt: skip
def test_gm403_is_held_back(host: Host, wanted: dict[str, Any], why: str) -> None:
    found = the(host, "GM403", wanted)
    assert found.change is None and why in found.refused


def test_a_container_that_dockerd_cannot_tell_of_is_not_left_out() -> None:
    """As dockerd 20.10, 26.1 and 28 say it, a container's layer gone from the disk: it may run, or use a GPU."""
    said = 'GET /containers/0a1b/json: HTTP 500 {"message":"stat /var/lib/docker/overlay2/x: no such file or directory"}'
    host = daemon("28.5.2", {"features": {"cdi": True}}, Runtimes=RUNC)
    assert host.docker is not None
    lost = replace(host, docker={**host.docker, "unread": {"containers": [said], "images": []}})
    state = lost.state()
    assert state.docker.containers.status == "failed" and "no such file" in state.docker.containers.detail
    assert state.docker.may_run_containers and not host.state().docker.may_run_containers
    assert "unknown" in {str(found.status) for found in verdict(lost).findings}
    assert state.cuda.images.ok and state.docker.info.ok, "what was read is still known"
    images = replace(host, docker={**host.docker, "unread": {"containers": [], "images": [said]}}).state()
    assert images.cuda.images.status == images.storage.images.status == "failed"


def test_gm403_a_runtime_flag_does_not_hold_back() -> None:
    """moby skipDuplicates: runtimes may stand in both places."""
    host = daemon("28.5.2", {}, Runtimes=RUNC).flags("--add-runtime=x=/usr/bin/x")
    assert the(host, "GM403").change


def test_gm403_needs_the_path_runtime_and_the_program() -> None:
    host = daemon("28.5.2", {}, Runtimes=RUNC)
    assert outcome(host, "GM403", DEVICE) == "ok"
    assert outcome(host.but(programs={"nvidia-container-runtime": None}), "GM403") == "ok"
    assert outcome(host.but(programs={"nvidia-container-runtime": unread("denied")}), "GM403") == "unknown"


@pytest.mark.parametrize("code", ["GM403", "GM404", "GM406", "GM407", "GM411", "GM414", "GM415"])
@pytest.mark.parametrize("status", ["denied", "timeout", "failed"])
def test_a_dockerd_that_does_not_answer_is_unknown(code: str, status: str) -> None:
    wanted = GPUS if code == "GM406" else {}
    assert outcome(healthy("26.1.5").but(docker=unread(status)), code, wanted) == "unknown"


@pytest.mark.parametrize(
    ("content", "info", "words"),
    [
        pytest.param({"features": {"cdi": True}}, {"Runtimes": RUNC}, "kill -HUP ", id="a-reload"),
        pytest.param(
            {"features": {"cdi": False}}, {"CDISpecDirs": []}, "restart dockerd by hand", id="a-restart"
        ),
    ],
)
def test_without_systemd_the_audit_says_who_tells_dockerd(
    content: dict[str, Any], info: dict[str, Any], words: str
) -> None:
    host = daemon("26.1.5", content, **info).but(files={"/run/systemd/system": None}, units=None)
    context = Context(host.state(), Wanted(), "gpu1", TODAY)
    transaction = plan(context, verdict(host).findings).get(Component.DOCKER)
    assert (
        transaction is not None and "not booted by systemd" in transaction.gate and words in transaction.gate
    )


# --- GM404, GM405: Docker's CDI

ON: dict[str, Any] = {"CDISpecDirs": ["/etc/cdi", "/var/run/cdi"]}
OFF: dict[str, Any] = {"CDISpecDirs": []}

CDI: list[tuple[str, str, dict[str, Any], dict[str, Any], str, dict[str, Any], bool]] = [
    # id, docker, daemon.json, docker info -> outcome, edits, whether there is a change
    ("24-has-none", "24.0.7", {}, {}, "fail", {}, False),
    ("25-default-off", "25.0.0", {}, OFF, "fail", {"features.cdi": True}, True),
    ("26.1-default-off", "26.1.5", {}, OFF, "fail", {"features.cdi": True}, True),
    ("26.1-on", "26.1.5", {"features": {"cdi": True}}, ON, "ok", {}, False),
    ("26.1-dirs-alone-do-not-turn-it-on", "26.1.5", {"cdi-spec-dirs": ["/etc/cdi", "/var/run/cdi"]}, OFF, "fail", {"features.cdi": True}, True),
    ("26.1-false", "26.1.5", {"features": {"cdi": False}}, OFF, "fail", {"features.cdi": True}, True),
    ("26.1-not-restarted", "26.1.5", {"features": {"cdi": True}}, OFF, "fail", {}, True),
    ("28.1-default-off", "28.1.1", {}, OFF, "fail", {"features.cdi": True}, True),
    ("28.2-default-on", "28.2.0", {}, ON, "ok", {}, False),
    ("28.5-default-on", "28.5.2", {}, ON, "ok", {}, False),
    ("28.5-false", "28.5.2", {"features": {"cdi": False}}, OFF, "fail", {"features.cdi": True}, True),
    ("28.5-other-features", "28.5.2", {"features": {"buildkit": True}}, ON, "ok", {}, False),
    ("29.2-default-on", "29.2.1", {}, ON, "ok", {}, False),
    ("29.2-false", "29.2.1", {"features": {"cdi": False}}, OFF, "fail", {"features.cdi": True}, True),
    ("disabled-by-dirs-is-gm405", "28.5.2", {"cdi-spec-dirs": [""]}, OFF, "ok", {}, False),
]  # fmt: skip


@pytest.mark.parametrize(
    ("docker", "content", "info", "expected", "edits", "changes"),
    [row[1:] for row in CDI],
    ids=[row[0] for row in CDI],
)
def test_gm404(
    docker: str,
    content: dict[str, Any],
    info: dict[str, Any],
    expected: str,
    edits: dict[str, Any],
    changes: bool,
) -> None:
    runtimes = {"runtimes": {"nvidia": {"path": PATH}}}
    host = daemon(docker, {**runtimes, **content}, **info)
    assert outcome(host, "GM404", DEVICE) == expected
    assert edits_of(findings(host, "GM404", DEVICE)) == edits
    assert services(host, "GM404", DEVICE) == ([RESTART] if changes else []), "read at start only"


def test_gm404_is_not_judged_where_the_path_is_not_wanted() -> None:
    assert outcome(daemon("26.1.5", {}, **OFF), "GM404", {"docker": {"paths": ["runtime"]}}) == "ok"
    assert outcome(healthy("20.10.24"), "GM404") == "ok", "auto leaves out what this Docker has not"


def test_gm404_keeps_the_other_features() -> None:
    host = daemon("26.1.5", {"features": {"buildkit": True, "containerd-snapshotter": False}}, **OFF)
    after = mended(host, verdict(host)).state().docker.config.value
    assert after and after["features"] == {"buildkit": True, "containerd-snapshotter": False, "cdi": True}


@pytest.mark.parametrize(
    ("dirs", "expected", "becomes"),
    [
        pytest.param(None, "ok", None, id="default"),
        pytest.param(["/etc/cdi", "/var/run/cdi"], "ok", None, id="both"),
        pytest.param(["/var/run/cdi", "/etc/cdi"], "ok", None, id="other-order"),
        pytest.param(["/etc/cdi/", "/run/cdi"], "ok", None, id="other-spelling"),
        pytest.param(["/etc/cdi"], "warn", ["/etc/cdi", "/var/run/cdi"], id="etc-only"),
        pytest.param(
            ["/opt/cdi"], "warn", ["/etc/cdi", "/var/run/cdi", "/opt/cdi"], id="own-directory-stays"
        ),
        pytest.param([""], "fail", ["/etc/cdi", "/var/run/cdi"], id="disabled"),
        pytest.param([], "fail", ["/etc/cdi", "/var/run/cdi"], id="empty"),
        pytest.param("/etc/cdi", "ok", None, id="no-list"),
    ],
)
def test_gm405(dirs: Any, expected: str, becomes: list[str] | None) -> None:
    host = daemon("28.5.2", {} if dirs is None else {"cdi-spec-dirs": dirs})
    assert outcome(host, "GM405") == expected
    assert edits_of(findings(host, "GM405")).get("cdi-spec-dirs") == becomes
    assert services(host, "GM405") == ([RESTART] if becomes else [])


def test_gm405_a_flag_holds_it_back() -> None:
    host = daemon("26.1.5", {}, **OFF).flags("--feature", "cdi=true")
    assert "--feature" in the(host, "GM404").refused


# --- GM406: dockerd started before the toolkit came


@pytest.mark.parametrize(
    ("docker", "wanted", "users", "ctime", "expected"),
    [
        pytest.param("28.5.2", GPUS, (), NOW - 86400, "ok", id="toolkit-first"),
        pytest.param("28.5.2", GPUS, (), NOW - 60, "warn", id="toolkit-later"),
        pytest.param("28.5.2", {}, (), NOW - 60, "ok", id="nobody-uses-gpus"),
        pytest.param("28.5.2", {}, (container(gpus=True),), NOW - 60, "warn", id="somebody-uses-gpus"),
        pytest.param("20.10.24", GPUS, (), NOW - 60, "warn", id="old-docker"),
    ],
)
def test_gm406(
    docker: str, wanted: dict[str, Any], users: tuple[Any, ...], ctime: float, expected: str
) -> None:
    hook = program("/usr/bin/nvidia-container-runtime-hook", ctime)
    host = healthy(docker).with_containers(*users).but(programs={"nvidia-container-runtime-hook": hook})
    assert outcome(host, "GM406", wanted) == expected
    assert services(host, "GM406", wanted) == ([RESTART] if expected == "warn" else [])


@pytest.mark.parametrize(("docker", "expected"), [("28.5.2", "ok"), ("29.1.0", "ok"), ("29.2.0", "warn")])
def test_gm406_the_cdi_hook_counts_from_29_2(docker: str, expected: str) -> None:
    host = healthy(docker).but(programs={"nvidia-cdi-hook": program("/usr/bin/nvidia-cdi-hook", NOW - 60)})
    assert outcome(host, "GM406", GPUS) == expected


# --- GM407: dockerd runs


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        pytest.param({"LoadState": "loaded", "ActiveState": "inactive", "Result": "success"}, "warn", id="stopped"),
        pytest.param({"LoadState": "loaded", "ActiveState": "failed", "Result": "exit-code"}, "fail", id="failed"),
        pytest.param({"LoadState": "loaded", "ActiveState": "activating", "Result": "start-limit-hit"}, "fail", id="in-a-loop"),
    ],
)  # fmt: skip
def test_gm407(unit: dict[str, str], expected: str) -> None:
    found = the(healthy().but(units={"docker.service": unit}, **STOPPED), "GM407")
    assert found.status == expected and found.change is None


def test_no_docker_at_all_is_no_finding() -> None:
    host = healthy().but(
        programs={"dockerd": None},
        commands={"dockerd": None},
        units={"docker.service": None},
        files={DAEMON_JSON: None},
        **STOPPED,
    )
    assert not [found for found in verdict(host).findings if found.code.startswith("GM4")]


# --- GM408, GM409: snap and Desktop

SNAP_JSON = "/var/snap/docker/current/config/daemon.json"


@pytest.mark.parametrize(
    "host",
    [
        pytest.param(
            healthy().but(processes=SNAPS, files={SNAP_JSON: "{}"}, info={"Runtimes": {"runc": {}}}),
            id="its-process",
        ),
        pytest.param(
            healthy().but(programs={"dockerd": "/snap/bin/dockerd"}, files={SNAP_JSON: "{}"}, **STOPPED),
            id="its-program",
        ),
    ],
)
def test_gm408_the_snap(host: Host) -> None:
    assert host.state().docker.snap and host.state().docker.config_path == SNAP_JSON
    assert the(host, "GM408").status == "fail"
    assert not [found for found in verdict(host).findings if found.change and found.change.edits]


def test_gm408_a_leftover_directory_of_the_snap_is_no_snap() -> None:
    host = healthy().but(files={"/var/snap/docker": a_directory(), SNAP_JSON: "{}"})
    assert not host.state().docker.snap and host.state().docker.config_path == DAEMON_JSON


CLOSED = {"/home/*/.docker/desktop": unread("denied")}
DESKTOP = {"/home/ann/.docker/desktop": a_directory(), "/opt/docker-desktop": a_directory()}


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        pytest.param(healthy(), "ok", id="none"),
        pytest.param(healthy().but(files=DESKTOP), "warn", id="a-users"),
        pytest.param(
            healthy().but(files={**DESKTOP, "/opt/docker-desktop": None}),
            "ok",
            id="a-home-of-another-machine",
        ),
        pytest.param(healthy().but(info={"OperatingSystem": "Docker Desktop"}), "warn", id="its-daemon"),
        pytest.param(healthy().but(globs=CLOSED), "ok", id="homes-closed-and-no-program"),
        pytest.param(
            healthy().but(globs=CLOSED, files={"/opt/docker-desktop": a_directory()}),
            "unknown",
            id="homes-closed",
        ),
        pytest.param(
            healthy().but(globs=CLOSED, files={"/opt/docker-desktop": unread("failed")}),
            "unknown",
            id="unread",
        ),
    ],
)
def test_gm409(host: Host, expected: str) -> None:
    assert outcome(host, "GM409") == expected


# --- rootless


def test_a_rootless_dockerd_is_not_the_rootful_one() -> None:
    host = healthy().but(docker=None, processes=(process("/usr/bin/dockerd", "--rootless", uid=1000),))
    docker = host.state().docker
    assert docker.process.absent and docker.rootless_users == (1000,) and docker.flags == {}


def test_a_rootless_dockerd_beside() -> None:
    both = (process("/usr/bin/dockerd", "--rootless", uid=1000), process("/usr/bin/dockerd", "-H", "fd://"))
    docker = healthy().but(processes=both).state().docker
    assert docker.process.need().uid == 0 and docker.rootless_users == (1000,)


@pytest.mark.parametrize("named", [False, True], ids=["by-hand", "by-its-unit"])
def test_a_file_of_a_dockerds_command_line_is_changed_only_where_its_unit_names_it(named: bool) -> None:
    """Whoever starts a dockerd by hand names any file: k3s' template for containerd is one that is read."""
    path = "/var/lib/rancher/k3s/agent/etc/containerd/config.toml.tmpl"
    start = (
        f"{{ path=/usr/bin/dockerd ; argv[]=/usr/bin/dockerd{f' --config-file={path}' if named else ''} ; }}"
    )
    host = daemon("28.5.2", {}, Runtimes=RUNC).but(
        files={path: "{}"},
        processes=(process("/usr/bin/dockerd", f"--config-file={path}"),),
        units={"docker.service": {"LoadState": "loaded", "ActiveState": "active", "ExecStart": start}},
    )
    assert host.state().docker.config_path == path
    found = the(host, "GM403")
    assert (found.change is not None) is named
    if not named:
        assert (
            found.refused
            == f"dockerd was started with --config-file={path}, which docker.service does not say"
        )


def test_processes_that_could_not_be_listed_are_unknown() -> None:
    host = healthy().but(processes=unread("failed"))
    assert host.state().docker.process.status is Status.FAILED
    assert outcome(host, "GM407") == "unknown"


# --- GM411: the image store

CONTAINERD = {"DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]], "Driver": "overlayfs"}
GRAPH = {"DriverStatus": [["Backing Filesystem", "extfs"]]}


@pytest.mark.parametrize(
    ("docker", "features", "info", "expected", "becomes"),
    [
        pytest.param("28.5.2", {}, GRAPH, "ok", None, id="graph"),
        pytest.param("28.5.2", {"containerd-snapshotter": True}, CONTAINERD, "ok", None, id="containerd"),
        pytest.param("28.5.2", {"cdi": True}, CONTAINERD, "fail", True, id="feature-lost"),
        pytest.param("26.1.5", {"cdi": True}, CONTAINERD, "fail", True, id="feature-lost-26"),
        pytest.param(
            "28.5.2", {"containerd-snapshotter": True}, GRAPH, "ok", None, id="somebody-asks-for-it"
        ),
        pytest.param("29.2.1", {"cdi": True}, CONTAINERD, "ok", None, id="29-decides-by-the-disk"),
    ],
)
def test_gm411(
    docker: str, features: dict[str, Any], info: dict[str, Any], expected: str, becomes: bool | None
) -> None:
    host = daemon(docker, {"features": features}, **info)
    assert outcome(host, "GM411") == expected
    assert edits_of(findings(host, "GM411")).get("features.containerd-snapshotter") is becomes
    assert services(host, "GM411") == ([RELOAD] if expected == "fail" else []), (
        "a restart is what must not happen"
    )


def test_no_restart_by_mend_while_it_would_switch_the_store() -> None:
    """features.containerd-snapshotter was set by somebody and waits: a restart for our sake would hide every image."""
    host = daemon("26.1.5", {"features": {"containerd-snapshotter": True}}, **OFF, **GRAPH)
    found = the(host, "GM404")
    assert found.change is None and "hide every image" in found.refused


# --- GM414: CUDA. nvidia-container-cli checks it, and so --gpus below mode cdi, and the runtime in mode legacy


def asks(**env: str) -> Any:
    return container(gpus=True, env=env)


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        pytest.param({}, "ok", id="none"),
        pytest.param({"NVIDIA_REQUIRE_CUDA": "cuda>=12.8"}, "ok", id="older"),
        pytest.param({"NVIDIA_REQUIRE_CUDA": "cuda>=13.0"}, "ok", id="same"),
        pytest.param({"NVIDIA_REQUIRE_CUDA": "cuda>=13.1"}, "warn", id="newer"),
        pytest.param(
            {"NVIDIA_REQUIRE_CUDA": "cuda>=13.1", "NVIDIA_DISABLE_REQUIRE": "1"}, "ok", id="disabled"
        ),
    ],
)
def test_gm414(env: dict[str, str], expected: str) -> None:
    assert outcome(healthy().with_containers(asks(**env)), "GM414") == expected


@pytest.mark.parametrize(
    ("host", "runtime", "expected"),
    [
        pytest.param(healthy(mode="legacy"), "nvidia", "warn", id="legacy"),
        pytest.param(healthy(toolkit="1.17.8", mode="auto"), "nvidia", "warn", id="auto-1.17"),
        pytest.param(healthy(toolkit="1.18.1", mode="auto"), "nvidia", "ok", id="auto-1.18"),
        pytest.param(healthy(), "nvidia", "ok", id="cdi"),
        pytest.param(healthy(mode="legacy"), "runc", "ok", id="another-runtime"),
    ],
)
def test_gm414_only_where_the_requirement_is_checked(host: Host, runtime: str, expected: str) -> None:
    asking = container(runtime=runtime, env={"NVIDIA_REQUIRE_CUDA": "cuda>=13.1"})
    assert outcome(host.with_containers(asking), "GM414") == expected


def test_gm414_an_alternative_of_the_expression_suffices() -> None:
    """Alternatives stand between spaces: this driver's branch is one of them, so the hook starts the container."""
    env = {"NVIDIA_REQUIRE_CUDA": "cuda>=13.1 driver>=580,driver<581"}
    assert outcome(healthy().with_containers(asks(**env)), "GM414") == "ok"


def test_gm414_unknown_cuda_is_unknown() -> None:
    host = healthy().with_containers(asks(NVIDIA_REQUIRE_CUDA="cuda>=13.1"))
    assert outcome(host.but(commands={"nvidia-smi-version": unread("timeout")}), "GM414") == "unknown"


# --- GM415: what dockerd discovers


@pytest.mark.parametrize(
    ("docker", "seen", "expected"),
    [
        pytest.param("28.5.2", ["0", "all", "GPU-ddcfa932-2616-cecb-a95e-350855afb5ab"], "ok", id="all"),
        pytest.param("28.5.2", [], "fail", id="none"),
        pytest.param("28.5.2", ["0"], "fail", id="some"),
        pytest.param("28.1.1", None, "ok", id="before-28.2-it-does-not-say"),
    ],
)
def test_gm415(docker: str, seen: list[str] | None, expected: str) -> None:
    listed = None if seen is None else [{"Source": "cdi", "ID": f"nvidia.com/gpu={name}"} for name in seen]
    assert outcome(healthy(docker).but(info={"DiscoveredDevices": listed}), "GM415") == expected


# --- after a mend


@pytest.mark.parametrize("docker", VERSIONS)
@pytest.mark.parametrize(
    ("content", "info"),
    [
        pytest.param(None, {"Runtimes": RUNC, **OFF}, id="no-file"),
        pytest.param("", {"Runtimes": RUNC, **OFF}, id="empty-file"),
        pytest.param('{"log-driver":"local"}', {"Runtimes": RUNC, **OFF}, id="one-line"),
        pytest.param('{\r\n\t"features": {}\r\n}\r\n', {"Runtimes": RUNC, **OFF}, id="crlf-tabs"),
        pytest.param(
            '{"features": {"cdi": false}, "cdi-spec-dirs": [""]}',
            {"Runtimes": RUNC, **OFF},
            id="switched-off",
        ),
    ],
)
def test_one_mend_is_enough(docker: str, content: str | None, info: dict[str, Any]) -> None:
    host = healthy(docker).but(
        files={DAEMON_JSON: content}, info=info if docker != "20.10.24" else {"Runtimes": RUNC}
    )
    before = verdict(host)
    assert [found for found in before.findings if found.change]
    after = verdict(mended(host, before))
    assert [(found.code, found.summary) for found in after.findings if found.change] == []


def test_docker_is_never_changed_where_it_is_not_managed() -> None:
    host = daemon("26.1.5", {"cdi-spec-dirs": ["/etc/cdi"]}, Runtimes=RUNC, **OFF)
    judged = verdict(host, HANDS_OFF)
    mine = [found for found in judged.findings if found.code.startswith("GM4")]
    assert {found.code for found in mine} == {"GM403", "GM404", "GM405"}
    assert all(found.change is None and found.refused == "docker.manage is false" for found in mine)


def test_the_builders_daemon_json_is_right() -> None:
    for version in VERSIONS:
        host = healthy(version).but(files={DAEMON_JSON: daemon_json(version, debug=True)})
        assert besides_its_age(verdict(host).findings) == ()


@pytest.mark.parametrize(
    "where", [{"nested": True}, {"container": "0123456789ab"}], ids=["nested", "in-a-container"]
)
def test_a_dockerd_in_a_container_is_not_the_hosts(where: dict[str, Any]) -> None:
    """Docker in Docker: its flags and its start are not the host's, whichever of the two is listed first."""
    inner = {**process("/usr/bin/dockerd", "--data-root=/inner", start=NOW), **where}
    alone = healthy().but(docker=None, processes=(inner,)).state().docker
    assert alone.process.absent and alone.flags == {} and alone.rootless_users == ()
    beside = healthy().but(processes=(inner, *healthy().processes)).state().docker
    assert beside.flags["host"] == "fd://" and "data-root" not in beside.flags


def test_gm404_says_nothing_of_an_answer_that_there_was_not() -> None:
    found = the(daemon("26.1.5", {}).but(**STOPPED), "GM404", DEVICE)
    assert "CDISpecDirs" not in " ".join(item.text for item in found.evidence)
    assert found.evidence[1].text.startswith("dockerd gave no answer")


def test_gm403_promises_no_reload_beside_a_restart() -> None:
    both = daemon("26.1.5", {}, Runtimes={"runc": {}}, CDISpecDirs=[])
    paths = {"docker": {"paths": ["runtime", "device"]}}
    assert the(both, "GM404", paths).change
    assert "restarts dockerd, once, for this and for GM404" in the(both, "GM403", paths).remedy
    alone = {"docker": {"paths": ["runtime"]}}
    assert "reloads dockerd: no container is stopped" in the(both, "GM403", alone).remedy
