"""The files that are read and edited, spoilt in every way: nothing of ours raises, an edit touches its own value and
nothing else, and what a mend writes it does not write again."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gpumend.plan.plan import plan
from gpumend.plan.step import WriteFile
from gpumend.plan.transaction import Plan
from gpumend.rules.finding import Component
from gpumend.rules.judge import Verdict, judge
from gpumend.rules.rule import Context
from gpumend.rules.wanted import parse as parse_wanted
from gpumend.state.cdi import Spec, SpecError, load
from gpumend.state.containerd import CONFIG as CONTAINERD
from gpumend.state.containerd import cri_of, merge
from gpumend.state.flavours import FLAVOURS
from gpumend.state.packages import parse_dpkg, parse_held, parse_policy, parse_rpm
from gpumend.state.snapshot import Output
from gpumend.text.edits import Edit, EditError, apply, apply_lines
from tests.unit import test_containerd, test_grit
from tests.unit.build import (
    CONFIG,
    DAEMON_JSON,
    STATIC,
    TODAY,
    Host,
    Item,
    config,
    file,
    fixture,
    healthy,
    spec,
    state,
)
from tests.unit.fuzz import put, spoilt_bytes, spoilt_text
from tests.unit.test_edits import kept, same
from tests.unit.test_edits import put as with_value
from tests.unit.test_judge import SICK

GRIT = test_containerd.GRIT_TOML
TEMPLATE = FLAVOURS[0].templates[0]
DROP_IN = "/etc/containerd/conf.d/99-nvidia.toml"
BY_LINES = (Component.CONTAINERD, Component.GRIT)
CDI_JSON = "/etc/cdi/nvidia.json"


def wants(**more: Any) -> dict[str, Any]:
    return {"restarts": "allow", **more}


@dataclass(frozen=True)
class Kind:
    """A kind of file: where it lies, hosts that have it, and texts of it from real hosts."""

    path: str
    hosts: tuple[Host, ...]
    texts: tuple[str, ...]
    wanted: tuple[dict[str, Any], ...]


def containerds(**more: Any) -> tuple[Host, ...]:
    return tuple(test_containerd.node(version, **more) for version in ("1.6.20", "1.7.24", "2.1.9"))


UPSTREAM = fixture("grit/containerd_upstream_config.toml")
GRIT_WANTED = wants(grit={"role": "both"}, containerd={"runtimes": ["nvidia"]})
KINDS: dict[str, Kind] = {
    "config.toml": Kind(
        CONFIG,
        (healthy(), SICK, healthy("20.10.24", "1.14.6", layout="debian")),
        (config("auto"), config("cdi"), config("legacy", "/sbin/ldconfig").replace("#no-cgroups = false", "no-cgroups = true")),
        (wants(), wants(runtime={"mode": "auto"}), wants(runtime={"mode": "legacy"}, allow_disabling_no_cgroups=True)),
    ),
    "daemon.json": Kind(
        DAEMON_JSON,
        (healthy("26.1.5"), SICK, healthy("20.10.24")),
        ("{}", '{\n\t"log-driver": "json-file",\n\t"features": {"buildkit": true, "cdi": false},\n\t"runtimes": {\n\t\t"other": {"path": "/usr/bin/runc"}\n\t}\n}'),
        (wants(), wants(docker={"paths": ["runtime", "device", "gpus"]})),
    ),
    "containerd": Kind(CONTAINERD, containerds(), (test_containerd.DEBIAN, UPSTREAM, 'version = 2\nimports = ["/etc/containerd/conf.d/*.toml"]\n'), (GRIT_WANTED,)),
    "containerd drop-in": Kind(
        DROP_IN, containerds(config='version = 2\nimports = ["/etc/containerd/conf.d/*.toml"]\n'), (UPSTREAM, 'version = 3\n[plugins."io.containerd.cri.v1.runtime"]\nenable_cdi = true\n'), (GRIT_WANTED,)
    ),
    "k3s template": Kind(TEMPLATE, (test_containerd.k3s(test_containerd.GOOD_TEMPLATE),), (test_containerd.GOOD_TEMPLATE,), (GRIT_WANTED,)),
    "cdi yaml": Kind(STATIC, (healthy("26.1.5", "1.17.8"), SICK), (spec(),), (wants(),)),
    "cdi json": Kind(CDI_JSON, (healthy("26.1.5", "1.17.8"),), (json.dumps({"cdiVersion": "0.5.0", "kind": "nvidia.com/gpu", "devices": [{"name": "all", "containerEdits": {"deviceNodes": [{"path": "/dev/null"}]}}]}),), (wants(),)),
    "grit.toml": Kind(GRIT, (test_grit.grit(None),), tuple(fixture(f"grit/{name}.toml") for name in ("bad_runc_grit", "report_fixed_grit", "upstream_grit")), (GRIT_WANTED,)),
}  # fmt: skip


@cache
def answer(name: str, number: int) -> Item:
    """The answer of one of a kind's hosts with a text of that kind."""
    kind = KINDS[name]
    found: Item = json.loads(json.dumps(kind.hosts[number].but(files={kind.path: kind.texts[0]}).answer()))
    return found


