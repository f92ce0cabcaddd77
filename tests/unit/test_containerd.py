"""GM501-GM512, GM525: containerd's files over its generations, k3s around it, and what a mend makes of them."""

from __future__ import annotations

import tomllib
from pathlib import PurePosixPath
from typing import Any

import pytest

from gpumend.payload.probe.processes import without_secrets
from gpumend.plan.plan import plan
from gpumend.plan.transaction import Transaction
from gpumend.rules.evidence import where
from gpumend.rules.finding import Component
from gpumend.rules.judge import judge
from gpumend.rules.rule import Context
from gpumend.rules.wanted import parse as parse_wanted
from gpumend.state.containerd import (
    CONFIG,
    V2_PLUGIN,
    V3_PLUGIN,
    Cri,
    counting_version,
    cri_of,
    merge,
    names_read,
)
from gpumend.state.flavours import FLAVOURS
from gpumend.state.host_state import besides_of
from gpumend.text.edits import EditError
from gpumend.text.edits.toml_lines import set_value
from tests.unit.build import (
    DYNAMIC,
    NOW,
    TODAY,
    Host,
    a_directory,
    file,
    findings,
    fixture,
    healthy,
    outcome,
    process,
    spec,
    the,
    unread,
    verdict,
)

GRIT_TOML = "/etc/containerd/grit.toml"
GRIT: dict[str, Any] = {"grit": {"role": "both"}}
RUNTIMES: dict[str, Any] = {"containerd": {"runtimes": ["nvidia"]}}
DEBIAN = fixture("containerd/debian.toml")  # what Debian's packages of 1.6, 1.7 and 2.1 bring
GOOD_UNIT = {
    "LoadState": "loaded",
    "ActiveState": "active",
    "KillMode": "process",
    "Delegate": "yes",
    "MainPID": "4242",
}
KUBELET = "/var/lib/kubelet/config.yaml"
K3S = FLAVOURS[0]


def node(
    version: str = "1.7.24", config: str | None = DEBIAN, dump: str | None = None, **drop_ins: str
) -> Host:
    """The healthy host with a containerd of its own that runs, and these files. Without `dump` nobody can ask it, so that
    its files are merged by us; drop_ins: the files of conf.d by their names without .toml."""
    host = healthy()
    assert isinstance(host.processes, tuple)
    files: dict[str, Any] = {CONFIG: config}
    files.update({f"/etc/containerd/conf.d/{name}.toml": text for name, text in drop_ins.items()})
    return host.but(
        files=files,
        programs={
            "containerd": "/usr/bin/containerd",
            "containerd-shim-grit-v1": "/usr/local/bin/containerd-shim-grit-v1",
        },
        commands={
            "containerd": (0, f"containerd github.com/containerd/containerd {version} abc\n", ""),
            "containerd-config": None if dump is None else (0, dump, ""),
        },
        units={"containerd.service": GOOD_UNIT},
        processes=(*host.processes, process("/usr/bin/containerd")),
    )


def transaction(
    host: Host, wanted: dict[str, Any], component: Component = Component.CONTAINERD
) -> Transaction | None:
    wants = parse_wanted(wanted)
    state = host.state()
    judged = judge(state, wants, "gpu1", TODAY)
    return plan(Context(state, wants, "gpu1", TODAY), judged.findings).get(component)


def written(host: Host, wanted: dict[str, Any]) -> dict[str, str]:
    """The files that a mend of containerd would write."""
    found = transaction(host, wanted)
    return {step.path: (step.data or b"").decode() for step in found.steps} if found else {}


def cri(host: Host) -> Cri:
    return host.state().containerd.cri()


def after(host: Host, wanted: dict[str, Any]) -> Host:
    """The host as a mend of containerd leaves it: its files, and a process that started afterwards."""
    return host.but(files=written(host, wanted))


# --- which name counts


@pytest.mark.parametrize(
    ("version", "counts", "own", "names"),
    [
        ((1, 6, 20), 2, 2, (V2_PLUGIN,)),
        ((1, 6, 20), 3, 3, (V2_PLUGIN,)),  # takes any number, and reads it as 2
        ((1, 7, 24), 1, 1, ("cri",)),
        ((2, 1, 9), 2, 2, (V2_PLUGIN, V3_PLUGIN)),
        ((2, 1, 9), 3, 3, (V3_PLUGIN,)),
        ((2, 1, 9), 3, 2, (V3_PLUGIN,)),  # a drop-in above the root: the root is not converted any more
        ((2, 1, 9), 3, 1, (V3_PLUGIN,)),
        ((1, 7, 24), 2, 1, (V2_PLUGIN,)),  # a drop-in without a version is read as its root is
        ((1, 7, 24), 1, 2, ("cri",)),  # a drop-in of version 1 makes all of it version 1
        ((2, 1, 9), 2, 1, ("cri", V2_PLUGIN, V3_PLUGIN)),  # converted to its root's version, and with it
        ((2, 3, 4), 4, 2, (V2_PLUGIN, V3_PLUGIN)),  # 2.3 converts each file by itself
        ((2, 3, 4), 4, 4, (V3_PLUGIN,)),
    ],
)
def test_names_that_count(version: tuple[int, ...], counts: int, own: int, names: tuple[str, ...]) -> None:
    assert names_read(version, counts, own) == names


@pytest.mark.parametrize(
    ("version", "files", "counts"),
    [
        ((1, 7, 24), (), 1),
        ((1, 7, 24), (2, None), 2),
        ((1, 7, 24), (2, 1), 1),
        ((2, 1, 9), (None,), 3),
        ((2, 1, 9), (2, 3), 3),
        ((2, 1, 9), (3, 2), 2),
        ((2, 1, 9), (2, 1), 2),
        ((2, 1, 9), (4,), 4),
        ((2, 3, 4), (3, 2), 4),
    ],
)
def test_the_version_that_counts_for_all(
    version: tuple[int, ...], files: tuple[int | None, ...], counts: int
) -> None:
    """LoadConfig and mergeConfig: the last that a file names."""
    assert counting_version(version, [{} if own is None else {"version": own} for own in files]) == counts


