"""The judge: total, honest about what it does not know, and waivers."""

from __future__ import annotations

import copy
import datetime
import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumend.plan.plan import plan
from gpumend.rules import change
from gpumend.rules.change import RecoverRun, RunModprobe
from gpumend.rules.finding import Change, Component, Finding, Status
from gpumend.rules.judge import Verdict, judge
from gpumend.rules.rule import RULES, Context, Rule
from gpumend.rules.wanted import parse as parse_wanted
from gpumend.state.host_state import HostState, parse
from gpumend.state.reading import Status as ReadStatus
from gpumend.state.snapshot import AnswerError, Snapshot
from tests.unit.build import (
    CONFIG,
    DAEMON_JSON,
    DYNAMIC,
    STATIC,
    TODAY,
    Host,
    Item,
    besides_its_age,
    config,
    container,
    file,
    h100,
    healthy,
    outcome,
    spec,
    state,
    the,
    unread,
    verdict,
)

# A host with something wrong in every room.
SICK = healthy("26.1.5", "1.18.1").with_containers(
    container("flag", gpus=True), container("asks", gpus=True, env={"NVIDIA_REQUIRE_CUDA": "cuda>=14.0"})
).but(
    files={
        CONFIG: config("legacy", "/sbin/ldconfig").replace("#no-cgroups = false", "no-cgroups = true"),
        DAEMON_JSON: '{"features": {"cdi": false}, "cdi-spec-dirs": ["/etc/cdi"]}',
        DYNAMIC: file(spec(None, ("580.159.04", "550.90.07")), 0o600),
        STATIC: spec(),
        "/var/run/cdi/copy.yml": "x",
        "/dev/nvidia-uvm": None,
        "/home/ann/.docker/desktop": file(""),
        "/opt/docker-desktop": file(""),
    },
    info={"Runtimes": {"runc": {}}, "CDISpecDirs": []},
)  # fmt: skip
WANTS = [{}, {"docker": {"paths": ["runtime", "device", "gpus"]}}, {"runtime": {"mode": "auto"}}]


def judged(answer: Item, wanted: dict[str, Any] | None = None) -> Verdict:
    return judge(state(answer), parse_wanted(wanted or {}), "gpu1", TODAY)


def test_the_sick_host_is_sick() -> None:
    found = verdict(SICK)
    assert {finding.code for finding in found.findings} >= {
        "GM105", "GM201", "GM204", "GM209", "GM304", "GM312", "GM313", "GM403", "GM404", "GM405", "GM409", "GM414",
    }  # fmt: skip
    assert not found.unknown


def test_every_rule_ends_in_one_of_three_ways() -> None:
    for host in (healthy(), SICK, h100(), Host()):
        found = verdict(host)
        assert found.ok + found.skipped <= len(RULES)
        assert found.ok + found.skipped + len({finding.code for finding in found.findings}) >= len(RULES) - 1


def test_findings_are_whole() -> None:
    for finding in verdict(SICK).findings:
        assert finding.summary and finding.evidence and finding.remedy, finding.code
        assert "\n" not in finding.summary
        assert bool(finding.change) != bool(finding.refused) or not finding.change, finding.code


def test_codes_are_of_their_room() -> None:
    """The rooms of design.md: 1 driver, 2 toolkit, 3 CDI, 4 Docker, 5 containerd, 6 CUDA, 7 storage, 8 allocations, 9 compose."""
    assert all(re.fullmatch(r"GM[0-9]\d\d", code) and rule.code == code for code, rule in RULES.items())
    assert all(rule.title and rule.source for rule in RULES.values())


# --- not root


def test_a_note_carries_no_change(monkeypatch: pytest.MonkeyPatch) -> None:
    def noted(context: Context) -> Iterator[Finding]:
        yield Finding("GM999", Status.NOTE, "found", change=Change(Component.DRIVER, RunModprobe()))

    monkeypatch.setitem(RULES, "GM999", Rule("GM999", "nothing is found", "here", noted, lambda _: True))
    with pytest.raises(ValueError, match="a note carries no change"):
        judged(healthy().answer())


