"""The wanted state: errors that name the path and what is allowed, and layers that merge key by key."""

from __future__ import annotations

import copy
import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumend import schemas
from gpumend.rules.wanted import Waiver, Wanted, merge, parse
from gpumend.schemas.wanted import WantedError, check
from group_data import all as group_data

WAIVER: dict[str, Any] = {"code": "GM204", "reason": "until the move", "owner": "ann", "until": "2026-12-31"}

ERRORS: list[tuple[str, Any, list[str]]] = [
    # id, what somebody wrote, what the error must say
    ("not-an-object", [], ["gpumend: [] is not of type object"]),
    ("unknown-key", {"runtimes": {}}, ["gpumend: unknown key 'runtimes'", "allowed: ", "runtime", "waivers"]),
    ("unknown-nested-key", {"runtime": {"mod": "cdi"}}, ["gpumend.runtime: unknown key 'mod'; did you mean 'mode'?", "allowed: ldconfig, manage, mode"]),
    ("a-release-as-a-number", {"cuda": {"wanted": 12.4}}, ['gpumend.cuda.wanted: write it as text: "12.4"']),
    ("a-release-as-a-number-in-a-list", {"cuda": {"wanted": [12.4]}}, ['write it as text: "12.4"']),
    ("a-version-as-a-number", {"toolkit": {"version": 1.17}}, ['gpumend.toolkit.version: write it as text: "1.17"']),
    ("a-date-that-is-no-text", {"waivers": [{**WAIVER, "until": datetime.date(2027, 3, 31)}]}, ['gpumend.waivers[0].until: write it as text: "2027-03-31"']),
    ("two-unknown-keys", {"docker": {"x": 1, "y": 2}}, ["gpumend.docker: unknown key 'x', 'y'"]),
    ("bad-mode", {"runtime": {"mode": "cdii"}}, ["gpumend.runtime.mode: 'cdii' is not allowed", "'cdi', 'auto', 'legacy', 'keep'"]),
    ("mode-of-another-type", {"runtime": {"mode": True}}, ["gpumend.runtime.mode: True is not allowed", "'cdi'"]),
    ("bad-restarts", {"restarts": "always"}, ["gpumend.restarts: 'always' is not allowed", "'never', 'idle', 'allow'"]),
    ("bad-writer", {"cdi": {"writer": "me"}}, ["gpumend.cdi.writer: 'me' is not allowed", "'auto', 'refresh', 'file'"]),
    ("manage-a-text", {"docker": {"manage": "yes"}}, ["gpumend.docker.manage: 'yes' is not of type boolean"]),
    ("runtime-a-text", {"runtime": "cdi"}, ["gpumend.runtime: 'cdi' is not of type object"]),
    ("bad-path", {"docker": {"paths": ["device", "gpu"]}}, ["gpumend.docker.paths[1]: 'gpu' is not allowed", "'runtime', 'device', 'gpus'"]),
    ("paths-a-text", {"docker": {"paths": "device"}}, ["gpumend.docker.paths: 'device' is not allowed", "auto"]),
    ("prove-without-image", {"prove": {}}, ["gpumend.prove", "image"]),
    ("prove-empty-image", {"prove": {"image": ""}}, ["gpumend.prove.image"]),
    ("prove-image-an-option", {"prove": {"image": "--privileged"}}, ["gpumend.prove.image"]),
    ("prove-empty-command", {"prove": {"image": "x", "command": []}}, ["gpumend.prove.command"]),
    ("toolkit-never", {"toolkit": {"version": "1.18.0"}}, ["gpumend.toolkit.version: '1.18.0' is not allowed", "nct#1376", "allowed: any other"]),
    ("toolkit-version", {"toolkit": {"version": "1.17.8-1"}}, ["gpumend.toolkit.version", "1.17.8-1"]),
    ("toolkit-key", {"toolkit": {"instal": True}}, ["gpumend.toolkit: unknown key 'instal'", "allowed: insist, install, lock_wait, version"]),
    ("waivers-an-object", {"waivers": WAIVER}, ["gpumend.waivers: ", "is not of type array"]),
    ("waiver-without-owner", {"waivers": [{k: v for k, v in WAIVER.items() if k != "owner"}]}, ["gpumend.waivers[0]", "owner"]),
    ("waiver-bad-code", {"waivers": [WAIVER, {**WAIVER, "code": "204"}]}, ["gpumend.waivers[1].code", "204"]),
    ("waiver-bad-date", {"waivers": [{**WAIVER, "until": "soon"}]}, ["gpumend.waivers[0].until: 'soon' must be a date, as 2027-03-31"]),
    ("waiver-no-such-day", {"waivers": [{**WAIVER, "until": "2026-02-30"}]}, ["gpumend.waivers[0].until: '2026-02-30' must be a date, as 2027-03-31"]),
    ("waiver-without-reason", {"waivers": [{**WAIVER, "reason": ""}]}, ["gpumend.waivers[0].reason"]),
]  # fmt: skip


@pytest.mark.parametrize(("raw", "words"), [row[1:] for row in ERRORS], ids=[row[0] for row in ERRORS])
def test_an_error_names_the_path_and_what_is_allowed(raw: Any, words: list[str]) -> None:
    with pytest.raises(WantedError) as raised:
        check(raw)
    for word in words:
        assert word in str(raised.value), str(raised.value)


