"""containerd and GRIT on real daemons: report 001 on two nodes of each generation, over SSH."""

from __future__ import annotations

import base64
import tomllib
from collections.abc import Mapping
from typing import Any

import pytest

from gpumend.rules.finding import Component
from gpumend.run.attempt import rollback_data
from gpumend.run.programs import probe_program
from gpumend.state.containerd import cri_of, merge
from gpumend.state.host_state import parse
from gpumend.state.snapshot import Snapshot
from tests.nodes.conftest import Boot
from tests.nodes.drive import Target, audit, carry_out, mend, planned, result_of, start
from tests.nodes.faults import Before, fault
from tests.nodes.images import busybox_tar
from tests.nodes.lab import Lab, Node

GRIT = "/etc/containerd/grit.toml"
CONFIG = "/etc/containerd/config.toml"
CONF_D = "/etc/containerd/conf.d"
WANTED: Mapping[str, Any] = {"grit": {"role": "both", "pool": "h100"}}
REPORT_001 = '# written by setup-checkpoint-node.sh\nBinaryName = "/usr/bin/runc"   # see RECENT-UPDATES.md\n'
RIGHT = (
    'BinaryName = "/usr/bin/nvidia-container-runtime"\nRoot = "/run/containerd/runc"\nSystemdCgroup = false\n'
)
# CRI's table in a file of version 2, which is what Debian's packages of all three bring.
V2 = 'plugins."io.containerd.grpc.v1.cri"'
OVERLAY = 'plugins."io.containerd.snapshotter.v1.overlayfs"'
SUITES = ["bookworm", "trixie", "sid"]
STANDIN_SHIM = (
    "#!/bin/sh\n# STAND-IN for tests: containerd-shim-grit-v1 is found, and never started here.\nexit 1\n"
)


def equip(node: Node, grit: str) -> None:
    """The node has a shim of GRIT's name, and this grit.toml."""
    node.write("/usr/local/bin/containerd-shim-grit-v1", STANDIN_SHIM, 0o755)
    node.write(GRIT, grit)


def dump(node: Node) -> dict[str, Any]:
    """What containerd itself makes of its files."""
    return tomllib.loads(node.run(["containerd", "config", "dump"]).stdout)


def runtimes(node: Node) -> dict[str, Any]:
    """The CRI plugin's runtimes in containerd's own dump, under either name."""
    plugins = dump(node)["plugins"]
    section = plugins.get("io.containerd.cri.v1.runtime") or plugins["io.containerd.grpc.v1.cri"]
    return dict(section["containerd"]["runtimes"])


def start_container(node: Node) -> tuple[int, int]:
    """A container of busybox runs under containerd: (its pid, its shim's pid)."""
    node.sh("mkdir -p /srv/rootfs")
    node.run_bytes(["tar", "-xf", "-", "-C", "/srv/rootfs"], busybox_tar(node.suite))
    # ctr asks for CPU shares by default, and the lab's machine may lend its nodes no cpu controller
    node.run(
        [
            "ctr",
            "run",
            "--detach",
            "--cpu-shares",
            "0",
            "--rootfs",
            "/srv/rootfs",
            "job",
            "/bin/sleep",
            "3600",
        ]
    )
    pid = int(node.run(["ctr", "tasks", "ls"]).stdout.splitlines()[1].split()[1])
    shim = int(node.run(["ps", "-o", "ppid=", "-p", str(pid)]).stdout)
    return pid, shim


def alive(node: Node, *pids: int) -> bool:
    """Whether all these processes are there, and containerd still calls the task running."""
    there = all(node.exists(f"/proc/{pid}") for pid in pids)
    return there and "RUNNING" in node.run(["ctr", "tasks", "ls"]).stdout


