"""GM8xx: a site's books of GPU allocations against Docker's grants, on the files of report 003."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gpumend.payload import allocations as ledger
from gpumend.payload.change.allocation_steps import freed_text
from gpumend.payload.change.files import Failed
from gpumend.payload.probe.allocations import ledger_metadata, ledger_state
from gpumend.payload.probe.files import matches, search_key
from gpumend.plan.plan import plan
from gpumend.rules.finding import Component, Finding
from gpumend.rules.judge import judge
from gpumend.rules.rule import Context
from gpumend.rules.wanted import parse as parse_wanted
from gpumend.run.programs import audit_identity, probe_program
from gpumend.schemas.wanted import WantedError, check
from gpumend.state.allocations import GRES_LINES, SLURM_LINES
from gpumend.state.allocations import KUBELET as KUBELET_FILE
from gpumend.state.host_state import besides_of, request
from tests.unit.build import TODAY, file, findings, healthy, state, verdict
from tests.unit.ledger import (
    DEBUG,
    DS,
    LIVE,
    RELEASE,
    REPORT,
    SMI,
    UUIDS,
    VALIDATION,
    WANTED,
    docker,
    ds01_state,
    granted,
    host,
    look,
    said,
)

Look = dict[str, Any]
GM8 = tuple(f"GM8{number:02}" for number in range(1, 14))


def told(found: Mapping[str, Any], wanted: Mapping[str, Any] = WANTED) -> dict[str, list[Finding]]:
    """The findings about allocations, by code."""
    every = verdict(dict(host(found)), wanted).findings
    return {code: mine for code in GM8 if (mine := [each for each in every if each.code == code])}


def live(*ids: str, **more: Any) -> dict[str, Any]:
    return granted(LIVE, *(ids or (UUIDS["1.2"],)), **more)


# --- what is asked for


def test_a_host_without_allocations_pays_nothing() -> None:
    assert "allocations" not in request() and besides_of({}) == ""
    assert request() == request(True, besides_of({"runtime": {"mode": "cdi"}}))
    assert '"allocations"' not in probe_program().splitlines()[-1]


def test_only_what_the_desired_state_names_is_read() -> None:
    asked = request(True, besides_of(WANTED))["allocations"]
    assert (asked["state"], asked["metadata"], asked["history"]) == (
        WANTED["allocations"]["state"],
        WANTED["allocations"]["metadata"],
        [WANTED["allocations"]["log"]],
    )
    assert request(True, besides_of({"allocations": {"state": "/s"}}))["allocations"]["metadata"] == ""
    assert audit_identity(True, besides_of(WANTED)) != audit_identity(True)


def test_without_allocations_no_rule_about_them_applies() -> None:
    assert set(GM8[:11]) <= set(verdict(healthy()).inapplicable)


# --- report 003


def test_the_two_stale_entries_of_the_report_are_named_and_nothing_else(tmp_path: Path) -> None:
    found = told(look(tmp_path, live(labels={"aime.mlc.USER": "alice"})))
    assert list(found) == ["GM802"]
    texts = [each.summary for each in found["GM802"]]
    assert [
        VALIDATION in texts[0] and "slot 1.0" in texts[0],
        DEBUG in texts[1] and "slot 1.1" in texts[1],
    ] == [True] * 2
    assert all(each.change is None and "report" in each.refused for each in found["GM802"])
    assert any("RELEASED" in item.text for item in found["GM802"][0].evidence)


def test_its_metadata_is_named_with_them(tmp_path: Path) -> None:
    found = told(look(tmp_path, live(), directory=DS / "container-metadata"))
    assert [each.summary.partition("container-metadata/")[2].split(" ")[0] for each in found["GM803"]] == [
        "stopped-exp._.1002.json", f"{DEBUG}.json", f"{VALIDATION}.json",
    ]  # fmt: skip
    # the captured metadata says 1.0 and 1.1 the other way round than Docker's grant of another container: not its matter
    assert set(found) == {"GM802", "GM803"}


def test_the_physical_state_file_of_the_capture(tmp_path: Path) -> None:
    text = (DS / "gpu-state_v1_physical.json").read_text()
    smi = "".join(f"GPU {n}: NVIDIA A100 (UUID: GPU-{n})\n" for n in range(4))
    found = told(look(tmp_path, granted("live-exp._.1002", "1"), state=text, smi=said(smi), present=4))
    assert {code: len(each) for code, each in found.items()} == {"GM802": 1}
    assert "old-exp._.1001" in found["GM802"][0].summary


@pytest.mark.parametrize(
    "holders",
    [
        [{"container": "a", "user": "u", "allocated_at": "2026-01-01T00:00:00", "interface": "api"}],
        ["a"],
    ],
)
def test_both_forms_of_holders_are_read(tmp_path: Path, holders: list[Any]) -> None:
    found = look(tmp_path, state=json.dumps({"gpus": {"0:0": {"containers": holders}}}))
    assert [(each["slot"], each["name"]) for each in ledger.entries_of(found)] == [("0:0", "a")]


def test_a_site_of_another_shape_is_configuration(tmp_path: Path) -> None:
    at = tmp_path / "leases.json"
    at.write_text('{"pool": {"cards": [{"nr": "g0", "lease": {"who": {"job": "x"}}}]}}')
    shape = {**ledger.DS01, "slots": "/pool/cards", "slot": "/nr", "holders": "/lease/who", "name": "/job"}
    found = ledger_state(str(at), shape)
    assert [each["name"] for each in found["slots"]["g0"]["holders"]] == ["x"]


def test_an_agreeing_host_is_silent(tmp_path: Path) -> None:
    found = look(
        tmp_path,
        live(labels={"ds01.gpu.uuid": UUIDS["1.2"], "ds01.gpu.slots": "1:2"}),
        state=ds01_state({"1.0": [], "1.2": [LIVE]}),
    )
    assert told(found) == {}


# --- what is not known


UNKNOWN: list[tuple[str, Look]] = [
    ("Docker is down", {"docker": {"status": "failed", "error": "no dockerd runs"}}),
    ("an inspect hangs", {"docker": {"status": "timeout", "error": "dockerd gave no whole answer within 10 s"}}),
    ("a wrapper hides containers", {"docker": docker(live(), hidden=["ab" * 32])}),
    ("a storage driver was switched", {"docker": docker(hidden=["cd" * 32], unlisted=[{"id": "cd" * 32, "name": DEBUG}])}),
    ("a container does not load", {"docker": docker(live(), unlisted=[{"id": "ef" * 32, "name": ""}])}),
    ("a container cannot be told of", {"docker": docker(live(), unread=["HTTP 500"])}),
    ("the count is another", {"docker": docker(live(), count=3)}),
    ("the count is not told", {"docker": docker(live(), count=None)}),
    ("processes are hidden", {"live": {"status": "denied", "error": "hidepid"}}),
]  # fmt: skip


@pytest.mark.parametrize(("why", "more"), UNKNOWN, ids=[why for why, _ in UNKNOWN])
def test_where_docker_is_not_known_nothing_is_stale_and_nothing_is_freed(
    tmp_path: Path, why: str, more: Look
) -> None:
    found = look(tmp_path, live(), **more)
    assert ledger.doubts(found, 60) != []
    mine = told(found, RELEASE)
    assert [each.status for each in mine["GM802"]] == ["unknown"], why
    assert not any(each.change for every in mine.values() for each in every)


HALF = ds01_state(REPORT)[:-40]


@pytest.mark.parametrize(
    "text",
    [
        "",
        HALF,
        "[]",
        '{"gpus": 7}',
        '{"gpus": {"0": {"containers": [7.5, null]}}}',
        '{"a":1,"a":2}',
        "[" * 5000,
    ],
)
def test_a_state_file_that_is_none_is_unknown(tmp_path: Path, text: str) -> None:
    found = look(tmp_path, live(), state=text)
    mine = told(found, RELEASE)
    assert "GM801" in mine and ledger.doubts(found, 0) != []
    assert not any(each.change for every in mine.values() for each in every)


# --- what is known and not freed now


def refusals(found: Look, wanted: Mapping[str, Any] = RELEASE) -> list[str]:
    return [each.refused for each in findings(dict(host(found)), "GM802", wanted)]


def test_what_is_stale_is_freed_where_the_operator_says_so(tmp_path: Path) -> None:
    assert refusals(look(tmp_path, live())) == ["", ""]


NOT_NOW: list[tuple[str, Look, str]] = [
    ("dockerd was restarted", {"docker": docker(live(), up=5.0)}, "has run for 5 s"),
    ("a GPU does not answer", {"smi": said("Unable to determine the device handle for GPU0\n")}, "device handle"),
    ("a GPU is missing", {"smi": said("GPU 0: A (UUID: GPU-0)\n")}, "2 GPUs are there"),
    ("nvidia-smi fails", {"smi": {"status": "timeout", "error": "no answer"}}, "nvidia-smi -L"),
    ("what computes is not known", {"apps": said("", 6)}, "exit status 6"),
    ("too many", {}, "more than max_release"),
    ("all", {"docker": docker()}, "it would free all"),
]  # fmt: skip


@pytest.mark.parametrize(("why", "more", "word"), NOT_NOW, ids=[why for why, *_ in NOT_NOW])
def test_it_is_refused(tmp_path: Path, why: str, more: Look, word: str) -> None:
    state_text = ds01_state({"1.0": [VALIDATION], "1.1": [DEBUG]}) if why == "all" else None
    found = look(tmp_path, live(), state=state_text, **more)
    wanted = {"allocations": {**RELEASE["allocations"], "max_release": 1 if why == "too many" else 8}}
    assert [word in each for each in refusals(found, wanted)] == [True, True]


@pytest.mark.parametrize(
    ("more", "held"),
    [
        ({"busy": {DEBUG: 77}}, "process 77"),
        ({"docker": docker(live(), granted("renamed", UUIDS["1.1"]))}, "renamed runs and holds this slot"),
        ({"docker": docker(live(), granted("renamed", "all"))}, "renamed runs and holds this slot"),
        ({"docker": docker(live(), granted("cdi", requests=[{"driver": "cdi", "count": 0, "ids": ["nvidia.com/gpu=1:1"], "capabilities": []}]))}, "cdi runs"),
        ({"docker": docker(live(), granted("env", runtime="nvidia", visible=UUIDS["1.1"]))}, "env runs"),
        ({"docker": docker(live(), granted("node", nodes=["/dev/nvidia1"]))}, "node runs"),
        ({"docker": docker(live(UUIDS["1.1"]))}, "without an allocation of it"),
        ({"apps": said(f"55, {UUIDS['1.1']}\n"), "pids": {"55": {"container": "", "comm": "python", "uid": 0}}}, "process 55"),
        ({"apps": said("55, GPU-11111111-1111-1111-1111-111111111111\n"), "pids": {}}, "process 55"),
    ],
)  # fmt: skip
def test_a_slot_that_may_be_somebodys_is_held_back(tmp_path: Path, more: Look, held: str) -> None:
    why = {
        entry["name"]: ledger.Holders(look(tmp_path, live(), **more)).why(entry)
        for entry in ledger.stale_of(look(tmp_path, live(), **more))
    }
    assert held in why[DEBUG]


def test_a_monitor_of_all_gpus_holds_nothing_back(tmp_path: Path) -> None:
    found = look(tmp_path, docker=docker(live(), granted("dcgm-exporter", "all")))
    wanted = {"allocations": {**RELEASE["allocations"], "monitors": ["dcgm-exporter"]}}
    assert refusals(found, wanted) == ["", ""]
    assert "GM807" not in told(found, wanted)


@pytest.mark.parametrize("name", ["a|b", "two\nlines", "", "$(x)", "-x", "é"])
def test_a_name_that_no_container_can_have_is_not_freed(tmp_path: Path, name: str) -> None:
    found = look(
        tmp_path,
        live(),
        state=json.dumps({"gpus": {"1.0": {"containers": [name or "|"]}, "1.2": {"containers": [LIVE]}}}),
    )
    assert all(each for each in refusals(found))


@pytest.mark.parametrize("without", ["lock", "allocator"])
def test_without_lock_and_allocator_nothing_is_written(tmp_path: Path, without: str) -> None:
    wanted = {key: value for key, value in RELEASE["allocations"].items() if key != "lock"}
    if without == "allocator":
        wanted.update(allocator=["/opt/release", "{container}"], interactive=True)
    assert all("neither" in each for each in refusals(look(tmp_path, live()), {"allocations": wanted}))


def test_lookalike_names_are_other_names(tmp_path: Path) -> None:
    """Dots are no wildcards (B.3), and a name that begins so is another's."""
    found = look(tmp_path, live(), granted("test-debug2X_.1001", "0"), granted(f"{DEBUG}2", "0"))
    assert {entry["name"] for entry in ledger.stale_of(found)} == {DEBUG, VALIDATION}