def test_two_kinds_of_change_are_never_equal() -> None:
    """A plan takes each change once: of two kinds with the same values, both."""
    made = [
        kind(*((),) * (len(kind._fields) - 1))
        for kind in vars(change).values()
        if isinstance(kind, type) and issubclass(kind, tuple) and kind.__module__ == change.__name__
    ]
    assert len(made) > 20
    assert len(set(made)) == len(made)
    assert [each.kind for each in made] == [type(each).__name__ for each in made]


def test_gm001_without_root_nothing_is_certain() -> None:
    found = verdict(healthy().but(system={"uid": 1000}))
    assert [(finding.code, finding.status) for finding in besides_its_age(found.findings)] == [
        ("GM001", Status.UNKNOWN)
    ]


# --- processes that are not what they call themselves


def impostor(**more: Any) -> dict[str, Any]:
    found = {"pid": 77, "name": "dockerd", "uid": 0, "uids": [1001, 0, 0, 0], "exe": "/usr/bin/su"}
    return {**found, "nested": False, "container": None, "why": "its user ids are 1001, 0, 0, 0", **more}


def test_gm006_names_who_only_calls_itself_a_daemon() -> None:
    """And nothing else changes: what it says is not believed."""
    processes = {**healthy().answer()["processes"], "impostors": [impostor()]}
    found = verdict(healthy().but(processes=processes))
    (finding,) = besides_its_age(found.findings)
    assert (finding.code, finding.status, finding.change) == ("GM006", Status.WARN, None)
    assert finding.summary == "process 77 calls itself dockerd and is not: its user ids are 1001, 0, 0, 0"
    assert [each.text for each in finding.evidence] == ["/usr/bin/su", "Uid: 1001, 0, 0, 0"]
    inside = {**processes, "impostors": [impostor(container="0123456789ab", exe=None)]}
    (finding,) = besides_its_age(verdict(healthy().but(processes=inside)).findings)
    assert "process 77 in container 0123456789ab calls itself" in finding.summary


# --- interrupted runs


def test_gm003_names_every_file_of_a_journal_of_either_format() -> None:
    old = json.loads(journal(files=[{"path": CONFIG}, {"path": "/etc/cdi/nvidia.yaml"}]))
    steps = [
        {"do": "package", "packages": [], "files": [{"path": CONFIG}]},
        {"do": "write", "path": "/etc/cdi/nvidia.yaml"},
    ]
    new = json.loads(journal(format=2, steps=steps, files=None))
    for raw in (old, new):
        found = the(healthy().but(files={JOURNAL: json.dumps(raw)}), "GM003")
        assert found.evidence[0].text == f"state working: {CONFIG}, /etc/cdi/nvidia.yaml"
        assert found.change == Change(Component.RECOVER, RecoverRun(JOURNAL))


def test_gm003_a_journal_of_a_newer_gpumend_keeps_all_else_from_being_changed() -> None:
    """What that run did is not known here, and its host refuses to put it back: nothing is changed on top of it."""
    sick = healthy().but(files={JOURNAL: journal(format=3, files=None), DYNAMIC: None})
    assert the(sick, "GM003").evidence[0].text == "state working: of a newer gpumend"
    context = Context(sick.state(), parse_wanted({}), "gpu1", TODAY)
    [transaction] = plan(context, verdict(sick).findings).transactions
    assert transaction.component is Component.RECOVER and the(sick, "GM301").change


JOURNAL = "/var/lib/gpumend/runs/20261123T041200Z-1/toolkit.runtime_config/journal.json"


def journal(**more: Any) -> str:
    raw = {
        "run": "20261123T041200Z-1",
        "component": "toolkit.runtime_config",
        "state": "working",
        "files": [{"path": CONFIG}],
    }
    return json.dumps({**raw, **more})


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(journal(), "fail", id="working"),
        pytest.param(
            journal(format=2, steps=[{"do": "write", "path": CONFIG}], files=None), "fail", id="format-2"
        ),
        pytest.param(journal(format=2, files=None), "unknown", id="format-2-without-steps"),
        pytest.param(journal(state="done"), "ok", id="done"),
        pytest.param(journal(state="put_back"), "ok", id="put-back"),
        pytest.param("{", "unknown", id="half-written"),
        pytest.param("[]", "unknown", id="no-object"),
        pytest.param(unread("denied"), "unknown", id="denied"),
    ],
)
def test_gm003_an_interrupted_run(content: Any, expected: str) -> None:
    host = healthy().but(files={JOURNAL: content})
    assert outcome(host, "GM003") == expected
    if expected == "fail":
        change = the(host, "GM003").change
        assert (
            change and change.component is Component.RECOVER and CONFIG in the(host, "GM003").evidence[0].text
        )