def runtime(name: str, plugin: str = V2_PLUGIN, **options: Any) -> str:
    rows = "".join(
        f"  {key} = {str(value).lower() if isinstance(value, bool) else repr(value)}\n"
        for key, value in options.items()
    )
    table = f'plugins."{plugin}".containerd.runtimes.{name}'
    return f'[{table}]\n  runtime_type = "io.containerd.runc.v2"\n[{table}.options]\n{rows}'


MAIN = "version = 2\nimports = ['/etc/containerd/conf.d/*.toml']\n" + runtime("runc", SystemdCgroup=True)


@pytest.mark.parametrize(
    ("version", "systemd", "names"),
    [
        ("1.6.20", None, {"nvidia"}),
        ("1.7.34", None, {"nvidia"}),
        ("2.0.0", True, {"nvidia", "runc"}),
        ("2.1.9", True, {"nvidia", "runc"}),
        ("2.3.4", True, {"nvidia", "runc"}),
    ],
)
def test_a_drop_in_replaces_the_table_before_2_0(version: str, systemd: bool | None, names: set[str]) -> None:
    host = node(version, MAIN, **{"99-nvidia": "version = 2\n" + runtime("nvidia", BinaryName="/n")})
    found = cri(host)
    assert set(found.runtimes) == names
    assert ("runc" in found.runtimes and found.runtimes["runc"].systemd_cgroup) == bool(systemd)


IMPORTS = MAIN.splitlines()[1] + "\n"


def names(host: Host) -> set[str]:
    return set(cri(host).runtimes)


def test_version_3_takes_runtimes_of_version_2_along_only_where_it_has_none() -> None:
    """plugins/cri/runtime migrateConfig: what is there under the newer name stays, the rest is converted."""
    older = {"99": "version = 2\n" + runtime("nvidia")}
    assert names(node("2.1.9", "version = 3\n" + IMPORTS, **older)) == {"nvidia", "runc"}
    beside = node("2.1.9", "version = 3\n" + IMPORTS + runtime("a", V3_PLUGIN), **older)
    assert names(beside) == {"a", "runc"}
    found = the(beside, "GM502", RUNTIMES)
    assert "lost beside those" in found.summary and found.evidence[0].source.endswith("99.toml:2")
    assert "GM502" in the(beside, "GM503", RUNTIMES).refused
    each = node("2.3.4", "version = 3\n" + IMPORTS + runtime("a", V3_PLUGIN), **older)
    assert names(each) == {"a", "nvidia", "runc"} and outcome(each, "GM502", RUNTIMES) == "ok"


def test_imports_of_a_drop_in_count() -> None:
    """LoadConfig goes on with the imports of each file that it reads."""
    host = node(
        "2.1.9",
        "version = 2\nimports = ['conf.d/10.toml']\n",
        **{"10": "version = 2\nimports = ['/etc/containerd/config.d/*.toml']\n" + runtime("a")},
    ).but(files={"/etc/containerd/config.d/x.toml": "version = 2\n" + runtime("b")})
    assert names(host) == {"a", "b", "runc"} and outcome(host, "GM502", RUNTIMES) == "ok"


def test_what_nothing_imports_has_no_effect() -> None:
    """As nvidia-ctk leaves it where the main file has no `version`; broken, it does no harm."""
    host = node("2.1.9", "version = 2\n", **{"99-nvidia": "version = 2\n" + runtime("nvidia")})
    assert names(host) == {"runc"}
    found = the(host, "GM502", RUNTIMES)
    assert found.status == "warn" and found.summary.startswith("/etc/containerd/conf.d/99-nvidia.toml ")
    assert "nvidia" in names(after(host, RUNTIMES))
    broken = node("2.1.9", "version = 2\n", bad="[x\n")
    assert outcome(broken, "GM501", RUNTIMES) == "ok" and "nvidia" in names(after(broken, RUNTIMES))


def test_relative_imports_with_a_star_before_1_7() -> None:
    """1.6 looks for them below the daemon's own directory, `/` (resolveImports of v1.6.20)."""
    text, drop_in = (
        "version = 2\nimports = ['conf.d/*.toml']\n",
        {"99": "version = 2\n" + runtime("a") + runtime("runc")},
    )
    assert "a" in names(node("1.7.24", text, **drop_in))
    found = the(node("1.6.20", text, **drop_in), "GM503", RUNTIMES)
    assert found.status == "unknown" and "/conf.d/*.toml" in found.summary + found.evidence[0].source


# --- GM501, GM502: files that containerd would not take, or not heed

BROKEN = {
    "duplicate-table": ("version = 2\n[debug]\n[debug]\n", 3),
    "not-toml": ("version = 2\n[plugins\n", 2),
    "two-values": ("version = 2\nversion = 3\n", 2),
}


@pytest.mark.parametrize(("config", "line"), BROKEN.values(), ids=BROKEN.keys())
@pytest.mark.parametrize("version", ["1.6.20", "1.7.24", "2.1.9"])
def test_gm501(version: str, config: str, line: int) -> None:
    host = node(version, config)
    found = the(host, "GM501", GRIT)
    assert found.status == "fail" and found.change is None and found.refused
    assert found.summary.startswith(f"{CONFIG}:{line}: ")
    assert written(host, GRIT) == {}


def test_gm501_a_broken_drop_in_is_named() -> None:
    found = the(node("2.1.9", MAIN, bad="version = 2\n[x\n"), "GM501", GRIT)
    assert found.summary.startswith("/etc/containerd/conf.d/bad.toml:2: ")


