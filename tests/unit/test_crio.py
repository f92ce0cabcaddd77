"""GM551-GM556: CRI-O's drop-ins, what the running one says of itself, and what a mend makes of them.

The accounts of running ones in tests/fixtures/crio are CRI-O's own, of 1.34.11 and 1.28.0: `plain` without a file,
`status` with nvidia since its start, `reloaded` after a drop-in and `systemctl reload crio` alone.
"""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from gpumend.payload.change.crio_daemon import told_runtimes
from gpumend.rules.engines.crio import OURS, has_crio
from gpumend.rules.engines.engine import newest_readable
from gpumend.rules.finding import Component
from gpumend.rules.rule import Context
from gpumend.rules.wanted import Wanted
from gpumend.state.crio import CONFIG, DIRECTORY, LIBEXEC, SOCKET
from gpumend.state.toolkit import CONFIG as TOOLKIT
from tests.unit.build import (
    DYNAMIC,
    NOW,
    TODAY,
    Host,
    a_directory,
    config,
    file,
    findings,
    fixture,
    healthy,
    named,
    outcome,
    process,
    spec,
    the,
    verdict,
)
from tests.unit.test_containerd import transaction

UNIT = {"LoadState": "loaded", "ActiveState": "active", "KillMode": "control-group", "MainPID": "4242"}
PLAIN = fixture("crio/plain-1.34.11.toml")
RELOADED = fixture("crio/reloaded-1.34.11.toml")
STATUS = fixture("crio/status-1.34.11.toml")
NVIDIA = '[crio.runtime.runtimes.nvidia]\nruntime_path = "/usr/bin/nvidia-container-runtime"\nruntime_type = "oci"\n'
# As CRI-O's own packages bring it (cri-o packaging, 10-crio.conf).
PACKAGED = f"""[crio.runtime]
default_runtime = "crun"

[crio.runtime.runtimes.crun]
runtime_path = "{LIBEXEC}/crun"
runtime_root = "/run/crun"
monitor_path = "{LIBEXEC}/conmon"
allowed_annotations = [
    "io.containers.trace-syscall",
]
"""


def node(
    live: str | None = PLAIN, version: str = "1.34.11", argv: tuple[str, ...] = (), **drop_ins: str
) -> Host:
    """The healthy host with a CRI-O that runs, started an hour ago, and these files of crio.conf.d, older than that; the
    name of a file without its number and ending is its key: `n10_mine` is 10-mine.conf."""
    host = healthy()
    assert isinstance(host.processes, tuple)
    names = {key: f"{DIRECTORY}/{key[1:].replace('_', '-')}.conf" for key in drop_ins}
    return host.but(
        files={
            SOCKET: a_directory(),
            **{names[key]: file(text, mtime=NOW - 86400) for key, text in drop_ins.items()},
        },
        programs={"crio": "/usr/bin/crio", "conmon": "/usr/bin/conmon", "crun": "/usr/bin/crun"},
        commands={
            "crio": (0, fixture(f"crio/version-{version}.txt"), ""),
            "crio-live": None if live is None else (0, live, ""),
        },
        units={"crio.service": UNIT},
        processes=(*host.processes, process("/usr/bin/crio", *argv)),
    )


def codes(host: Host, **wanted: Any) -> set[str]:
    return {found.code for found in verdict(host, wanted).findings if found.code.startswith("GM55")}


def written(host: Host, **wanted: Any) -> dict[str, str]:
    """The files that a mend of CRI-O would write."""
    found = transaction(host, wanted, Component.CRIO)
    return {step.path: (step.data or b"").decode() for step in found.steps} if found else {}


def test_a_host_without_crio_is_not_judged() -> None:
    assert not has_crio(Context(healthy().state(), Wanted(), "gpu1", TODAY))


def test_the_runtime_is_registered_where_nvidia_ctk_would_write_it() -> None:
    host = node()
    assert codes(host) == {"GM552"}
    [(path, text)] = written(host).items()
    assert path == OURS == f"{DIRECTORY}/99-nvidia.toml"
    assert tomllib.loads(text)["crio"]["runtime"]["runtimes"]["nvidia"] == {
        "runtime_path": "/usr/bin/nvidia-container-runtime",
        "runtime_type": "oci",
        "monitor_path": "/usr/bin/conmon",
    }
    found = transaction(host, {}, Component.CRIO)
    assert found is not None and found.service == ("crio.service", "restart"), (
        "a reload starts no pod with it"
    )
    assert found.validate == ("crio", "--config", "", "--config-dir", "{tree}", "config")
    [proof] = found.proofs
    assert proof.path == ("crio", "runtime", "runtimes", "nvidia", "runtime_path") and proof.engine == "crio"
    assert proof.value == "/usr/bin/nvidia-container-runtime"
    assert dict(found.tree) == {"001.conf": text.encode()}