@dataclass(frozen=True)
class Case:
    """One of a kind's hosts, by number, that has these bytes in the file, and is wanted to be as one of the kind's."""

    name: str
    host: int
    data: bytes
    wanted: int = 0

    def check(self) -> None:
        mend(
            put(answer(self.name, self.host), ("files", KINDS[self.name].path), file(self.data)),
            KINDS[self.name].path,
            KINDS[self.name].wanted[self.wanted],
        )


def judged(found: Item, wanted: dict[str, Any]) -> tuple[Verdict, Plan]:
    host, want = state(found), parse_wanted(wanted)
    verdict = judge(host, want, "gpu1", TODAY)
    return verdict, plan(Context(host, want, "gpu1", TODAY), verdict.findings)


def reader(path: str) -> Callable[[str], Any]:
    return tomllib.loads if path.endswith(".toml") else lambda text: json.loads(text.removeprefix("\ufeff"))


def at(document: Any, keys: tuple[str, ...]) -> Any:
    for key in keys:
        document = document.get(key, ...) if isinstance(document, dict) else ...
    return document


def edited(before: str, edit: Edit, by_lines: bool) -> str:
    """The text after one edit, which touched one value and nothing else: by what it means, and byte for byte."""
    do, read = (apply_lines if by_lines else apply), reader(edit.path)
    after = do(edit.path, before.encode(), [edit]).decode()
    document = read(before) if before.strip("\ufeff \t\r\n") else {}
    expected = with_value(document, edit.keys, edit.value)
    assert expected is not None and json.dumps(read(after), sort_keys=True, default=str) == json.dumps(
        expected, sort_keys=True, default=str
    )
    assert do(edit.path, after.encode(), [edit]).decode() == after, "a second time changes nothing"
    taken, _ = kept(before.rstrip("\r\n"), after.rstrip("\r\n"))  # a last line without its end gets one
    old = at(document, edit.keys)
    if old is ...:
        assert not taken.strip(), f"took out {taken!r}"
    elif same(old, edit.value):
        assert after == before
    else:
        assert "\n" not in taken.strip() or isinstance(old, (list, dict, str)), f"took out {taken!r}"
        assert len(taken) <= len(json.dumps(old, default=str)) * 6 + 40, f"took out {taken!r}"
    return after


def mend(host: Item, path: str, wanted: dict[str, Any]) -> None:
    """Judged and planned; each edit checked by itself; and after the files are written nothing is left to write."""
    verdict, planned = judged(host, wanted)
    files: dict[str, Any] = {}
    for transaction in planned.transactions:
        written = {step.path: step for step in transaction.steps if isinstance(step, WriteFile)}
        for name, step in written.items():
            files[name] = step.data
        edits = [
            edit
            for finding in verdict.findings
            if finding.change and finding.change.component is transaction.component
            for edit in finding.change.edits
        ]
        if transaction.component in (Component.TOOLKIT, Component.DOCKER, *BY_LINES):
            texts = {name: (step.was or b"").decode() for name, step in written.items()}
            for edit in edits:
                if edit.path in texts:
                    texts[edit.path] = edited(texts[edit.path], edit, transaction.component in BY_LINES)
            if edits:
                assert {name: text.encode() for name, text in texts.items()} == {
                    name: step.data for name, step in written.items()
                }
    if path in files:
        for name, data in files.items():
            if name in host["files"]:
                host = put(host, ("files", name), file(data))
        _, again = judged(host, wanted)
        for transaction in again.transactions:
            for step in transaction.steps:
                assert step.do != "write" or step.where not in files or step.where not in host["files"], (
                    f"{step.where} is written again"
                )


