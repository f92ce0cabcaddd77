"""Journals: runs of today's program and of an older one, complete and killed before every step, are undone to the byte."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpumend.payload.probe.files import matches
from gpumend.payload.source import change_source
from gpumend.plan.step import (
    DirectoryTrial,
    DropIn,
    GenerateFile,
    PackageStep,
    RemoveFile,
    RunCommand,
    SetMode,
    Step,
    TriggerFile,
    WriteFile,
    WrittenByPackage,
)
from gpumend.state.runs import SEARCH, _journal
from tests.scripts import trees

# A transaction is root's, and so is the mount that it tries.
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

CAPTURES = Path(__file__).parents[1] / "fixtures" / "journals"
CASES = ("files", "service", "packages")
JOURNALS = "var/lib/gpumend/runs/*/*/journal.json"


def captured(case: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((CAPTURES / "34eba2b" / f"{case}.json").read_text())
    return found


def killed(case: str) -> Iterator[tuple[str, trees.Tree]]:
    """(before which step it was killed, the tree by then) of a captured run."""
    tree = trees.BEFORE
    for each in captured(case)["killed"]:
        tree = trees.changed(tree, each)
        yield each["before"], tree


@dataclass(frozen=True)
class Host:
    """A tree as a host, with its stand-ins where root may execute them."""

    root: Path
    programs: Path
    booted_by_systemd: bool = True

    def carry_out(self, wanted: dict[str, Any], number: int = 0) -> tuple[dict[str, Any] | None, str]:
        program = trees.program(change_source(), self.root, self.programs)
        program.__dict__["systemd"] = lambda: self.booted_by_systemd
        return trees.carried_out(program, wanted, number)

    def answer(self, wanted: dict[str, Any]) -> dict[str, Any]:
        answer, at = self.carry_out(wanted)
        assert answer is not None, at
        return answer

    def journals(self) -> list[str]:
        return sorted(map(str, self.root.glob(JOURNALS)))

    def recover(self) -> dict[str, Any]:
        """The answer of the next run's first transaction."""
        call = {"verb": "recover", "run": "next", "who": "test", "restarts": "allow"}
        return self.answer({**call, "journals": self.journals()})

    def rollback(self) -> dict[str, Any]:
        return self.answer({"verb": "rollback", "run": trees.RUN, "who": "test", "restarts": "allow"})

    def as_before(self, at: str) -> None:
        """Every file has its old bytes and mode, and nothing of ours lies beside one."""
        assert trees.host(trees.entries(self.root)) == trees.host(trees.BEFORE), at
        states = [json.loads(Path(path).read_text())["state"] for path in self.journals()]
        assert set(states) <= {"put_back"}, at


LayOut = Callable[[trees.Tree], Host]


@pytest.fixture
def laid_out(programs: Path, tmp_path: Path) -> Iterator[LayOut]:
    """laid_out(tree): a new host whose files these are. In memory, where there is any: each trial mount syncs its disk."""
    memory = Path("/dev/shm")
    directory = Path(tempfile.mkdtemp(prefix="gpumend-test-", dir=memory if memory.is_dir() else tmp_path))
    count = 0

    def made(tree: trees.Tree) -> Host:
        nonlocal count
        count += 1
        host = Host(directory / str(count), programs / f"of-{count}")
        trees.lay_out(tree, host.root)
        shutil.copytree(host.root / "bin", host.programs)
        host.programs.chmod(0o755)
        return host

    yield made
    shutil.rmtree(directory)


# --- runs of 34eba2b, whose journals have no format number


@pytest.mark.parametrize("case", CASES)
def test_an_old_run_that_was_killed_is_put_back(case: str, laid_out: LayOut) -> None:
    found = list(killed(case))
    assert len(found) >= 15
    for at, tree in found:
        host = laid_out(tree)
        if host.journals():
            answer = host.recover()
            assert answer["status"] == "changed", (at, answer)
        host.as_before(at)


@pytest.mark.parametrize("case", CASES)
def test_an_old_run_is_rolled_back(case: str, laid_out: LayOut) -> None:
    host = laid_out(trees.changed(trees.BEFORE, captured(case)["complete"]))
    [path] = host.journals()
    assert "format" not in json.loads(Path(path).read_text())
    answer = host.rollback()
    assert answer["status"] == "changed", answer
    host.as_before("a rollback")
    assert host.rollback()["status"] == "unchanged"