@pytest.mark.parametrize("suite", SUITES)
def test_report_001_is_found_mended_and_stays(boot: Boot, lab: Lab, suite: str) -> None:
    bad, good = boot(suite), boot(suite)
    equip(bad, REPORT_001)
    equip(good, RIGHT)
    targets = [Target(node, wanted=WANTED) for node in (bad, good)]
    etc = bad.tree("/etc", "/var/lib/containerd")

    found = audit(lab, *targets)
    assert found.rc == 3, found.said
    assert "GM522" in found.codes(bad), found.said
    assert "GM522" not in found.codes(good)
    assert "GM525" in found.codes(bad) and "GM525" in found.codes(good)
    assert found.finding(bad, "GM522")["evidence"][0]["source"] == f"{GRIT}:2"
    assert bad.tree("/etc", "/var/lib/containerd") == etc, "an audit writes nothing"
    [pool] = found.report["parity"]
    blockers = {item["subject"]: item for item in pool["differences"] if item["class"] == "blocker"}
    assert pool["pool"] == "h100" and sorted(pool["hosts"]) == sorted((bad.name, good.name))
    assert set(blockers) == {"grit_binary"}, found.said
    assert "No mapping for" in blockers["grit_binary"]["error"]
    assert blockers["grit_binary"]["values"][bad.name] == "/usr/bin/runc"

    jobs = {node.name: start_container(node) for node in (bad, good)}
    bad.run(["docker", "run", "--detach", "--name", "keep", "base:1", "sleep", "3600"])
    pids = {node.name: node.main_pid("containerd") for node in (bad, good)}
    before = {node.name: node.read(CONFIG).decode() for node in (bad, good)}
    done = mend(lab, *targets)
    assert done.change(bad, Component.GRIT)["notified"] == "", done.said
    for node in (bad, good):
        assert done.statuses(node)[Component.CONTAINERD] == "changed", done.said
        assert alive(node, *jobs[node.name]), "the container and its shim outlive the restart"
        assert node.main_pid("containerd") != pids[node.name]
        assert node.read(CONFIG).decode().startswith(before[node.name].split("[plugins]")[0])
        assert not {"GM503", "GM504", "GM507", "GM522", "GM525"} & set(done.codes(node)), done.said
        table = runtimes(node)
        assert table["grit"]["runtime_type"] == "io.containerd.grit.v1"
        assert table["grit"]["pod_annotations"] == table["grit"]["container_annotations"] == ["grit.dev/*"]
        assert table["grit"]["options"]["ConfigPath"] == GRIT
        assert table["grit"]["options"]["TypeUrl"] == "containerd.runc.v1.Options"
        assert table["nvidia"]["options"]["BinaryName"] == "/usr/bin/nvidia-container-runtime"
        assert "runc" in table, "a file that names a runtime takes the default away before 2.0"
        assert " error" not in "".join(
            row for row in node.run(["ctr", "plugins", "ls"]).stdout.splitlines() if " cri " in row
        )
    assert Component.GRIT not in done.statuses(good)
    assert bad.run(["docker", "exec", "keep", "echo", "here"]).stdout == "here\n", (
        "Docker's containers run on"
    )
    text = bad.read(GRIT).decode()
    assert text == REPORT_001.replace("/usr/bin/runc", "/usr/bin/nvidia-container-runtime")
    assert not [item for item in done.report["parity"][0]["differences"] if item["class"] == "blocker"], (
        done.said
    )

    pids = {node.name: node.main_pid("containerd") for node in (bad, good)}
    trees = {node.name: node.tree("/etc") for node in (bad, good)}
    again = mend(lab, *targets)
    for node in (bad, good):
        assert again.statuses(node) == {}, again.said
        assert node.main_pid("containerd") == pids[node.name]
        assert node.tree("/etc") == trees[node.name]
        assert alive(node, *jobs[node.name])


@pytest.mark.parametrize("suite", SUITES)
def test_grit_toml_alone_restarts_nothing(boot: Boot, lab: Lab, suite: str) -> None:
    node = boot(suite)
    equip(node, RIGHT)
    target = Target(node, wanted=WANTED)
    mend(lab, target)
    node.write(GRIT, REPORT_001)
    pid = node.main_pid("containerd")
    done = mend(lab, target)
    assert done.statuses(node) == {Component.GRIT: "changed"}, done.said
    assert node.main_pid("containerd") == pid