@pytest.mark.parametrize(
    ("version", "number", "expected"),
    [
        ("1.6.20", 3, "ok"),
        ("1.7.24", 3, "fail"),
        ("2.1.9", 3, "ok"),
        ("2.1.9", 4, "fail"),
        ("1.7.24", 2, "ok"),
    ],
)
def test_gm501_a_version_that_is_too_new(version: str, number: int, expected: str) -> None:
    assert outcome(node(version, f"version = {number}\n"), "GM501", RUNTIMES) == expected


@pytest.mark.parametrize(("version", "refused"), [("2.1.9", False), ("2.2.7", False), ("2.3.4", True)])
def test_gm501_a_drop_in_above_the_root(version: str, refused: bool) -> None:
    """2.3 does not start with one; 2.0 to 2.2 read the root's names no more (GM502)."""
    host = node(version, MAIN, **{"99": "# x\nversion = 3\n" + runtime("nvidia", V3_PLUGIN)})
    found = findings(host, "GM501", RUNTIMES)
    assert bool(found) == refused and bool(findings(host, "GM502", RUNTIMES)) != refused
    if refused:
        assert found[0].summary.startswith("/etc/containerd/conf.d/99.toml:2: version = 3 is above")
        assert written(host, RUNTIMES) == {}


def test_gm501_in_containerds_own_words() -> None:
    host = node("2.1.9").but(
        commands={"containerd-config": (1, "", "containerd: failed to load: no such thing\n")},
        besides=besides_of(RUNTIMES),
    )
    assert "no such thing" in the(host, "GM501", RUNTIMES).summary


@pytest.mark.parametrize(
    ("version", "config", "drop_ins", "expected"),
    [
        pytest.param("1.7.24", "version = 2\n" + runtime("nvidia", V3_PLUGIN), {}, ["fail"], id="v3-name-in-1.7"),
        pytest.param("2.1.9", "version = 3\n" + runtime("nvidia", V2_PLUGIN), {}, ["fail"], id="v2-name-in-v3"),
        pytest.param("2.1.9", "version = 2\n" + runtime("nvidia", V2_PLUGIN), {}, [], id="v2-in-2.1-is-converted"),
        pytest.param("2.1.9", MAIN, {"99": "version = 3\n" + runtime("nvidia", V3_PLUGIN)}, ["fail"], id="drop-in-above-the-root"),
        pytest.param("2.1.9", runtime("nvidia", "cri"), {}, ["fail"], id="no-version-in-2.1"),
        pytest.param("1.7.24", runtime("nvidia", "cri"), {}, [], id="no-version-in-1.7-is-converted"),
        pytest.param("1.7.24", MAIN, {"99": "version = 2\n" + runtime("nvidia", SystemdCgroup=True)}, ["warn"], id="drop-in-replaces"),
        pytest.param("2.1.9", MAIN, {"99": "version = 2\n" + runtime("nvidia", SystemdCgroup=True)}, [], id="drop-in-adds"),
        pytest.param("2.1.9", 'version = 3\n[plugins."io.containerd.grpc.v1.cri"]\n  stream_server_port = "0"\n', {}, [], id="streaming"),
        pytest.param("1.7.24", MAIN, {"99": runtime("nvidia") + runtime("runc", SystemdCgroup=True)}, [], id="drop-in-without-a-version"),
        pytest.param("1.7.24", MAIN, {"99": "version = 1\n" + runtime("nvidia", "cri")}, ["fail"], id="drop-in-of-version-1"),
        pytest.param("2.1.9", MAIN, {"99": runtime("nvidia", "cri")}, [], id="drop-in-without-a-version-in-2.1"),
        pytest.param("2.0.0", MAIN, {"99": "version = 2\n" + runtime("nvidia", SystemdCgroup=True)}, [], id="drop-in-adds-in-2.0"),
    ],
)  # fmt: skip
def test_gm502(version: str, config: str, drop_ins: dict[str, str], expected: list[str]) -> None:
    found = findings(node(version, config, **drop_ins), "GM502", RUNTIMES)
    assert [finding.status for finding in found] == expected
    assert all(":" in finding.evidence[0].source for finding in found), "file and line"


# --- GM503 to GM507, GM525: what a mend writes


@pytest.mark.parametrize("version", ["1.6.20", "1.7.24", "2.1.9"])
@pytest.mark.parametrize(
    "config",
    [
        pytest.param(None, id="no-file"),
        pytest.param("", id="empty"),
        pytest.param("version = 2\n", id="version"),
        pytest.param(DEBIAN, id="debian"),
        pytest.param(MAIN.replace("imports", "# imports"), id="runc"),
        pytest.param("# mine\r\nversion = 2\r\n[debug]\r\n  level = 'info' # keep\r\n", id="crlf"),
    ],
)
def test_one_mend_is_enough(version: str, config: str | None) -> None:
    host = node(version, config)
    done = after(host, GRIT)
    found = cri(done).runtimes
    assert {"runc", "nvidia", "grit"} <= set(found), (
        "the default runtime stays, or the CRI plugin would not load"
    )
    assert found["nvidia"].binary == "/usr/bin/nvidia-container-runtime"
    assert found["grit"].type == "io.containerd.grit.v1"
    assert found["grit"].pod_annotations == found["grit"].container_annotations == ("grit.dev/*",)
    assert dict(found["grit"].options) == {"ConfigPath": GRIT_TOML, "TypeUrl": "containerd.runc.v1.Options"}
    assert cri(done).enable_cdi is (None if version.startswith("1.6") else True)
    left = [
        f.code
        for f in verdict(done, GRIT).findings
        if f.change and f.change.component is Component.CONTAINERD
    ]
    assert left == []
    rest = iter(written(host, GRIT)[CONFIG].splitlines())
    assert all(line in rest for line in (config or "").splitlines()), (
        "its lines are all there, in their order"
    )