def test_what_the_running_one_tells_for_proof() -> None:
    """A runtime that has no path of its own is told with none, and not with the next one's."""
    nvidia = {"nvidia": "/usr/bin/nvidia-container-runtime"}
    assert told_runtimes(STATUS).items() >= nvidia.items()
    assert "nvidia" not in told_runtimes(PLAIN) and set(told_runtimes(PLAIN)) == {"crun"}
    bare = '[crio.runtime.runtimes.a]\nruntime_type = "oci"\n[crio.runtime.runtimes.b]\nruntime_path = "/b"\n'
    assert told_runtimes(bare) == {"b": "/b"}


@pytest.mark.parametrize("version", ["1.34.11", "1.28.0"])
def test_it_is_fine_once_the_running_one_has_it(version: str) -> None:
    live = fixture(f"crio/plain-{version}.toml") + NVIDIA + 'monitor_path = "/usr/bin/conmon"\n'
    host = node(live, version, n99_nvidia=NVIDIA + 'monitor_path = "/usr/bin/conmon"\n')
    assert codes(host) == set()


def test_what_the_default_runtime_says_of_its_monitor_holds_for_nvidia() -> None:
    """CRI-O's packages have conmon outside of PATH: without monitor_path it would not start."""
    host = node(n10_crio=PACKAGED).but(programs={"conmon": None})
    made = tomllib.loads(written(host)[OURS])["crio"]["runtime"]["runtimes"]["nvidia"]
    assert made["monitor_path"] == f"{LIBEXEC}/conmon"
    assert made["allowed_annotations"] == ["io.containers.trace-syscall"]
    assert "runtime_root" not in made and made["runtime_path"] == "/usr/bin/nvidia-container-runtime"


def test_a_wrong_path_is_corrected_where_it_stands() -> None:
    wrong = '# ours\n[crio.runtime.runtimes.nvidia]\nruntime_path = "/usr/bin/runc" # old\nprivileged_without_host_devices = true\n'
    host = node(n20_gpu=wrong, n99_z='[crio.runtime]\nlog_level = "info"\n')
    assert written(host) == {
        f"{DIRECTORY}/20-gpu.conf": wrong.replace("/usr/bin/runc", "/usr/bin/nvidia-container-runtime")
    }
    found = transaction(host, {}, Component.CRIO)
    assert found is not None and [name for name, _ in found.tree] == ["001.conf", "002.conf"]
    assert b"nvidia-container-runtime" in found.tree[0][1] and b"log_level" in found.tree[1][1]
    assert the(host, "GM552").evidence[1].source == f"{DIRECTORY}/20-gpu.conf:2"


def test_a_later_file_replaces_a_runtime_whole() -> None:
    """pkg/config UpdateFromDropInFile decodes into the same map: an entry of a later file is not merged with it."""
    host = node(
        n10_a='[crio.runtime.runtimes.nvidia]\nruntime_path = "/usr/bin/nvidia-container-runtime"\n',
        n20_b='[crio.runtime.runtimes.nvidia]\nruntime_type = "oci"\n',
    )
    assert "calls a program `nvidia` in its PATH" in the(host, "GM552").summary
    assert list(written(host)) == [f"{DIRECTORY}/20-b.conf"]


def test_a_runtime_that_was_only_reloaded_starts_no_pod() -> None:
    without = '[crio.runtime.runtimes.nvidia]\nruntime_path = "/usr/bin/nvidia-container-runtime"\n'
    host = node(RELOADED, n99_nvidia=without)
    assert codes(host) == {"GM555"}
    assert "no monitor_path" in the(host, "GM555").summary
    found = transaction(host, {}, Component.CRIO)
    assert found is not None and found.steps == () and found.service == ("crio.service", "restart")