@pytest.mark.parametrize(
    "more", [{"running": False, "status": "exited", "pid": 0}, {"status": "dead", "running": False}]
)
def test_a_stopped_container_keeps_what_it_has(tmp_path: Path, more: Look) -> None:
    found = look(tmp_path, live(), granted(DEBUG, UUIDS["1.1"], **more))
    assert {entry["name"] for entry in ledger.stale_of(found)} == {VALIDATION}


def test_a_container_on_the_disk_alone_keeps_what_it_has(tmp_path: Path) -> None:
    found = look(tmp_path, docker=docker(live(), unlisted=[{"id": "ab" * 32, "name": DEBUG}]))
    assert {entry["name"] for entry in ledger.stale_of(found)} == {VALIDATION}


# --- books that came apart


@pytest.mark.parametrize(
    ("code", "word", "more"),
    [
        ("GM804", "slot 3.0", {"state": ds01_state({"3.0": [], "1.2": [LIVE]})}),
        ("GM804", "on the hardware", {"state": ds01_state({"1.2": [LIVE]}).replace(UUIDS["1.2"], "MIG-other")}),
        ("GM804", "cut into MIG devices", {"state": ds01_state({"1": [], "1.2": [LIVE]})}),
        ("GM805", "held by 2", {"state": ds01_state({"1.2": [LIVE, "b"]}), "docker": docker(live(), granted("b", UUIDS["1.2"]))}),
        ("GM806", "process 9 (python, uid 1000, of the host)", {"state": ds01_state({"1.2": [LIVE]}), "apps": said("9, GPU-00000000-0000-0000-0000-000000000000\n"), "pids": {"9": {"container": "", "comm": "python", "uid": 1000}}}),
        ("GM807", "b holds GPU 0", {"state": ds01_state({"1.2": [LIVE]}), "docker": docker(live(), granted("b", "0"))}),
        ("GM808", "the state file says 1.2, and Docker gave it 1.1", {"state": ds01_state({"1.2": [LIVE]}), "docker": docker(live(UUIDS["1.1"]))}),
        ("GM808", "its labels says 1.0", {"state": ds01_state({"1.2": [LIVE]}), "docker": docker(live(labels={"ds01.gpu.slots": "1:0"}))}),
        ("GM808", "contradicts itself", {"state": ds01_state({"1.2": [LIVE]}).replace('"alice": 1', '"alice": 2')}),
        ("GM811", "has no process", {"state": ds01_state({"1.2": [LIVE]}), "docker": docker(live(pid=0))}),
    ],
)  # fmt: skip
def test_what_came_apart_is_told(tmp_path: Path, code: str, word: str, more: Look) -> None:
    mine = told(look(tmp_path, live(), **more))
    assert list(mine) == [code]
    assert word in mine[code][0].summary, mine[code][0].summary