NVIDIA = f'[{V2}.containerd.runtimes.nvidia]\n  runtime_type = "io.containerd.runc.v2"\n'
BROKEN = {  # (text, the line that is to blame)
    "duplicate-table": ('version = 2\n[debug]\n  level = "info"\n[debug]\n  level = "warn"\n', 4),
    "nvidia-twice": (f"version = 2\n{NVIDIA}{NVIDIA}", 4),
    "not-toml": ("version = 2\n[plugins\n", 2),
}


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_config_is_refused_with_its_line(shared_boot: Boot, lab: Lab, suite: str, name: str) -> None:
    node = shared_boot(suite)
    equip(node, RIGHT)
    kept = node.read(CONFIG)
    text, line = BROKEN[name]
    node.write(CONFIG, text)
    try:
        assert node.run(["containerd", "config", "dump"], check=False).returncode != 0, "it would not start"
        etc = node.tree("/etc")
        done = mend(lab, Target(node, wanted=WANTED))
        finding = done.finding(node, "GM501")
        assert finding["mends"] is None and finding["refused"]
        assert finding["summary"].startswith(f"{CONFIG}:{line}: ")
        assert done.statuses(node) == {}, done.said
        assert node.tree("/etc") == etc, "nothing is written"
    finally:
        node.write(CONFIG, kept)


@pytest.mark.parametrize("suite", SUITES)
def test_no_restart_where_it_would_stop_containers(boot: Boot, lab: Lab, suite: str) -> None:
    node = boot(suite)
    equip(node, RIGHT)
    node.write("/etc/systemd/system/containerd.service.d/kill.conf", "[Service]\nKillMode=control-group\n")
    node.sh("systemctl daemon-reload")
    config, pid = node.read(CONFIG), node.main_pid("containerd")
    done = mend(lab, Target(node, wanted=WANTED))
    assert "GM506" in done.codes(node), done.said
    assert "KillMode=control-group" in done.finding(node, "GM525")["refused"]
    assert node.read(CONFIG) == config and node.main_pid("containerd") == pid


def test_a_restart_that_waits_is_made_later(boot: Boot, lab: Lab) -> None:
    node = boot("trixie")
    equip(node, RIGHT)
    pid = node.main_pid("containerd")
    held = mend(lab, Target(node, wanted={**WANTED, "restarts": "never"}))
    assert held.statuses(node)[Component.CONTAINERD] == "pending", held.said
    assert node.main_pid("containerd") == pid and "grit" in runtimes(node)
    assert "GM508" in held.codes(node), "the running containerd does not have it"
    job = start_container(node)
    done = mend(lab, Target(node, wanted=WANTED))
    assert done.statuses(node) == {Component.CONTAINERD: "changed"}, done.said
    assert node.main_pid("containerd") != pid and alive(node, *job)
    assert "GM508" not in done.codes(node)


def cri_loads(node: Node) -> bool:
    """Whether containerd says that its CRI plugin is fine."""
    rows = [row.split() for row in node.run(["ctr", "plugins", "ls"]).stdout.splitlines()]
    return all(row[-1] == "ok" for row in rows if len(row) > 2 and row[1] == "cri")


def test_a_configuration_that_stops_cri_is_put_back(boot: Boot, lab: Lab) -> None:
    """containerd takes it, and starts; only its CRI plugin does not load. That is seen, and all is as before."""
    node = boot("trixie")
    equip(node, RIGHT)
    job, before = start_container(node), node.read(CONFIG)
    only = f'version = 2\n[{V2}.containerd.runtimes.nvidia]\n  runtime_type = "io.containerd.runc.v2"\n'
    data = planned(node, Component.CONTAINERD, "20261123T000000Z-0001", WANTED)
    data["steps"][0]["data"] = base64.b64encode(only.encode()).decode()
    data["tree"], data["expect"] = [["config.toml", data["steps"][0]["data"]]], []
    assert cri_loads(node)
    with fault("containerd that refuses the file"):
        seen = Before.of(node, CONFIG, GRIT)
        result = result_of(carry_out(node, data))
        assert result["status"] == "put_back" and "does not load" in result["detail"], result
        assert node.read(CONFIG) == before and cri_loads(node) and alive(node, *job)
        seen.check()
        seen.check_next(lab, Target(node, wanted=WANTED))
        assert alive(node, *job)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param({"expect": ["runtimes.nosuch"]}, "does not see", id="not-in-its-dump"),
        pytest.param({"tree": [["config.toml", "W3BsdWdpbnMK"]]}, "refuses", id="not-toml"),
    ],
)
def test_what_containerd_does_not_take_is_never_installed(
    shared_boot: Boot, change: dict[str, Any], words: str
) -> None:
    node = shared_boot("sid")
    equip(node, RIGHT)
    pid, etc, run = node.main_pid("containerd"), node.tree("/etc"), node.run(["ls", "/run"]).stdout
    data = {**planned(node, Component.CONTAINERD, "20261123T000000Z-0002", WANTED), **change}
    result = result_of(carry_out(node, data))
    assert result["status"] == "refused" and words in result["detail"], result
    assert node.main_pid("containerd") == pid and node.tree("/etc").keys() == etc.keys()
    assert {path: entry[0] for path, entry in node.tree("/etc").items()} == {p: e[0] for p, e in etc.items()}
    assert "gpumend-" not in node.run(["ls", "/run"]).stdout and "gpumend-" not in run