def test_all_errors_are_told_at_once() -> None:
    with pytest.raises(WantedError) as raised:
        check({"runtime": {"mode": "x"}, "restarts": "y", "z": 1})
    assert len(str(raised.value).splitlines()) == 3


def test_a_bad_date_stands_beside_nothing_hidden() -> None:
    with pytest.raises(WantedError, match=r"waivers\[1\].until"):
        check({"waivers": [WAIVER, {**WAIVER, "until": "2026-13-01"}]})


def test_nothing_wanted_is_the_defaults_of_the_schema() -> None:
    assert parse({}) == Wanted()
    properties = schemas.load("wanted")["properties"]
    wanted = Wanted()
    assert wanted.mode == properties["runtime"]["properties"]["mode"]["default"]
    assert wanted.ldconfig == properties["runtime"]["properties"]["ldconfig"]["default"]
    assert wanted.manage_runtime == properties["runtime"]["properties"]["manage"]["default"]
    assert wanted.cdi_writer == properties["cdi"]["properties"]["writer"]["default"]
    assert wanted.manage_cdi == properties["cdi"]["properties"]["manage"]["default"]
    assert wanted.manage_docker == properties["docker"]["properties"]["manage"]["default"]
    assert wanted.restarts == properties["restarts"]["default"]
    assert wanted.allow_breaking_gpus_flag == properties["allow_breaking_gpus_flag"]["default"]
    assert wanted.allow_disabling_no_cgroups == properties["allow_disabling_no_cgroups"]["default"]


def test_group_data_is_valid_and_says_the_defaults() -> None:
    assert parse(group_data.gpumend) == Wanted()


def test_every_key_arrives() -> None:
    assert parse(
        {
            "runtime": {"manage": False, "mode": "legacy", "ldconfig": "keep"},
            "cdi": {"manage": False, "writer": "file"},
            "docker": {"manage": False, "paths": ["gpus"]},
            "restarts": "allow",
            "allow_breaking_gpus_flag": True,
            "allow_disabling_no_cgroups": True,
            "prove": {"image": "cuda:13", "archive": "/srv/cuda.tar", "command": ["true"]},
            "waivers": [{**WAIVER, "host": "gpu-*"}],
        }
    ) == Wanted(
        manage_runtime=False,
        mode="legacy",
        ldconfig="keep",
        manage_cdi=False,
        cdi_writer="file",
        manage_docker=False,
        docker_paths=("gpus",),
        restarts="allow",
        allow_breaking_gpus_flag=True,
        allow_disabling_no_cgroups=True,
        prove_image="cuda:13",
        prove_archive="/srv/cuda.tar",
        prove_command=("true",),
        waivers=(Waiver("GM204", "gpu-*", "until the move", "ann", datetime.date(2026, 12, 31)),),
    )


@pytest.mark.parametrize(
    ("code", "pattern", "asked", "covers"),
    [
        ("GM204", "*", ("GM204", "any"), True),
        ("GM204", "*", ("GM205", "any"), False),
        ("GM204", "gpu-*", ("GM204", "gpu-1"), True),
        ("GM204", "gpu-*", ("GM204", "cpu-1"), False),
        ("GM204", "gpu-1", ("GM204", "gpu-10"), False),
    ],
)
def test_what_a_waiver_covers(code: str, pattern: str, asked: tuple[str, str], covers: bool) -> None:
    assert Waiver(code, pattern, "r", "o", datetime.date(2026, 1, 1)).covers(*asked) is covers


# --- layers

LAYERS: list[tuple[str, list[dict[str, Any]], dict[str, Any]]] = [
    ("none", [], {}),
    ("one", [{"a": {"b": 1}}], {"a": {"b": 1}}),
    ("a-group-sets-one-key", [{"runtime": {"mode": "cdi", "ldconfig": "auto"}}, {"runtime": {"mode": "auto"}}], {"runtime": {"mode": "auto", "ldconfig": "auto"}}),
    ("a-host-last", [{"restarts": "idle"}, {"restarts": "never"}, {"restarts": "allow"}], {"restarts": "allow"}),
    ("lists-are-replaced", [{"docker": {"paths": ["device"]}}, {"docker": {"paths": ["gpus"]}}], {"docker": {"paths": ["gpus"]}}),
    ("waivers-add-up", [{"waivers": [1]}, {"waivers": [2]}, {}], {"waivers": [1, 2]}),
    ("a-value-becomes-a-table", [{"docker": 1}, {"docker": {"manage": False}}], {"docker": {"manage": False}}),
]  # fmt: skip


@pytest.mark.parametrize(("layers", "merged"), [row[1:] for row in LAYERS], ids=[row[0] for row in LAYERS])
def test_merge(layers: list[dict[str, Any]], merged: dict[str, Any]) -> None:
    assert merge(layers) == merged


TREES = st.recursive(
    st.integers() | st.lists(st.integers(), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from(["a", "b", "waivers"]), inner, max_size=3),
    max_leaves=10,
)
LAYER = st.dictionaries(st.sampled_from(["a", "b", "waivers"]), TREES, max_size=3)


@given(st.lists(LAYER, max_size=3))
def test_merge_leaves_the_layers_as_they_were(layers: list[dict[str, Any]]) -> None:
    """group_data is one object for all hosts: one host's layer must not leak into another's."""
    before = copy.deepcopy(layers)
    merge(layers)
    assert layers == before


@given(LAYER)
def test_merge_of_one_layer_is_the_layer(layer: dict[str, Any]) -> None:
    assert merge([layer]) == layer