def test_a_label_with_a_bar_a_newline_and_a_dot_is_only_a_label(tmp_path: Path) -> None:
    odd = live(labels={"ds01.user": "a|b\nRELEASED|x", "ds01.gpu.slots": "1.2|\n"})
    mine = told(look(tmp_path, odd, state=ds01_state({"1.2": [LIVE]})))
    assert mine == {}


# --- the state file's text


def entry(slot: str, name: str, user: str = "alice") -> dict[str, str]:
    return {"slot": slot, "name": name, "user": user, "since": ""}


def test_all_but_the_freed_entries_stays_byte_for_byte() -> None:
    text = (DS / "gpu-state_v1_physical.json").read_text()
    new, kept = freed_text(text, ledger.DS01, [entry("1", "old-exp._.1001")])
    assert new == text.replace('"old-exp._.1001",\n        ', "").replace('"alice": 1,\n        ', "")
    assert kept[0]["left"] == ["live-exp._.1002"]


@pytest.mark.parametrize(
    ("text", "gone", "expected"),
    [
        ('{"gpus":{"0":{"containers":["a"],"users":{"alice":1},"x":"\\u00e9"}}}', "a", '{"gpus":{"0":{"containers":[],"users":{},"x":"\\u00e9"}}}'),
        ('{"gpus":{"0":{"containers":[ "b" , "a" ],"users":{"alice": 2}}} }\n', "a", '{"gpus":{"0":{"containers":[ "b" ],"users":{"alice": 1}}} }\n'),
        ('{"gpus":{"0":{"containers":[{"container":"a","k":[1]},"b"]}}}', "a", '{"gpus":{"0":{"containers":["b"]}}}'),
        ('{"gpus":{"0":{"containers":"a"}}}', "a", '{"gpus":{"0":{"containers":null}}}'),
    ],
)  # fmt: skip
def test_the_edit_is_the_least(text: str, gone: str, expected: str) -> None:
    assert freed_text(text, ledger.DS01, [entry("0", gone)])[0] == expected