def test_the_whole_candidate_goes_through_containerd() -> None:
    found = transaction(node("1.7.24"), GRIT)
    assert found is not None and found.service == ("containerd.service", "restart")
    assert found.validate == ("containerd", "--config", "{tree}/config.toml", "config", "dump")
    assert dict(found.tree)["config.toml"] == found.steps[0].data
    assert any("runtimes" in pattern and "grit" in pattern for pattern in found.expect)


def test_before_2_1_the_drop_in_that_counts_is_edited() -> None:
    """nvidia-ctk's 99-nvidia.toml repeats the CRI's table: what the main file says has no effect there."""
    drop_in = (
        "version = 2\n" + runtime("nvidia", BinaryName="/usr/bin/nvidia-container-runtime") + runtime("runc")
    )
    host = node(
        "1.7.24", "version = 2\nimports = ['/etc/containerd/conf.d/*.toml']\n", **{"99-nvidia": drop_in}
    )
    files = written(host, GRIT)
    assert set(files) == {"/etc/containerd/conf.d/99-nvidia.toml"}
    found = transaction(host, GRIT)
    assert found is not None
    staged = {name: tomllib.loads(data.decode()) for name, data in found.tree}
    assert staged["config.toml"]["imports"] == ["{tree}/0.toml"]
    assert "grit" in staged["0.toml"]["plugins"][V2_PLUGIN]["containerd"]["runtimes"]
    assert "grit" in cri(after(host, GRIT)).runtimes


def test_from_2_1_on_the_main_file_is_edited_beside_a_drop_in() -> None:
    host = node(
        "2.1.9",
        MAIN,
        **{"99-nvidia": "version = 2\n" + runtime("nvidia", BinaryName="/usr/bin/nvidia-container-runtime")},
    )
    assert set(written(host, GRIT)) == {CONFIG}


@pytest.mark.parametrize(
    ("unit", "words"),
    [
        ({**GOOD_UNIT, "KillMode": "control-group"}, "KillMode=control-group"),
        ({**GOOD_UNIT, "MainPID": "7"}, "not the one of containerd.service"),
    ],
)
def test_no_change_where_a_restart_is_not_safe(unit: dict[str, str], words: str) -> None:
    host = node().but(units={"containerd.service": unit})
    assert words in the(host, "GM525", GRIT).refused and written(host, GRIT) == {}


def test_restarts_never_is_pending() -> None:
    found = transaction(node(), {**GRIT, "restarts": "never"})
    assert found is not None and found.gate == "restarts is `never`"


def test_without_systemd_the_audit_says_that_containerd_is_restarted_by_hand() -> None:
    """A restart was promised, and mend took the change back."""
    found = transaction(node().but(files={"/run/systemd/system": None}), GRIT)
    assert found is not None and found.steps and "restart containerd by hand" in found.gate


def test_nothing_is_changed_that_is_not_managed() -> None:
    wanted = {**GRIT, "containerd": {"manage": False}}
    assert (
        the(node(), "GM525", wanted).refused == "containerd.manage is false" and written(node(), wanted) == {}
    )


def test_an_import_from_elsewhere_holds_back() -> None:
    host = node("2.1.9", "version = 2\nimports = ['/srv/*.toml']\n", dump="version = 3\n")
    host = host.but(besides=besides_of(GRIT))
    assert "imports /srv/*.toml" in the(host, "GM525", GRIT).refused


def test_docker_alone_needs_nothing_of_containerd() -> None:
    assert [f.code for f in verdict(node()).findings if f.code.startswith("GM5")] == []


def test_gm503_the_runtimes_of_single_modes_are_nvidias() -> None:
    """nvidia-container-runtime.cdi and .legacy come with the toolkit; a file that names one was changed."""
    for name in ("nvidia-container-runtime.cdi", "nvidia-container-runtime.legacy"):
        path = f"/usr/bin/{name}"
        host = node("2.1.9", "version = 2\n" + runtime("nvidia", BinaryName=path)).but(
            files={path: file("", 0o755)}
        )
        assert outcome(host, "GM503", RUNTIMES) == "ok"
    hook = node(
        "2.1.9", "version = 2\n" + runtime("nvidia", BinaryName="/usr/bin/nvidia-container-runtime-hook")
    )
    assert outcome(hook, "GM503", RUNTIMES) == "fail"


def test_gm503_a_runtime_that_is_gone() -> None:
    """As the GPU operator leaves it."""
    path = "/usr/local/nvidia/toolkit/nvidia-container-runtime"
    host = node("2.1.9", "version = 2\n" + runtime("nvidia", BinaryName=path))
    found = the(host, "GM503", RUNTIMES)
    assert found.status == "fail" and found.summary.endswith(f"calls {path}, which is not there")
    assert cri(after(host, RUNTIMES)).runtimes["nvidia"].binary == "/usr/bin/nvidia-container-runtime"
    assert outcome(host.but(files={path: file("", 0o755)}), "GM503", RUNTIMES) == "ok"


def kubelet(driver: str) -> dict[str, Any]:
    return {KUBELET: f"apiVersion: kubelet.config.k8s.io/v1beta1\ncgroupDriver: {driver}\n"}


@pytest.mark.parametrize(("driver", "expected"), [("systemd", "fail"), ("cgroupfs", "ok")])
def test_gm505(driver: str, expected: str) -> None:
    host = node(
        "1.7.24",
        "version = 2\n" + runtime("runc") + runtime("nvidia", BinaryName="/usr/bin/nvidia-container-runtime"),
    )
    host = host.but(files=kubelet(driver))
    assert isinstance(host.processes, tuple)
    host = host.but(
        processes=(*host.processes, process("/usr/bin/kubelet", "--config=/var/lib/kubelet/config.yaml"))
    )
    assert outcome(host, "GM505") == expected
    if expected == "fail":
        assert all(found.systemd_cgroup for found in cri(after(host, {})).runtimes.values())


