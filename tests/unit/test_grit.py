"""GM52x, GM53x, GM509, GM541 and parity: GRIT, CRIU, podman, and what two nodes have to share."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gpumend.rules.engines.criu import lint
from gpumend.rules.finding import Component
from gpumend.rules.parity import Level, compare
from gpumend.state.driver import CHAR_RULE
from tests.unit.build import (
    DYNAMIC,
    Host,
    besides_its_age,
    container,
    edits_of,
    file,
    findings,
    fixture,
    healthy,
    named,
    outcome,
    process,
    spec,
    the,
    unread,
    verdict,
)  # fmt: skip
from tests.unit.test_containerd import GRIT_TOML, k3s, transaction
from tests.unit.test_containerd import node as with_containerd
from tests.unit.test_cuda import smi

GRIT: dict[str, Any] = {"grit": {"role": "both"}}
RUNC_CONF = "/etc/criu/runc.conf"
NVIDIA = "/usr/bin/nvidia-container-runtime"


def grit(text: str | None, **more: Any) -> Host:
    """A node of GRIT with this grit.toml."""
    return with_containerd("2.1.9", fixture("grit/containerd_upstream_config.toml")).but(
        files={GRIT_TOML: text, NVIDIA: file("", 0o755), **more},
        programs={"cuda-checkpoint": "/usr/local/bin/cuda-checkpoint"},
    )


# --- the captures, as their names say


@pytest.mark.parametrize(
    ("name", "expected"),
    [("bad_runc_grit.toml", "fail"), ("report_fixed_grit.toml", "ok"), ("upstream_grit.toml", "ok")],
)
def test_captured_grit_toml(name: str, expected: str) -> None:
    host = grit(fixture(f"grit/{name}"))
    assert outcome(host, "GM522", GRIT) == expected
    assert [outcome(host, code, GRIT) for code in ("GM521", "GM523", "GM524")] == ["ok"] * 3


@pytest.mark.parametrize(
    ("name", "faults"),
    [
        ("report_default.conf", []),
        ("report_runc_v1.conf", []),
        ("report_runc_v2_breaks_dump.conf", ["mntns-compat-mode"]),
    ],
)
def test_captured_criu_conf(name: str, faults: list[str]) -> None:
    assert [fault.text for fault in lint(fixture(f"criu/{name}"))] == faults


def measured() -> dict[str, int]:
    found = json.loads(fixture("criu/conf_lint_expected.json"))
    return {key: rc for key, rc in found.items() if not key.startswith("_")}


@pytest.mark.parametrize(("case", "rc"), measured().items())
def test_lint_is_as_criu_itself(case: str, rc: int) -> None:
    """`criu check --config` of 4.2, measured; a case's words in brackets explain it."""
    text = case.split(" (")[0].replace(",", "\n")
    assert bool(lint(text)) == bool(rc)


@pytest.mark.parametrize(
    ("case", "conf", "expected"),
    [
        ("overlay, no options", None, "warn"),
        ("overlay + --force-irmap", "force-irmap\n", "warn"),
        ("overlay + --force-irmap --irmap-scan-path <root>", "force-irmap\nirmap-scan-path /\n", "ok"),
    ],
)
def test_watches_on_overlay_are_judged_as_the_experiment_went(
    case: str, conf: str | None, expected: str
) -> None:
    rc = json.loads(fixture("criu/inotify_overlay_experiment.json"))[case]["dump_rc"]
    host = criu("4.2", **{RUNC_CONF: conf})
    assert (rc == 1) == (expected == "warn") and outcome(host, "GM536", GRIT) == expected


def test_processes_that_watch_files_are_named() -> None:
    host = criu("4.2").but(commands={"criu-watchers": (0, "4711 python3\n4712 \\033[31m x\n", "")})
    found = the(host, "GM536", GRIT)
    assert found.status == "fail" and found.summary.startswith("2 processes in pods")
    assert ("/proc/4711/fdinfo", "python3 watches") in [
        (item.source, item.text[:15]) for item in found.evidence
    ]
    assert outcome(host.but(files={RUNC_CONF: "force-irmap\nirmap-scan-path /\n"}), "GM536", GRIT) == "ok"


OVERLAY_OPTIONS = (
    '[plugins."io.containerd.snapshotter.v1.overlayfs"]\n  mount_options = ["index=on", "nfs_export=on"]\n'
)