def test_whose_it_is_must_be_known_where_users_are_counted() -> None:
    with pytest.raises(Failed, match="whose a"):
        freed_text(
            '{"gpus":{"0":{"containers":["a","b"],"users":{"x":1,"y":1}}}}',
            ledger.DS01,
            [entry("0", "a", "")],
        )


# --- logs


@pytest.mark.parametrize(
    "name", ["gpu-allocations.log.txt", "container-operations.log.txt", "events.jsonl.txt"]
)
def test_each_captured_line_parses_and_what_is_written_parses_back(name: str) -> None:
    lines = (DS / name).read_text().splitlines()
    assert all(ledger.line_of_log(line) for line in lines if line)
    kind = ledger.log_format("/x", lines)
    odd = entry("1.0", VALIDATION, "al|ice\n2026-01-01|X")
    written = ledger.log_line(
        kind, "RELEASED", odd, "2026-11-29T01:02:03.000004", "gpumend RUN: no such container"
    )
    assert written.count("\n") == 1
    back = ledger.line_of_log(written)
    assert back is not None
    assert (back["format"], back["name"], back["slot"]) == (kind, VALIDATION, "1.0")
    assert "gpumend RUN" in back["reason"]


def test_details_may_have_a_bar() -> None:
    last = (DS / "container-operations.log.txt").read_text().splitlines()[-1]
    found = ledger.line_of_log(last)
    assert found is not None and found["reason"] == "Container created|with pipe"


