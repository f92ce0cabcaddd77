"""GM301-GM313: CDI specs, loaded as the engines load them, and judged against the host."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from gpumend.plan.plan import plan
from gpumend.rules.cdi.spec import NO_GIDS
from gpumend.rules.change import GenerateSpec, RemoveFiles, SetMode
from gpumend.rules.engines.engine import newest_readable
from gpumend.rules.finding import Component, Finding
from gpumend.rules.rule import Context
from gpumend.rules.wanted import parse as parse_wanted
from gpumend.state.cdi import SpecError, least_version, load
from gpumend.text.version import Version, show
from tests.unit.build import (
    CONFIG,
    DYNAMIC,
    REFRESH,
    STATIC,
    TODAY,
    Host,
    a_directory,
    besides_its_age,
    config,
    dangling,
    file,
    findings,
    fixture,
    healthy,
    link,
    node,
    outcome,
    program,
    spec,
    the,
    unread,
    verdict,
)

UUID = "GPU-ddcfa932-2616-cecb-a95e-350855afb5ab"
OTHER = "GPU-00000000-0000-0000-0000-000000000000"
LIB = "/usr/local/nvidia/lib64"


def small(
    version: str = "0.5.0", kind: str = "nvidia.com/gpu", *names: str, edits: Any = None, **more: Any
) -> dict[str, Any]:
    """A small spec as an object. Each device has /dev/null as its node unless `edits` says otherwise."""
    device_edits = {"deviceNodes": [{"path": "/dev/null"}]} if edits is None else edits
    return {
        "cdiVersion": version,
        "kind": kind,
        "devices": [{"name": name, "containerEdits": device_edits} for name in names or ("gpu0",)],
        **more,
    }


def loaded(raw: dict[str, Any]) -> Any:
    return load("/etc/cdi/x.yaml", yaml.safe_dump(raw))


# --- the loader

MEASURED = fixture("toolkit/cdi-list.txt")

REFUSED: list[tuple[str, str, str]] = [
    # id, text, what nvidia-ctk's loader said of such a file (captures/toolkit/cdi-list.txt)
    ("empty-file", "", "no Spec data"),
    ("only-a-comment", "# nothing\n", "no Spec data"),
    ("unknown-version", json.dumps(small("9.9.9")), 'invalid version "9.9.9"'),
    ("too-low-a-version", json.dumps(small("0.3.0", "nvidia.com/gpu", "0")), "the spec version must be at least v0.5.0"),
    ("no-version", json.dumps({k: v for k, v in small().items() if k != "cdiVersion"}), 'invalid version ""'),
    ("no-vendor", json.dumps(small(kind="/gpu")), "invalid vendor. empty name"),
    ("bad-class", json.dumps(small(kind="nvidia.com/gp u")), "invalid class. invalid character ' ' in name"),
    ("device-twice", json.dumps(small("0.5.0", "nvidia.com/gpu", "0", "0")), 'invalid spec, multiple device "0"'),
    ("no-devices", json.dumps({**small(), "devices": []}), "invalid spec, no devices"),
    ("device-without-edits", json.dumps(small(edits={})), "empty device edits"),
    ("unknown-field", json.dumps({**small(), "foo": 1}), 'json: unknown field "foo"'),
    (
        "bad-hook-name",
        json.dumps(small(edits={"hooks": [{"hookName": "foo", "path": "/x"}]})),
        'invalid hook name "foo"',
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"), [(t, m) for _, t, m in REFUSED], ids=[name for name, _, _ in REFUSED]
)
def test_the_loader_refuses_in_the_engines_words(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=re.escape(message)):
        load("/etc/cdi/x.yaml", text)
    assert message in MEASURED.replace('\\"', '"')


REFUSED_TOO: list[tuple[str, Any]] = [
    # by section 4.3's sources (pkg/cdi/spec.go, container-edits.go, specs-go/config.go), not measured
    ("invalid-yaml", "a: [\n"),
    ("a-list", "[]"),
    ("a-text", "just text"),
    ("no-kind", json.dumps({k: v for k, v in small().items() if k != "kind"})),
    ("no-class", json.dumps(small(kind="nvidia.com/"))),
    ("kind-without-slash", json.dumps(small(kind="nvidia.com"))),
    ("empty-device-name", json.dumps(small("0.5.0", "nvidia.com/gpu", ""))),
    ("bad-device-name", json.dumps(small("0.5.0", "nvidia.com/gpu", "a b"))),
    ("device-name-ends-with-dash", json.dumps(small("0.5.0", "nvidia.com/gpu", "a-"))),
    ("unknown-field-in-device", json.dumps({**small(), "devices": [{"name": "a", "containerEdits": {"env": ["A=1"]}, "x": 1}]})),
    ("unknown-field-in-edits", json.dumps(small(edits={"env": ["A=1"], "x": 1}))),
    ("unknown-field-in-node", json.dumps(small(edits={"deviceNodes": [{"path": "/dev/x", "x": 1}]}))),
    ("unknown-field-in-mount", json.dumps(small(edits={"mounts": [{"hostPath": "/x", "containerPath": "/x", "x": 1}]}))),
    ("unknown-field-in-hook", json.dumps(small(edits={"hooks": [{"hookName": "prestart", "path": "/x", "x": 1}]}))),
    ("node-without-path", json.dumps(small(edits={"deviceNodes": [{"hostPath": "/dev/x"}]}))),
    ("mount-without-host-path", json.dumps(small(edits={"mounts": [{"containerPath": "/x"}]}))),
    ("mount-without-container-path", json.dumps(small(edits={"mounts": [{"hostPath": "/x"}]}))),
    ("hook-without-path", json.dumps(small(edits={"hooks": [{"hookName": "prestart"}]}))),
    ("env-without-sign", json.dumps(small(edits={"env": ["A"]}))),
    ("env-a-map", json.dumps(small(edits={"env": {"A": "1"}}))),
    ("devices-a-map", json.dumps({**small(), "devices": {"a": 1}})),
    ("major-a-text", json.dumps(small(edits={"deviceNodes": [{"path": "/dev/x", "major": "195"}]}))),
    ("major-a-bool", json.dumps(small(edits={"deviceNodes": [{"path": "/dev/x", "major": True}]}))),
    ("nested-too-deep", "[" * 5000),
    ("edits-with-empty-lists", json.dumps(small(edits={"deviceNodes": [], "mounts": []}))),
    ("key-twice", "cdiVersion: 0.5.0\ncdiVersion: 0.5.0\nkind: a.b/c\ndevices: [{name: d, containerEdits: {env: [A=1]}}]\n"),
    ("hook-name-a-list", json.dumps(small(edits={"hooks": [{"hookName": [], "path": "/x"}]}))),
    ("impossible-date", "cdiVersion: 2026-13-45\n"),
    ("intel-rdt-a-number", json.dumps(small("0.7.0", edits={"intelRdt": 5}))),
]  # fmt: skip


@pytest.mark.parametrize("text", [text for _, text in REFUSED_TOO], ids=[name for name, _ in REFUSED_TOO])
def test_the_loader_refuses(text: str) -> None:
    with pytest.raises(SpecError):
        load("/etc/cdi/x.yaml", text)


def test_the_loader_takes_a_number_for_a_name() -> None:
    """sigs.k8s.io/yaml, which the loader decodes with, makes a text of a number where the field is a text."""
    text = "cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n- name: 0\n  containerEdits: {deviceNodes: [{path: /dev/null}]}\n"
    assert list(load("/etc/cdi/x.yaml", text).devices) == ["0"]


def test_the_real_spec() -> None:
    found = load(STATIC, fixture("h100/cdi-h100.yaml"))
    assert found.version == (0, 5, 0) and found.needs == (0, 5, 0) and found.kind == "nvidia.com/gpu"
    assert list(found.devices) == ["0", "GPU-bf1b60a9-98db-c888-cead-1578858123b2", "all"]
    assert found.driver_version() == (580, 159, 4)
    edits = found.edits
    assert {(n.host, n.major, n.minor) for n in edits.nodes} == {
        ("/dev/nvidia0", 195, 0),
        ("/dev/nvidiactl", 195, 255),
        ("/dev/nvidia-uvm", 238, 0),
        ("/dev/nvidia-uvm-tools", 238, 1),
    }
    assert {hook[0] for hook in edits.hooks} == {"/usr/bin/nvidia-cdi-hook"}
    assert len(edits.mounts) == 35


def test_the_drivers_version_of_a_spec_without_libcuda_is_the_hooks_argument() -> None:
    text = spec(None, (f"{LIB}/libcuda.so.580.159.04", f"{LIB}/other.so"))
    assert load(STATIC, text).driver_version() == (580, 159, 4)
    assert loaded(small()).driver_version() is None


LEAST: list[tuple[str, dict[str, Any], Version]] = [
    ("nothing", small(), (0, 3, 0)),
    ("mount-type", small(edits={"mounts": [{"hostPath": "/x", "containerPath": "/x", "type": "bind"}]}), (0, 4, 0)),
    ("mount-without-type", small(edits={"mounts": [{"hostPath": "/x", "containerPath": "/x"}]}), (0, 3, 0)),
    ("digit-first", small("0.5.0", "nvidia.com/gpu", "0"), (0, 5, 0)),
    ("host-path", small(edits={"deviceNodes": [{"path": "/dev/x", "hostPath": "/dev/y"}]}), (0, 5, 0)),
    ("common-host-path", small(containerEdits={"deviceNodes": [{"path": "/dev/x", "hostPath": "/dev/y"}]}), (0, 5, 0)),
    ("annotations", small(annotations={"a": "b"}), (0, 6, 0)),
    ("empty-annotations", small(annotations={}), (0, 3, 0)),
    ("dot-in-class", small(kind="nvidia.com/gpu.x"), (0, 6, 0)),
    ("additional-gids", small(edits={"additionalGids": [44]}), (0, 7, 0)),
    ("common-additional-gids", small(containerEdits={"additionalGids": [44]}), (0, 7, 0)),
    ("intel-rdt", small(edits={"intelRdt": {"closID": "x"}}), (0, 7, 0)),
    ("net-devices", small(edits={"netDevices": [{"hostInterfaceName": "a", "name": "b"}]}), (1, 1, 0)),
    ("intel-rdt-schemata", small(edits={"intelRdt": {"schemata": ["L3:0=f"]}}), (1, 1, 0)),
    ("intel-rdt-monitoring", small(edits={"intelRdt": {"enableMonitoring": True}}), (1, 1, 0)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("raw", "least"), [(raw, least) for _, raw, least in LEAST], ids=[name for name, _, _ in LEAST]
)
def test_least_version(raw: dict[str, Any], least: Version) -> None:
    assert least_version(raw) == least
    number = ".".join(map(str, least))
    assert loaded({**raw, "cdiVersion": number}).needs == least
    assert loaded({**raw, "cdiVersion": f"v{number}"}).version == least
    older = [
        v
        for v in ("0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0")
        if tuple(map(int, v.split("."))) < least
    ]
    for version in older:
        with pytest.raises(SpecError, match=f"must be at least v{re.escape(number)}"):
            loaded({**raw, "cdiVersion": version})


@pytest.mark.parametrize("version", ["0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0"])
def test_every_published_version_loads(version: str) -> None:
    assert ".".join(map(str, loaded(small(version)).version)) == version


# --- precedence and conflicts (measured: captures/toolkit/cdi-list.txt)

ETC, RUN = "/etc/cdi", "/var/run/cdi"


def specs(**files: list[str]) -> Host:
    """A host with spec files `etc_NAME`, `run_NAME` that define these devices."""
    found: dict[str, Any] = {DYNAMIC: None}
    for name, devices in files.items():
        directory, _, base = name.partition("_")
        found[f"{ETC if directory == 'etc' else RUN}/{base}.yaml"] = yaml.safe_dump(
            small("0.5.0", "nvidia.com/gpu", *devices)
        )
    return healthy().but(files=found)


Resolved = dict[str, str]
RESOLVE: list[tuple[str, Host, tuple[str, ...], Resolved, set[str]]] = [
    ("one", specs(etc_a=["0", "all"]), (ETC, RUN), {"0": "/etc/cdi/a.yaml", "all": "/etc/cdi/a.yaml"}, set()),
    ("later-directory-wins", specs(etc_a=["0", "1"], run_a=["0"]), (ETC, RUN), {"0": "/var/run/cdi/a.yaml", "1": "/etc/cdi/a.yaml"}, set()),
    ("order-counts", specs(etc_a=["0"], run_a=["0"]), (RUN, ETC), {"0": "/etc/cdi/a.yaml"}, set()),
    ("one-directory-read", specs(etc_a=["0"], run_a=["0", "1"]), (ETC,), {"0": "/etc/cdi/a.yaml"}, set()),
    ("twice-in-a-directory", specs(etc_a=["0", "1"], etc_b=["0"]), (ETC, RUN), {"1": "/etc/cdi/a.yaml"}, {"0"}),
    ("twice-below-a-good-one", specs(etc_a=["0", "1"], etc_b=["0"], run_c=["0", "all"]), (ETC, RUN), {"1": "/etc/cdi/a.yaml", "all": "/var/run/cdi/c.yaml"}, {"0"}),
    ("thrice", specs(run_a=["0"], run_b=["0"], run_c=["0"]), (ETC, RUN), {}, {"0"}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("host", "dirs", "devices", "conflicts"), [row[1:] for row in RESOLVE], ids=[row[0] for row in RESOLVE]
)
def test_resolution(host: Host, dirs: tuple[str, ...], devices: Resolved, conflicts: set[str]) -> None:
    found = host.state().cdi.resolve(dirs)
    assert {name.partition("=")[2]: file.path for name, file in found.devices.items()} == devices
    assert {name.partition("=")[2] for name in found.conflicts} == conflicts


def test_a_conflict_names_all_files() -> None:
    found = specs(run_a=["0"], run_b=["0"], run_c=["0"]).state().cdi.resolve()
    assert found.conflicts == {"nvidia.com/gpu=0": (f"{RUN}/a.yaml", f"{RUN}/b.yaml", f"{RUN}/c.yaml")}


def test_other_kinds_do_not_conflict() -> None:
    host = healthy().but(files={"/var/run/cdi/amd.yaml": yaml.safe_dump(small("0.5.0", "amd.com/gpu", "0"))})
    assert besides_its_age(verdict(host).findings) == ()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("subfolder", a_directory()),
        ("notes.txt", "text"),
        ("nvidia.yaml~", "text"),
        ("nvidia.yml", spec()),
    ],
)
def test_what_engines_do_not_load_is_not_loaded(name: str, content: Any) -> None:
    host = healthy().but(files={f"/etc/cdi/{name}": content})
    assert [file.path for file in host.state().cdi.files.need()] == [DYNAMIC]


def test_a_linked_file_is_loaded() -> None:
    host = healthy().but(files={DYNAMIC: link("/srv/nvidia.yaml", file(spec()))})
    assert besides_its_age(verdict(host).findings) == ()


# --- GM301: a spec that resolves

NO_SPEC = {DYNAMIC: None}


def test_gm301_generates_where_none_is() -> None:
    found = the(healthy().but(files=NO_SPEC), "GM301")
    assert found.change and found.change.action == GenerateSpec()
    assert 'nvidia-container-runtime in mode "cdi"' in found.summary and "docker --device" in found.summary


UNABLE: list[tuple[str, Host, dict[str, Any], str]] = [
    ("no-nvidia-ctk", healthy().but(programs={"nvidia-ctk": None}, commands={"nvidia-ctk": None}), {}, "nvidia-ctk is not installed"),
    ("no-driver", healthy().but(files={"/proc/driver/nvidia/version": None}), {}, "the driver is not loaded"),
    ("mismatch", healthy().but(files={"/proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.90.07  x\n"}), {}, "GM101"),
    ("1.18.0-in-cdi", healthy(toolkit="1.18.0"), {"runtime": {"mode": "keep"}}, "GM206"),
    ("not-managed", healthy(), {"cdi": {"manage": False}}, "cdi.manage is false"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("host", "wanted", "why"), [row[1:] for row in UNABLE], ids=[row[0] for row in UNABLE]
)
def test_gm301_says_why_none_can_be_made(host: Host, wanted: dict[str, Any], why: str) -> None:
    found = the(host.but(files=NO_SPEC), "GM301", wanted)
    assert found.change is None and why in found.refused


NEEDED: list[tuple[str, Host, dict[str, Any], str]] = [
    ("mode-cdi-wanted", healthy("20.10.24"), {}, "fail"),
    ("mode-auto-old-docker", healthy("20.10.24", mode="auto"), {"runtime": {"mode": "auto"}}, "ok"),
    ("mode-auto-new-docker", healthy("28.5.2", mode="auto"), {"runtime": {"mode": "auto"}}, "fail"),
    ("only-runtime-path", healthy("28.5.2", mode="auto"), {"runtime": {"mode": "auto"}, "docker": {"paths": ["runtime"]}}, "ok"),
    ("podman", healthy("20.10.24", mode="auto").but(commands={"podman": (0, "podman version 5.4.2\n", "")}), {"runtime": {"mode": "auto"}}, "fail"),
    ("podman-without-cdi", healthy("20.10.24", mode="auto").but(commands={"podman": (0, "podman version 3.4.4\n", "")}), {"runtime": {"mode": "auto"}}, "ok"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("host", "wanted", "expected"), [row[1:] for row in NEEDED], ids=[row[0] for row in NEEDED]
)
def test_gm301_only_where_somebody_needs_a_spec(host: Host, wanted: dict[str, Any], expected: str) -> None:
    assert outcome(host.but(files={DYNAMIC: None, STATIC: None}), "GM301", wanted) == expected


def test_gm301_podman_55_reads_etc_only() -> None:
    """nixpkgs#420638: 5.5's default leaves /var/run/cdi out."""
    for version, expected in (("5.4.2", "ok"), ("5.5.0", "fail"), ("5.5.2", "fail"), ("5.6.0", "ok")):
        host = healthy().but(commands={"podman": (0, f"podman version {version}\n", "")})
        assert outcome(host, "GM301") == expected, version