@pytest.mark.parametrize(
    ("version", "config", "exports", "watches"),
    [
        ("1.7.34", "version = 2\n" + OVERLAY_OPTIONS, "fail", "ok"),
        ("2.1.9", "version = 3\n" + OVERLAY_OPTIONS, "fail", "ok"),
        ("2.3.4", "version = 3\n" + OVERLAY_OPTIONS, "fail", "ok"),
        ("2.4.0", "version = 3\n" + OVERLAY_OPTIONS, "ok", "ok"),
        ("2.1.9", "version = 3\n", "ok", "warn"),
        ("2.1.9", "version = 3\n" + OVERLAY_OPTIONS.replace(', "nfs_export=on"', ""), "ok", "warn"),
    ],
)
def test_overlay_options_by_containerds_version(
    version: str, config: str, exports: str, watches: str
) -> None:
    host = criu("4.2").but(
        files={"/etc/containerd/config.toml": config},
        commands={"containerd": (0, f"containerd github.com/containerd/containerd {version} abc\n", "")},
    )
    assert (outcome(host, "GM539", GRIT), outcome(host, "GM536", GRIT)) == (exports, watches)


def test_overlay_options_in_a_k3s_template() -> None:
    """As a public script for GRIT writes it. The containerd that is a service has no say."""
    host = k3s(generated="version = 3\n" + OVERLAY_OPTIONS)
    assert outcome(host, "GM539") == "unknown", "its containerd does not say its version"
    old = host.but(
        commands={"k3s-containerd": (0, "containerd github.com/k3s-io/containerd v2.1.5-k3s1 x\n", "")}
    )
    assert the(old, "GM539").change is None and the(old, "GM539").status == "fail"


def test_watches_on_ext4_and_criu_4_3_are_fine() -> None:
    native = fixture("grit/containerd_upstream_config.toml").replace('"overlayfs"', '"native"')
    assert outcome(criu("4.2").but(files={"/etc/containerd/config.toml": native}), "GM536", GRIT) == "ok"
    assert outcome(criu("4.3"), "GM536", GRIT) == "ok"


# --- GM521 to GM524


@pytest.mark.parametrize(
    ("text", "line"), [("BinaryName = \n", 1), ("# x\nBinaryName = 'a'\nBinaryName = 'b'\n", 3), ("a\n", 1)]
)
def test_gm521(text: str, line: int) -> None:
    found = the(grit(text), "GM521", GRIT)
    assert found.change is None and found.summary.startswith(f"{GRIT_TOML}:{line}: ")
    assert outcome(grit(text), "GM522", GRIT) == "ok", "nothing is judged of it"


@pytest.mark.parametrize("text", ["BinaryName = 1\n", "SystemdCgroup = 'yes'\n", "IoUid = true\n"])
def test_gm521_a_wrong_type(text: str) -> None:
    found = the(grit(text), "GM521", GRIT)
    assert found.evidence[0].source == f"{GRIT_TOML}:1" and found.change is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param(None, "not there", id="absent"),
        pytest.param("", "no BinaryName", id="empty"),
        pytest.param('BinaryName = "/usr/bin/runc"\n', "no GPU", id="runc"),
        pytest.param('BinaryName = "/usr/sbin/crun"\n', "no GPU", id="crun"),
        pytest.param('binary_name = "/usr/bin/nvidia-container-runtime"\n', "ignored", id="snake-case"),
        pytest.param('BinaryName = "/usr/local/bin/containerd-shim-grit-v1"\n', "the shim itself", id="shim"),
        pytest.param('BinaryName = "/opt/gone/nvidia-container-runtime"\n', "is not there", id="gone"),
    ],
)
def test_gm522(text: str | None, words: str) -> None:
    found = the(grit(text), "GM522", GRIT)
    assert words in found.summary and edits_of([found]) == {"BinaryName": NVIDIA}
    assert found.change and found.change.component is Component.GRIT and found.change.service is None
    done = transaction(grit(text), GRIT, Component.GRIT)
    assert done is not None and done.service is None
    after = (done.steps[0].data or b"").decode()
    assert outcome(grit(after), "GM522", GRIT) == "ok"


def test_gm522_keeps_comments_and_unknown_keys() -> None:
    text = '# ours\nsite_key = 1  # keep\nBinaryName = "/usr/bin/runc"   # was wrong\n\n# end'
    done = transaction(grit(text), GRIT, Component.GRIT)
    assert done is not None and done.steps[0].data == text.replace("/usr/bin/runc", NVIDIA).encode()


