"""Nothing that works is broken, now or at the next boot: the cases of public reports, and more of each kind.

Each kind has a host on which nothing is to be said.
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from gpumend.plan.plan import plan
from gpumend.plan.step import GenerateFile, RemoveFile, TriggerFile, WriteFile
from gpumend.rules.finding import Component, Finding
from gpumend.rules.judge import judge
from gpumend.rules.managers import MANAGERS
from gpumend.rules.rule import Context
from gpumend.rules.wanted import parse
from gpumend.schemas import load
from gpumend.state.cdi import REFRESH_ENV
from tests.cases import (
    aks,
    boot_order,
    gpu_operator,
    hook_missing,
    lxc_gpus,
    lxc_no_cgroups,
    nixos,
    snap_provision,
    swarm_resource,
)
from tests.cases.k8s import kube
from tests.unit.build import (
    CONFIG,
    DAEMON_JSON,
    DYNAMIC,
    REFRESH,
    STATIC,
    TODAY,
    Host,
    a_directory,
    config,
    container,
    daemon_json,
    dangling,
    edits_of,
    file,
    findings,
    fixture,
    healthy,
    link,
    named,
    outcome,
    process,
    spec,
    the,
    unread,
    verdict,
)

MODE = "nvidia-container-runtime.mode"
NAMES = {WriteFile: "write", TriggerFile: "trigger", GenerateFile: "generate", RemoveFile: "remove"}
ONLY: dict[str, Any] = {"runtime": {"mode": "cdi-only"}}


def codes(host: Host, wanted: dict[str, Any] | None = None) -> dict[str, str]:
    """GM220 and GM221 apart: notes that every older release of the toolkit has."""
    return {f.code: str(f.status) for f in verdict(host, wanted).findings if f.code not in ("GM220", "GM221")}


def changes(host: Host, wanted: dict[str, Any] | None = None) -> set[Component]:
    return {found.change.component for found in verdict(host, wanted).findings if found.change}


def steps(host: Host, wanted: dict[str, Any] | None = None) -> list[tuple[str, str]]:
    """What a mend would do to files: (step, path)."""
    state, want = host.state(), parse(wanted or {})
    judged = judge(state, want, "gpu1", TODAY)
    made = plan(Context(state, want, "gpu1", TODAY), judged.findings)
    assert made.blocked == {}
    return [
        (NAMES[type(step)], getattr(step, "path", "")) for each in made.transactions for step in each.steps
    ]


# --- the least change that gives what is wanted


@pytest.mark.parametrize(
    ("toolkit", "mode", "wanted", "becomes"),
    [
        ("1.18.1", "auto", {}, None),
        ("1.20.0", "auto", {}, None),
        ("1.18.1", "jit-cdi", {}, None),
        ("1.18.1", "cdi", {}, None),
        ("1.18.1", "legacy", {}, "auto"),
        ("1.17.8", "auto", {}, "cdi"),
        ("1.17.8", "legacy", {}, "cdi"),
        ("1.17.8", "cdi", {}, None),
        ("1.18.1", "auto", ONLY, "cdi"),
        ("1.18.1", "jit-cdi", ONLY, "cdi"),
        ("1.17.8", "cdi", ONLY, None),
    ],
)
def test_mode_cdi_means_injection_through_cdi(
    toolkit: str, mode: str, wanted: dict[str, Any], becomes: str | None
) -> None:
    assert edits_of(findings(healthy(toolkit=toolkit, mode=mode), "GM204", wanted)).get(MODE) == becomes


def test_toolkit_1_18_0_is_never_switched_to_mode_cdi() -> None:
    found = the(healthy(toolkit="1.18.0", mode="auto"), "GM204", ONLY)
    assert found.change is None and "1.18.0" in found.refused


def test_the_first_line_says_that_gpus_goes_away() -> None:
    told = "takes `docker run --gpus` away"
    assert told in the(healthy("26.1.5", "1.17.8", mode="auto"), "GM204").summary
    assert told not in the(healthy("29.2.0", "1.17.8", mode="auto"), "GM204").summary
    assert told not in the(healthy("26.1.5", "1.18.1", mode="legacy"), "GM204").summary


# --- users of --gpus that no `docker ps` shows

RUN = "docker run --rm --gpus all cuda:13 nvidia-smi"
HIDDEN: dict[str, tuple[str, str]] = {
    "crontab": ("/etc/crontab", f"17 3 * * * root {RUN}\n"),
    "cron.d": ("/etc/cron.d/burn", f"SHELL=/bin/sh\n@daily root cd /srv && {RUN}\n"),
    "user-crontab": ("/var/spool/cron/crontabs/ops", f"0 * * * * {RUN}\n"),
    "cron.daily": ("/etc/cron.daily/train", f"#!/bin/sh\nset -e\n{RUN}\n"),
    "unit": (
        "/etc/systemd/system/infer.service",
        "[Service]\nExecStart=/usr/bin/docker run --name infer \\\n  -p 80:80 \\\n  --gpus=all model:1\n",
    ),
    "user-unit": ("/home/ops/.config/systemd/user/a.service", f"[Service]\nExecStart=/usr/bin/{RUN}\n"),
    "script": ("/usr/local/bin/infer", f"#!/usr/bin/env bash\nexec {RUN}\n"),
    "script-of-a-timer": ("/opt/train/nightly.sh", f"#!/bin/bash\n{RUN}\n"),
    "variable": ("/root/run.sh", '#!/bin/bash\nGPU="--gpus all"\ndocker run $GPU cuda:13\n'),
    "one-gpu": ("/root/run.sh", "#!/bin/bash\ndocker run --gpus '\"device=0,1\"' cuda:13\n"),
    "compose": ("/srv/app/compose.yaml", "services:\n  a:\n    image: b\n    gpus: all\n"),
    "compose-reservation": (
        "/home/ops/app/docker-compose.yml",
        "services:\n  a:\n    deploy:\n      resources:\n        reservations:\n          devices:\n"
        "            - driver: nvidia\n              count: 1\n              capabilities: [gpu]\n",
    ),
    "gitlab-runner": (
        "/etc/gitlab-runner/config.toml",
        '[[runners]]\n  token = "glrt-secret"\n  [runners.docker]\n    gpus = "all"\n',
    ),
    "a-variables-number": ("/etc/cron.d/burn", 'GPUS=2\n* * * * * root docker run --gpus "$GPUS" cuda:13\n'),
    "a-variables-number-in-braces": (
        "/etc/cron.d/burn",
        "* * * * * root docker run --gpus=${N:-all} cuda:13\n",
    ),
    "over-two-lines": (
        "/etc/systemd/system/infer.service",
        "[Service]\nExecStart=/usr/bin/docker run --gpus \\\n  all model:1\n",
    ),
    "units-environment": (
        "/etc/systemd/system/infer.service",
        '[Service]\nEnvironment="OPTS=--gpus all"\nExecStart=/usr/bin/docker run $OPTS model:1\n',
    ),
    "environment-file": ("/etc/default/infer", 'DOCKER_OPTS="--gpus all"\n'),
    "sysconfig": ("/etc/sysconfig/infer", "OPTIONS='--gpus all'\n"),
    "array": ("/usr/local/bin/infer", '#!/bin/bash\nARGS=(--gpus all)\ndocker run "${ARGS[@]}" model:1\n'),
    "python": (
        "/usr/local/bin/infer",
        '#!/usr/bin/env python3\nsubprocess.run(["docker", "run", "--gpus", "all", "model:1"])\n',
    ),
    "compose-two-below": ("/srv/team/app/compose.yaml", "services:\n  a:\n    image: b\n    gpus: all\n"),
    "act_runner": ("/etc/act_runner/config.yaml", "container:\n  options: --shm-size=1g --gpus all\n"),
}


@pytest.mark.parametrize(("path", "text"), HIDDEN.values(), ids=HIDDEN.keys())
def test_a_hidden_user_of_gpus_holds_the_switch_back(path: str, text: str) -> None:
    host = healthy("26.1.5", "1.17.8", mode="auto").but(files={path: text})
    found = the(host, "GM204")
    assert found.change is None and path in found.refused
    assert [item.source for item in found.evidence if "gpu" in item.text and item.source == path] == [path]
    assert "secret" not in json.dumps(host.answer()["stats"]), "the flag alone leaves the host"
    opted = the(host, "GM204", {"allow_breaking_gpus_flag": True})
    assert opted.change is not None
    there_already = the(healthy("26.1.5", "1.17.8").but(files={path: text}), "GM205")
    assert path in there_already.summary
    by_hand = path.startswith(("/usr/local/bin", "/opt", "/root", "/srv", "/home/ops/app"))
    assert there_already.status == ("note" if by_hand else "fail")


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/etc/cron.d/train", "17 3 * * * ml /data/jobs/train.sh --all\n"),
        ("/var/spool/cron/crontabs/ml", "@reboot sh /data/jobs/train.sh >/dev/null 2>&1\n"),
        ("/etc/systemd/system/train.service", "[Service]\nExecStart=-/data/jobs/train.sh 1\n"),
        (
            "/etc/systemd/system/train.service.d/x.conf",
            "[Service]\nExecStartPre=/bin/sh -c '/data/jobs/train.sh'\n",
        ),
    ],
)
def test_a_script_that_cron_or_a_unit_names_is_looked_into(path: str, text: str) -> None:
    host = healthy("26.1.5", "1.17.8", mode="auto").but(
        files={path: text, "/data/jobs/train.sh": f"#!/bin/sh\n{RUN}\n"}
    )
    found = the(host, "GM204")
    assert found.change is None and "/data/jobs/train.sh" in found.refused
    other = host.but(files={"/data/jobs/train.sh": "#!/bin/sh\npython train.py --gpus 2\n"})
    assert the(other, "GM204").change is not None
    unnamed = host.but(files={path: None})
    assert the(unnamed, "GM204").change is not None


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/etc/crontab", f"# {RUN}\n"),
        ("/etc/default/docker", "# DOCKER_OPTS='--gpus all'\n"),
        ("/usr/local/bin/train", "#!/bin/sh\npython train.py --gpus 2\n"),
        ("/usr/local/bin/notes", f"no script: {RUN}\n"),
        ("/etc/cron.d/a", "* * * * * root docker ps\n* * * * * root torchrun --gpus 2\n"),
        ("/root/run.sh", "#!/bin/sh\ndocker run --rm busybox # no --gpus all\n"),
        ("/srv/app/compose.yaml", "services:\n  a:\n    image: b\n"),
        (
            "/srv/app/compose.yaml",
            "devices:\n  - driver: cdi\n    device_ids: [nvidia.com/gpu=all]\n    capabilities: [gpu]\n",
        ),
        ("/srv/app/compose.yaml", "services:\n  a:\n    runtime: nvidia\n"),
        ("/usr/local/bin/big", "#!/bin/sh\n" + "#" * (1 << 16) + f"\n{RUN}\n"),
        ("/etc/gitlab-runner/config.toml", '[runners.docker]\n  # gpus = "all"\n'),
    ],
)
def test_what_does_not_use_the_flag_holds_nothing_back(path: str, text: str) -> None:
    found = the(healthy("26.1.5", "1.17.8", mode="auto").but(files={path: text}), "GM204")
    assert found.change is not None and not found.refused


def test_a_place_that_could_not_be_looked_into_holds_the_switch_back() -> None:
    denied = {"status": "denied", "error": "Permission denied", "paths": []}
    host = healthy("26.1.5", "1.17.8", mode="auto").but(globs={"/var/spool/cron/*": denied})
    found = the(host, "GM204")
    assert found.change is None and "/var/spool/cron/*" in found.refused


def test_auto_needs_nobody_looked_up() -> None:
    host = healthy("26.1.5", "1.18.1", mode="legacy").but(files={"/etc/crontab": f"* * * * * root {RUN}\n"})
    assert edits_of(findings(host, "GM204")) == {MODE: "auto"}


# --- mode cdi and the next boot


def booting(
    mode: str = "cdi", toolkit: str = "1.19.0", docker: str = "28.5.2", *found: Any, **more: Any
) -> Host:
    return healthy(docker, toolkit, mode=mode).with_containers(*found).but(**more)


PLEX = container("plex", runtime="nvidia", restart="always", env={"NVIDIA_VISIBLE_DEVICES": "all"})
STOPPED = container("plex", runtime="nvidia", restart="always", running=False, exit=128)
DEVICE = container("jelly", cdi="nvidia.com/gpu=0", restart="unless-stopped")
ORDER = {
    "docker.service": {"LoadState": "loaded", "ActiveState": "active", "After": f"network.target {REFRESH}"}
}
TO_ETC = "# flags\nNVIDIA_CTK_CDI_OUTPUT_FILE_PATH=/etc/cdi/nvidia.yaml\n"


def test_boot_order() -> None:
    assert codes(boot_order.HOST) == {}
    found = the(boot_order.HOST, "GM314", ONLY)
    assert found.change is not None and found.change.component is Component.CDI


@pytest.mark.parametrize(
    ("host", "wanted", "expected"),
    [
        pytest.param(booting("auto", "1.19.0", "28.5.2", PLEX), {}, "ok", id="auto-needs-no-file"),
        pytest.param(booting("cdi", "1.19.0", "28.5.2", PLEX), {}, "fail", id="the-trap"),
        pytest.param(booting("cdi", "1.18.1", "28.5.2", STOPPED), {}, "fail", id="down-in-the-trap"),
        pytest.param(booting("auto", "1.18.1", "28.5.2", DEVICE), {}, "fail", id="device-in-any-mode"),
        pytest.param(booting("cdi", "1.18.1"), {}, "ok", id="nobody-comes-back"),
        pytest.param(booting("cdi", "1.18.1", "28.5.2", container(runtime="nvidia")), {}, "ok", id="no-policy"),
        pytest.param(
            booting("cdi", "1.18.1", "28.5.2", container(runtime="nvidia", restart="unless-stopped", running=False)),
            {}, "ok", id="stopped-by-hand",
        ),
        pytest.param(booting("cdi", "1.18.1", "28.5.2", PLEX, units=ORDER), {}, "ok", id="ordered"),
        pytest.param(
            booting("cdi", "1.19.0", "28.5.2", PLEX, units={
                **ORDER, REFRESH: {"LoadState": "loaded", "UnitFileState": "enabled", "After": "multi-user.target"},
            }),
            {}, "fail", id="ordered-in-a-circle",
        ),
        pytest.param(
            booting("cdi", "1.18.1", "28.5.2", PLEX, files={DYNAMIC: None, STATIC: spec(), REFRESH_ENV: TO_ETC}),
            {}, "ok", id="refresh-writes-etc",
        ),
        pytest.param(booting("cdi", "1.17.8", "28.5.2", PLEX), {}, "ok", id="old-toolkit-spec-in-etc"),
        pytest.param(
            booting("cdi", "1.17.8", "28.5.2", PLEX, files={STATIC: None, DYNAMIC: spec()}),
            {}, "fail", id="nothing-makes-it-again",
        ),
        pytest.param(booting("auto", "1.18.1"), ONLY, "warn", id="cdi-only"),
    ],
)  # fmt: skip
def test_gm314(host: Host, wanted: dict[str, Any], expected: str) -> None:
    assert outcome(host, "GM314", wanted) == expected


def test_the_trap_is_left_by_mode_auto() -> None:
    host = booting("cdi", "1.19.0", "28.5.2", PLEX)
    assert edits_of(findings(host, "GM314")) == {MODE: "auto"}
    assert "plex" in the(host, "GM314").summary
    assert codes(host.but(files={CONFIG: config("auto")})) == {}


def test_a_mode_that_is_switched_anyway_needs_nothing_else() -> None:
    host = booting("cdi", "1.18.1", "28.5.2", PLEX)
    assert changes(host, {"runtime": {"mode": "auto"}}) == {Component.TOOLKIT}
    kept = {"runtime": {"mode": "keep"}}
    assert steps(host, kept) == [("write", REFRESH_ENV), ("trigger", STATIC), ("remove", DYNAMIC)]


def test_a_device_gets_a_spec_that_outlives_a_reboot() -> None:
    host = booting("auto", "1.18.1", "28.5.2", DEVICE)
    assert changes(host) == {Component.CDI}
    assert steps(host) == [("write", REFRESH_ENV), ("trigger", STATIC), ("remove", DYNAMIC)]
    after = host.but(files={DYNAMIC: None, STATIC: spec(), REFRESH_ENV: TO_ETC})
    assert codes(after) == {}


QUADLET = (
    "[Container]\nImage=ollama\nAddDevice=nvidia.com/gpu=all\n{more}[Install]\nWantedBy=default.target\n"
)
WAIT = "[Unit]\nAfter=network-online.target nvidia-cdi-refresh.service\n"


def quadlets(text: str, path: str = "/etc/containers/systemd/ollama.container", **files: Any) -> Host:
    return healthy("28.5.2", "1.18.1").but(
        files={path: text, **files}, commands={"podman": (0, "podman version 5.4.2\n", "")}
    )


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        pytest.param(quadlets(QUADLET.format(more="")), "fail", id="device"),
        pytest.param(quadlets(QUADLET.format(more="").replace("default", "multi-user")), "fail", id="multi-user"),
        pytest.param(
            quadlets("[Container]\nPodmanArgs=--env TOKEN=x --gpus all\n[Install]\nWantedBy=default.target\n"),
            "fail", id="gpus",
        ),
        pytest.param(
            quadlets("[Container]\nPodmanArgs=--ipc host \\\n  --device=nvidia.com/gpu=0\n[Install]\nRequiredBy=x.target\n"),
            "fail", id="continued",
        ),
        pytest.param(quadlets(QUADLET.format(more=""), "/etc/containers/systemd/ai/ollama.container"), "fail", id="below"),
        pytest.param(
            quadlets("[Container]\nImage=x\n[Install]\nWantedBy=default.target\n", **{
                "/etc/containers/systemd/ollama.container.d/gpu.conf": "[Container]\nAddDevice=nvidia.com/gpu=0\n",
            }),
            "fail", id="drop-in",
        ),
        pytest.param(
            quadlets(
                "[Service]\nExecStart=/usr/bin/podman run --rm --device nvidia.com/gpu=all x\n[Install]\nWantedBy=a.target\n",
                "/etc/systemd/system/whisper.service",
            ),
            "fail", id="generate-systemd",
        ),
        pytest.param(quadlets(WAIT + QUADLET.format(more="")), "ok", id="waits"),
        pytest.param(
            quadlets(WAIT + QUADLET.format(more="")).but(units={
                REFRESH: {"LoadState": "loaded", "UnitFileState": "enabled", "After": "multi-user.target"},
            }),
            "fail", id="waits-in-a-circle",
        ),
        pytest.param(quadlets(QUADLET.partition("[Install]")[0].format(more="")), "ok", id="started-by-hand"),
        pytest.param(quadlets("[Container]\nImage=x\n[Install]\nWantedBy=default.target\n"), "ok", id="no-gpu"),
        pytest.param(quadlets("[Container]\n#AddDevice=nvidia.com/gpu=all\n[Install]\nWantedBy=a.target\n"), "ok", id="comment"),
        pytest.param(
            quadlets(
                "[Service]\nExecStart=/usr/bin/nerdctl run --gpus all x\n[Install]\nWantedBy=a.target\n",
                "/etc/systemd/system/whisper.service",
            ),
            "ok", id="not-podman",
        ),
        pytest.param(
            quadlets(QUADLET.format(more=""), **{REFRESH_ENV: TO_ETC, DYNAMIC: None, STATIC: spec()}),
            "ok", id="refresh-writes-etc",
        ),
        pytest.param(quadlets(QUADLET.format(more="")).but(commands={"podman": None}), "ok", id="no-podman"),
    ],
)  # fmt: skip
def test_podmans_services_at_boot(host: Host, expected: str) -> None:
    """podman-systemd.unit(5): a quadlet's service is started once at boot, as soon as its After= allows."""
    assert outcome(host, "GM314") == expected