@pytest.mark.parametrize(
    "dirs", [["/etc/cdi", "/run/cdi"], ["/etc/cdi/", "/var/run/cdi/"]], ids=["run-cdi", "slash-at-the-end"]
)
def test_gm301_a_directory_by_its_other_name(dirs: list[str]) -> None:
    """/var/run is a link to /run: dockerd reads the spec there whichever name it was given."""
    assert outcome(healthy().but(info={"CDISpecDirs": dirs}), "GM301") == "ok"


def test_gm301_a_directory_that_was_not_read_is_not_called_empty() -> None:
    """A third directory may hold the spec: the probe does not read it, so nothing is known of it (promise 4)."""
    host = healthy().but(files={DYNAMIC: None, STATIC: spec()}, info={"CDISpecDirs": ["/opt/cdi"]})
    assert {str(found.status) for found in findings(host, "GM301")} == {"unknown"}


def test_gm301_the_runtimes_own_directories() -> None:
    text = config().replace('spec-dirs = ["/etc/cdi", "/var/run/cdi"]', 'spec-dirs = ["/etc/cdi"]')
    found = the(healthy().but(files={CONFIG: text}), "GM301")
    assert "reads /etc/cdi, the spec is in /var/run/cdi" in found.summary and found.change is None


def test_gm301_an_unread_spec_may_be_the_good_one() -> None:
    assert outcome(healthy().but(files={DYNAMIC: unread("denied")}), "GM301") == "unknown"