def test_a_runc_that_does_not_say_its_version_has_none() -> None:
    """runc built without its version says `unknown`; the next dotted number is the OCI specification's."""
    said = "runc version unknown\ncommit: v1.2.0-0-g0b9fa21\nspec: 1.2.0\ngo: go1.22.1\nlibseccomp: 2.5.5\n"
    assert healthy().but(commands={"runc": (0, said, "")}).state().containerd.runc.status == "failed"
    known = said.replace("version unknown", "version 1.1.5+ds1")
    assert healthy().but(commands={"runc": (0, known, "")}).state().containerd.runc.value == (1, 1, 5)


JSON = "/etc/kubernetes/kubelet/config.json"
KUBELET_D = "/etc/kubernetes/kubelet.conf.d"


@pytest.mark.parametrize(
    ("argv", "files", "expected"),
    [
        pytest.param([f"--config={JSON}"], {JSON: '{\n  "kind": "x",\n  "cgroupDriver": "systemd",\n}\n'}, "fail", id="json"),
        pytest.param([f"--config={JSON}"], {JSON: '{"kind":"x","cgroupDriver":"systemd"}'}, "fail", id="json-on-one-line"),
        pytest.param(["--config", KUBELET], {KUBELET: 'cgroupDriver: "systemd" # ours\n'}, "fail", id="quoted"),
        pytest.param([f"--config={KUBELET}", f"--config-dir={KUBELET_D}/"], {**kubelet("cgroupfs"), f"{KUBELET_D}/10.conf": "cgroupDriver: systemd\n"}, "fail", id="drop-in"),
        pytest.param([f"--config-dir={KUBELET_D}"], {f"{KUBELET_D}/10.conf": "cgroupDriver: systemd\n", f"{KUBELET_D}/20.conf": "cgroupDriver: cgroupfs\n"}, "ok", id="later-drop-in"),
        pytest.param([f"--config={KUBELET}"], {**kubelet("cgroupfs"), f"{KUBELET_D}/10.conf": "cgroupDriver: systemd\n"}, "ok", id="drop-in-that-it-does-not-read"),
        pytest.param([f"--config={KUBELET}", "--cgroup-driver=systemd"], kubelet("cgroupfs"), "fail", id="flag"),
        pytest.param(["--config=/srv/kubelet.yaml"], kubelet("systemd"), "unknown", id="elsewhere"),
        pytest.param(["--config=/srv/kubelet.yaml", "--cgroup-driver=cgroupfs"], {}, "ok", id="elsewhere-and-flag"),
        pytest.param([f"--config={KUBELET}"], {KUBELET: unread("denied")}, "unknown", id="denied"),
    ],
)  # fmt: skip
def test_gm505_where_the_kubelet_is_told(argv: list[str], files: dict[str, Any], expected: str) -> None:
    """kubernetes.io: flags count over --config-dir's files, those over --config's."""
    binary = "/usr/bin/nvidia-container-runtime"
    host = node("2.1.9", "version = 2\n" + runtime("runc") + runtime("nvidia", BinaryName=binary)).but(
        files=files
    )
    assert isinstance(host.processes, tuple)
    host = host.but(processes=(*host.processes, process("/usr/bin/kubelet", *argv)))
    assert outcome(host, "GM505") == expected


def test_gm507_a_runtime_of_ones_own_took_runc_away() -> None:
    only = "version = 2\n" + runtime("nvidia", BinaryName="/usr/bin/nvidia-container-runtime")
    assert outcome(node("1.7.24", only), "GM507", RUNTIMES) == "fail"
    assert outcome(node("2.1.9", only), "GM507", RUNTIMES) == "ok"
    assert "runc" in cri(after(node("1.7.24", only), RUNTIMES)).runtimes


def test_gm508_a_file_changed_after_the_start() -> None:
    host = node().but(files={CONFIG: file(DEBIAN) | {"mtime": NOW}})
    assert outcome(host, "GM508", RUNTIMES) == "warn" and outcome(node(), "GM508", RUNTIMES) == "ok"


WRONG_TYPES = [
    "plugins = 1\n",
    'plugins = "cri"\n',
    "plugins = [1]\n",
    "disabled_plugins = 5\n",
    "disabled_plugins = true\n",
    "disabled_plugins = 1979-05-27\n",
    '[disabled_plugins]\n"cri" = 1\n',
]


@pytest.mark.parametrize("config", WRONG_TYPES)
@pytest.mark.parametrize("version", ["1.6.20", "1.7.24", "2.1.9"])
def test_plugins_that_are_no_table_or_list_say_nothing(version: str, config: str) -> None:
    """In a file, a drop-in, or containerd's dump; they made the CRI's rules raise."""
    plain, text = node(version, "version = 2\n"), "version = 2\n" + config
    imports = "version = 2\n" + MAIN.splitlines()[1] + "\n" + config
    for host in (
        node(version, text),
        node(version, MAIN, wrong=text),
        node(version, imports, right=MAIN),
        node(version, dump=text),
    ):
        found = cri(host)
        assert (found.enabled, set(found.runtimes) - {"runc"}) == (True, set())
        verdict(host, GRIT | RUNTIMES)
    assert cri(node(version, text)) == cri(plain)


# --- the captures


def test_upstreams_containerd_config_is_right() -> None:
    host = node("2.1.9", fixture("grit/containerd_upstream_config.toml")).but(
        files={
            GRIT_TOML: fixture("grit/upstream_grit.toml"),
            "/usr/bin/nvidia-container-runtime": file("", 0o755),
        }
    )
    assert (
        outcome(host, "GM525", GRIT) == outcome(host, "GM502", GRIT) == outcome(host, "GM504", GRIT) == "ok"
    )
    assert set(cri(host).runtimes) == {"grit", "runc"}