ERROR = "Error: setting up CDI devices: unresolvable CDI devices nvidia.com/gpu=all"


@pytest.mark.parametrize(
    ("failed", "said", "expected"),
    [
        ("ollama.service\n", f"{ERROR}\n", "fail"),
        ("ollama.service\nnginx.service\n", "", "fail"),
        ("nginx.service\n", f"{ERROR}\n", "ok"),
        ("", "", "ok"),
    ],
)
def test_a_service_of_podman_that_failed(failed: str, said: str, expected: str) -> None:
    host = quadlets(WAIT + QUADLET.format(more="")).but(
        commands={"podman-failed": (0, failed, ""), "podman-errors": (0, said, "")}
    )
    assert outcome(host, "GM545") == expected
    if expected == "fail" and said:
        found = the(host, "GM545")
        assert "unresolvable CDI devices" in found.summary and "GM301" in found.cause
        assert "systemctl restart ollama.service" in found.remedy
    unknown = host.but(commands={"podman-failed": unread("timeout")})
    assert outcome(unknown, "GM545") == "unknown"


def test_a_service_that_wants_no_gpu_is_not_asked_for() -> None:
    host = quadlets("[Container]\nImage=x\n[Install]\nWantedBy=default.target\n")
    assert outcome(host.but(commands={"podman-failed": unread("timeout")}), "GM545") == "ok"