def test_a_reload_that_shows_everything_is_told_by_the_time_of_the_file() -> None:
    whole = NVIDIA + 'monitor_path = "/usr/bin/conmon"\n'
    host = node(PLAIN + whole)
    late = host.but(files={OURS: file(whole, mtime=NOW - 60)})
    assert codes(host.but(files={OURS: file(whole, mtime=NOW - 86400)})) == set()
    assert codes(late) == {"GM555"}
    level = host.but(
        files={
            OURS: file(whole, mtime=NOW - 86400),
            f"{DIRECTORY}/50-log.conf": file('[crio.runtime]\nlog_level = "debug"\n', mtime=NOW - 60),
        }
    )
    assert codes(level) == set(), "a level is reloaded"


def test_the_running_one_is_behind_its_files() -> None:
    host = node(PLAIN, n99_nvidia=NVIDIA, n10_mine='[crio.runtime]\ndefault_runtime = "nvidia"\n')
    said = [item.text for item in the(host, "GM555").evidence]
    assert "no runtime nvidia" in said and "default_runtime = 'crun', not 'nvidia'" in said
    assert codes(node(STATUS, n99_nvidia=NVIDIA)) == set()


def test_who_does_not_answer_is_unknown() -> None:
    host = node(n99_nvidia=NVIDIA).but(commands={"crio-live": (1, "", "connection refused\n")})
    assert outcome(host, "GM555") == "unknown"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        pytest.param('[crio.runtime]\nlog_level = "info"\n[crio.runtime]\n', ":3", id="table-twice"),
        pytest.param("[crio.runtime\n", ":1", id="not-toml"),
        pytest.param('[crio.runtime]\ncdi_spec_dirs = "/etc/cdi"\n', "", id="wrong-type"),
        pytest.param("crio = 1\n", "", id="no-table"),
        pytest.param("[crio.runtime.runtimes]\nnvidia = 1\n", "", id="runtime-is-no-table"),
    ],
)
def test_a_broken_file_is_refused_with_its_line(text: str, line: str) -> None:
    host = node(n50_broken=text)
    found = the(host, "GM551")
    assert found.change is None and found.refused
    assert found.evidence[0].source == f"{DIRECTORY}/50-broken.conf{line}"
    assert codes(host) == {"GM551"} and written(host) == {}


def test_files_of_any_name_count() -> None:
    host = node().but(files={f"{DIRECTORY}/.10-mine.conf.swp": file("\x00b0VIM")})
    assert codes(host) == {"GM551"}


@pytest.mark.parametrize(
    ("dirs", "lacking"),
    [('["/etc/cdi"]', "/var/run/cdi"), ('["/run/cdi"]', "/etc/cdi"), ('["/etc/cdi", "/var/run/cdi"]', "")],
)
def test_narrow_spec_directories(dirs: str, lacking: str) -> None:
    mine = f"[crio.runtime]\ncdi_spec_dirs = {dirs}  # mine\n"
    host = node(n10_mine=mine, n99_nvidia=NVIDIA)
    found = findings(host, "GM553")
    assert [lacking in item.summary for item in found] == ([True] if lacking else [])
    if lacking:
        assert written(host) == {
            f"{DIRECTORY}/10-mine.conf": mine.replace(dirs, '["/etc/cdi", "/var/run/cdi"]')
        }


@pytest.mark.parametrize(("manager", "expected"), [("", "warn"), ('cgroup_manager = "cgroupfs"\n', "ok")])
def test_pods_of_crio_lose_the_gpu_at_a_daemon_reload_too(manager: str, expected: str) -> None:
    """Its cgroup manager is systemd by default (docs/crio.conf.5.md)."""
    text = f"[crio.runtime]\n{manager}{NVIDIA}"
    host = node(STATUS, n99_nvidia=text).but(
        files={TOOLKIT: config("legacy")}, info={"CgroupDriver": "cgroupfs"}
    )
    assert outcome(host, "GM509", {"runtime": {"mode": "legacy"}}) == expected
    assert outcome(host.but(files={TOOLKIT: config("cdi")}), "GM509") == "ok"


def test_before_1_24_there_is_no_cdi() -> None:
    host = node(n10_mine='[crio.runtime]\ncdi_spec_dirs = ["/etc/cdi"]\n')
    old = host.but(commands={"crio": (0, "crio version 1.23.5\n", "")})
    assert findings(old, "GM553") == []