# --- the plan


def test_the_plan_names_what_is_freed_and_how(tmp_path: Path) -> None:
    found = state(dict(host(look(tmp_path, live(), directory=DS / "container-metadata"))))
    wanted = parse_wanted(RELEASE)
    context = Context(found, wanted, "gpu1", TODAY)
    transaction = plan(context, judge(found, wanted, "gpu1", TODAY).findings).get(Component.ALLOCATIONS)
    assert transaction is not None
    (step,) = transaction.steps
    data = step.as_data()
    assert data["entries"] == [["1.0", VALIDATION], ["1.1", DEBUG]]
    assert VALIDATION in step.describe() and json.loads(json.dumps(data)) == data


@pytest.mark.parametrize(
    "wrong",
    [
        {"state": "relative"},
        {"allocator": ["rm -rf /"]},
        {"reconcile": "always"},
        {"grace": 0},
        {"format": "ds02"},
        {"labels": {"slots": ["a b"]}},
        {"socket": "/run/$(x)"},
    ],
)
def test_the_schema_refuses(wrong: dict[str, Any]) -> None:
    with pytest.raises(WantedError):
        check({"allocations": wrong})


def test_metadata_that_is_none_is_named(tmp_path: Path) -> None:
    directory = tmp_path / "m"
    directory.mkdir()
    (directory / "a.json").write_text("{")
    (directory / "b.json").symlink_to("/etc/passwd")
    (directory / "c.json").write_text('{"container": "c", "gpu_id": 0}')
    (directory / "d.txt").write_text("x")
    files = ledger_metadata(str(directory), ledger.DS01)["files"]
    assert [("error" in each, each.get("name")) for each in files] == [
        (True, None),
        (True, None),
        (False, "c"),
    ]
    found = told(look(tmp_path, live(), state=ds01_state({"1.2": [LIVE]}), directory=directory))
    assert [each.status for each in found["GM801"]] == ["unknown", "unknown"]


def test_hardware_is_read_from_the_listing() -> None:
    units = ledger.hardware_of(SMI)
    assert list(units) == ["0", "1", "1.0", "1.1", "1.2"]
    assert ledger.units_named(["all"], units) == ({"0", "1.0", "1.1", "1.2"}, [])
    assert ledger.units_named(["nvidia.com/gpu=1:1", "1.0", "7", "void"], units) == ({"1.1", "1.0"}, ["7"])


# --- who else keeps books


RECONCILE_CRON = "5 * * * * root /opt/ds01-infra/scripts/maintenance/reconcile-gpu-state.sh >> /var/log/ds01/reconciliation.log 2>&1\n"