def test_a_quadlet_gets_a_spec_that_outlives_a_reboot_and_tells_no_secret() -> None:
    host = quadlets(
        "[Container]\nPodmanArgs=--env TOKEN=hunter2 --gpus all\n[Install]\nWantedBy=default.target\n"
    )
    found = the(host, "GM314")
    assert "ollama" in found.summary and "hunter2" not in str(found) and "hunter2" not in str(host.state())
    assert steps(host) == [("write", REFRESH_ENV), ("trigger", STATIC), ("remove", DYNAMIC)]
    assert codes(host.but(files={DYNAMIC: None, STATIC: spec(), REFRESH_ENV: TO_ETC})) == {}


def test_the_output_file_is_set_in_the_place_of_another() -> None:
    env = "NVIDIA_CTK_CDI_OUTPUT_FILE_PATH=/var/run/cdi/nvidia.yaml\nNVIDIA_CTK_DRIVER_ROOT=/\n"
    host = booting("auto", "1.18.1", "28.5.2", DEVICE, files={REFRESH_ENV: env})
    state, want = host.state(), parse({})
    made = plan(Context(state, want, "gpu1", TODAY), judge(state, want, "gpu1", TODAY).findings)
    [write] = [step for each in made.transactions for step in each.steps if isinstance(step, WriteFile)]
    assert write.data == env.replace("/var/run/cdi", "/etc/cdi").encode()