# --- the answer itself


@pytest.mark.parametrize(
    "output",
    [
        "",
        "{}",
        "[]",
        "null",
        "not json",
        '{"gpumend": 2}',
        "{",
        json.dumps(healthy().answer()) + "\nx",
        "bash: python3: not found",
    ],
)
def test_what_is_no_answer_is_refused(output: str) -> None:
    with pytest.raises(AnswerError):
        Snapshot.from_output(output)


# --- unknown never passes for fine (promise 4)

SECTIONS = ("files", "stats", "globs", "commands", "programs")
UNREAD = ("denied", "timeout", "failed")


def parts(answer: Item) -> list[tuple[str, ...]]:
    """The path of every single thing in an answer that may fail to be read."""
    single = [(section, key) for section in SECTIONS for key in answer[section]]
    return [*single, ("docker",), ("units",), ("processes",)]


def with_part(answer: Item, path: tuple[str, ...], item: Any) -> Item:
    if len(path) == 1:
        return {**answer, path[0]: item}
    return {**answer, path[0]: {**answer[path[0]], path[1]: item}}


SICK_ANSWER, HEALTHY_ANSWER = SICK.answer(), healthy().answer()


@cache
def unread_one_by_one(sick: bool, status: str) -> dict[tuple[str, ...], Verdict]:
    """What is judged of the host with each single thing unread. What a denial does not touch, the others do not."""
    base = SICK_ANSWER if sick else HEALTHY_ANSWER
    found = {
        path: judged(with_part(base, path, unread(status)))
        for path in (parts(base) if status == "denied" else told(sick))
    }
    return found


@cache
def told(sick: bool) -> list[tuple[str, ...]]:
    """The things whose denial changes the verdict."""
    before = judged(SICK_ANSWER if sick else HEALTHY_ANSWER)
    return [path for path, after in unread_one_by_one(sick, "denied").items() if after != before]


def test_most_things_that_are_read_matter() -> None:
    assert len(told(sick=True)) > 40


@pytest.mark.parametrize("status", UNREAD)
def test_what_is_unread_takes_no_finding_away_unsaid(status: str) -> None:
    """A finding that is no longer made for want of a reading has another in its place. For every reading of the answer."""
    before = {finding.code for finding in judged(SICK_ANSWER).findings}
    silent = []
    for path, after in unread_one_by_one(True, status).items():
        now = {finding.code for finding in after.findings}
        lost = before - now
        if lost and not after.unknown and not now - before:  # e.g. GM302: a file that is broken
            silent.append((*path, sorted(lost)))
    assert silent == []


@pytest.mark.parametrize("status", UNREAD)
def test_what_is_unread_makes_no_fault_and_no_change(status: str) -> None:
    """On a healthy host, a reading that fails gives unknown or nothing: never a fault, and never a change."""
    wrong = []
    for path, after in unread_one_by_one(False, status).items():
        faults = [
            finding.code
            for finding in besides_its_age(after.findings)
            if finding.status is not Status.UNKNOWN
        ]
        hangs = status == "timeout" and path == (
            "commands",
            "nvidia-smi",
        )  # a fault of the GPU, and known (GM107)
        if faults and not hangs:
            wrong.append((*path, faults))
    assert wrong == []