# --- k3s


def k3s(
    template: str | None = None, name: str = "config-v3.toml.tmpl", generated: str | None = None, **more: Any
) -> Host:
    files: dict[str, Any] = {
        K3S.directory: a_directory(),
        "/etc/rancher/k3s/config.yaml": more.pop("settings", "token: secret\n"),
    }
    if template is not None:
        files[f"{K3S.directory}/{name}"] = file(template) | more.pop("times", {})
    files[K3S.generated] = (
        generated if generated is not None else fixture("grit/containerd_upstream_config.toml")
    )
    host = healthy()
    assert isinstance(host.processes, tuple)
    return host.but(files=files, processes=(*host.processes, process("/usr/local/bin/k3s", "server")))


GOOD_TEMPLATE = fixture("grit/k3s_good_config-v3.toml.tmpl")


def test_the_good_template_is_fine() -> None:
    host = k3s(GOOD_TEMPLATE)
    assert [outcome(host, code, GRIT) for code in ("GM510", "GM511", "GM512", "GM525")] == ["ok"] * 4


def test_gm510_a_template_without_the_base() -> None:
    found = the(k3s('[plugins."io.containerd.snapshotter.v1.overlayfs"]\n  mount_options = []\n'), "GM510")
    assert found.status == "fail" and found.change is None and found.evidence[0].source.endswith(".tmpl:1")


def test_gm511_nvidia_twice() -> None:
    twice = GOOD_TEMPLATE + "[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.nvidia]\n"
    found = the(k3s(twice), "GM511")
    line = twice.splitlines().index("[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.nvidia]") + 1
    assert (
        found.status == "fail" and found.evidence[0].source == f"{K3S.directory}/config-v3.toml.tmpl:{line}"
    )


@pytest.mark.parametrize("name", ["runc", "nvidia-cdi", "'nvidia-experimental'"])
def test_gm511_what_else_the_base_has(name: str) -> None:
    """Options alone are a table, too: the usual way to set SystemdCgroup."""
    twice = GOOD_TEMPLATE + f"[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.{name}.options]\n"
    found = the(k3s(twice), "GM511")
    assert found.status == "fail" and f"the {name.strip(chr(39))} runtime" in found.summary
    without = k3s(twice).but(programs={"nvidia-container-runtime": None})
    assert outcome(without, "GM511") == ("fail" if name == "runc" else "warn")


def test_gm511_what_k3s_wrote_cannot_be_read() -> None:
    found = the(k3s(GOOD_TEMPLATE, generated="version = 3\n[a]\n[a]\n"), "GM511")
    assert found.summary.startswith(f"{K3S.generated}:3: ")


GRIT_TABLE = "[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.grit]\n"
WITH_BASE = '{{ template "base" . }}\n'


@pytest.mark.parametrize(
    ("template", "line"),
    [
        pytest.param(WITH_BASE + "[plugins\n", 2, id="not-toml"),
        pytest.param(WITH_BASE + GRIT_TABLE + "# x\n" + GRIT_TABLE, 4, id="table-twice"),
        pytest.param("a = 1\na = 2\n" + WITH_BASE, 2, id="before-the-base"),
        pytest.param("version = 3\n[a]\n[a]\n", 3, id="whole-configuration"),
        pytest.param('# x\n{{- template "base" . -}}\n\n[a]\nb = \n', 5, id="trimmed"),
    ],
)
def test_gm511_a_template_that_is_no_toml(template: str, line: int) -> None:
    """k3s has not made its configuration of it yet: what its containerd reads now is fine."""
    host = k3s(template, generated="version = 3\n")
    found = the(host, "GM511", GRIT)
    assert found.status == "fail" and found.change is None and found.refused
    assert found.evidence[0].source == f"{K3S.directory}/config-v3.toml.tmpl:{line}"
    assert the(host, "GM525", GRIT).refused and written(host, GRIT) == {}


@pytest.mark.parametrize(
    "template",
    [
        pytest.param("[a]\nx = 1\n" + WITH_BASE + "x = 2\n", id="of-another-table"),
        pytest.param(WITH_BASE + "{{ if .IsRunningInUserNS }}\n[a]\n{{ else }}\n[a]\n{{ end }}\n", id="actions"),
    ],
)  # fmt: skip
def test_gm511_what_only_k3s_can_tell(template: str) -> None:
    assert outcome(k3s(template), "GM511") == "ok"


def test_gm511_where_the_template_has_the_line() -> None:
    template = WITH_BASE + "[plugins.x]\n"
    found = the(k3s(template, generated="version = 3\n[plugins.x]\n[plugins.x]\n"), "GM511")
    assert [item.source for item in found.evidence] == [
        f"{K3S.generated}:3",
        f"{K3S.directory}/config-v3.toml.tmpl:2",
    ]


def test_gm511_nvidia_twice_holds_the_template_back() -> None:
    """k3s was not restarted since the table was written: GRIT's is not put beside it."""
    host = k3s(
        WITH_BASE + "[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.nvidia]\n",
        generated="version = 3\n",
    )
    assert outcome(host, "GM511") == "fail"
    assert "GM511" in the(host, "GM525", GRIT).refused and written(host, GRIT) == {}
    without = host.but(programs={"nvidia-container-runtime": None})
    assert outcome(without, "GM511") == "warn", "until the toolkit is installed k3s adds none"