@st.composite
def cases(draw: st.DrawFn, name: str) -> Case:
    kind = KINDS[name]
    data = draw(spoilt_bytes(draw(st.sampled_from(kind.texts)).encode()))
    return Case(
        name, draw(st.integers(0, len(kind.hosts) - 1)), data, draw(st.integers(0, len(kind.wanted) - 1))
    )


@given(cases("config.toml"))
def test_config_toml(case: Case) -> None:
    case.check()


@given(cases("daemon.json"))
def test_daemon_json(case: Case) -> None:
    case.check()


@given(cases("containerd"))
def test_containerd_config(case: Case) -> None:
    case.check()


@given(cases("containerd drop-in"))
def test_containerd_drop_in(case: Case) -> None:
    case.check()


@given(cases("k3s template"))
def test_k3s_template(case: Case) -> None:
    case.check()


@given(cases("cdi yaml"))
def test_cdi_yaml(case: Case) -> None:
    case.check()


@given(cases("cdi json"))
def test_cdi_json(case: Case) -> None:
    case.check()


@given(cases("grit.toml"))
def test_grit_toml(case: Case) -> None:
    case.check()


# --- what the subsystems make of texts, without a host around them

OUTPUTS = [fixture("h100/dpkg.txt"), "ii \tnvidia-driver\t580.1-1\nhi \tcontainerd\t1.7.24\nrc \told\t1\n"]
RPMS = ["nvidia-driver\t3:580.95.05-1.el9\ncuda-toolkit\t(none):13.0.2-1\n", "gpg-pubkey\t(none):1-2\n"]
PACKAGE_LINES = st.sampled_from(
    [
        "\t",
        "\n",
        "\r\n",
        "\0",
        "ii ",
        "hi\t",
        "(none):",
        ":",
        " *** ",
        " -1",
        "9" * 5000,
        "é",
        "\ud800",
        "\u2028",
        "\x0b",
        "x" * 5000,
    ]
)


@st.composite
def package_lists(draw: st.DrawFn, texts: list[str]) -> str:
    text = draw(st.sampled_from(texts))
    for _ in range(draw(st.integers(1, 4))):
        at_ = draw(st.integers(0, len(text)))
        text = text[:at_] + draw(PACKAGE_LINES | st.text(max_size=4)) + text[at_ + draw(st.integers(0, 5)) :]
    return text


@given(package_lists(OUTPUTS), st.integers(-2, 3))
def test_dpkg_lists(text: str, rc: int) -> None:
    output = Output(text, "", rc)
    try:
        found = parse_dpkg(output)
    except ValueError:
        assert rc not in (0, 1)
        return
    assert set(parse_held(output)) <= set(found)
    for name, version in found.items():
        assert f"\t{name}\t{version}" in text
    again = "".join(f"ii \t{name}\t{version}\n" for name, version in found.items())
    assert parse_dpkg(Output(again, "", 0)) == found


@given(package_lists(RPMS), st.integers(-1, 1))
def test_rpm_lists(text: str, rc: int) -> None:
    try:
        found = parse_rpm(Output(text, "", rc))
    except ValueError:
        assert rc
        return
    assert all(version for version in found.values())
    again = "".join(f"{name}\t{version}\n" for name, version in found.items())
    assert parse_rpm(Output(again, "", 0)) == {
        name: version.removeprefix("(none):") for name, version in found.items() if version != "(none):"
    }


POLICIES = [fixture("toolkit/apt/policy.txt"), fixture("toolkit/apt/policy_pinned.txt")]