def test_an_old_run_leaves_what_somebody_changed_since(laid_out: LayOut) -> None:
    host = laid_out(trees.changed(trees.BEFORE, captured("files")["complete"]))
    (host.root / "etc/edited.toml").write_text("mine\n")
    answer = host.rollback()
    assert answer["status"] == "broken" and "changed by somebody else since" in answer["detail"]
    assert (host.root / "etc/edited.toml").read_text() == "mine\n"
    left = {
        path
        for path, entry in trees.host(trees.entries(host.root)).items()
        if trees.BEFORE.get(path, ...) != entry
    }
    assert left == {"etc/edited.toml"}


# --- somebody takes note of a run


def acknowledge(host: Host, named: str) -> dict[str, Any]:
    return host.answer({"verb": "acknowledge", "run": named, "who": "ops@desk"})


def test_a_run_is_acknowledged_once(laid_out: LayOut) -> None:
    host = laid_out(trees.changed(trees.BEFORE, captured("files")["complete"]))
    assert acknowledge(host, trees.RUN)["status"] == "changed"
    note = host.root / "var/lib/gpumend/runs" / trees.RUN / "acknowledged"
    assert (note.read_text(), note.stat().st_mode & 0o7777) == ("ops@desk\n", 0o600)
    again = host.answer({"verb": "acknowledge", "run": trees.RUN, "who": "other@desk"})
    assert again["status"] == "unchanged"
    assert note.read_text() == "ops@desk\n"
    assert sorted(path.name for path in note.parent.iterdir() if path.is_file()) == ["acknowledged"]
    assert host.rollback()["status"] == "changed", "it is undone all the same"


@pytest.mark.parametrize("named", ["20200101T000000Z-0000", "..", ".", "../runs", "x/y", ""])
def test_a_run_that_is_not_there_is_not_acknowledged(named: str, laid_out: LayOut) -> None:
    host = laid_out(trees.changed(trees.BEFORE, captured("files")["complete"]))
    before = {**trees.entries(host.root), "gpumend.lock": None}
    answer = acknowledge(host, named)
    assert (answer["status"], "there is no run" in answer["detail"]) == ("refused", True)
    assert {**trees.entries(host.root), "gpumend.lock": None} == before


# --- runs of today's


def files(root: Path) -> dict[str, Any]:
    """Every kind of step that changes files or directories."""
    unit, generate = f"{root}/etc/edge.service", ("nvidia-ctk",)
    sha = trees.sha
    triggered, first = f"{root}/etc/cdi/triggered.yaml", f"{root}/etc/cdi/first.yaml"
    steps: list[Step] = [
        WriteFile(f"{root}/etc/edited.toml", sha(root, "etc/edited.toml"), b"# keep this\nold = false\n"),
        WriteFile(f"{root}/etc/new/deep/new.conf", None, b"new\n"),
        GenerateFile(f"{root}/etc/cdi/generated.yaml", sha(root, "etc/cdi/generated.yaml"), generate),
        GenerateFile(f"{root}/etc/cdi-new/generated.yaml", None, generate),
        TriggerFile(triggered, sha(root, "etc/cdi/triggered.yaml"), (*generate, triggered)),
        TriggerFile(first, None, (*generate, first)),
        RemoveFile(f"{root}/etc/cdi/old.yaml", sha(root, "etc/cdi/old.yaml")),
        SetMode(f"{root}/etc/cdi/strict.yaml", sha(root, "etc/cdi/strict.yaml")),
        DirectoryTrial(f"{root}/data/edge", 0o710),
        DropIn(f"{unit}.d/90-gpumend.conf", unit, "edge", ("-v", "/data/edge:/var/lib/docker")),
        RunCommand(("true", "once")),
    ]
    return {**trees.common("storage.dind"), "steps": [step.as_data() for step in steps]}


def service(root: Path) -> dict[str, Any]:
    """A file, and the restart of the daemon that reads it."""
    step = WriteFile(f"{root}/etc/edited.toml", trees.sha(root, "etc/edited.toml"), b"old = false\n")
    unit = ["containerd.service", "restart"]
    return {**trees.common("containerd.config"), "steps": [step.as_data()], "service": unit}


def packages(root: Path) -> dict[str, Any]:
    """A package, and the file that its script writes anew."""
    config = WrittenByPackage(f"{root}/etc/config.toml", trees.sha(root, "etc/config.toml"))
    steps: list[Step] = [
        PackageStep("apt", "install", ("nvidia-container-toolkit=1.17.8-1",), config),
        WriteFile(f"{root}/etc/new.conf", None, b"new\n"),
    ]
    return {**trees.common("packages.toolkit_installed"), "steps": [step.as_data() for step in steps]}