def test_gm301_an_unread_directory_is_unknown() -> None:
    for code in ("GM301", "GM302", "GM303", "GM304", "GM308", "GM313"):
        assert outcome(healthy().but(globs={"/etc/cdi/*": unread("denied")}), code) == "unknown", code


# --- GM302: files that do not load


@pytest.mark.parametrize(
    ("path", "content", "status", "changes"),
    [
        pytest.param(DYNAMIC, "", "fail", True, id="ours-empty"),
        pytest.param(DYNAMIC, spec() + "foo: 1\n", "fail", True, id="ours-unknown-field"),
        pytest.param(DYNAMIC, b"\xff\xfe", "fail", True, id="ours-not-utf-8"),
        pytest.param(DYNAMIC, dangling("/nowhere"), "fail", True, id="ours-dangling"),
        pytest.param("/etc/cdi/vendor.json", "{", "warn", False, id="anothers"),
        pytest.param(DYNAMIC, unread("denied"), "unknown", False, id="ours-denied"),
        pytest.param("/etc/cdi/vendor.json", unread("timeout"), "unknown", False, id="anothers-timeout"),
    ],
)
def test_gm302(path: str, content: Any, status: str, changes: bool) -> None:
    found = the(healthy().but(files={path: content}), "GM302")
    assert found.status == status and bool(found.change) is changes