@pytest.mark.parametrize(
    ("path", "codes"),
    [
        pytest.param(
            ("files", "/proc/driver/nvidia/version"), {"GM101", "GM102", "GM104", "GM105"}, id="driver"
        ),
        pytest.param(("files", CONFIG), {"GM208"}, id="config.toml"),
        pytest.param(("files", DAEMON_JSON), {"GM401"}, id="daemon.json"),
        pytest.param(("files", DYNAMIC), {"GM301", "GM302"}, id="spec"),
        pytest.param(("globs", "/etc/cdi/*"), {"GM301", "GM304"}, id="spec-directory"),
        pytest.param(("docker",), {"GM403", "GM407"}, id="docker"),
        pytest.param(("processes",), {"GM006", "GM407"}, id="processes"),
        pytest.param(("programs", "nvidia-ctk"), {"GM203"}, id="program"),
        pytest.param(("commands", "ldconfig"), {"GM104"}, id="ldconfig"),
        pytest.param(("units",), {"GM310"}, id="units"),
    ],
)
def test_unread_is_unknown_in_these_rules(path: tuple[str, ...], codes: set[str]) -> None:
    found = judged(with_part(HEALTHY_ANSWER, path, unread("denied")))
    assert {finding.code for finding in found.unknown} >= codes
    assert all(finding.evidence and finding.remedy for finding in found.unknown)


# --- total


def walk(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value, but the whole."""
    children: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        children = list(value.items())
    elif isinstance(value, list):
        children = list(enumerate(value))
    return [place for key, child in children for place in ((*path, key), *walk(child, (*path, key)))]


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from(["ok", "absent", "denied", "file", "dir", "link"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["status", "kind", "data", "a"]), inner, max_size=3),
    max_leaves=4,
)  # fmt: skip


def mangle(
    answer: Item, draw: st.DrawFn, places: list[tuple[Any, ...]], junk: st.SearchStrategy[Any]
) -> Item:
    """The answer with up to four things taken out or replaced."""
    found = copy.deepcopy(answer)
    for path in draw(st.lists(st.sampled_from(places), min_size=1, max_size=4)):
        here: Any = found
        try:
            for key in path[:-1]:
                here = here[key]
            if draw(st.booleans()):
                here[path[-1]] = draw(junk)
            else:
                del here[path[-1]]
        except (KeyError, IndexError, TypeError):
            continue  # it went with another
    return found


@st.composite
def answers(draw: st.DrawFn) -> Item:
    """Any part of an answer gone or changed, but its own tag."""
    base = draw(st.sampled_from([SICK_ANSWER, HEALTHY_ANSWER]))
    return mangle(base, draw, [path for path in walk(base) if path != ("gpumend",)], JUNK)


@given(answers(), st.sampled_from(WANTS))
def test_the_judge_is_total_over_mangled_answers(answer: Item, wanted: dict[str, Any]) -> None:
    """An answer whose frame is broken is refused as a whole, with one kind of error; what is not refused is judged."""
    try:
        found = state(answer)
    except AnswerError:
        return
    judge(found, parse_wanted(wanted), "gpu1", TODAY)


# What a *host* may hold: the frame is ours, the contents are anybody's.
@st.composite
def hosts(draw: st.DrawFn) -> Item:
    """Files, outputs and dockerd's words replaced by anything of their type; readings failed."""
    found = copy.deepcopy(draw(st.sampled_from([SICK_ANSWER, HEALTHY_ANSWER])))
    for _ in range(draw(st.integers(1, 4))):
        what = draw(st.sampled_from(["bytes", "output", "docker", "status", "unit"]))
        if what == "bytes":
            content = draw(st.binary(max_size=30) | st.text(max_size=30).map(str.encode))
            path = draw(st.sampled_from(sorted(found["files"])))
            found["files"][path] = file(content)
        elif what == "output":
            name = draw(st.sampled_from(sorted(found["commands"])))
            rc = draw(st.integers(0, 255))
            found["commands"][name] = {
                "status": "ok",
                "rc": rc,
                "out": draw(st.text(max_size=30)),
                "err": draw(st.text(max_size=9)),
            }
        elif what == "docker" and found["docker"]["status"] == "ok":
            section = draw(st.sampled_from(["info", "containers"]))
            places = walk(found["docker"][section])
            if places:
                part = {"x": found["docker"][section]}
                found["docker"][section] = mangle(part, draw, [("x", *place) for place in places], JUNK)["x"]
        elif what == "status":
            path = draw(st.sampled_from([place for place in parts(found) if len(place) == 2]))
            found[path[0]][path[1]] = unread(draw(st.sampled_from([*UNREAD, "absent", "else"])))
        elif what == "unit" and found["units"]["status"] == "ok":
            name = draw(st.sampled_from(sorted(found["units"]["units"])))
            found["units"]["units"][name] = draw(
                st.dictionaries(st.sampled_from(["ActiveState", "Result", "x"]), st.text(max_size=5))
            )
    return found


@given(hosts(), st.sampled_from(WANTS))
def test_the_judge_is_total_over_what_hosts_may_hold(answer: Item, wanted: dict[str, Any]) -> None:
    judged(answer, wanted)


TOML_JUNK = st.recursive(
    st.booleans() | st.integers(-5, 5) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2),
    max_leaves=3,
)