def test_gm512_an_external_containerd_serves_the_kubelet() -> None:
    """Report 001's node: k3s with `container-runtime-endpoint`; its templates and its restarts change nothing."""
    settings = 'token: secret\ncontainer-runtime-endpoint: "unix:///run/containerd/containerd.sock"\n'
    host = k3s(GOOD_TEMPLATE, settings=settings)
    assert host.state().kubernetes.k3s is not None
    assert "unix:///run/containerd/containerd.sock" in the(host, "GM512").summary
    assert "secret" not in str(host.answer()["stats"]), "the cluster's token stays on the host"


def test_gm512_the_endpoint_stands_on_the_units_command_line() -> None:
    """k3s shortens its own in /proc to `k3s server`."""
    flags = "server --token K10 --container-runtime-endpoint unix:///run/containerd/containerd.sock"
    unit = {"LoadState": "loaded", "ExecStart": f"{{ path=/k3s ; argv[]=/usr/local/bin/k3s {flags} ; }}"}
    assert outcome(k3s(GOOD_TEMPLATE).but(units={"k3s.service": unit}), "GM512") == "warn"


OLD = {"k3s-containerd": (0, "containerd github.com/k3s-io/containerd v1.7.23-k3s2 x\n", "")}
NEW = {"k3s-containerd": (0, "containerd github.com/k3s-io/containerd v2.1.5-k3s1 x\n", "")}
V2_NAME, V3_NAME = "config.toml.tmpl", "config-v3.toml.tmpl"


def test_gm512_an_old_k3s_knows_one_template() -> None:
    """config-v3.toml.tmpl came with 1.31.6 and 1.32.2. GRIT's table goes where this one looks."""
    written_by_it = "version = 2\n" + runtime("runc", SystemdCgroup=True)
    host = k3s(GOOD_TEMPLATE, V3_NAME, written_by_it).but(commands=OLD)
    found = the(host, "GM512", GRIT)
    assert found.summary.startswith(f"{K3S.directory}/{V3_NAME} has no effect") and found.change is None
    [(path, text)] = written(host, GRIT).items()
    assert path == f"{K3S.directory}/{V2_NAME}" and V2_PLUGIN in text and V3_PLUGIN not in text
    assert outcome(k3s(GOOD_TEMPLATE).but(commands=NEW), "GM512", GRIT) == "ok"


def test_gm512_a_template_that_could_not_be_read_may_not_be_there() -> None:
    host = k3s(GOOD_TEMPLATE).but(commands=NEW, files={f"{K3S.directory}/{V2_NAME}": unread("failed")})
    assert outcome(host, "GM512", GRIT) == "unknown"


@pytest.mark.parametrize("name", [V2_NAME, V3_NAME])
def test_gm525_a_template_that_k3s_has_not_read_yet_is_not_written(name: str) -> None:
    """Beside the base of version 2, a runtime under version 3's name would take all of the base's away."""
    third = name == V3_NAME
    made = "version = 2\n" + runtime("runc") if third else "version = 3\n" + runtime("runc", V3_PLUGIN)
    host = k3s(WITH_BASE, name, made).but(commands=NEW)
    assert "waits for a restart" in the(host, "GM525", GRIT).refused and written(host, GRIT) == {}


def test_gm503_k3s_started_before_the_toolkit_was_there() -> None:
    host = k3s(generated="version = 3\n" + runtime("runc", V3_PLUGIN)).but(commands=NEW)
    found = the(host, "GM503")
    assert found.status == "fail" and found.change is None and "systemctl restart k3s" in found.remedy
    has = (
        "version = 3\n"
        + runtime("runc", V3_PLUGIN)
        + runtime("nvidia", V3_PLUGIN, BinaryName="/usr/bin/nvidia-container-runtime")
    )
    assert outcome(k3s(generated=has), "GM503") == "ok"


def test_gm504_and_gm505_of_k3s_own_containerd() -> None:
    """k3s-io/k3s#11631: older ones register nvidia without SystemdCgroup, and their base has no CDI."""
    made = (
        "version = 2\n"
        + runtime("runc", SystemdCgroup=True)
        + runtime("nvidia", BinaryName="/usr/bin/nvidia-container-runtime")
    )
    host = k3s(generated=made).but(commands=OLD)
    found = the(host, "GM505")
    assert (
        found.status == "fail"
        and "nvidia" in found.summary
        and found.change is None
        and "k3s writes" in found.refused
    )
    assert (outcome(host, "GM504"), outcome(host, "GM504", GRIT)) == ("note", "fail")
    right = made.replace("  BinaryName", "  SystemdCgroup = true\n  BinaryName").replace(
        "version = 2", "version = 2\n", 1
    )
    assert outcome(k3s(generated=right).but(commands=OLD), "GM505") == "ok"


def test_the_cgroup_driver_of_k3s_kubelet() -> None:
    made = "version = 3\n" + runtime("runc", V3_PLUGIN, SystemdCgroup=True)
    flags = "server --token K10 --kubelet-arg=cgroup-driver=cgroupfs"
    unit = {
        "LoadState": "loaded",
        "ActiveState": "active",
        "ExecStart": f"{{ path=/k3s ; argv[]=/k3s {flags} ; }}",
    }
    host = k3s(generated=made)
    assert host.state().kubernetes.cgroup_driver == ""
    assert host.but(units={"k3s.service": unit}).state().kubernetes.cgroup_driver == "cgroupfs"
    defaults = {f"{K3S.kubelet_directory}/00-k3s-defaults.conf": "cgroupDriver: systemd\n"}
    assert host.but(files=defaults).state().kubernetes.cgroup_driver == "systemd"