def test_a_static_spec_that_containers_need_at_boot_is_no_leftover() -> None:
    host = booting("auto", "1.18.1", "28.5.2", DEVICE, files={STATIC: spec()})
    assert outcome(host, "GM309") == "ok"
    assert ("remove", STATIC) not in steps(host)


def test_an_old_toolkit_is_only_switched_where_the_spec_outlives_a_reboot() -> None:
    gone = {"programs": {"nvidia-ctk": None}, "commands": {"nvidia-ctk": (0, "version 1.17.8\n", "")}}
    host = healthy("26.1.5", "1.17.8", mode="auto").but(files={STATIC: None, DYNAMIC: spec()}, **gone)
    assert the(host, "GM204").change is None


# --- no-cgroups in a user namespace

UNPRIVILEGED = "         0     100000      65536\n"
WHOLE = "         0          0 4294967295\n"


def test_lxc_no_cgroups() -> None:
    for host in (*lxc_no_cgroups.HOSTS.values(), lxc_gpus.HOST):
        found = verdict(host).findings
        assert "GM209" not in {each.code for each in found}
        assert "nvidia-container-cli.no-cgroups" not in edits_of(found)
    assert the(lxc_gpus.HOST, "GM204").change is None


@pytest.mark.parametrize(
    ("uid_map", "container_of", "expected"),
    [
        (UNPRIVILEGED, "lxc", "ok"),
        (UNPRIVILEGED, None, "ok"),
        (WHOLE, "lxc", "fail"),  # a privileged LXC has root's rights
        (WHOLE, None, "fail"),
        (None, "lxc", "ok"),
        (None, "docker", "fail"),
        ("0 0 1000\n1000 101000 64536\n", None, "ok"),
    ],
)
def test_gm209_by_the_user_namespace(uid_map: str | None, container_of: str | None, expected: str) -> None:
    host = lxc_no_cgroups.lxc("1.17.8", "legacy").but(
        files={"/proc/self/uid_map": uid_map, "/run/systemd/container": container_of}
    )
    assert outcome(host, "GM209", {"runtime": {"mode": "legacy"}}) == expected