def test_gm522_a_key_counts_in_any_case() -> None:
    host = grit('binaryname = "/usr/bin/runc"\n')
    assert edits_of(findings(host, "GM522", GRIT)) == {"binaryname": NVIDIA}


def test_gm522_a_runtime_that_cannot_be_executed() -> None:
    host = grit(f'BinaryName = "{NVIDIA}"\n', **{NVIDIA: file("", 0o644)})
    found = the(host, "GM522", GRIT)
    assert "cannot be executed" in found.summary and found.change is None and "chmod" in found.remedy


def test_gm522_is_judged_and_not_changed_where_grit_is_not_wanted() -> None:
    found = the(grit(fixture("grit/bad_runc_grit.toml")), "GM522")
    assert found.status == "fail" and found.change is None and "wanted state" in found.refused


@pytest.mark.parametrize(
    ("key", "words"),
    [("binary_name", "binaryname"), ("CriuPath", "containerd 2.0"), ("mode", "the decoder knows")],
)
def test_gm523(key: str, words: str) -> None:
    found = the(grit(f'BinaryName = "{NVIDIA}"\n{key} = "x"\n'), "GM523", GRIT)
    assert (
        found.status == "warn"
        and found.evidence[0].source == f"{GRIT_TOML}:2"
        and words in found.cause.lower()
    )


@pytest.mark.parametrize(
    ("text", "wanted", "expected"),
    [
        ("", {}, {}),
        ("SystemdCgroup = false\n", {"systemd_cgroup": True}, {"SystemdCgroup": True}),
        ("", {"systemd_cgroup": True}, {"SystemdCgroup": True}),
        ("SystemdCgroup = true\n", {}, {"SystemdCgroup": False}),
        ('Root = "/run/other"\n', {}, {"Root": "/run/containerd/runc"}),
        ('Root = "/run/other"\n', {"root": "/run/other"}, {}),
    ],
)
def test_gm524(text: str, wanted: dict[str, Any], expected: dict[str, Any]) -> None:
    wants = {"grit": {"role": "both", **wanted}}
    assert edits_of(findings(grit(f'BinaryName = "{NVIDIA}"\n{text}'), "GM524", wants)) == expected


def test_gm524_as_the_kubelet_has_it() -> None:
    host = grit(f'BinaryName = "{NVIDIA}"\n', **{"/var/lib/kubelet/config.yaml": "cgroupDriver: systemd\n"})
    assert edits_of(findings(host, "GM524", GRIT)) == {"SystemdCgroup": True}


@pytest.mark.parametrize(
    ("drop", "words"),
    [
        ('TypeUrl = "containerd.runc.v1.Options"', "options.TypeUrl"),
        ('ConfigPath = "/etc/containerd/grit.toml"', "options.ConfigPath"),
        ('pod_annotations = ["grit.dev/*"]', "pod_annotations"),
    ],
)
def test_gm525_what_the_table_lacks(drop: str, words: str) -> None:
    text = fixture("grit/containerd_upstream_config.toml").replace(drop, "")
    host = grit(f'BinaryName = "{NVIDIA}"\n', **{"/etc/containerd/config.toml": text})
    assert words in the(host, "GM525", GRIT).summary


# --- CRIU


def criu(version: str, check: tuple[int, str, str] = (0, "Looks good.\n", ""), **files: Any) -> Host:
    return grit(f'BinaryName = "{NVIDIA}"\n', **{"/usr/lib/criu/cuda_plugin.so": file(""), **files}).but(
        programs={"criu": "/usr/sbin/criu", "cuda-checkpoint": "/usr/local/bin/cuda-checkpoint"},
        commands={
            "criu": (0, f"Version: {version}\n", ""),
            "criu-check": check,
            "cuda-checkpoint": (0, "--action lock|checkpoint|restore|unlock\n", ""),
        },
    )


@pytest.mark.parametrize(
    ("version", "expected"), [("3.17.1", "fail"), ("4.0", "warn"), ("4.1", "ok"), ("4.2.1", "ok")]
)
def test_gm531(version: str, expected: str) -> None:
    assert outcome(criu(version), "GM531", GRIT) == expected