def test_the_default_runtime() -> None:
    lost = node(n99_nvidia='[crio.runtime]\ndefault_runtime = "kata"\n')
    found = the(lost, "GM554")
    assert (
        found.status == "fail"
        and found.change is None
        and found.evidence[0].source == f"{DIRECTORY}/99-nvidia.conf:2"
    )
    wanted = {"crio": {"default_runtime": "nvidia"}}
    text = written(node(), **wanted)[OURS]
    assert tomllib.loads(text)["crio"]["runtime"]["default_runtime"] == "nvidia"
    assert "there is no runtime 'kata'" in the(node(), "GM554", {"crio": {"default_runtime": "kata"}}).refused


@pytest.mark.parametrize(
    ("host", "wanted", "why"),
    [
        pytest.param(node(), {"crio": {"manage": False}}, "crio.manage is false", id="not-managed"),
        pytest.param(
            node(argv=("--config-dir", "/srv/crio.d")), {}, "started with --config-dir", id="elsewhere"
        ),
        pytest.param(node().but(units={"crio.service": None}), {}, "no systemd unit", id="by-hand"),
        pytest.param(
            node().but(units={"crio.service": {**UNIT, "MainPID": "1"}}), {}, "not the one of", id="another"
        ),
    ],
)
def test_what_holds_it_back(host: Host, wanted: dict[str, Any], why: str) -> None:
    found = the(host, "GM552", wanted)
    assert found.change is None and why in found.refused


def test_a_restart_that_may_not_be_waits() -> None:
    found = transaction(node(), {"restarts": "never"}, Component.CRIO)
    assert found is not None and found.gate == "restarts is `never`" and found.steps


def test_without_systemd_the_audit_says_that_crio_is_restarted_by_hand() -> None:
    found = transaction(node().but(files={"/run/systemd/system": None}), {}, Component.CRIO)
    assert found is not None and found.steps and "restart crio by hand" in found.gate


def test_an_oci_runtime_beside_crio_is_named_by_its_path() -> None:
    host = node(n10_crio=PACKAGED).but(
        programs={"runc": None, "crun": None},
        files={f"{LIBEXEC}/crun": file("", 0o755), TOOLKIT: config()},
    )
    change = the(host, "GM556").change
    assert change is not None and change.component is Component.TOOLKIT
    [edit] = change.edits
    assert edit.keys == ("nvidia-container-runtime", "runtimes") and edit.value[-1] == f"{LIBEXEC}/crun"
    assert findings(node(), "GM556") == []


def test_a_spec_that_crio_is_too_old_for() -> None:
    """CRI-O 1.28 reads up to 0.6.0 (vendored pkg/cdi)."""
    assert newest_readable("crio", (1, 28, 0)) == (0, 6, 0)
    assert newest_readable("crio", (1, 23)) is None
    assert newest_readable("containerd", (1, 7, 24)) == (0, 7, 0)


@pytest.mark.parametrize(("version", "expected"), [("1.28.0", "fail"), ("1.34.11", "ok")])
def test_additional_group_ids_hide_the_gpu_from_an_old_crio(version: str, expected: str) -> None:
    """Toolkit 1.19.1 and newer; on a node with CRI-O 1.28.0: `CDI device injection failed: unresolvable CDI devices`."""
    text = spec(None, ("containerEdits:\n    env:", "containerEdits:\n    additionalGids: [44]\n    env:"))
    text = text.replace("cdiVersion: 0.5.0", "cdiVersion: 0.7.0")
    live = fixture(f"crio/plain-{version}.toml")
    toolkit = (0, "NVIDIA Container Toolkit CLI version 1.19.1\n", "")
    host = node(live, version).but(files={DYNAMIC: text, **named(text)}, commands={"nvidia-ctk": toolkit})
    assert outcome(host, "GM308") == expected
    if expected == "fail":
        found = the(host, "GM308")
        assert "crio 1.28.0 cannot read" in found.summary and found.change is not None


def test_no_environment_of_crio_leaves_the_host() -> None:
    secret = STATUS.replace("[crio.runtime]\n", '[crio.runtime]\n    default_env = ["PASSWORD=hunter2"]\n')
    assert secret != STATUS
    assert "hunter2" not in str(node(secret).answer()["commands"])


def test_the_files_are_where_crio_looks() -> None:
    assert (CONFIG, DIRECTORY) == ("/etc/crio/crio.conf", "/etc/crio/crio.conf.d")