@pytest.mark.parametrize(("wanted", "status"), [(WANTED, "note"), (RELEASE, "warn")])
def test_an_old_cron_job_that_reconciles_is_told(tmp_path: Path, wanted: dict[str, Any], status: str) -> None:
    made = healthy().but(files={"/etc/cron.d/ds01-infra": RECONCILE_CRON})
    found = {**made.answer(), "allocations": look(tmp_path, live(), state=ds01_state({"1.2": [LIVE]}))}
    (job,) = findings(found, "GM810", wanted)
    assert job.status == status and "reconcile-gpu-state.sh" in job.summary


SLURM: dict[str, Any] = {"allocations": {**WANTED["allocations"], "bookkeepers": ["slurm"]}}


def slurm_host(tmp_path: Path, gres: str, conf: str) -> dict[str, Any]:
    answer = dict(host(look(tmp_path, live(), state=ds01_state({"1.2": [LIVE]}))))
    for path, text, pattern in (
        ("/etc/slurm/gres.conf", gres, GRES_LINES),
        ("/etc/slurm/slurm.conf", conf, SLURM_LINES),
    ):
        answer["globs"][path] = {"status": "ok", "paths": [path]}
        answer["stats"][path] = {
            "status": "ok",
            "kind": "file",
            "found": {search_key(pattern): matches(pattern, text)},
        }
    return answer


@pytest.mark.parametrize(
    ("gres", "conf", "expected"),
    [
        ("Name=gpu Type=a100 File=/dev/nvidia[0-1]\n", "NodeName=gpu[0-3] Gres=gpu:a100:4 CPUs=64\n", []),
        ("", "NodeName=gpu1 Gres=gpu:4\n", []),
        ("", "NodeName=gpu1 Gres=gpu:a100:8(S:0-1)\n", [("fail", "8 GPUs, and 4")]),
        ("", "NodeName=gpu[0-3] Gres=gpu:2\n", [("note", "2 GPUs of 4")]),
        ("", "NodeName=gpu[2-3] Gres=gpu:8\n", []),
        ("Name=gpu File=/dev/nvidia[0-3]\n", "", [("fail", "/dev/nvidia2, /dev/nvidia3")]),
        ("NodeName=gpu2 Name=gpu File=/dev/nvidia7\n", "", []),
        ("AutoDetect=nvidia\n", "", [("warn", "finds no MIG")]),
        ("# AutoDetect=nvidia\n", "", []),
    ],
)  # fmt: skip
def test_slurm_is_compared_with_what_answers(
    tmp_path: Path, gres: str, conf: str, expected: list[tuple[str, str]]
) -> None:
    found = findings(slurm_host(tmp_path, gres, conf), "GM812", SLURM)
    assert [(each.status, word in each.summary) for each, (_, word) in zip(found, expected, strict=True)] == [
        (status, True) for status, _ in expected
    ]


KUBELET: dict[str, Any] = {"allocations": {**WANTED["allocations"], "bookkeepers": ["kubelet"]}}
POD = "0b7f6a1e-27c4-4f3c-9a58-2d5c1c0e7a9{}"


def checkpoint(*entries: tuple[str, Any], registered: list[str] | None = None) -> str:
    made = [
        {
            "PodUID": pod,
            "ContainerName": "c",
            "ResourceName": "nvidia.com/gpu",
            "DeviceIDs": ids,
            "AllocResp": "",
        }
        for pod, ids in entries
    ]
    data = {
        "PodDeviceEntries": made,
        "RegisteredDevices": {"nvidia.com/gpu": registered or [UUIDS["1.0"], UUIDS["1.1"]]},
    }
    return json.dumps({"Data": data, "Checksum": 1})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (checkpoint((POD.format(1), {"-1": [UUIDS["1.0"]]})), []),
        (checkpoint((POD.format(1), [UUIDS["1.0"]])), []),
        (checkpoint((POD.format(2), {"0": [UUIDS["1.0"]]})), ["note"]),
        (
            checkpoint((POD.format(1), {"0": [UUIDS["1.0"]]}), (POD.format(3), {"0": [UUIDS["1.0"]]})),
            ["fail"],
        ),
        (checkpoint(registered=["GPU-gone"]), ["warn"]),
        ("{", ["unknown"]),
    ],
)
def test_the_kubelet_is_compared_with_what_runs(tmp_path: Path, text: str, expected: list[str]) -> None:
    found = look(tmp_path, live(), state=ds01_state({"1.2": [LIVE]}), pods=[POD.format(1), POD.format(3)])
    answer = dict(host(found))
    answer["files"][KUBELET_FILE] = file(text)
    assert [each.status for each in findings(answer, "GM813", KUBELET)] == expected