# --- GM303: conflicts


def test_gm303_removes_the_copy_and_keeps_ours() -> None:
    found = the(healthy().but(files={"/var/run/cdi/copy.yaml": spec()}), "GM303")
    assert found.change and found.change.action == RemoveFiles(("/var/run/cdi/copy.yaml",))


def test_gm303_a_file_with_other_devices_besides_stays() -> None:
    more = spec(None, ('name: "0"', 'name: "7"'))
    found = the(healthy().but(files={"/var/run/cdi/copy.yaml": more}), "GM303")
    assert found.change is None and "different devices" in found.refused


def test_gm303_not_managed() -> None:
    host = healthy().but(files={"/var/run/cdi/copy.yaml": spec()})
    assert the(host, "GM303", {"cdi": {"manage": False}}).refused == "cdi.manage is false"


# --- GM304: staleness, every check of container-toolkit.md 4.4

Change = Callable[[Host], Host]


def text_of(host: Host) -> str:
    found = host.files[DYNAMIC]
    assert isinstance(found, str)
    return found


def respec(*replacements: tuple[str, str]) -> Change:
    """The spec with pieces replaced; the files of the host stay."""
    return lambda host: host.but(files={DYNAMIC: spec(text_of(host), *replacements)})


def without(*paths: str) -> Change:
    return lambda host: host.but(files=dict.fromkeys(paths))