def test_a_healthy_lxc_is_silent() -> None:
    host = lxc_no_cgroups.lxc("1.18.1", "auto").but(files={"/proc/self/uid_map": UNPRIVILEGED})
    assert codes(host) == {}


@pytest.mark.parametrize(
    ("uid_map", "toolkit", "mode", "wanted", "users", "expected"),
    [
        (UNPRIVILEGED, "1.17.8", "legacy", "legacy", False, "fail"),
        (UNPRIVILEGED, "1.17.8", "auto", "auto", False, "fail"),
        (UNPRIVILEGED, "1.18.1", "auto", "cdi", False, "ok"),
        (UNPRIVILEGED, "1.18.1", "auto", "cdi", True, "fail"),
        (WHOLE, "1.17.8", "legacy", "legacy", True, "ok"),
        (None, "1.17.8", "legacy", "legacy", True, "ok"),
    ],
)
def test_gm215(uid_map: str | None, toolkit: str, mode: str, wanted: str, users: bool, expected: str) -> None:
    host = lxc_no_cgroups.lxc(toolkit, mode, nc="false").but(files={"/proc/self/uid_map": uid_map})
    host = host.with_containers(*([container("jellyfin", gpus=True)] if users else []))
    want = {"runtime": {"mode": wanted}}
    assert outcome(host, "GM215", want) == expected
    assert edits_of(findings(host, "GM215", want)) == (
        {"nvidia-container-cli.no-cgroups": True} if expected == "fail" else {}
    )
    right = lxc_no_cgroups.lxc(toolkit, mode).but(files={"/proc/self/uid_map": uid_map})
    assert outcome(right, "GM215", want) == "ok"


# --- Swarm


def test_swarm_resource() -> None:
    found = the(swarm_resource.HOST, "GM204")
    assert found.change is None and "swarm-resource" in found.refused
    assert "GM214" not in codes(swarm_resource.HOST)


def swarm(toolkit: str, mode: str, **info: Any) -> Host:
    text = re.sub(r"(?m)^#?swarm-resource = .*$", 'swarm-resource = "DOCKER_RESOURCE_GPU"', config(mode))
    return healthy(toolkit=toolkit).but(files={CONFIG: text}, info=info)


@pytest.mark.parametrize(
    ("host", "wanted", "expected"),
    [
        (swarm("1.18.0", "auto"), "auto", "fail"),
        (swarm("1.18.2", "auto"), "cdi", "fail"),
        (swarm("1.17.8", "cdi"), "cdi", "fail"),
        (swarm("1.19.0", "auto"), "cdi", "ok"),
        (swarm("1.20.0", "cdi"), "cdi", "ok"),
        (swarm("1.17.8", "auto"), "auto", "ok"),
        (swarm("1.18.2", "legacy"), "legacy", "ok"),
        (swarm("1.18.2", "auto", Swarm={"LocalNodeState": "active"}), "cdi", "fail"),
        (swarm("1.18.2", "auto", Swarm={"LocalNodeState": "inactive"}), "cdi", "ok"),
        (healthy(toolkit="1.18.2", mode="auto"), "cdi", "ok"),
    ],
)
def test_gm214(host: Host, wanted: str, expected: str) -> None:
    assert outcome(host, "GM214", {"runtime": {"mode": wanted}}) == expected


def test_swarm_keeps_the_hook_before_1_19() -> None:
    assert the(swarm("1.18.2", "legacy"), "GM204").change is None
    assert edits_of(findings(swarm("1.19.0", "legacy"), "GM204")) == {MODE: "auto"}


# --- Docker from snap

REVISION = "/var/snap/docker/3505/config/daemon.json"


def snapped(version: str = "28.4.0", text: str | None = "{}", **more: Any) -> Host:
    from dataclasses import replace

    host = snap_provision.HOST.but(files={REVISION: text})
    assert host.docker is not None
    info = {**host.docker["info"], "ServerVersion": version, **more}
    return replace(host, docker={**host.docker, "info": {k: v for k, v in info.items() if v is not None}})


def test_snap_provision() -> None:
    assert codes(snap_provision.HOST, snap_provision.WANTED) == {}


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        pytest.param(snapped(), {}, id="healthy-28"),
        pytest.param(snapped("29.2.1"), {}, id="healthy-29"),
        pytest.param(snapped(Runtimes={"runc": {}}), {"GM408": "fail"}, id="its-support-is-off"),
        pytest.param(snapped("29.2.1", '{"log-level": '), {"GM401": "fail"}, id="its-own-file-is-read"),
    ],
)
def test_snap(host: Host, expected: dict[str, str]) -> None:
    assert codes(host, snap_provision.WANTED) == expected


def test_the_toolkits_packages_beside_the_snap() -> None:
    beside = {
        "programs": {"nvidia-ctk": "/usr/bin/nvidia-ctk"},
        "commands": {"nvidia-ctk": (0, "version 1.18.2\n", "")},
    }
    assert outcome(snapped("29.2.1").but(**beside), "GM408") == "fail"
    assert outcome(snapped("28.4.0").but(**beside), "GM408") == "ok"


# --- the GPU Operator

INSTALL = {"toolkit": {"install": True}}


def test_gpu_operator() -> None:
    for host in gpu_operator.HOSTS.values():
        assert codes(host) == {} and codes(host, INSTALL) == {}


@pytest.mark.parametrize("preinstalled", [True, False])
def test_the_operator_is_named_where_something_is_held_back(preinstalled: bool) -> None:
    root = gpu_operator.ROOT.replace("SystemdCgroup = true", "SystemdCgroup = false")
    host = gpu_operator.op(
        root=root, drop=gpu_operator.DROP.replace("SystemdCgroup = true", "SystemdCgroup = false")
    )
    found = the(host, "GM505")
    assert found.change is None and "GPU Operator" in found.refused