def generated(root: Path, keeps: dict[str, Any]) -> dict[str, Any]:
    path = f"{root}/etc/cdi/generated.yaml"
    before = trees.sha(root, "etc/cdi/generated.yaml")
    step = GenerateFile(path, before, ("nvidia-ctk",), keeps=json.dumps(keeps))
    return {**trees.common("cdi.spec_current"), "steps": [step.as_data()]}


def test_a_generated_file_has_what_people_had_added(laid_out: LayOut) -> None:
    host = laid_out(trees.BEFORE)
    keeps = {
        "devices": [{"name": "mine", "containerEdits": {"env": ["A=1"]}}],
        "edits": {
            "": {"env": ["MODELS=/m"]},
            "generated": {"mounts": [{"hostPath": "/", "containerPath": "/host"}]},
        },
    }
    assert host.answer(generated(host.root, keeps))["status"] == "changed"
    made = yaml.safe_load((host.root / "etc/cdi/generated.yaml").read_text())
    assert made == {
        "cdiVersion": "0.5.0",
        "kind": "nvidia.com/gpu",
        "devices": [
            {
                "name": "generated",
                "containerEdits": {"mounts": [{"containerPath": "/host", "hostPath": "/"}]},
            },
            {"name": "mine", "containerEdits": {"env": ["A=1"]}},
        ],
        "containerEdits": {"env": ["MODELS=/m"]},
    }
    assert host.rollback()["status"] == "changed"
    host.as_before("a rollback")


def test_what_people_added_to_a_device_that_is_gone_leaves_the_old_file(laid_out: LayOut) -> None:
    host = laid_out(trees.BEFORE)
    answer = host.answer(generated(host.root, {"devices": [], "edits": {"gone": {"env": ["A=1"]}}}))
    assert (
        answer["status"] == "refused" and "has no device gone, to which people have added" in answer["detail"]
    )
    host.as_before("a refusal")


MAKERS = {"files": files, "service": service, "packages": packages}


def run_of(case: str, host: Host, number: int = 0) -> tuple[dict[str, Any] | None, str]:
    return host.carry_out(MAKERS[case](host.root), number)


@pytest.mark.parametrize("case", CASES)
def test_a_run_ends_as_an_old_one_did_and_is_rolled_back(case: str, laid_out: LayOut) -> None:
    host = laid_out(trees.BEFORE)
    answer, _ = run_of(case, host)
    assert answer is not None and answer["status"] == "changed", answer
    then = trees.changed(trees.BEFORE, captured(case)["complete"])
    assert trees.host(trees.entries(host.root)) == trees.host(then)
    [path] = host.journals()
    assert json.loads(Path(path).read_text())["format"] == 2
    assert host.rollback()["status"] == "changed"
    host.as_before("a rollback")


@pytest.mark.parametrize("case", CASES)
def test_a_run_that_is_killed_before_any_step_is_put_back(case: str, laid_out: LayOut) -> None:
    number = 1
    while True:
        host = laid_out(trees.BEFORE)
        answer, at = run_of(case, host, number)
        if answer is not None:
            break
        if host.journals():
            assert host.recover()["status"] == "changed", at
            host.as_before(at)
        number += 1
    assert answer["status"] == "changed" and number > 15


def test_without_systemd_the_file_is_changed_and_the_daemon_waits_for_a_hand(laid_out: LayOut) -> None:
    """A mend promised a restart, failed at it and was exit 4 (a real GPU machine with dockerd and no systemd)."""
    host = replace(laid_out(trees.BEFORE), booted_by_systemd=False)
    answer, _ = run_of("service", host)
    assert answer is not None and answer["status"] == "pending", answer
    assert "not booted by systemd" in answer["detail"], answer
    after = trees.entries(host.root)
    assert after["etc/edited.toml"][1] == "old = false\n"
    assert "restart" not in after.get("told", ["", ""])[1]
    assert host.rollback()["status"] == "changed"
    host.as_before("a rollback")


# --- a format that nobody knows yet


@pytest.mark.parametrize("found", [3, 99, "next", None])
def test_a_newer_format_is_refused_and_nothing_is_touched(found: Any, laid_out: LayOut) -> None:
    host = laid_out(trees.BEFORE)
    run_of("service", host)
    [path] = host.journals()
    record = {**json.loads(Path(path).read_text()), "format": found, "state": "working"}
    Path(path).write_text(json.dumps(record))
    before = trees.entries(host.root)
    for answer in (host.recover(), host.rollback()):
        assert answer["status"] == "refused", answer
        assert f"{path} is of format {found}" in answer["detail"], answer
    after = trees.entries(host.root)
    assert {name: entry for name, entry in after.items() if not name.endswith(".lock")} == {
        name: entry for name, entry in before.items() if not name.endswith(".lock")
    }