def test_rke2_has_k3s_socket_and_the_unit_that_runs() -> None:
    """Its archive brings both units; a restart of rke2-server on an agent would make a server of it."""
    rke2 = FLAVOURS[1]
    loaded = {"LoadState": "loaded", "ActiveState": "inactive", "ExecStart": ""}
    host = healthy().but(
        files={
            rke2.settings: "container-runtime-endpoint: unix:///run/k3s/containerd/containerd.sock\n",
            rke2.generated: "version = 2\n" + runtime("runc"),
        },
        units={rke2.unit: loaded, "rke2-agent.service": {**loaded, "ActiveState": "active"}},
        processes=(process("/usr/local/bin/rke2", "agent"),),
    )
    found = host.state().kubernetes.k3s
    assert found is not None and found.embedded and found.unit.source.endswith("rke2-agent.service")
    assert "systemctl restart rke2-agent.service" in the(host, "GM503").remedy


@pytest.mark.parametrize(
    ("endpoint", "judged"),
    [("unix:///run/containerd/containerd.sock", True), ("", True), ("unix:///var/run/crio/crio.sock", False)],
)
def test_a_containerd_beside_the_kubelets_crio_is_dockers_alone(endpoint: str, judged: bool) -> None:
    host = node()
    assert isinstance(host.processes, tuple)
    argv = (f"--container-runtime-endpoint={endpoint}",) if endpoint else ()
    host = host.but(processes=(*host.processes, process("/usr/bin/kubelet", *argv)))
    assert (outcome(host, "GM503") == "fail") == judged and bool(written(host, {})) == judged


def test_gm308_judges_k3s_own_containerd() -> None:
    """1.7.23 reads specs up to 0.7.0."""
    made = "version = 2\n[plugins.'io.containerd.grpc.v1.cri']\n  enable_cdi = true\n"
    newer = spec(None, ("cdiVersion: 0.5.0", "cdiVersion: 0.8.0"))
    old = k3s(generated=made).but(commands=OLD, files={DYNAMIC: newer})
    assert "containerd 1.7.23" in the(old, "GM308").summary + str(the(old, "GM308").evidence)
    assert (
        outcome(
            k3s(generated=made.replace("true", "false")).but(commands=OLD, files={DYNAMIC: newer}), "GM308"
        )
        == "ok"
    )


def test_a_template_that_is_no_text_is_unknown() -> None:
    """GM510 to GM512 raised, and the host had no report at all."""
    host = k3s(GOOD_TEMPLATE).but(files={K3S.templates[0]: b"\x80" + GOOD_TEMPLATE.encode()})
    unknown = verdict(host, GRIT).unknown
    assert {"GM510", "GM511", "GM512"} & {finding.code for finding in unknown} >= {"GM510"}
    assert "not UTF-8 at byte 0" in {finding.evidence[0].text for finding in unknown}
    assert not verdict(k3s(GOOD_TEMPLATE), GRIT).unknown


def test_gm512_a_template_newer_than_what_was_made_of_it() -> None:
    assert outcome(k3s(GOOD_TEMPLATE, times={"mtime": NOW}), "GM512") == "warn"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("k3s server --token K10 --disable traefik", "k3s server --token ******** --disable traefik"),
        ("k3s agent --agent-token=K10 -v", "k3s agent --agent-token=******** -v"),
        ("k3s --datastore-endpoint=mysql://u:p@h", "k3s --datastore-endpoint=********"),
        ("containerd -c /etc/x.toml", "containerd -c /etc/x.toml"),
        (
            "{ path=/k3s ; argv[]=/k3s server --token K10 ; }",
            "{ path=/k3s ; argv[]=/k3s server --token ******** ; }",
        ),
    ],
)
def test_secrets_on_command_lines_stay_on_the_host(said: str, told: str) -> None:
    assert " ".join(without_secrets(said.split(" "))) == told


# --- the editor


@pytest.mark.parametrize(
    ("text", "keys", "value", "expected"),
    [
        ("a = 1", ("a",), 2, "a = 2"),
        ("a = 1 # one\n", ("a",), 2, "a = 2 # one\n"),
        ('a = "x # y" # one\n', ("a",), "z", 'a = "z" # one\n'),
        ("a = true\n", ("a",), True, "a = true\n"),
        ("", ("a",), "x", 'a = "x"\n'),
        ("[t]\n  x = 1\n", ("b",), True, "b = true\n[t]\n  x = 1\n"),
        ("[t]\n  x = 1\n", ("t", "y"), 2, "[t]\n  x = 1\n  y = 2\n"),
        ("[t]\n", ("t", "y"), 2, "[t]\n  y = 2\n"),
        ("[t]\n  x = [\n    1, # one\n  ]\n", ("t", "y"), 2, "[t]\n  x = [\n    1, # one\n  ]\n  y = 2\n"),
        ("[t]\r\nx = 1\r\n", ("t", "x"), 2, "[t]\r\nx = 2\r\n"),
        ("x = 1\n", ("t", "a.b", "y"), 2, 'x = 1\n\n[t."a.b"]\n  y = 2\n'),
        ("t.x = 1\n", ("t", "y"), 2, None),
        ("t = {x = 1}\n", ("t", "y"), 2, None),
        ("t = 1\n", ("t", "y"), 2, None),
        ("a = [\n 1,\n]\n", ("a",), [2], None),
        ("a = \n", ("a",), 1, None),
    ],
)  # fmt: skip
def test_set_value(text: str, keys: tuple[str, ...], value: Any, expected: str | None) -> None:
    if expected is None:
        with pytest.raises(EditError):
            set_value(text, keys, value)
    else:
        assert set_value(text, keys, value) == expected


def test_where() -> None:
    text = 'version = 2\n\n[plugins]\n  [plugins."a.b"]\n    x = 1 # [y]\n'
    assert where(text, ("plugins", "a.b")) == 4 and where(text, ("plugins", "a.b", "x")) == 5
    assert where(text, ("version",)) == 1 and where(text, ("no",)) is None and where("[", ("a",)) is None


def test_merge_needs_no_file() -> None:
    assert set(cri_of(merge((2, 1), CONFIG, {})).runtimes) == {"runc"}
    assert PurePosixPath(CONFIG).name == "config.toml"