def test_what_an_operator_left_behind_is_told_though_it_is_not_the_default() -> None:
    """gpu-operator#1109: the drop-in stays with default_runtime_name = "runc"; pods of the class nvidia do not start."""
    whole = gpu_operator.op()
    host = whole.but(files={path: None for path in whole.files if path.startswith(gpu_operator.TK)})
    found = the(host, "GM010")
    assert (str(found.status), found.change) == ("fail", None)
    assert "nvidia: /usr/local/nvidia/toolkit/nvidia-container-runtime" in found.summary
    assert outcome(whole, "GM010") == "ok"
    half = whole.but(files={f"{gpu_operator.TK}nvidia-container-runtime": None})
    assert (outcome(half, "GM010"), outcome(half, "GM011")) == ("ok", "fail")


def test_leftovers_of_the_operator_name_the_binary() -> None:
    drop = gpu_operator.DROP.replace('default_runtime_name = "runc"', 'default_runtime_name = "nvidia"')
    whole = gpu_operator.op(drop=drop)
    assert codes(whole) == {}
    gone = whole.but(
        files={path: None for path in whole.files if path.startswith("/usr/local/nvidia/toolkit/")}
    )
    found = the(gone, "GM010")
    assert found.status == "fail" and "/usr/local/nvidia/toolkit/nvidia-container-runtime" in found.summary
    assert changes(gone) == set()


def test_the_operators_toolkit_is_judged_in_place() -> None:
    host = gpu_operator.op()
    path = "/usr/local/nvidia/toolkit/nvidia-ctk"
    assert path in the(host.but(files={path: None}), "GM011").summary
    text = "/usr/local/nvidia/toolkit/.config/nvidia-container-runtime/config.toml"
    assert "Invalid value" in the(host.but(files={text: "mode ="}), "GM011").summary
    assert outcome(host.but(files={text: None}), "GM011") == "ok"
    assert outcome(host.but(files={text: unread("denied")}), "GM011") == "unknown"


def test_a_driver_container_of_another_distribution() -> None:
    host = gpu_operator.op(preinstalled=False)
    old = "/run/nvidia/driver/usr/lib/x86_64-linux-gnu/"
    for new in ("/run/nvidia/driver/usr/lib64/", "/run/nvidia/driver/usr/lib/aarch64-linux-gnu/"):
        files: dict[str, Any] = {}
        for path, item in host.files.items():
            if path.startswith(old):
                files[path] = None
                moved = dict(item) if isinstance(item, dict) else item
                if isinstance(moved, dict) and "real" in moved:
                    moved["real"] = moved["real"].replace(old, new)
                files[path.replace(old, new)] = moved
        assert codes(host.but(files=files)) == {}
    gone = host.but(files={"/run/nvidia/driver/dev/nvidiactl": None})
    assert "/dev/nvidiactl" in the(gone, "GM105").summary and the(gone, "GM105").change is None


# --- clouds' images


def test_aks() -> None:
    assert codes(aks.HOST) == {}
    assert codes(aks.HOST.but(files={"/opt/azure/containers": a_directory()})) == {}


def test_the_default_runtime_is_judged_whatever_its_name() -> None:
    text = aks.AKS.replace(
        'default_runtime_name = "nvidia-container-runtime"', 'default_runtime_name = "untrusted"'
    )
    assert "untrusted" in the(kube("1.7.24", text), "GM505").summary


def test_a_vendors_file_is_not_edited_unless_opted_in() -> None:
    text = aks.AKS.replace("enable_cdi = true", "enable_cdi = false")
    host = kube("1.7.24", text)
    assert the(host, "GM504").change is not None
    marked = host.but(files={"/opt/azure/containers": a_directory()})
    assert the(marked, "GM504").change is None and "AKS" in the(marked, "GM504").refused
    assert the(marked, "GM504", {"allow_managed": ["aks"]}).change is not None
    assert the(marked, "GM504", {"allow_managed": ["eks"]}).change is None


EKS = (
    aks.AKS.replace("nvidia-container-runtime]", "nvidia]")
    .replace('default_runtime_name = "nvidia-container-runtime"', 'default_runtime_name = "nvidia"')
    .replace("runtimes.nvidia-container-runtime.options", "runtimes.nvidia.options")
)


def test_eks() -> None:
    assert codes(kube("1.7.24", EKS).but(files={"/etc/eks": a_directory()})) == {}


# bottlerocket-os/bottlerocket packages/containerd/containerd-config-toml_k8s_nvidia
BOTTLEROCKET = """version = 2
root = "/var/lib/containerd"
[plugins."io.containerd.grpc.v1.cri"]
enable_selinux = true
[plugins."io.containerd.grpc.v1.cri".containerd]
default_runtime_name = "nvidia"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.nvidia]
runtime_type = "io.containerd.runc.v2"
base_runtime_spec = "/etc/containerd/cri-base.json"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.nvidia.options]
SystemdCgroup = true
BinaryName = "nvidia-oci"
"""
OF_BOTTLEROCKET = "NAME=Bottlerocket\nID=bottlerocket\nVARIANT_ID=aws-k8s-1.31-nvidia\nVERSION_ID=1.26.1\n"
# cos-113: os-release; GKE's device plugin mounts the driver's directory itself (GoogleCloudPlatform/container-engine-accelerators)
OF_COS = 'NAME="Container-Optimized OS"\nID=cos\nVERSION_ID=113\nBUILD_ID=18244.151.14\n'
GKE = """version = 2
[plugins."io.containerd.grpc.v1.cri"]
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = true
"""
COS_LIBRARIES = "/home/kubernetes/bin/nvidia/lib64"
READ_ONLY = {
    "filesystems": {
        path: {"free": 50 << 30, "readonly": path != "/var/lib"} for path in ("/", "/etc", "/var/lib", "/run")
    }
}


def bottlerocket(text: str = BOTTLEROCKET) -> Host:
    return kube("1.7.24", text).but(
        files={"/etc/os-release": OF_BOTTLEROCKET, CONFIG: config("auto"), DYNAMIC: None},
        units={REFRESH: None},
        system=READ_ONLY,
    )