GIDS = ("containerEdits:\n    env:", "containerEdits:\n    additionalGids: [44]\n    env:")
UVM = "        - path: /dev/nvidia-uvm\n          major: 238\n          fileMode: 438\n          permissions: rwm\n"


def cut(pattern: str) -> Change:
    def change(host: Host) -> Host:
        text, count = re.subn(pattern, "", text_of(host))
        assert count == 1, pattern
        return host.but(files={DYNAMIC: text})

    return change


def gpus(text: str) -> Change:
    return lambda host: host.but(commands={"nvidia-smi": (0, text, "")})


ONE = f"GPU 0: NVIDIA H100 80GB HBM3 (UUID: {UUID})\n"
TWO = ONE + f"GPU 1: NVIDIA H100 80GB HBM3 (UUID: {OTHER})\n"

STALE: list[tuple[str, Change, str | None]] = [
    ("fresh", lambda host: host, None),
    # a: mounts
    ("a-library-gone", without(f"{LIB}/libcuda.so.580.159.04"), "mounts /usr/local/nvidia/lib64/libcuda.so.580.159.04, which is not there"),
    ("a-firmware-gone", without("/usr/local/nvidia/firmware/nvidia/580.159.04/gsp_ga10x.bin"), "gsp_ga10x.bin, which is not there"),
    # b: device nodes
    ("b-uvm-major-changed", lambda host: host.but(files={"/dev/nvidia-uvm": node(510, 0), "/proc/devices": "Character devices:\n195 nvidia\n510 nvidia-uvm\n"}), "device /dev/nvidia-uvm as 238:0, on this host it is 510:0"),
    ("b-minor-changed", respec(("minor: 255", "minor: 254")), "device /dev/nvidiactl as 195:254, on this host it is 195:255"),
    ("b-gpu-node-gone", without("/dev/nvidia0"), "device /dev/nvidia0, which is not there"),
    ("b-not-a-device", lambda host: host.but(files={"/dev/nvidia0": file("")}), "device /dev/nvidia0, which is a file"),
    ("b-no-numbers-written", respec(("              major: 195\n", ""), ("          major: 238\n", ""), ("          major: 195\n", "")), None),
    ("b-major-written-minor-0-omitted", respec(("major: 195\n          minor: 255", "major: 195")), "device /dev/nvidiactl as 195:0"),
    ("b-host-path", respec(("- path: /dev/nvidiactl\n", "- path: /dev/nvidiactl\n          hostPath: /dev/other\n")), "device /dev/other, which is not there"),
    # c: hooks
    ("c-hook-gone", without("/usr/bin/nvidia-cdi-hook"), "hook /usr/bin/nvidia-cdi-hook is not there"),
    ("c-hook-not-executable", lambda host: host.but(files={"/usr/bin/nvidia-cdi-hook": file("", 0o644)}), "not executable"),
    # d: driver
    ("d-driver-updated", lambda host: host.but(files={"/proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  590.48.01  x\n"}), "made for driver 580.159.04, loaded is 590.48.01"),
    # e: devices
    ("e-second-gpu", gpus(TWO), f"no device {OTHER}"),
    ("e-gpu-replaced", gpus(ONE.replace(UUID, OTHER)), f"device {UUID}, which no GPU here bears"),
    ("e-gpu-gone", lambda host: gpus(ONE)(respec(('- name: all', '- name: "1"'))(host)), "device 1, but there are 1 GPUs"),
    ("e-mig-made", gpus(ONE + "  MIG 3g.40gb     Device  0: (UUID: MIG-1111)\n"), "no device MIG-1111"),
    ("e-mig-named", lambda host: gpus(ONE + "  MIG 3g.40gb     Device  0: (UUID: MIG-1111)\n")(respec((f"- name: {UUID}", "- name: MIG-1111"), ('- name: "0"', '- name: "0:0"'))(host)), None),
    ("e-mig-gone", respec((f"- name: {UUID}", "- name: MIG-1111")), "device MIG-1111, which no GPU here bears"),
    ("e-mig-one-of-two", lambda host: gpus(ONE + "  MIG 3g.40gb     Device  0: (UUID: MIG-1111)\n  MIG 3g.40gb     Device  1: (UUID: MIG-2222)\n")(respec((f"- name: {UUID}", "- name: MIG-1111"), ('- name: "0"', '- name: "0:0"'))(host)), "no device MIG-2222"),
    ("e-index-only-spec", lambda host: gpus(TWO)(cut(rf"    - name: {UUID}\n(?:      .*\n)+")(host)), "no device 1"),
    ("e-no-nvidia-smi", lambda host: host.but(commands={"nvidia-smi": None}), None),
    # g: control nodes
    ("g-uvm-missing-in-spec", cut(re.escape(UVM)), "lacks /dev/nvidia-uvm, which is on this host"),
    ("g-uvm-missing-on-host-too", lambda host: cut(re.escape(UVM))(without("/dev/nvidia-uvm")(host)), None),
    ("g-control-node-gone-is-gm105", without("/dev/nvidia-uvm"), None),
]  # fmt: skip