def test_a_newer_run_counts_in_the_order_of_runs(laid_out: LayOut) -> None:
    """What is undone newest first must not take a run that it cannot read for none."""
    host = laid_out(trees.BEFORE)
    run_of("service", host)
    [path] = map(Path, host.journals())
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 3, "number": 41}))
    run_of("packages", host)
    numbers = {json.loads(Path(each).read_text())["number"] for each in host.journals()}
    assert numbers == {41, 42}


# --- relative paths


@pytest.mark.parametrize(
    "step",
    [
        {"do": "write", "path": "old.yaml", "before": None, "data": ""},
        {"do": "remove", "path": "old.yaml", "before": None},
        {"do": "remove", "path": "", "before": None},
        {"do": "mode", "path": "./old.yaml", "before": None, "mode": 0o644},
        {"do": "generate", "path": "old.yaml", "before": None, "argv": ["true"]},
        {"do": "trigger", "path": "old.yaml", "before": None, "argv": ["true"]},
        {"do": "directory", "path": "data", "mode": 0o710},
        {"do": "dropin", "path": "a.d/b", "unit": "/etc/a", "container": "edge", "options": []},
        {"do": "dropin", "path": "/etc/a.d/b", "unit": "a", "container": "edge", "options": []},
        {"do": "package", "manager": "apt", "verb": "install", "targets": ["a"], "path": "b", "before": None},
        {"do": "note", "directory": "cuda", "section": ".note", "driver": "550.1"},
        {"do": "cuda", "how": "with", "directory": "cuda", "version": 13000},
    ],
    ids=lambda step: f"{step['do']}",
)
def test_a_relative_path_is_refused_by_the_host(step: dict[str, Any], laid_out: LayOut) -> None:
    host = laid_out(trees.BEFORE)
    wanted = {**trees.common("cdi.spec_current"), "steps": [step]}
    answer, _ = host.carry_out(wanted)
    assert answer is not None and answer["status"] == "refused", answer
    assert "not an absolute path" in answer["detail"]
    assert host.journals() == [] and trees.host(trees.entries(host.root)) == trees.host(trees.BEFORE)


def test_a_kind_of_step_that_is_none_is_refused(laid_out: LayOut) -> None:
    host = laid_out(trees.BEFORE)
    wanted = {**trees.common("cdi.spec_current"), "steps": [{"do": "format", "path": "/"}]}
    answer, _ = host.carry_out(wanted)
    assert answer == {"status": "refused", "detail": "no step is called 'format' here"}


def test_the_plan_and_the_host_know_the_same_kinds() -> None:
    from gpumend.payload.change.kinds import KINDS, step_kind
    from tests.unit.test_plan import STEPS

    assert [step_kind({"do": step.do}).kind for step in STEPS] == [step.do for step in STEPS]
    assert set(KINDS) == {step.do for step in STEPS}


# --- what somebody changed since, and what is kept


def test_modes_and_owners_that_are_newer_than_the_run_stay(laid_out: LayOut) -> None:
    """A rollback put back the mode that an admin had changed since."""
    host = laid_out(trees.BEFORE)
    answer, _ = run_of("files", host)
    assert answer is not None and answer["status"] == "changed", answer
    edited, strict, generated = (
        host.root / "etc" / name for name in ("edited.toml", "cdi/strict.yaml", "cdi/generated.yaml")
    )
    edited.chmod(0o600)
    os.chown(edited, 1, 2)
    strict.chmod(0o640)
    assert host.rollback()["status"] == "changed"
    assert edited.read_text() == trees.BEFORE["etc/edited.toml"][1]
    assert (edited.stat().st_mode & 0o7777, edited.stat().st_uid, edited.stat().st_gid) == (0o600, 1, 2)
    assert strict.stat().st_mode & 0o7777 == 0o640
    assert generated.stat().st_mode & 0o7777 == 0o600, "nobody changed that one"


LABEL = "security.selinux"
OLD, NEW = b"system_u:object_r:etc_t:s0\0", b"system_u:object_r:container_config_t:s0\0"