def test_rollback_puts_containerd_back(boot: Boot, lab: Lab) -> None:
    node = boot("sid")
    equip(node, REPORT_001)
    job, before = start_container(node), node.read(CONFIG)
    done = mend(lab, Target(node, wanted=WANTED))
    assert "grit" in runtimes(node), done.said
    back = result_of(carry_out(node, rollback_data(done.report["run"], "idle")))
    assert back["status"] == "changed", back
    assert node.read(CONFIG) == before and node.read(GRIT).decode() == REPORT_001
    assert "grit" not in runtimes(node) and alive(node, *job)


def test_parity_by_itself(shared_boot: Boot, lab: Lab) -> None:
    """`gpumend parity` over a pool, and over hosts that are in none."""
    nodes = [shared_boot(suite) for suite in ("trixie", "sid")]
    for node in nodes:
        equip(node, RIGHT)
    targets = [Target(node, wanted=WANTED) for node in nodes]
    pool_of = ("--data", "pool=h100")
    found = start(lab, *targets, deploy="parity", dry=True, more=pool_of).finish()
    assert found.report["kind"] == "parity"
    [pool] = found.report["parity"]
    differ = {item["subject"]: item["class"] for item in pool["differences"]}
    assert differ["containerd"] == differ["runc"] == "risk" and differ["enable_cdi"] == "blocker", found.said
    assert found.rc == 3 and "leads to: Error (criu/mount.c:3141): mnt: No mapping for" in found.stdout
    none = start(lab, *targets, deploy="parity", dry=True, more=("--data", "pool=other")).finish()
    assert none.rc == 1 and "no two hosts of pool other" in none.stderr and none.report["parity"] == []
    alone = start(lab, *nodes, deploy="parity", dry=True).finish()
    assert [group["pool"] for group in alone.report["parity"]] == ["all hosts"], alone.said


# Files beside Debian's own, as people and nvidia-ctk write them; (config.toml, drop-ins)
LAYOUTS: dict[str, tuple[str, dict[str, str]]] = {
    "plain": ("version = 2\n", {}),
    "one-runtime": (
        f'version = 2\n[{V2}.containerd.runtimes.a]\n  runtime_type = "io.containerd.runc.v2"\n',
        {},
    ),
    "drop-in": (
        f'version = 2\nimports = ["{CONF_D}/*.toml"]\n[{V2}.containerd.runtimes.a]\n  runtime_type = "io.containerd.runc.v2"\n'
        f"  [{V2}.containerd.runtimes.a.options]\n    SystemdCgroup = true\n",
        {"10.toml": f'version = 2\n[{V2}.containerd.runtimes.b]\n  runtime_type = "io.containerd.runc.v2"\n'},
    ),
    "drop-in-of-another-plugin": (
        f'version = 2\nimports = ["{CONF_D}/*.toml"]\n[{V2}.containerd.runtimes.runc]\n  runtime_type = "io.containerd.runc.v2"\n',
        {"10.toml": 'version = 2\n[plugins."io.containerd.internal.v1.opt"]\n  path = "/opt/x"\n'},
    ),
    "overlay-options": (
        f'version = 2\nimports = ["{CONF_D}/*.toml"]\n[{OVERLAY}]\n  mount_options = ["index=on"]\n',
        {"10.toml": f'version = 2\n[{OVERLAY}]\n  mount_options = ["nfs_export=on"]\n'},
    ),
    "wrong-name": (
        'version = 2\n[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.a]\n  runtime_type = "io.containerd.runc.v2"\n',
        {},
    ),
    "drop-in-without-a-version": (
        f'version = 2\nimports = ["{CONF_D}/*.toml"]\n',
        {"10.toml": f'[{V2}.containerd.runtimes.b]\n  runtime_type = "io.containerd.runc.v2"\n'},
    ),
    "drop-in-of-version-1": (
        f'version = 2\nimports = ["{CONF_D}/*.toml"]\n[{V2}.containerd.runtimes.a]\n  runtime_type = "io.containerd.runc.v2"\n',
        {
            "10.toml": 'version = 1\n[plugins.cri.containerd.runtimes.b]\n  runtime_type = "io.containerd.runc.v2"\n'
        },
    ),
    "drop-in-of-a-drop-in": (
        'version = 2\nimports = ["/etc/containerd/conf.d/10.toml"]\n',
        {
            "10.toml": f'version = 2\nimports = ["{CONF_D}/20.toml"]\n',
            "20.toml": f'version = 2\n[{V2}.containerd.runtimes.b]\n  runtime_type = "io.containerd.runc.v2"\n',
        },
    ),
    "not-imported": (
        "version = 2\n",
        {"10.toml": f'version = 2\n[{V2}.containerd.runtimes.b]\n  runtime_type = "io.containerd.runc.v2"\n'},
    ),
    "version-1": ('[plugins.cri.containerd.runtimes.a]\n  runtime_type = "io.containerd.runc.v2"\n', {}),
    "no-version": ("", {}),
}