@pytest.mark.parametrize(("change", "words"), [row[1:] for row in STALE], ids=[row[0] for row in STALE])
def test_gm304(change: Change, words: str | None) -> None:
    host = change(healthy())
    if words is None:
        assert outcome(host, "GM304") == "ok"
        return
    found = the(host, "GM304")
    assert found.status == "fail"
    assert any(words in item.text for item in found.evidence), [item.text for item in found.evidence]
    assert (found.change and found.change.action == GenerateSpec()) or found.refused


def test_gm304_gpus_that_could_not_be_listed_are_unknown() -> None:
    assert outcome(healthy().but(commands={"nvidia-smi": unread("denied")}), "GM304") == "unknown"
    host = healthy().but(commands={"nvidia-smi": (9, "", "NVIDIA-SMI has failed\n")})
    assert (outcome(host, "GM304"), outcome(host, "GM107")) == ("ok", "fail"), "GM107 tells, and once"
    stale = without(f"{LIB}/libcuda.so.580.159.04")(host)
    assert outcome(stale, "GM304") == "fail", "what is known to be wrong is told alone: it is made anew"


def test_gm304_i_a_socket_of_a_stopped_service() -> None:
    """4.4 i: persistenced's socket stands in the spec, the service does not run."""
    mount = "    mounts:\n        - hostPath: /run/nvidia-persistenced/socket\n          containerPath: /run/nvidia-persistenced/socket\n"
    host = respec(("    mounts:\n", mount))(healthy())
    assert outcome(host, "GM304") == "fail"
    alive = host.but(files={"/run/nvidia-persistenced/socket": {**file(""), "kind": "socket"}})
    assert outcome(alive, "GM304") == "ok"


def test_gm304_only_the_definition_that_wins_counts() -> None:
    stale = spec(None, ("580.159.04", "550.90.07"))
    assert outcome(healthy().but(files={STATIC: stale}), "GM304") == "ok"


def test_gm304_gpus_in_two_files() -> None:
    """A file a GPU: each has its own devices, together they have all. nvidia-ctk --output per device is documented."""
    second = spec(
        None,
        (UUID, OTHER),
        ('name: "0"', 'name: "1"'),
        ("name: all", "name: both"),
        ("/dev/nvidia0", "/dev/nvidia1"),
        (
            "path: /dev/nvidia1\n              major: 195\n",
            "path: /dev/nvidia1\n              major: 195\n              minor: 1\n",
        ),
    )
    host = healthy().but(
        files={"/var/run/cdi/nvidia-1.yaml": second, "/dev/nvidia1": node(195, 1)},
        commands={"nvidia-smi": (0, TWO, "")},
    )
    assert outcome(host, "GM304") == "ok"


def test_gm304_a_file_that_mend_does_not_write_is_reported() -> None:
    host = healthy().but(
        files={DYNAMIC: None, "/var/run/cdi/k8s.yaml": spec(None, ("580.159.04", "550.90.07"))}
    )
    found = the(host, "GM304")
    assert found.change is None and "is not the file that mend writes" in found.refused