def test_gm531_bookworms_criu_with_the_reason() -> None:
    found = the(
        criu("3.17.1", (1, "", "Error (criu/vdso.c:1): vdso: Unexpected rt vDSO area bounds\n")),
        "GM531",
        GRIT,
    )
    assert "too old" in found.summary and "CUDA plugin" in found.summary and found.cause


def test_gm531_none_at_all() -> None:
    assert outcome(grit(f'BinaryName = "{NVIDIA}"\n'), "GM531", GRIT) == "fail"


def test_gm532_in_crius_words() -> None:
    host = criu("4.2", (1, "", "Warn: x\nError (criu/cr-check.c:9): no PIE\n"))
    assert "no PIE" in the(host, "GM532", GRIT).summary
    assert outcome(criu("4.2"), "GM532", GRIT) == "ok"


def test_gm532_unread_is_unknown() -> None:
    assert outcome(criu("4.2").but(commands={"criu-check": unread("timeout")}), "GM532", GRIT) == "unknown"


def test_gm532_a_criu_that_was_not_reached_is_unknown() -> None:
    """Captured: a root that may not make namespaces, as in a container."""
    host = criu("4.2", (1, "", "unshare: unshare failed: Operation not permitted\n"))
    assert outcome(host, "GM532", GRIT) == "unknown"


def test_gm533_a_cuda_checkpoint_that_does_not_start_is_unknown() -> None:
    said = "cuda-checkpoint: error while loading shared libraries: libcuda.so.1: cannot open shared object file\n"
    host = criu("4.2").but(commands={"cuda-checkpoint": (127, "", said)})
    assert outcome(host, "GM533", GRIT) == "unknown"


def test_gm533_criu_out_of_the_services_path() -> None:
    """runc calls criu by its name, and has the PATH of containerd, or of k3s with a containerd of its own."""
    host = criu("4.2").but(programs={"criu": "/opt/criu/sbin/criu"})
    assert isinstance(host.processes, tuple)

    def served(path: str) -> Host:
        process_of = {"/usr/bin/containerd": {"PATH": path}}
        rows = tuple({**item, "env": process_of.get(item["exe"], {})} for item in host.processes)
        return host.but(processes=rows)

    found = the(served("/usr/local/bin:/usr/bin"), "GM533", GRIT)
    assert found.summary == "/opt/criu/sbin/criu is not in containerd's PATH"
    assert outcome(served("/usr/local/bin:/opt/criu/sbin"), "GM533", GRIT) == "ok"


def test_gm533() -> None:
    assert outcome(criu("4.2"), "GM533", GRIT) == "ok"
    assert (
        "cuda_plugin.so" in the(criu("4.2", **{"/usr/lib/criu/cuda_plugin.so": None}), "GM533", GRIT).summary
    )
    assert "PATH" in the(criu("4.2").but(programs={"cuda-checkpoint": None}), "GM533", GRIT).summary
    old = criu("4.2").but(commands={"cuda-checkpoint": (0, "--toggle --pid\n", "")})
    assert "--action" in the(old, "GM533", GRIT).summary


def test_gm534_names_the_line() -> None:
    host = criu("4.2", **{RUNC_CONF: fixture("criu/report_runc_v2_breaks_dump.conf")})
    found = the(host, "GM534", GRIT)
    assert (
        found.status == "fail"
        and found.evidence[0].source == f"{RUNC_CONF}:10"
        and "restore" in found.summary
    )


def test_gm534_criu_has_the_last_word() -> None:
    host = criu("4.2", **{RUNC_CONF: "a-new-option\n"})
    assert outcome(host.but(commands={"criu-check-runc": (0, "", "")}), "GM534", GRIT) == "ok"
    assert outcome(host, "GM534", GRIT) == "warn"


def test_gm535_mps() -> None:
    host = criu("4.2")
    assert isinstance(host.processes, tuple)
    found = the(
        host.but(processes=(*host.processes, process("nvidia-cuda-mps-control", "-d"))), "GM535", GRIT
    )
    assert found.status == "fail" and "MPS" in found.summary and found.change is None
    assert outcome(host, "GM535", GRIT) == "ok"


MEMORY = "    FB Memory Usage\n        Total                                          : 81559 MiB\n"