@given(package_lists(POLICIES))
def test_apt_policies(text: str) -> None:
    """What is offered stands there, each with the priority that apt would use it by."""
    try:
        found = parse_policy(Output(text, "", 0))
    except ValueError as error:  # the reading of it is then `failed`
        assert "Exceeds the limit" in str(error)
        return
    for name, offer in found.items():
        assert f"{name}:" in text and offer.versions and offer.candidate != "(none)"
        assert all(re.search(rf"(?m)^.{{5}}{re.escape(version)} -?\d", text) for version in offer.versions)


@given(spoilt_text(spec()) | spoilt_text(json.dumps({"cdiVersion": "0.7.0", "kind": "a.b/c", "devices": []})))
@example("&a [*a]")
@example("cdiVersion: &a {b: *a}\n")
@example("devices: " + "[" * 100_000)
@example("{a: " * 100_000)
@example("? " * 10_000)
@example("- " * 10_000)
@example("".join(" " * depth + "a:\n" for depth in range(2000)))
@example("cdiVersion: " + "9" * 5000)
@example("cdiVersion: 0x" + "f" * 5000)
@example("kind: 1" + ":1" * 5000)
@example("kind: .inf\nmajor: .nan\n")
@example("a: 1\na: 1\n")
@example("a:\n\tb: 1\n")
@example("\ufeffcdiVersion: 0.5.0\n")
@example("cdiVersion: \0\n")
@example("cdiVersion: 2026-13-45\n")
@example("? [a]\n: b\n")
@example("!!python/object/apply:os.system ['false']\n")
@example("--- a\n--- b\n")
def test_a_spec_is_loaded_or_dropped_with_a_reason(text: str) -> None:
    try:
        found = load("/etc/cdi/x.yaml", text)
    except SpecError as error:
        assert str(error)
        return
    assert isinstance(found, Spec) and found.devices


TABLES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.sampled_from(["io.containerd.runc.v2", "nvidia", "cri"]),
    lambda inner: st.lists(inner, max_size=2)
    | st.dictionaries(
        st.sampled_from(["containerd", "runtimes", "nvidia", "runc", "grit", "options", "BinaryName", "default_runtime_name", "enable_cdi", "runtime_type", "snapshotter"]),
        inner,
        max_size=3,
    ),
    max_leaves=8,
)  # fmt: skip
CONFIGS = st.fixed_dictionaries(
    {},
    optional={
        "version": st.sampled_from([1, 2, 3, 4, 99, -1, True, "2", 2.0, None]),
        "imports": TABLES | st.just([DROP_IN]) | st.just(["/etc/containerd/conf.d/*.toml", "../x", "[", 1]),
        "disabled_plugins": TABLES | st.just(["io.containerd.grpc.v1.cri"]),
        "plugins": TABLES | st.dictionaries(st.sampled_from(["cri", "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime", "io.containerd.cri.v1.images"]), TABLES, max_size=3),
    },
)  # fmt: skip


@given(st.sampled_from([(1, 6, 20), (1, 7, 24), (2, 0), (2, 1, 9), (2, 3)]), CONFIGS, CONFIGS)
def test_containerd_merge(version: tuple[int, ...], root: dict[str, Any], drop_in: dict[str, Any]) -> None:
    """Total, leaves its input alone, and what it says is what it would say of its own dump."""
    files = {CONTAINERD: root, DROP_IN: drop_in}
    before = json.dumps(files)
    found = merge(version, CONTAINERD, files)
    assert json.dumps(files) == before
    cri = cri_of(found)
    assert repr(cri_of(merge(version, CONTAINERD, {CONTAINERD: found}))) == repr(cri)


# --- what no generator comes upon