def test_gm304_one_finding_with_all_evidence() -> None:
    host = without(f"{LIB}/libcuda.so.580.159.04", "/usr/bin/nvidia-cdi-hook")(healthy())
    found = the(host, "GM304")
    assert len(found.evidence) == 2 and "and 1 more" in found.summary


def test_gm304_unread_path_is_unknown() -> None:
    assert outcome(healthy().but(files={"/usr/bin/nvidia-cdi-hook": unread("denied")}), "GM304") == "unknown"


def test_gm304_a_path_with_a_space_is_unknown_not_missing() -> None:
    host = respec(("hostPath: /usr/local/nvidia/bin/nvidia-smi", "hostPath: /opt/a b/nvidia-smi"))(healthy())
    assert outcome(host, "GM304") == "unknown"


# --- GM309: the static file that nvidia-cdi-refresh leaves behind (4.4 h)


def leftovers(host: Host, wanted: dict[str, Any] | None = None) -> list[Finding]:
    return findings(host, "GM309", wanted)


BOTH = healthy().but(files={STATIC: spec()})


def test_gm309_a_shadowed_static_file() -> None:
    found = the(BOTH, "GM309")
    assert found.status == "warn" and found.change and found.change.action == RemoveFiles((STATIC,))


@pytest.mark.parametrize(
    ("host", "wanted"),
    [
        pytest.param(healthy(), {}, id="dynamic-alone"),
        pytest.param(healthy(toolkit="1.17.8"), {}, id="old-toolkit"),
        pytest.param(healthy(toolkit="1.17.8").but(files={DYNAMIC: spec()}), {}, id="no-refresh-unit"),
        pytest.param(BOTH, {"cdi": {"writer": "file"}}, id="the-file-is-wanted"),
        pytest.param(
            BOTH.but(units={REFRESH: {"LoadState": "loaded", "UnitFileState": "masked"}}), {}, id="refresh-masked",
        ),
    ],
)  # fmt: skip
def test_gm309_not_here(host: Host, wanted: dict[str, Any]) -> None:
    assert leftovers(host, wanted) == []


def test_gm309_podman_55_reads_it_alone() -> None:
    found = the(BOTH.but(commands={"podman": (0, "podman version 5.5.2\n", "")}), "GM309")
    assert found.change is None and "podman --device reads /etc/cdi only" in found.refused


def test_gm309_not_managed() -> None:
    assert the(BOTH, "GM309", {"cdi": {"manage": False}}).change is None


OLD_UUID = spec(None, (UUID, OTHER))  # what it alone defines is in use: an old GPU's name


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(OLD_UUID, id="old-name"),
        pytest.param(spec(None, (UUID, OTHER), ("580.159.04", "550.90.07")), id="old-driver"),
        pytest.param(spec(OLD_UUID, (UVM, "")), id="control-node-lacking"),
    ],
)
def test_gm309_a_stale_static_file_is_one_finding(text: str) -> None:
    host = healthy().but(files={STATIC: text})
    assert [str(found.status) for found in leftovers(host)] == ["fail"]
    assert not findings(host, "GM304")


def test_a_stale_static_file_is_not_taken_away_before_there_is_another() -> None:
    """Toolkit 1.18 came, refresh has not run yet: the old file is all there is. Mend must make the new one too."""
    host = healthy().but(files={DYNAMIC: None, STATIC: spec(None, ("580.159.04", "550.90.07"))})
    context = Context(host.state(), parse_wanted({}), "gpu1", TODAY)
    transaction = plan(context, verdict(host).findings).get(Component.CDI)
    assert transaction is not None
    steps = [(step.do, step.where) for step in transaction.steps]
    assert steps.index(("trigger", DYNAMIC)) < steps.index(("remove", STATIC)), steps


# --- GM308: too new for an engine

READABLE: list[tuple[str, str, str | None]] = [
    # container-toolkit.md 5.2
    ("docker", "20.10.24", None), ("docker", "24.0.7", None),
    ("docker", "25.0.0", "0.6.0"), ("docker", "26.0.2", "0.6.0"), ("docker", "26.1.4", "0.7.0"), ("docker", "27.0.3", "0.7.0"),
    ("docker", "27.5.1", "0.8.0"), ("docker", "28.0.4", "0.8.0"), ("docker", "28.5.2", "1.0.0"), ("docker", "29.0.0", "1.0.0"),
    ("docker", "29.2.0", "1.1.0"), ("docker", "29.7.2", "1.1.0"),
    ("podman", "4.0.2", None), ("podman", "4.1.0", "0.4.0"), ("podman", "4.6.1", "0.5.0"), ("podman", "4.9.3", "0.6.0"),
    ("podman", "5.0.3", "0.6.0"), ("podman", "5.1.2", "0.7.0"), ("podman", "5.2.0", "0.8.0"), ("podman", "5.4.2", "0.8.0"),
    ("podman", "5.5.0", "1.0.0"), ("podman", "5.8.2", "1.0.0"),
]  # fmt: skip


@pytest.mark.parametrize(("engine", "version", "readable"), READABLE)
def test_newest_readable(engine: str, version: str, readable: str | None) -> None:
    found = newest_readable(engine, tuple(map(int, version.split("."))))
    assert (show(found) if found else None) == readable