@pytest.mark.parametrize(
    ("gpus", "total", "expected"),
    [(8, "2113409204", "ok"), (8, "527945352", "warn"), (1, "83516416", "ok"), (1, "83516000", "warn")],
)
def test_gm538(gpus: int, total: str, expected: str) -> None:
    text = smi(gpus=gpus).replace("    ECC Mode\n", f"{MEMORY}    ECC Mode\n")
    host = criu("4.2").but(
        commands={"nvidia-smi-query": (0, text, "")}, files={"/proc/meminfo": f"MemTotal:       {total} kB\n"}
    )
    assert outcome(host, "GM538", GRIT) == expected
    assert outcome(host.but(files={"/proc/meminfo": None}), "GM538", GRIT) == "unknown"


# --- GM509

UNLINKED = healthy().but(files={"/dev/char/195:0": None})


def runc(version: str) -> tuple[int, str, str]:
    return 0, f"runc version {version}\ncommit: {version}\nspec: 1.0.2\n", ""


@pytest.mark.parametrize(
    ("host", "wanted", "expected"),
    [
        pytest.param(healthy(mode="legacy"), {"runtime": {"mode": "legacy"}}, "warn", id="legacy-linked"),
        pytest.param(healthy(mode="legacy").but(files={"/dev/char/195:0": None}), {"runtime": {"mode": "legacy"}}, "warn", id="legacy"),
        pytest.param(healthy(mode="legacy"), {"runtime": {"mode": "cdi"}}, "ok", id="legacy-no-more"),
        pytest.param(healthy(mode="legacy").with_containers(container(runtime="nvidia")), {"runtime": {"mode": "cdi"}}, "warn", id="still-runs"),
        pytest.param(UNLINKED, {}, "ok", id="cdi"),
        pytest.param(UNLINKED.but(commands={"runc": runc("1.1.2")}), {}, "ok", id="cdi-runc-1.1.2"),
        pytest.param(UNLINKED.but(commands={"runc": runc("1.1.3")}), {}, "warn", id="cdi-runc-1.1.3"),
        pytest.param(UNLINKED.but(commands={"runc": runc("1.1.5+ds1")}), {}, "warn", id="cdi-runc-1.1.5"),
        pytest.param(healthy().but(commands={"runc": runc("1.1.5+ds1")}), {}, "ok", id="cdi-runc-1.1.5-linked"),
        pytest.param(healthy().but(files={"/dev/char/238:0": None}, commands={"runc": runc("1.1.5")}), {}, "warn", id="nvidia-uvm"),
        pytest.param(UNLINKED.but(commands={"runc": runc("1.1.7")}), {}, "ok", id="cdi-runc-1.1.7"),
        pytest.param(UNLINKED.but(commands={"runc": runc("1.2.4"), "systemd-version": (0, "systemd 239\n", "")}), {}, "warn", id="systemd-239"),
        pytest.param(UNLINKED.but(commands={"runc": runc("1.2.4"), "systemd-version": (0, "systemd 252\n", "")}), {}, "ok", id="systemd-252"),
        pytest.param(UNLINKED.but(commands={"runc": runc("1.2.4"), "systemd-version": (1, "", "no")}), {}, "unknown", id="systemd-unread"),
        pytest.param(UNLINKED.but(commands={"runc": (1, "", "no")}), {}, "unknown", id="runc-unread"),
        pytest.param(UNLINKED.but(commands={"runc": runc("1.1.5")}, info={"CgroupDriver": "cgroupfs"}), {}, "ok", id="cdi-cgroupfs"),
        pytest.param(healthy(mode="legacy").but(files={"/dev/char/195:0": None}, info={"CgroupDriver": "cgroupfs"}), {"runtime": {"mode": "legacy"}}, "ok", id="cgroupfs"),
        pytest.param(healthy().but(files={"/dev/char/195:0": None}).with_containers(container(gpus=True)), {}, "warn", id="--gpus"),
        pytest.param(healthy("29.2.1").but(files={"/dev/char/195:0": None}).with_containers(container(gpus=True)), {}, "ok", id="--gpus-by-cdi"),
    ],
)  # fmt: skip
def test_gm509(host: Host, wanted: dict[str, Any], expected: str) -> None:
    assert outcome(host, "GM509", wanted) == expected


LEGACY: dict[str, Any] = {"runtime": {"mode": "legacy"}}