@given(
    st.sampled_from(
        ["mode", "ldconfig", "no-cgroups", "root", "runtimes", "spec-dirs", "skip-mode-detection"]
    ),
    TOML_JUNK,
)
def test_the_judge_is_total_over_config_toml(key: str, value: Any) -> None:
    text = "".join(
        f"[{table}]\n{key} = {json.dumps(value)}\n"
        for table in (
            "nvidia-container-cli",
            "nvidia-container-runtime",
            "nvidia-container-runtime.modes.cdi",
            "nvidia-container-runtime-hook",
            "features",
        )
    )
    verdict(healthy().but(files={CONFIG: text}))


@given(
    st.sampled_from(["runtimes", "features", "cdi-spec-dirs", "default-runtime", "proxies", "hosts"]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=2)
            | st.dictionaries(
                st.sampled_from(["nvidia", "cdi", "path", "containerd-snapshotter"]), inner, max_size=2
            )
        ),
        max_leaves=4,
    ),
)
def test_the_judge_is_total_over_daemon_json(key: str, value: Any) -> None:
    verdict(SICK.but(files={DAEMON_JSON: json.dumps({key: value})}))


@pytest.mark.parametrize(
    "path", [place for place in walk(HEALTHY_ANSWER) if len(place) == 2 and place[0] in SECTIONS]
)
def test_one_thing_missing_is_no_broken_answer(path: tuple[Any, ...]) -> None:
    """A whole item that is gone is one reading less, not a host less."""
    found = copy.deepcopy(HEALTHY_ANSWER)
    del found[path[0]][path[1]]
    judged(found)


def test_nothing_at_all_is_judged() -> None:
    """A host of which nothing could be read: unknown, and not fine."""
    empty = {"gpumend": 1}
    found = judged(empty)
    assert found.unknown and not found.drift


# --- waivers


def waived(until: str, code: str = "GM312", host: str = "*") -> Verdict:
    waiver = {"code": code, "host": host, "reason": "known", "owner": "ann", "until": until}
    return verdict(healthy().but(files={"/etc/cdi/x.yml": "x"}), {"waivers": [waiver]})


def statuses(found: Verdict) -> dict[str, str]:
    return {finding.code: str(finding.status) for finding in besides_its_age(found.findings)}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param(waived("2026-12-31"), {"GM312": "waived"}, id="holds"),
        pytest.param(waived(TODAY.isoformat()), {"GM312": "waived"}, id="its-last-day"),
        pytest.param(waived("2026-11-22"), {"GM004": "warn", "GM312": "warn"}, id="expired"),
        pytest.param(waived("2026-12-31", host="other-*"), {"GM312": "warn"}, id="another-host"),
        pytest.param(waived("2026-11-22", host="other-*"), {"GM312": "warn"}, id="another-hosts-expired"),
        pytest.param(waived("2026-12-31", code="GM101"), {"GM312": "warn"}, id="another-code"),
    ],
)
def test_waivers(found: Verdict, expected: dict[str, str]) -> None:
    assert statuses(found) == expected


def test_a_waived_finding_changes_nothing_and_names_who_answers() -> None:
    waiver = {"code": "GM201", "reason": "our own glibc", "owner": "ann", "until": "2027-01-01"}
    host = healthy().but(files={CONFIG: config("cdi", "/sbin/ldconfig")})
    found = [finding for finding in verdict(host, {"waivers": [waiver]}).findings if finding.code == "GM201"]
    assert found[0].status is Status.WAIVED and found[0].change is None
    assert found[0].refused == "waived until 2027-01-01 by ann: our own glibc"
    assert verdict(host, {"waivers": [waiver]}).drift == ()