BIG = 1 << 20
TOML_HARD: dict[str, bytes] = {
    "nothing": b"",
    "only a comment": b"# x",
    "nul": b"a = 1\n\0",
    "bom": b"\xef\xbb\xbfa = 1\n",
    "utf-16": "a = 1\n".encode("utf-16"),
    "crlf": b"# x\r\n[a]\r\nb = 1\r\n",
    "cr": b"a = 1\rb = 2\n",
    "mixed ends": b"a = 1\r\n[b]\nc = 1\r\n",
    "deep array": b"a = " + b"[" * 50_000 + b"]" * 50_000,
    "deep table": b"a = " + b"{a = " * 50_000,
    "deep header": b"[" + b".".join([b"a"] * 20_000) + b"]\n",
    "deep key": b".".join([b"a"] * 20_000) + b" = 1\n",
    "deep quoted key": b".".join([b'"a"'] * 20_000) + b" = 1\n",
    "table twice": b"[a]\n[a]\n",
    "key twice": b"a = 1\na = 2\n",
    "dates": b"a = 1979-05-27T07:32:00Z\nb = 1979-05-27\nc = 07:32:00\nd = 1979-13-45\n",
    "good dates": b"a = 1979-05-27T07:32:00Z\nb = 1979-05-27\nc = 07:32:00\n",
    "floats": b"a = inf\nb = -inf\nc = nan\nd = 1e400\n",
    "huge int": b"a = " + b"9" * 5000 + b"\n",
    "bigger than 64 bits": b"version = 99999999999999999999999\n",
    "long array": b"a = [\n" + b"  1,\n" * 3_000 + b"]\n",
    "long string": b'a = """\n' + b"x\n" * 50_000 + b'"""\n',
    "long literal": b"a = '''\n" + b"x\n" * 50_000 + b"'''\n",
    "hashes": b'mode = "' + b"#" * 100_000 + b'"\n',
    "brackets in strings": b'a = [\'[\', "]", \'\'\'\n[[[\n\'\'\', """\n{{{ \\"\\"\\" """"]\n[b]\nc = 1\n',
    "many keys": b"[t]\n" + b"".join(b"k%d = 1\n" % n for n in range(700)),
    "many tables": b"".join(b"[t%d]\n" % n for n in range(100)),
    "big": b"# x\n" * (BIG // 4),
    "too big": b"# x\n" * (10 * BIG // 4),
    "spaces": b"mode" + b" " * 100_000 + b"= 1\n",
    "one long word": b"a" * 100_000,
    "binary": bytes(range(256)) * 64,
}
JSON_HARD: dict[str, bytes] = {
    "nothing": b"",
    "nul": b'{"a": 1}\0',
    "nul in a text": b'{"a": "\\u0000"}',
    "bom": b'\xef\xbb\xbf{"a": 1}',
    "utf-16": '{"a": 1}'.encode("utf-16"),
    "crlf": b'{\r\n  "a": 1\r\n}\r\n',
    "lone surrogate": b'{"labels": ["\\udc80"]}',
    "deep": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "deep array": b'{"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "not so deep": b'{"a":' * 200 + b"1" + b"}" * 200,
    "key twice": b'{"features": {"cdi": false}, "features": {"cdi": true}}',
    "inner key twice": b'{"runtimes": {"nvidia": {}, "nvidia": {"path": "x"}}}',
    "nan": b'{"a": NaN, "b": Infinity, "c": -Infinity, "d": 1e999}',
    "huge int": b'{"a": ' + b"9" * 5000 + b"}",
    "int over 64 bits": b'{"max-concurrent-downloads": 99999999999999999999}',
    "not an object": b"[" + b"{}," * 100 + b"{}]",
    "many keys": json.dumps({f"k{n}": n for n in range(3_000)}).encode(),
    "big": json.dumps({"labels": ["x" * 1000] * 900}).encode(),
    "too big": json.dumps({"labels": ["x" * 1000] * 10_000}).encode(),
    "comment": b'// x\n{"a": 1}',
    "trailing comma": b'{"a": 1,}',
    "single quotes": b"{'a': 1}",
    "wrong everywhere": b'{"runtimes": [], "features": "x", "cdi-spec-dirs": {}, "default-runtime": 1, "storage-driver": [], "data-root": {}, "hosts": 1}',
    "nulls": b'{"runtimes": null, "features": null, "cdi-spec-dirs": null, "default-runtime": null, "storage-driver": null, "data-root": null}',
    "wrong inside": b'{"runtimes": {"nvidia": [], "": null}, "features": {"cdi": "true"}, "cdi-spec-dirs": [1, null]}',
    "binary": bytes(range(256)) * 64,
}  # fmt: skip
DEVICE = "- name: a\n  containerEdits:\n    deviceNodes:\n    - path: /dev/null\n"
YAML_HARD: dict[str, bytes] = {
    "laughs": ("a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(f"{c}: &{c} [{', '.join([f'*{p}'] * 10)}]\n" for p, c in zip("abcdefghi", "bcdefghij", strict=True))).encode(),
    "a bomb of fields that a spec has": (
        "cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n- &d\n  name: a\n  containerEdits:\n    hooks:\n    - &h\n"
        "      hookName: createContainer\n      path: /x\n      args: [" + "a, " * 3000 + "a]\n" + "    - *h\n" * 3000 + "- *d\n" * 3000
    ).encode(),
    "itself": b"&a\ncdiVersion: 0.5.0\ncontainerEdits: *a\n",
    "merge of itself": b"&a\n<<: *a\ncdiVersion: 0.5.0\n",
    "deep flow": b"[" * 200_000,
    "deep block": "".join(" " * depth + "a:\n" for depth in range(1400)).encode(),
    "tab": b"cdiVersion:\n\t0.5.0\n",
    "nul": b"cdiVersion: 0.5.0\0\n",
    "bom": ("\ufeffcdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n" + DEVICE).encode(),
    "crlf": ("cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n" + DEVICE).replace("\n", "\r\n").encode(),
    "utf-16": ("cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n" + DEVICE).encode("utf-16"),
    "name twice": ("cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n" + DEVICE * 2).encode(),
    "big": ("cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n" + "".join(DEVICE.replace("name: a", f"name: d{n}") for n in range(1_000))).encode(),
    "too big": b"# x\n" * (10 * BIG // 4),
    "numbers": b"cdiVersion: 0.5\nkind: 1\ndevices: [{name: 1, containerEdits: {env: [A=1], deviceNodes: [{path: /dev/null, major: 1.5e300, minor: -1, fileMode: .inf}]}}]\n",
    "binary": bytes(range(256)) * 64,
}  # fmt: skip
HARD = [
    *((name, case, data) for name in ("config.toml", "containerd", "containerd drop-in", "k3s template", "grit.toml") for case, data in TOML_HARD.items()),
    *(("daemon.json", case, data) for case, data in JSON_HARD.items()),
    *((name, case, data) for name in ("cdi yaml", "cdi json") for case, data in {**JSON_HARD, **YAML_HARD}.items()),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "data"),
    [(name, data) for name, _, data in HARD],
    ids=[f"{name}-{case}" for name, case, _ in HARD],
)
def test_what_no_generator_comes_upon(name: str, data: bytes) -> None:
    """Judged and planned on every host that has the file."""
    Case(name, 0, data).check()


@pytest.mark.parametrize("make", [apply, apply_lines])
@pytest.mark.parametrize("data", TOML_HARD.values(), ids=TOML_HARD.keys())
def test_an_edit_of_what_no_generator_comes_upon(make: Any, data: bytes) -> None:
    edit = Edit("/x.toml", ("nvidia-container-runtime", "mode"), "cdi")
    try:
        after = make("/x.toml", data, [edit])
    except EditError as error:
        assert str(error).startswith("/x.toml: ")
        return
    found = tomllib.loads(after.decode())
    assert found.pop("nvidia-container-runtime") == {"mode": "cdi"}
    assert repr(found) == repr(tomllib.loads(data.decode()))


@pytest.mark.parametrize("data", JSON_HARD.values(), ids=JSON_HARD.keys())
def test_an_edit_of_json_that_no_generator_comes_upon(data: bytes) -> None:
    try:
        after = apply("/x.json", data, [Edit("/x.json", ("features", "cdi"), True)])
    except EditError as error:
        assert str(error).startswith("/x.json: ")
        return
    assert json.loads(after.decode().removeprefix("\ufeff"))["features"]["cdi"] is True