def k3s_with(binary: str) -> Host:
    """A host of mode legacy with k3s, whose containerd has this runtime and systemd's cgroups. Docker has cgroupfs."""
    table = "[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.nvidia"
    made = f'version = 3\n{table}]\n  runtime_type = "io.containerd.runc.v2"\n{table}.options]\n'
    host = k3s(generated=f'{made}  BinaryName = "{binary}"\n  SystemdCgroup = true\n')
    text = healthy(mode="legacy").files["/etc/nvidia-container-runtime/config.toml"]
    return host.but(
        files={"/etc/nvidia-container-runtime/config.toml": text}, info={"CgroupDriver": "cgroupfs"}
    )


@pytest.mark.parametrize(
    ("host", "wanted", "expected"),
    [
        (k3s_with(NVIDIA), LEGACY, "warn"),
        (k3s_with(f"{NVIDIA}.cdi"), LEGACY, "ok"),
        (k3s_with(f"{NVIDIA}.legacy"), {"runtime": {"mode": "cdi"}}, "warn"),
        (k3s_with("/usr/bin/runc"), LEGACY, "ok"),
    ],
)
def test_gm509_of_k3s_own_containerd(host: Host, wanted: dict[str, Any], expected: str) -> None:
    assert outcome(host, "GM509", wanted) == expected
    if expected == "warn":
        ways = [item.text for item in the(host, "GM509", wanted).evidence if item.source == "injection"]
        assert ways == ["k3s's containerd's runtime nvidia in mode 'legacy'"]


def test_gm509_makes_links_now_and_at_boot() -> None:
    host = UNLINKED.but(commands={"runc": runc("1.1.5")})
    done = transaction(host, {}, Component.DRIVER)
    assert done is not None and [step.do for step in done.steps] == ["run", "write"]
    assert done.steps[0].argv[2] == "create-dev-char-symlinks" and done.steps[1].path == CHAR_RULE


# --- GM541


@pytest.mark.parametrize(
    ("version", "conf", "expected"),
    [
        ("4.3.1", None, "ok"),
        ("5.4.2", None, "ok"),
        ("5.5.1", None, "warn"),
        ("5.5.1", '[engine]\ncdi_spec_dirs = ["/etc/cdi", "/var/run/cdi"]\n', "ok"),
        ("5.8.0", None, "ok"),
        ("5.8.0", '[engine]\ncdi_spec_dirs = ["/etc/cdi"]\n', "warn"),
    ],
)
def test_gm541(version: str, conf: str | None, expected: str) -> None:
    host = healthy().but(
        commands={"podman": (0, f"podman version {version}\n", "")},
        files={"/etc/containers/containers.conf": conf},
    )
    assert outcome(host, "GM541") == expected
    if expected == "warn":
        assert bool(the(host, "GM541").change) == (conf is None)


# --- parity


def compared(**hosts: Host) -> dict[str, tuple[Level, tuple[str, ...]]]:
    found = compare({name: host.state() for name, host in hosts.items()})
    return {item.subject.name: (item.level, item.differ) for item in found}


NODE = grit(f'BinaryName = "{NVIDIA}"\n')


def test_equal_nodes_differ_in_nothing() -> None:
    assert compared(a=NODE, b=NODE) == {} and compared(a=NODE) == {}


@pytest.mark.parametrize(
    ("other", "subject", "level"),
    [
        pytest.param(grit(fixture("grit/bad_runc_grit.toml")), "grit_binary", Level.BLOCKER, id="report-001"),
        pytest.param(NODE.but(system={"machine": "aarch64"}), "arch", Level.BLOCKER, id="arch"),
        pytest.param(NODE.but(system={"kernel": "6.9.1"}), "kernel", Level.RISK, id="kernel"),
        pytest.param(
            NODE.but(files={RUNC_CONF: "external mnt[]\n"}), "runc_conf", Level.BLOCKER, id="runc.conf"
        ),
        pytest.param(
            grit(f'BinaryName = "{NVIDIA}"\nSystemdCgroup = true\n'), "grit", Level.RISK, id="cgroup"
        ),
        pytest.param(
            NODE.but(files={"/proc/sys/fs/inotify/max_user_instances": "128\n"}),
            "inotify",
            Level.RISK,
            id="inotify",
        ),
    ],
)
def test_what_differs(other: Host, subject: str, level: Level) -> None:
    assert compared(a=NODE, b=NODE, c=other) == {subject: (level, ("c",))}