def test_an_unknown_can_be_waived() -> None:
    waiver = {"code": "GM302", "reason": "r", "owner": "o", "until": "2027-01-01"}
    found = verdict(healthy().but(files={DYNAMIC: unread("denied")}), {"waivers": [waiver]})
    assert statuses(found)["GM302"] == "waived"


# --- the H100 as captured


def test_the_state_of_the_h100() -> None:
    found: HostState = h100().state()
    assert found.host.distribution.value == "ubuntu"
    assert found.host.name.value == "Ubuntu 24.04.3 LTS"
    assert found.host.like == ("debian",)
    assert not (found.host.wsl2 or found.host.tegra or found.host.systemd)
    assert found.toolkit.ldconfig_wrapper.value is True and found.toolkit.ldconfig_real.value is True
    assert found.toolkit.version.status is ReadStatus.ABSENT and not found.toolkit.installed
    assert found.cdi.files.value == ()
    assert not found.docker.installed
    packages = found.packages.installed.value or {}
    assert packages["cuda-compat-13-0"] == "580.95.05-0ubuntu1" and len(packages) == 45


def test_the_h100_with_the_toolkit_put_there() -> None:
    """lab.md, end: a wrapper ldconfig, no /dev/char, no modinfo, no systemd, no modeset node: none of it is a fault."""
    text = spec()
    host = h100().but(
        files={CONFIG: config("cdi"), STATIC: text, **{path: healthy().files[path] for path in healthy().files if path.startswith(("/usr/local/nvidia", "/usr/share", "/usr/bin"))}},
        programs={name: healthy().programs[name] for name in healthy().programs if name.startswith("nvidia")},
        commands={"nvidia-ctk": healthy().commands["nvidia-ctk"]},
    )  # fmt: skip
    assert [(finding.code, finding.summary) for finding in besides_its_age(verdict(host).findings)] == []


def test_a_rule_that_fails_takes_no_other_rules_findings_and_nothing_is_changed() -> None:
    """A host must not lose its report to a fault of ours, nor be changed past a rule that may have held it back."""

    def fails(context: Context) -> Iterator[Finding]:
        raise KeyError("s3cret")
        yield

    host, wants = SICK.state(), parse_wanted({})
    before = judge(host, wants, "gpu1", TODAY)
    assert any(finding.change for finding in before.findings)
    RULES["GM999"] = Rule("GM999", "nothing is wrong with the rule", "a test", fails, lambda context: True)
    try:
        found = judge(host, wants, "gpu1", TODAY, lenient=True)
        with pytest.raises(KeyError):
            judge(host, wants, "gpu1", TODAY)
    finally:
        del RULES["GM999"]
    *others, fault = found.findings
    assert [(f.code, f.summary, f.status) for f in others] == [
        (f.code, f.summary, f.status) for f in before.findings
    ]
    assert fault.status == "unknown" and "KeyError at unit/test_judge.py:" in fault.summary
    assert "s3cret" not in str(fault)
    assert not any(finding.change for finding in found.findings)
    assert {f.refused for f, was in zip(others, before.findings, strict=True) if was.change} == {
        "internal error of gpumend in GM999"
    }
    assert judge(host, wants, "gpu1", TODAY) == before


def test_an_interrupted_run_is_put_back_whatever_a_rule_does() -> None:
    def fails(context: Context) -> Iterator[Finding]:
        raise ZeroDivisionError
        yield

    host = SICK.but(files={JOURNAL: journal()}).state()
    RULES["GM999"] = Rule("GM999", "nothing is wrong with the rule", "a test", fails, lambda context: True)
    try:
        found = judge(host, parse_wanted({}), "gpu1", TODAY, lenient=True)
    finally:
        del RULES["GM999"]
    assert [f.change.component for f in found.findings if f.change] == [Component.RECOVER]


def test_today_is_the_controllers_date() -> None:
    found = judge(healthy().state(), parse_wanted({"waivers": []}), "gpu1", datetime.date(2000, 1, 1))
    assert besides_its_age(found.findings) == ()


def test_parse_is_of_an_answer() -> None:
    assert parse(Snapshot(healthy().answer())) == healthy().state()
    assert HEALTHY_ANSWER["files"][CONFIG]["data"].startswith("#accept")