def cos(**files: Any) -> Host:
    """GKE's own node image: nothing of NVIDIA's toolkit, the driver's files where GKE's installer puts them."""
    base = kube("1.7.24", GKE)
    moved = {
        path: None
        for path in base.files
        if path.startswith(("/usr/local/nvidia", "/usr/bin/nvidia", "/usr/share/"))
    }
    return base.but(
        files={
            **moved,
            CONFIG: None,
            DYNAMIC: None,
            "/etc/os-release": OF_COS,
            **{f"{COS_LIBRARIES}/{name}.so.580.159.04": file("") for name in ("libcuda", "libnvidia-ml")},
            **{
                f"{COS_LIBRARIES}/{name}.so.1": link(
                    f"{name}.so.580.159.04", file(""), f"{COS_LIBRARIES}/{name}.so.580.159.04"
                )
                for name in ("libcuda", "libnvidia-ml")
            },
            **files,
        },
        programs=dict.fromkeys(
            (
                "nvidia-ctk",
                "nvidia-cdi-hook",
                "nvidia-container-runtime",
                "nvidia-container-runtime-hook",
                "nvidia-container-cli",
            )
        ),
        commands={
            "nvidia-ctk": None,
            "nvidia-smi": None,
            "nvidia-smi-query": None,
            "ldconfig": (
                0,
                "1 libs found in cache `/etc/ld.so.cache'\n\tlibc.so.6 (libc6,x86-64) => /lib64/libc.so.6\n",
                "",
            ),
        },
        units={REFRESH: None},
        system=READ_ONLY,
    )


def test_a_healthy_bottlerocket_and_a_healthy_node_of_gke_are_silent() -> None:
    for host in (bottlerocket(), cos()):
        for wanted in ({"runtime": {"mode": "auto"}}, {}):
            assert {code: status for code, status in codes(host, wanted).items() if code != "GM204"} == {}
            assert changes(host, wanted) == set()


def test_their_twins_with_one_fault_are_not() -> None:
    gone = bottlerocket(BOTTLEROCKET.replace('"nvidia-oci"', '"runc"'))
    assert the(gone, "GM503").change is None
    assert (
        outcome(bottlerocket().but(programs={"nvidia-ctk": None}, commands={"nvidia-ctk": None}), "GM203")
        == "ok"
    )
    missing = {f"/dev/{name}": None for name in ("nvidia-uvm", "nvidia-uvm-tools")}
    assert "GM105" in codes(cos(**missing))
    with_toolkit = cos().but(
        programs={
            "nvidia-ctk": "/usr/bin/nvidia-ctk",
            "nvidia-container-runtime": "/usr/bin/nvidia-container-runtime",
        }
    )
    assert "GM504" in codes(with_toolkit), "who brings the toolkit there wants it to work"


def test_every_manager_can_be_overruled() -> None:
    named = load("wanted")["properties"]["allow_managed"]["items"]["enum"]
    assert sorted(named) == sorted(manager.name for manager in MANAGERS)
    assert all(manager.title and manager.source and manager.owns for manager in MANAGERS)
    assert all(Component.RECOVER not in manager.owns for manager in MANAGERS)


# --- NixOS

NIX_SPEC = "/var/run/cdi/nvidia-container-toolkit.json"
NIX_DAEMON = "/nix/store/y-daemon.json"


def nix(text: str | None = None, daemon: str | None = None) -> Host:
    made = (text or spec()).replace("/usr/local/nvidia/lib64", "/run/opengl-driver/lib")
    return nixos.HOST.but(
        files={
            **named(spec().replace("/usr/local/nvidia/lib64", "/run/opengl-driver/lib")),
            NIX_SPEC: json.dumps(yaml.safe_load(made)),
            NIX_DAEMON: daemon or daemon_json("27.5.1"),
        },
        units={
            "docker.service": {
                "LoadState": "loaded",
                "ActiveState": "active",
                "ExecStart": f"{{ path=/nix/store/x ; argv[]=/nix/store/x-docker/bin/dockerd --config-file={NIX_DAEMON} ; }}",
            }
        },
    )


def test_nixos() -> None:
    found = codes(nixos.HOST, nixos.WANTED)
    assert found == {"GM012": "fail"}
    assert changes(nixos.HOST, {**nixos.WANTED, **INSTALL}) == set()


def test_a_healthy_nixos_is_silent() -> None:
    assert codes(nix(), nixos.WANTED) == {}


def test_nixos_own_files_are_judged_and_not_changed() -> None:
    off = nix(daemon='{"features": {"cdi": false}}').but(info={"CDISpecDirs": []})
    found = the(off, "GM404", nixos.WANTED)
    assert found.status == "fail" and found.change is None and "NixOS" in found.refused
    stale = nix(spec(None, ("libcuda.so.580.159.04", "libcuda.so.570.1.2")))
    assert the(stale, "GM012", nixos.WANTED).status == "fail"
    other = nixos.HOST.but(files={"/etc/os-release": "ID=guix\n"})
    assert codes(other, nixos.WANTED) == {"GM012": "fail"}
    assert "guix system reconfigure" in the(other, "GM012", nixos.WANTED).remedy
    assert "NixOS" not in the(other, "GM012", nixos.WANTED).remedy
    healthy_guix = nix().but(files={"/etc/os-release": "ID=guix\n"})
    assert codes(healthy_guix, nixos.WANTED) == {}


# --- what --gpus and legacy injection call

HOOK, CDI_HOOK, CLI = "nvidia-container-runtime-hook", "nvidia-cdi-hook", "nvidia-container-cli"
USER = container("job", gpus=True)


def test_hook_missing() -> None:
    assert HOOK in the(hook_missing.HOST, "GM203", hook_missing.WANTED).summary


@pytest.mark.parametrize(
    ("docker", "mode", "gone", "users", "missing"),
    [
        ("29.3.0", "auto", (HOOK,), (USER,), ""),
        ("29.3.0", "auto", (HOOK, CDI_HOOK), (), ""),
        ("28.5.2", "auto", (HOOK,), (USER,), HOOK),
        ("28.5.2", "auto", (HOOK,), (), ""),
        ("28.5.2", "auto", (CLI,), (USER,), CLI),
        ("28.5.2", "legacy", (CLI,), (), CLI),
        ("28.5.2", "auto", (CLI,), (), ""),
        ("29.3.0", "auto", (CLI,), (USER,), ""),
    ],
)
def test_gm203_by_use(docker: str, mode: str, gone: tuple[str, ...], users: Any, missing: str) -> None:
    host = healthy(docker, "1.18.2", mode=mode).but(programs=dict.fromkeys(gone)).with_containers(*users)
    found = findings(host, "GM203", {"runtime": {"mode": mode}})
    assert [missing in each.summary for each in found] == ([True] if missing else [])