V3 = 'plugins."io.containerd.cri.v1.runtime"'
# What only 2.x takes.
LAYOUTS_2: dict[str, tuple[str, dict[str, str]]] = {
    "drop-in-above": (
        f'version = 2\nimports = ["{CONF_D}/*.toml"]\n[{V2}.containerd.runtimes.a]\n  runtime_type = "io.containerd.runc.v2"\n',
        {"10.toml": f'version = 3\n[{V3}.containerd.runtimes.b]\n  runtime_type = "io.containerd.runc.v2"\n'},
    ),
    "drop-in-below": (
        f'version = 3\nimports = ["{CONF_D}/*.toml"]\n',
        {"10.toml": f'version = 2\n[{V2}.containerd.runtimes.b]\n  runtime_type = "io.containerd.runc.v2"\n'},
    ),
    "drop-in-below-beside-runtimes": (
        f'version = 3\nimports = ["{CONF_D}/*.toml"]\n[{V3}.containerd.runtimes.a]\n  runtime_type = "io.containerd.runc.v2"\n',
        {"10.toml": f'version = 2\n[{V2}.containerd.runtimes.b]\n  runtime_type = "io.containerd.runc.v2"\n'},
    ),
}


@pytest.mark.parametrize("suite", SUITES)
def test_files_are_merged_as_containerd_merges_them(shared_boot: Boot, suite: str) -> None:
    """Our own merge, which counts where nobody can ask containerd, is containerd's: names, types and cgroup drivers."""
    node = shared_boot(suite)
    kept = node.read(CONFIG)
    different = {}
    try:
        for name, (config, drop_ins) in (LAYOUTS | (LAYOUTS_2 if suite == "sid" else {})).items():
            node.sh('rm -rf "$1"', CONF_D)
            node.write(CONFIG, config)
            for file, text in drop_ins.items():
                node.write(f"{CONF_D}/{file}", text)
            state = parse(
                Snapshot.from_output(
                    node.run(["python3", "-I", "-S", "-B", "-"], input=probe_program()).stdout
                )
            )
            containerd = state.containerd
            theirs = cri_of(containerd.dump.need())
            ours = cri_of(merge(containerd.version.need(), containerd.path, containerd.parsed()))

            def seen(cri: Any) -> Any:
                table = {r.name: (r.type, r.systemd_cgroup) for r in cri.runtimes.values()}
                rest = cri.default, cri.enabled, cri.enable_cdi, cri.cdi_spec_dirs, cri.overlay_options
                return table, *rest

            if seen(ours) != seen(theirs):
                different[name] = (seen(ours), seen(theirs))
    finally:
        node.sh('rm -rf "$1"', CONF_D)
        node.write(CONFIG, kept)
    assert different == {}