@pytest.mark.parametrize("number", [0, 60], ids=["rolled-back", "killed-and-recovered"])
def test_labels_that_are_newer_than_the_run_stay_and_others_are_as_they_were(
    number: int, laid_out: LayOut
) -> None:
    """SELinux' labels: root may set them on a kernel without SELinux, too."""
    host = laid_out(trees.BEFORE)
    names = ("edited.toml", "cdi/strict.yaml", "cdi/generated.yaml", "cdi/triggered.yaml")
    paths = [host.root / "etc" / name for name in names]
    edited = paths[0]
    for path in paths:
        os.setxattr(path, LABEL, OLD)
    answer, at = run_of("files", host, number)
    assert (answer is None) is bool(number), (answer, at)
    assert [os.getxattr(path, LABEL) for path in paths] == [OLD] * 4
    assert edited.read_text() != trees.BEFORE["etc/edited.toml"][1]
    os.setxattr(edited, LABEL, NEW)
    assert (host.recover() if number else host.rollback())["status"] == "changed"
    assert edited.read_text() == trees.BEFORE["etc/edited.toml"][1]
    assert [os.getxattr(path, LABEL) for path in paths] == [NEW, OLD, OLD, OLD]


def test_no_journal_has_what_the_files_hold(laid_out: LayOut) -> None:
    host = laid_out(trees.BEFORE)
    secret = "Zq00001x7KpVt"
    for name in ("etc/edited.toml", "etc/edge.service"):
        path = host.root / name
        path.write_text(path.read_text() + f"# X_TOKEN={secret}\n")
    answer, _ = run_of("files", host)
    assert answer is not None and answer["status"] == "changed", answer
    told = [Path(path) for path in host.journals()]
    assert secret not in json.dumps(answer) + "".join(path.read_text() for path in told)
    kept = [path for path in told[0].parent.iterdir() if secret in path.read_text()]
    assert kept and all(path.stat().st_mode & 0o7777 == 0o600 for path in kept)
    assert told[0].parent.stat().st_mode & 0o7777 == 0o700


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("old", [True, False], ids=["format-1", "format-2"])
def test_an_audit_takes_of_a_journal_what_the_rules_need(case: str, old: bool, laid_out: LayOut) -> None:
    host = laid_out(trees.changed(trees.BEFORE, captured(case)["complete"]) if old else trees.BEFORE)
    if not old:
        run_of(case, host)
    [path] = host.journals()
    text = Path(path).read_text()
    raw = json.loads(text)
    hits = matches(SEARCH, text)
    found = _journal(path, hits, ())
    entries = raw["files"] if old else [file for step in raw["steps"] for file in step.get("files", (step,))]
    assert (found.run, found.component, found.state) == (raw["run"], raw["component"], raw["state"])
    assert found.files is not None and sorted(found.files) == sorted(entry["path"] for entry in entries)
    assert sum(map(len, hits)) < len(text) / 2


DAY = 86400


@pytest.mark.parametrize(
    ("ages", "states", "kept"),
    [
        pytest.param([1] * 60, {}, 60, id="young"),
        pytest.param([100] * 60, {}, 50, id="old"),
        pytest.param([100] * 60, {0: "broken", 3: "working", 5: "of a newer one"}, 53, id="not-ended-well"),
        pytest.param([1] * 1010, {}, 1000, id="young-and-far-too-many"),
        pytest.param([100] * 20, {}, 20, id="old-and-few"),
    ],
)
def test_runs_are_kept_by_count_and_age(
    ages: list[int], states: dict[int, str], kept: int, laid_out: LayOut
) -> None:
    """30,000 runs were 45 MB and 6.8 s of each audit."""
    host = laid_out(trees.BEFORE)
    runs = host.root / "var/lib/gpumend/runs"
    for number, age in enumerate(ages):
        directory = runs / f"run-{number:05}" / "cdi.spec_current"
        directory.mkdir(parents=True)
        record = {"number": number, "started": time.time() - age * DAY, "state": states.get(number, "done")}
        (directory / "journal.json").write_text(json.dumps(record))
    trees.program(change_source(), host.root, host.programs).__dict__["prune"]()
    left = sorted(int(path.name.rpartition("-")[2]) for path in runs.iterdir())
    assert len(left) == kept and left[-1] == len(ages) - 1
    assert set(states) <= set(left)


def test_a_run_prunes_after_itself(laid_out: LayOut) -> None:
    host = laid_out(trees.BEFORE)
    runs = host.root / "var/lib/gpumend/runs"
    for number in range(55):
        (runs / f"old-{number}" / "x").mkdir(parents=True)
        (runs / f"old-{number}" / "x" / "journal.json").write_text('{"state": "done", "started": 1}')
    answer, _ = run_of("files", host)
    assert answer is not None and answer["status"] == "changed", answer
    assert len(list(runs.iterdir())) == 50 and host.rollback()["status"] == "changed"