def test_a_cli_that_config_toml_names_is_not_looked_for() -> None:
    text = re.sub(r'(?m)^#path = "/usr/bin/nvidia-container-cli"$', 'path = "/opt/cli"', config("legacy"))
    assert "/opt/cli" in text
    host = healthy(mode="legacy").but(programs={CLI: None}, files={CONFIG: text})
    assert outcome(host, "GM203", {"runtime": {"mode": "legacy"}}) == "ok"


# --- specs

STALE = ("libcuda.so.580.159.04", "libcuda.so.570.1.2")


def two(static: str | None, dynamic: str | None) -> Host:
    """A host without nvidia-cdi-refresh, with these two specs."""
    return healthy("28.5.2", "1.17.8").but(files={STATIC: static, DYNAMIC: dynamic})


def test_a_stale_spec_that_wins_goes_where_a_good_one_is() -> None:
    host = two(spec(), spec(None, STALE))
    assert the(host, "GM304").change is not None
    assert steps(host) == [("remove", DYNAMIC)]
    assert codes(host.but(files={DYNAMIC: None})) == {}


def test_a_stale_spec_that_wins_over_a_stale_one() -> None:
    host = two(spec(None, STALE), spec(None, STALE))
    assert steps(host) == [("generate", STATIC), ("remove", DYNAMIC)]


def test_two_good_specs_are_left_alone() -> None:
    assert codes(two(spec(), spec())) == {}


def test_another_programs_stale_spec_is_left_with_what_helps() -> None:
    host = healthy("28.5.2", "1.17.8").but(files={"/var/run/cdi/other.yaml": spec(None, STALE)})
    found = the(host, "GM304")
    assert found.change is None and "wins over" in found.remedy


HAND: list[tuple[str, tuple[str, str]]] = [
    ("env MODEL_DIR", ("NVIDIA_VISIBLE_DEVICES=void", "MODEL_DIR=/srv/models")),
    ("hook /opt/hook", ("path: /usr/bin/nvidia-cdi-hook", "path: /opt/hook")),
]


@pytest.mark.parametrize(("lost", "edit"), HAND, ids=[lost for lost, _ in HAND])
def test_a_spec_edited_by_hand_is_not_made_anew_where_that_loses_it(lost: str, edit: tuple[str, str]) -> None:
    """nvidia-cdi-refresh writes this one; of one that nobody else writes test_cdi_additions.py tells what is kept."""
    text = spec(None, edit, STALE)
    found = the(healthy().but(files={DYNAMIC: text, "/opt/hook": file("", 0o755)}), "GM304")
    assert found.change is None and lost in found.refused
    assert any(lost in item.text for item in found.evidence)


def test_a_generated_spec_has_nothing_made_by_hand() -> None:
    assert the(healthy("28.5.2", "1.17.8").but(files={STATIC: spec(None, STALE)}), "GM304").change is not None


def test_gm304_is_silent_about_what_two_files_define() -> None:
    foreign = f"{DYNAMIC.rpartition('/')[0]}/foreign.yaml"
    host = healthy().but(files={foreign: spec(None, ("cdiVersion: 0.5.0", "cdiVersion: 0.5.0"))})
    assert outcome(host, "GM303") == "fail"
    assert findings(host, "GM304") == []


def test_gm304_says_that_the_hooks_program_is_missing() -> None:
    host = healthy().but(programs={CDI_HOOK: None}, files={"/usr/bin/nvidia-cdi-hook": None})
    found = the(host, "GM304")
    assert found.change is None and "GM203" in found.refused and "not whole" in found.cause
    assert CDI_HOOK in the(host, "GM203").summary, "which says so"
    none = host.but(files={DYNAMIC: None})
    assert the(none, "GM301").change is None, "a spec that names it starts no container"
    assert CDI_HOOK in the(none, "GM203").summary
    elsewhere = healthy().but(programs={CDI_HOOK: None})
    assert outcome(elsewhere, "GM203") == "ok", "the spec names one that is there"
    older = healthy("28.5.2", "1.16.2").but(programs={CDI_HOOK: None}, files={STATIC: None})
    assert outcome(older, "GM203") == "ok" and the(older, "GM301").change is not None


# --- causes that are none


def test_config_toml_with_a_byte_order_mark() -> None:
    host = healthy(toolkit="1.20.0").but(files={CONFIG: b"\xef\xbb\xbf" + config().encode()})
    assert codes(host) == {}
    held = the(host.but(files={CONFIG: b"\xef\xbb\xbf" + config("legacy").encode()}), "GM204")
    assert held.change is None and "byte order mark" in held.refused


def test_a_link_to_nowhere_and_a_large_file_break_no_container() -> None:
    host = healthy(toolkit="1.20.0").but(files={CONFIG: dangling("/nowhere")})
    assert {code: status for code, status in codes(host).items() if code != "GM314"} == {"GM208": "warn"}
    assert Component.TOOLKIT not in changes(host, {"runtime": {"mode": "legacy"}})
    large = {**unread("failed"), "error": "larger than 1048576 bytes"}
    assert outcome(healthy().but(files={CONFIG: large}), "GM208") == "unknown"


@pytest.mark.parametrize(
    ("files", "named"),
    [({DAEMON_JSON: "{"}, "; GM401 says why"), ({DAEMON_JSON: '{"debug": true}'}, "in the journal.")],
)
def test_gm407_names_a_rule_only_where_it_says_something(files: dict[str, Any], named: str) -> None:
    unit = {"docker.service": {"LoadState": "loaded", "ActiveState": "failed", "Result": "exit-code"}}
    found: Finding = the(healthy().but(docker=None, processes=(), units=unit, files=files), "GM407")
    assert named in found.cause
    assert ("GM402" in found.cause) is False


def test_the_default_config_has_no_swarm_resource() -> None:
    assert re.search(r"(?m)^swarm-resource", fixture("config.default.toml")) is None
    assert process("/usr/bin/dockerd")["uid"] == 0