def spec_of(version: str) -> str:
    """The real spec as toolkit >= 1.19.1 writes it: with additionalGids, or of a given version."""
    text = spec(None, ("cdiVersion: 0.5.0", f"cdiVersion: {version}"))
    return spec(text, GIDS) if version == "0.7.0" else text


TOO_NEW: list[tuple[str, Host, str, str, bool]] = [
    # docker, toolkit, podman | the spec's version -> outcome, mended
    ("docker-25", healthy("25.0.5", "1.20.0"), "0.7.0", "fail", True),
    ("docker-26.0", healthy("26.0.2", "1.19.1"), "0.7.0", "fail", True),
    ("docker-26.1", healthy("26.1.5", "1.20.0"), "0.7.0", "ok", False),
    ("docker-26.1-1.0", healthy("26.1.5", "1.20.0"), "1.0.0", "fail", True),
    ("docker-28.5", healthy("28.5.2", "1.20.0"), "0.7.0", "ok", False),
    ("docker-28.5-1.1", healthy("28.5.2", "1.20.0"), "1.1.0", "fail", True),
    ("docker-29.2-1.1", healthy("29.2.0", "1.20.0"), "1.1.0", "ok", False),
    ("docker-20-does-not-read", healthy("20.10.24", "1.20.0"), "1.1.0", "ok", False),
    ("podman-5.0-beside-docker-28", healthy("28.5.2", "1.20.0").but(commands={"podman": (0, "podman version 5.0.3\n", "")}), "0.7.0", "fail", True),
    ("podman-5.1-beside-docker-28", healthy("28.5.2", "1.20.0").but(commands={"podman": (0, "podman version 5.1.2\n", "")}), "0.7.0", "ok", False),
    ("old-toolkit", healthy("25.0.5", "1.18.1"), "0.7.0", "fail", True),
]  # fmt: skip


@pytest.mark.parametrize(
    ("host", "version", "expected", "changes"), [row[1:] for row in TOO_NEW], ids=[row[0] for row in TOO_NEW]
)
def test_gm308(host: Host, version: str, expected: str, changes: bool) -> None:
    host = host.but(files={DYNAMIC: spec_of(version)}, info={"DiscoveredDevices": None})
    assert outcome(host, "GM308") == expected
    if expected == "fail":
        found = the(host, "GM308")
        assert bool(found.change) is changes and ("Mend generates it" in found.remedy) is changes
        old = any(
            item.text.startswith("reads up to ") and item.text < "reads up to 0.7" for item in found.evidence
        )
        assert (NO_GIDS in found.remedy) is (old and host.state().toolkit.version.need() >= (1, 19))


# --- GM310, GM312, GM313


@pytest.mark.parametrize(
    ("unit", "wanted", "expected", "changes"),
    [
        pytest.param({"ActiveState": "inactive", "Result": "success"}, {}, "ok", False, id="done"),
        pytest.param({"ActiveState": "failed", "Result": "exit-code", "ExecMainStatus": "1"}, {}, "fail", True, id="failed"),
        pytest.param({"ActiveState": "failed", "Result": "exit-code"}, {"cdi": {"writer": "file"}}, "fail", False, id="not-the-writer"),
        pytest.param({"ActiveState": "failed", "Result": "exit-code"}, {"cdi": {"manage": False}}, "fail", False, id="not-managed"),
    ],
)  # fmt: skip
def test_gm310(unit: dict[str, str], wanted: dict[str, Any], expected: str, changes: bool) -> None:
    host = healthy().but(units={REFRESH: {"LoadState": "loaded", "UnitFileState": "enabled", **unit}})
    assert outcome(host, "GM310", wanted) == expected
    assert any(found.change for found in findings(host, "GM310", wanted)) is changes


def test_gm310_without_systemd_there_is_no_such_unit() -> None:
    assert outcome(healthy(toolkit="1.17.8").but(units=None), "GM310") == "ok"


@pytest.mark.parametrize(("name", "expected"), [("x.yml", "warn"), ("README", "ok"), ("x.yaml.bak", "ok")])
def test_gm312(name: str, expected: str) -> None:
    assert outcome(healthy().but(files={f"/etc/cdi/{name}": "x"}), "GM312") == expected


@pytest.mark.parametrize(
    ("mode", "expected"), [(0o644, "ok"), (0o444, "ok"), (0o600, "warn"), (0o640, "warn"), (0o604, "ok")]
)
def test_gm313(mode: int, expected: str) -> None:
    host = healthy().but(files={DYNAMIC: file(spec(), mode)})
    assert outcome(host, "GM313") == expected
    if expected == "warn":
        change = the(host, "GM313").change
        assert change and change.action == SetMode(DYNAMIC)
        assert the(host, "GM313", {"cdi": {"manage": False}}).change is None


def test_a_toolkit_program_elsewhere_is_no_fault() -> None:
    host = healthy().but(programs={"nvidia-cdi-hook": program("/opt/bin/nvidia-cdi-hook")})
    assert besides_its_age(verdict(host).findings) == ()
