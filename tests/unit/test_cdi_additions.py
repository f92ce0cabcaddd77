"""What people have put into a generated spec is in the new one, or the new one is not made; and what a new one changes is told."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from gpumend.payload.change.files import Failed
from gpumend.payload.change.spec_text import with_additions
from gpumend.plan.plan import plan
from gpumend.plan.step import GenerateFile
from gpumend.rules.cdi.additions import additions, written_by_hand
from gpumend.rules.cdi.difference import difference, told
from gpumend.rules.judge import judge
from gpumend.rules.rule import Context
from gpumend.rules.wanted import parse
from gpumend.state.cdi import Spec, load
from tests.unit.build import (
    DYNAMIC,
    STATIC,
    TODAY,
    Host,
    file,
    findings,
    healthy,
    node,
    outcome,
    spec,
    the,
)

STALE = ("libcuda.so.580.159.04", "libcuda.so.535.161.07")
ENV = ("NVIDIA_VISIBLE_DEVICES=void", "NVIDIA_VISIBLE_DEVICES=void\n        - MODEL_DIR=/srv/models")
MOUNT = (
    "    mounts:\n",
    "    mounts:\n        - hostPath: /srv/models\n          containerPath: /models\n          options:\n            - ro\n            - rbind\n",
)
NODE = (
    "    deviceNodes:\n        - path: /dev/nvidia-uvm\n",
    "    deviceNodes:\n        - path: /dev/fuse\n        - path: /dev/nvidia-uvm\n",
)
HOOK = (
    "    hooks:\n",
    "    hooks:\n        - hookName: createContainer\n          path: /opt/hook\n          args:\n            - hook\n            - --token=hunter2\n",
)
WHOLE = (
    "    - name: all\n",
    "    - name: shared\n      containerEdits:\n        deviceNodes:\n            - path: /dev/nvidia0\n        env:\n            - SHARED=1\n    - name: all\n",
)
OF_ONE = (
    '    - name: "0"\n      containerEdits:\n',
    '    - name: "0"\n      containerEdits:\n        env:\n            - FIRST=1\n',
)
OF_GONE = (
    "    - name: all\n",
    "    - name: GPU-00000000-0000-0000-0000-000000000000\n      containerEdits:\n        env:\n            - GONE=1\n    - name: all\n",
)
RDT = ("    hooks:\n", "    intelRdt:\n        closID: gold\n    hooks:\n")
LABEL = ("kind: nvidia.com/gpu\n", "kind: nvidia.com/gpu\nannotations:\n    example.com/of: me\n")
WRAPPED = ("path: /usr/bin/nvidia-cdi-hook", "path: /opt/hook")
NEWER = ("cdiVersion: 0.5.0", "cdiVersion: 0.7.0")
THERE: dict[str, Any] = {"/srv/models": file(""), "/opt/hook": file("", 0o755), "/dev/fuse": node(10, 229)}


def host(*edits: tuple[str, str], **there: Any) -> Host:
    """A host whose /etc/cdi/nvidia.yaml was made by hand with toolkit 1.17, for an older driver, and edited since."""
    return healthy("28.5.2", "1.17.8").but(files={**THERE, STATIC: spec(None, STALE, *edits), **there})


def step(found: Host) -> GenerateFile:
    state = found.state()
    context = Context(state, parse({}), "gpu1", TODAY)
    [made] = [
        each
        for transaction in plan(context, judge(state, parse({}), "gpu1", TODAY).findings).transactions
        for each in transaction.steps
        if isinstance(each, GenerateFile)
    ]
    return made


def as_json(text: str) -> str:
    """A spec as `nvidia-ctk cdi generate --format=json` prints it."""
    return json.dumps(load("new", text).raw)


KEPT: list[tuple[str, tuple[tuple[str, str], ...]]] = [
    ("env MODEL_DIR", (ENV,)),
    ("mount /srv/models", (MOUNT,)),
    ("device node /dev/fuse", (NODE,)),
    ("hook /opt/hook", (HOOK,)),
    ("device shared", (WHOLE,)),
    ("env FIRST", (OF_ONE,)),
    ("env MODEL_DIR, mount /srv/models, device shared", (ENV, MOUNT, WHOLE)),
]


@pytest.mark.parametrize(("texts", "edits"), KEPT, ids=[texts for texts, _ in KEPT])
def test_what_was_added_is_in_the_new_spec(texts: str, edits: tuple[tuple[str, str], ...]) -> None:
    found = the(host(*edits), "GM304")
    assert found.change is not None and "keeps what was added by hand" in found.remedy
    made = step(host(*edits))
    assert sorted(made.added) == sorted(texts.split(", "))
    assert "hunter2" not in made.describe()
    new = load("new", with_additions(as_json(spec()), made.as_data()["keeps"]))
    assert sorted(each.text for each in additions(new)) == sorted(texts.split(", "))
    plain = load("plain", spec())
    assert {name for name in new.devices if name != "shared"} == set(plain.devices)
    assert new.driver_version() == plain.driver_version()
    mended = host(*edits).but(files={STATIC: with_additions(as_json(spec()), made.as_data()["keeps"])})
    assert findings(mended, "GM304") == [], "and a second run changes nothing"


LOST: list[tuple[str, str, tuple[tuple[str, str], ...], dict[str, Any]]] = [
    ("mount /srv/models", "/srv/models is not on this host", (MOUNT,), {"/srv/models": None}),
    ("device node /dev/fuse", "/dev/fuse is not on this host", (NODE,), {"/dev/fuse": None}),
    ("hook /opt/hook", "/opt/hook is not on this host", (HOOK,), {"/opt/hook": None}),
    ("env GONE", "device GPU-0", (OF_GONE,), {}),
    ("intelRdt", "only mounts, env", (RDT, NEWER), {}),
    ("annotation example.com/of", "only mounts, env", (LABEL, NEWER), {}),
    ("hook /opt/hook", "does nvidia-cdi-hook's work", (WRAPPED,), {}),
]


@pytest.mark.parametrize(("text", "why", "edits", "there"), LOST, ids=[why for _, why, _, _ in LOST])
def test_what_cannot_be_kept_holds_a_new_spec_back(
    text: str, why: str, edits: tuple[tuple[str, str], ...], there: dict[str, Any]
) -> None:
    found = the(host(*edits, **there), "GM304")
    assert found.change is None
    assert text in found.refused and why in found.refused


def test_a_spec_that_refresh_writes_is_not_made_anew_over_an_edit() -> None:
    found = the(healthy().but(files={**THERE, DYNAMIC: spec(None, STALE, ENV)}), "GM304")
    assert found.change is None and "nvidia-cdi-refresh writes that file at every boot" in found.refused


def test_what_refresh_will_write_over_is_told_beforehand() -> None:
    edited = healthy().but(files={**THERE, DYNAMIC: spec(None, ENV, MOUNT)})
    found = the(edited, "GM315")
    assert (found.status, found.change) == ("note", None)
    assert "env MODEL_DIR" in found.summary and "mount /srv/models" in found.summary
    assert findings(healthy(), "GM315") == []
    assert findings(host(ENV), "GM315") == [], "mend writes this one, and keeps it"
    foreign = healthy().but(
        files={**THERE, "/etc/cdi/local.yaml": spec(None, ("nvidia.com/gpu", "example.com/local"), ENV)}
    )
    assert findings(foreign, "GM315") == []


def test_a_spec_as_generated_is_made_anew_with_nothing_to_keep() -> None:
    assert step(host()) == dataclasses.replace(step(host()), keeps="", added=())


def test_names_of_another_strategy_stay() -> None:
    renamed = spec(None, STALE, ('- name: "0"', "- name: gpu0"))
    assert "--device-name-strategy=type-index" in step(host(**{STATIC: renamed})).argv
    assert not any("strategy" in word for word in step(host()).argv)


@pytest.mark.parametrize(
    ("path", "theirs"),
    [
        ("/opt/nvidia/models", True),
        ("/srv/nvidia", True),
        ("/home/vulkan/data", True),
        ("/opt/nvidia/lib/libcuda.so.580.159.04", False),
        ("/opt/bin/nvidia-smi", False),
        ("/run/nvidia-persistenced/socket", False),
        ("/lib/firmware/nvidia/580.159.04/gsp_ga10x.bin", False),
    ],
)
def test_whose_a_mount_is(path: str, theirs: bool) -> None:
    text = spec(None, MOUNT).replace("/srv/models", path)
    assert [each.text for each in additions(load("spec", text))] == ([f"mount {path}"] if theirs else [])


# --- a file that no engine loads, through a person's slip


SLIPS = [
    ("env MODEL_DIR", "        - MODEL_DIR=/srv/models"),
    ("mount /srv/models", "        - hostPath: /srv/models"),
    ("hook /opt/hook", '        - path: "/opt/hook"'),
]


@pytest.mark.parametrize(("text", "line"), SLIPS, ids=[text for text, _ in SLIPS])
def test_a_slip_in_an_edited_spec_loses_nothing(text: str, line: str) -> None:
    found = the(host(**{STATIC: f"{spec()}{line}\n  bad: [\n"}), "GM302")
    assert found.change is None and text in found.refused


def test_a_generated_spec_that_was_cut_off_is_made_anew() -> None:
    cut = spec()[: len(spec()) // 2] + "\n  bad: [\n"
    assert the(host(**{STATIC: cut}), "GM302").change is not None
    assert written_by_hand(spec()) == []


# --- files that go


def test_a_leftover_that_somebody_edited_stays() -> None:
    left = healthy().but(files={**THERE, STATIC: spec(None, WHOLE)})
    found = the(left, "GM309")
    assert found.change is None and "device shared" in found.refused
    assert the(healthy().but(files={STATIC: spec()}), "GM309").change is not None


def test_of_two_files_that_define_the_same_the_edited_one_stays() -> None:
    double = healthy("28.5.2", "1.17.8").but(
        files={**THERE, STATIC: spec(), "/etc/cdi/other.yaml": spec(None, ENV)}
    )
    found = the(double, "GM303")
    assert found.change is None and "env MODEL_DIR" in found.refused
    plain = healthy("28.5.2", "1.17.8").but(files={STATIC: spec(), "/etc/cdi/other.yaml": spec()})
    assert the(plain, "GM303").change is not None


def test_an_audit_says_what_containers_get_once_a_stale_spec_is_gone() -> None:
    two = healthy("28.5.2", "1.17.8").but(files={STATIC: spec(), DYNAMIC: spec(None, STALE)})
    lines = [item.text for item in the(two, "GM304").evidence if item.source == STATIC]
    assert lines and "driver 535.161.07 -> 580.159.04" in lines[0]


# --- the difference


def loaded(*edits: tuple[str, str]) -> Spec:
    return load("spec", spec(None, *edits))


DIFFERENCES: list[tuple[str, tuple[tuple[str, str], ...], tuple[tuple[str, str], ...], list[str]]] = [
    ("nothing", (), (), []),
    ("env comes", (), (ENV,), ["+ env MODEL_DIR"]),
    ("mount goes", (MOUNT,), (), ["- mount /srv/models at /models"]),
    ("device goes", (WHOLE,), (), ["- device shared (/dev/nvidia0)"]),
    ("of one device", (), (OF_ONE,), ["+ device 0: env FIRST"]),
    ("a secret", (ENV,), ((ENV[0], ENV[1].replace("/srv/models", "hunter2")),), ["~ env MODEL_DIR: another value"]),
    ("NVIDIA's value", (), (("DEVICES=void", "DEVICES=all"),), ["~ env NVIDIA_VISIBLE_DEVICES: void -> all"]),
    (
        "an option",
        (MOUNT,),
        ((MOUNT[0], MOUNT[1].replace("- ro\n", "- rw\n")),),
        ["~ mount /srv/models at /models: ro,rbind -> rw,rbind"],
    ),
    ("arguments of people's hooks", (HOOK,), ((HOOK[0], HOOK[1].replace("hunter2", "other")),), ["~ hook /opt/hook: other arguments"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "old", "new", "lines"), DIFFERENCES, ids=[row[0] for row in DIFFERENCES])
def test_a_difference_is_told_by_what_containers_get(
    name: str, old: tuple[tuple[str, str], ...], new: tuple[tuple[str, str], ...], lines: list[str]
) -> None:
    assert difference(loaded(*old), loaded(*new)) == lines


def test_numbers_of_device_nodes_are_told() -> None:
    there = (
        "        - path: /dev/nvidia-uvm\n          major: 238\n",
        "        - path: /dev/nvidia-uvm\n          major: 240\n",
    )
    [line] = difference(loaded(), loaded(there))
    assert line.startswith("~ device node /dev/nvidia-uvm: 238:0") and " -> 240:0" in line


def test_a_new_driver_is_one_line() -> None:
    old = load("spec", spec().replace("580.159.04", "535.161.07"))
    [line] = difference(old, loaded())
    assert line.startswith("~ driver 535.161.07 -> 580.159.04: ")


def test_a_run_says_what_it_changed_for_containers() -> None:
    before, after = host(MOUNT).state().cdi, host(**{STATIC: spec(None, ENV)}).state().cdi
    text = told(before, after)
    assert text.startswith(f"{STATIC}, old to new: ~ driver")
    assert "+ env MODEL_DIR" in text and "- mount /srv/models" in text
    assert told(before, before) == ""


# --- what the host refuses


REFUSED = [
    ({"devices": [{"name": "0"}], "edits": {}}, "has a device 0 of its own"),
    ({"devices": [], "edits": {"7": {"env": ["A=1"]}}}, "no device 7"),
    (
        {"devices": [], "edits": {"": {"env": ["NVIDIA_VISIBLE_DEVICES=all"]}}},
        "another env for NVIDIA_VISIBLE",
    ),
]


@pytest.mark.parametrize(("keeps", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_additions_that_do_not_fit_are_refused(keeps: dict[str, Any], words: str) -> None:
    with pytest.raises(Failed, match=words):
        with_additions(as_json(spec()), keeps)


def test_a_program_that_prints_no_json_is_refused() -> None:
    with pytest.raises(Failed, match="not JSON"):
        with_additions(spec(), {"devices": [], "edits": {}})


def test_an_addition_that_is_there_already_stands_once() -> None:
    keeps = {"devices": [], "edits": {"": {"env": ["MODEL_DIR=/srv/models"]}}}
    new = load("new", with_additions(as_json(spec(None, ENV)), keeps))
    assert new.common.env.count("MODEL_DIR=/srv/models") == 1


def test_a_host_with_an_edited_spec_that_is_true_is_healthy() -> None:
    true = healthy("28.5.2", "1.17.8").but(files={**THERE, STATIC: spec(None, ENV, MOUNT)})
    assert outcome(true, "GM304") == "ok"