def queried(host: Host, memory: str = "263945352", mig: str = "Disabled") -> Host:
    """The host with an answer of `nvidia-smi -q`, and so much memory (kB)."""
    text = smi().replace("    ECC Mode\n", f"{MEMORY}    ECC Mode\n", 1).replace("Disabled", mig, 1)
    return host.but(
        commands={"nvidia-smi-query": (0, text, "")},
        files={"/proc/meminfo": f"MemTotal:       {memory} kB\n"},
    )


@pytest.mark.parametrize(
    ("host", "subject", "level"),
    [
        pytest.param(queried(NODE, mig="Enabled"), "mig", Level.BLOCKER, id="mig-on"),
        pytest.param(NODE.but(programs={"cuda-checkpoint": None}), "cuda_checkpoint", Level.RISK, id="no-cuda-checkpoint"),
        pytest.param(queried(NODE, "40000000"), "memory", Level.RISK, id="less-memory-than-its-gpus"),
    ],
)  # fmt: skip
def test_what_no_node_may_lack_is_no_parity(host: Host, subject: str, level: Level) -> None:
    """Nodes that are equal in what no restore works with."""
    assert compared(a=host, b=host) == {subject: (level, ("a", "b"))}
    assert compared(a=queried(NODE), b=queried(NODE)) == {}
    assert compared(a=NODE, b=host, c=host)[subject] == (level, ("b", "c")), "the majority is not right"


def test_k3s_own_containerd_is_the_one_that_is_compared() -> None:
    def version(name: str) -> Host:
        said = f"containerd github.com/k3s-io/containerd {name} x\n"
        return k3s().but(
            commands={"k3s-containerd": (0, said, "")}, programs={"cuda-checkpoint": "/usr/bin/x"}
        )

    found = compared(a=version("v2.1.5-k3s1"), b=version("v2.1.4-k3s1"), c=version("v2.1.4-k3s1"))
    assert found == {"containerd": (Level.RISK, ("a",))}


def test_the_default_conf_of_criu_counts_too() -> None:
    other = NODE.but(files={"/etc/criu/default.conf": fixture("criu/report_default.conf")})
    assert compared(a=NODE, b=NODE, c=other) == {"default_conf": (Level.BLOCKER, ("c",))}


def test_defaults_and_comments_are_no_difference() -> None:
    same = grit(
        f'# the same\nBinaryName = "{NVIDIA}"\nSystemdCgroup = false\nRoot = "/run/containerd/runc"\n'
    )
    a = NODE.but(files={RUNC_CONF: "external mnt[]:sm\ntcp-established\n"})
    b = same.but(files={RUNC_CONF: "# x\ntcp-established\nexternal=mnt[]:sm\n"})
    assert compared(a=a, b=b) == {}


def test_cdi_paths_are_compared_by_content() -> None:
    static = spec().replace("580.159.04", "580.82.07")
    other = NODE.but(files={DYNAMIC: None, "/etc/cdi/nvidia.yaml": spec(), **named(spec())})
    assert compared(a=NODE, b=other) == {}, "the same paths by another file"
    newer = NODE.but(files={DYNAMIC: static, **named(static)})
    found = compare({"a": NODE.state(), "b": newer.state()})
    assert [item.subject.name for item in found] == ["cdi"]
    assert any("libcuda.so.580.82.07" in detail or "580.82.07" in detail for detail in found[0].details)


def test_device_nodes_are_compared_by_their_path_in_the_container() -> None:
    """runc's key for a device is its path inside; a driver root of its own shows on the host alone."""
    inside = spec().replace(
        "- path: /dev/nvidiactl\n",
        "- path: /dev/nvidiactl\n          hostPath: /run/nvidia/driver/dev/nvidiactl\n",
    )
    assert inside != spec()
    other = NODE.but(files={DYNAMIC: inside, **named(inside)})
    assert other.state().cdi.resolve().gpus() and "cdi" not in compared(a=NODE, b=other)


def test_unknown_is_never_a_mismatch() -> None:
    other = NODE.but(files={GRIT_TOML: unread("denied")})
    found = compared(a=NODE, b=other)
    assert {level for level, _ in found.values()} == {Level.UNKNOWN} and {"grit", "grit_binary"} <= set(found)


def test_without_a_majority_both_halves_differ() -> None:
    assert compared(a=NODE, b=NODE.but(system={"kernel": "6.9.1"}))["kernel"] == (Level.RISK, ("a", "b"))


def test_nothing_new_is_found_on_a_healthy_host() -> None:
    assert besides_its_age(verdict(healthy()).findings) == ()
