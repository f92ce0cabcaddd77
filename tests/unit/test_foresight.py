"""Between the components of a mend the host is looked at only where what the next one does may depend on it."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from pyinfra.api.config import Config

from gpumend.payload.probe.files import content
from gpumend.plan.step import SetMode, WriteFile
from gpumend.plan.transaction import Plan, Transaction
from gpumend.rules.finding import Component
from gpumend.rules.wanted import parse as parse_wanted
from gpumend.run import record as run
from gpumend.run.attempt import UNSEEN, attempt, end_watches
from gpumend.run.foresight import Kept, evidence, foreseen, several, written
from gpumend.run.outcome import Outcome, parse_answer
from gpumend.run.record import Assessment, Record, judged
from gpumend.run.remote.component import _carry_out
from gpumend.run.remote.connection import packed, packed_now
from gpumend.state.containerd import CONFIG
from gpumend.state.grit import CONFIG as GRIT_TOML
from gpumend.state.host_state import parse
from gpumend.state.snapshot import AnswerError, Snapshot
from tests.unit.build import DAEMON_JSON, Host
from tests.unit.farm import RUN
from tests.unit.test_containerd import node

WANTED = parse_wanted({"grit": {"role": "both"}, "restarts": "allow"})
GRIT, CONTAINERD, DOCKER = Component.GRIT, Component.CONTAINERD, Component.DOCKER
RUNC = 'BinaryName = "/usr/bin/runc"\n'


def sick() -> Host:
    """A node of which GRIT, containerd and Docker are to be changed."""
    host = node()
    daemon = {**host.daemon(), "features": {"cdi": False}}
    files = {GRIT_TOML: RUNC, DAEMON_JSON: json.dumps(daemon)}
    return host.but(files=files, info={"CDISpecDirs": []})


def seen(snapshot: Snapshot) -> Assessment:
    return judged(parse(snapshot), WANTED, "gpu1")


def planned(snapshot: Snapshot) -> Plan:
    return seen(snapshot).plan


class Answers:
    """A host that carries out what it is sent: the file steps in its answer. looks: after how many it was looked at.
    fails: the components of which a change does not help."""

    def __init__(self, host: Host, *fails: Component) -> None:
        self.snapshot = Snapshot(host.answer())
        self.record = Record("gpu1", seen(self.snapshot), seen(self.snapshot))
        assert self.record.now is not None
        self.record.now.kept = Kept(self.snapshot)
        self.fails = fails
        self.sent: list[dict[str, Any]] = []
        self.looks = 0
        self.results: dict[str, dict[str, Any]] = {}

    def send(self, data: dict[str, Any]) -> tuple[Outcome, Snapshot]:
        self.sent.append(data)
        result = self.results.get(data.get("component", data["verb"]), {"status": "changed"})
        found = self.record.now.plan.get(Component(data["component"])) if data["verb"] == "apply" else None  # type: ignore[union-attr]
        if found and found.component not in self.fails and result["status"] in ("changed", "watching"):
            done = written(self.snapshot, found)
            assert done is not None
            self.snapshot = done
            if found.component is DOCKER:  # what it says then
                answer = sick().but(info={"CDISpecDirs": ["/etc/cdi", "/var/run/cdi"]}).answer()
                self.snapshot = Snapshot(
                    {**done.answer, "docker": answer["docker"], "units": answer["units"]}
                )
        look = data.get("look", True) or result["status"] not in ("changed", "watching")
        self.looks += look
        text = json.dumps({"result": result, "snapshot": self.snapshot.answer if look else None})
        return parse_answer(text, data.get("look", True))

    def take(self, snapshot: Snapshot) -> Assessment:
        self.record.now = seen(snapshot)
        self.record.now.kept = Kept(snapshot)
        return self.record.now

    def mend(self, *components: Component) -> None:
        """What an operation does, each in its turn."""
        for component in components:
            assert self.record.now is not None
            transaction = self.record.now.plan.get(component)
            assert transaction is not None, component
            self.record.outcomes[component] = attempt(
                RUN, self.record, transaction, self.send, self.take, True, planned
            )

    def end(self) -> Outcome | None:
        return end_watches(RUN, self.record, self.send, self.take)

    def statuses(self) -> dict[Component, str]:
        assert self.record.outcomes == {each.component: outcome for each, outcome in self.record.done}
        return {component: outcome.status for component, outcome in self.record.outcomes.items()}


def test_a_mend_of_three_components_looks_at_the_host_once_at_its_end() -> None:
    host = Answers(sick())
    host.mend(GRIT, CONTAINERD, DOCKER)
    assert host.looks == 1
    assert [data["look"] for data in host.sent[:2]] == [False, False] and "look" not in host.sent[2]
    assert [sorted({"evidence"} & set(data)) for data in host.sent] == [[], ["evidence"], ["evidence"]]
    assert host.statuses() == dict.fromkeys((GRIT, CONTAINERD, DOCKER), "changed")
    assert not any(outcome.detail for _, outcome in host.record.done), "all of them were seen in the end"
    assert host.end() is None and len(host.sent) == 3


def test_what_a_plan_was_made_of_is_as_the_transaction_before_left_it() -> None:
    host = Answers(sick())
    host.mend(GRIT, CONTAINERD)
    [_, second] = host.sent
    files = second["evidence"]["files"]
    item = host.snapshot.answer["files"][GRIT_TOML]
    assert files[GRIT_TOML] == item["sha256"]
    assert b"nvidia-container-runtime" in (content(item) or b"")
    assert files[DAEMON_JSON] and files["/etc/nvidia-container-runtime/config.toml"]
    assert files["/etc/containerd/config-kops.toml"] is None, "it was not there"
    assert second["evidence"]["globs"]["/etc/containerd/conf.d/*.toml"] == []
    assert second["evidence"]["units"]["containerd.service"]["MainPID"] == "4242"
    assert not [path for path in files if path.startswith(("/proc/", "/sys/", "/run/"))], "changes by itself"


def test_an_agent_looks_after_each() -> None:
    """Who gives no `ahead`: an agent, and a mend of what somebody approved."""
    host = Answers(sick())
    assert host.record.now is not None
    [first, *_] = host.record.now.plan.transactions
    attempt(RUN, host.record, first, host.send, host.take, True)
    assert host.looks == 1 and not host.record.unseen


# --- where it is looked at


def foresee(snapshot: Snapshot, which: Component, make: Callable[[Snapshot], Plan] = planned) -> Kept | None:
    plan = planned(snapshot)
    transaction = plan.get(which)
    assert transaction is not None
    return foreseen(Kept(snapshot), plan, transaction, make)


def test_it_is_looked_at_where_the_next_would_be_planned_otherwise() -> None:
    snapshot = Snapshot(sick().answer())
    assert foresee(snapshot, GRIT)

    def otherwise(ahead: Snapshot) -> Plan:
        plan = planned(ahead)
        return Plan(tuple(each for each in plan.transactions if each.component is not DOCKER), plan.blocked)

    assert foresee(snapshot, GRIT, otherwise) is None
    blocked = {DOCKER: "why"}
    assert foresee(snapshot, GRIT, lambda ahead: Plan(planned(ahead).transactions, blocked)) is None


def test_it_is_looked_at_where_the_next_is_planned_otherwise_of_what_the_first_one_writes() -> None:
    """As if a transaction before Docker's had written what Docker's is about."""
    snapshot = Snapshot(sick().answer())
    plan = planned(snapshot)
    new = json.dumps({**sick().daemon(), "features": {"cdi": True}}).encode()
    step = WriteFile(DAEMON_JSON, snapshot.answer["files"][DAEMON_JSON]["sha256"], new)
    assert foreseen(Kept(snapshot), plan, Transaction(GRIT, ("GM522",), (step,)), planned) is None


def but(path: str, item: dict[str, Any] | None) -> Snapshot:
    answer = sick().answer()
    files = {**answer["files"], path: {**answer["files"][path], **(item or {})}}
    if item is None:
        del files[path]
    return Snapshot({**answer, "files": files})


UNTOLD = [
    pytest.param({"link": "/srv/grit.toml"}, id="a link"),
    pytest.param({"real": "/srv/grit.toml"}, id="below a link"),
    pytest.param({"status": "denied"}, id="could not be read"),
    pytest.param({"sha256": "0" * 64}, id="not what the plan saw"),
    pytest.param(None, id="was not read"),
]


@pytest.mark.parametrize("item", UNTOLD)
def test_it_is_looked_at_where_it_is_not_known_what_a_file_was(item: dict[str, Any] | None) -> None:
    plan = planned(Snapshot(sick().answer()))
    transaction = plan.get(GRIT)
    assert transaction is not None
    assert written(but(GRIT_TOML, item), transaction) is None


def test_it_is_looked_at_where_more_is_done_than_files_are_written() -> None:
    snapshot = Snapshot(sick().answer())
    step = SetMode(GRIT_TOML, None, 0o600)
    assert written(snapshot, Transaction(GRIT, ("GM522",), (step,))) is None
    plan = planned(snapshot)
    packages = Transaction(Component.PACKAGES, ("GM213",))
    assert foreseen(Kept(snapshot), plan, packages, planned) is None


def test_after_its_restart_nobody_knows_what_a_daemon_says() -> None:
    snapshot = Snapshot(sick().answer())
    plan = planned(snapshot)
    for component, unit in ((CONTAINERD, "containerd.service"), (DOCKER, "docker.service")):
        transaction = plan.get(component)
        assert transaction is not None
        after = written(snapshot, transaction)
        assert after is not None and not after.unit(unit).ok
        assert snapshot.unit(unit).ok
    assert after is not None and not after.docker.ok and snapshot.docker.ok


@pytest.mark.parametrize("section", ["files", "globs", "units"])
@pytest.mark.parametrize("lie", [[], 3, {"/etc/x": 7}, {"/etc/containerd/*": []}])
def test_an_answer_of_another_shape_is_looked_at_again(section: str, lie: Any) -> None:
    snapshot = Snapshot(sick().answer())
    plan = planned(snapshot)
    transaction = plan.get(CONTAINERD)
    assert transaction is not None
    lied = Snapshot({**snapshot.answer, section: lie})
    assert foreseen(Kept(lied), plan, transaction, planned) is None


def test_a_new_file_is_among_those_that_are_listed() -> None:
    snapshot = Snapshot(sick().but(files={CONFIG: None}).answer())
    step = WriteFile(CONFIG, None, b"version = 2\n")
    after = written(snapshot, Transaction(CONTAINERD, ("GM503",), (step,)))
    assert after is not None and after.text(CONFIG).get() == "version = 2\n"
    assert after.glob(CONFIG).get() == (CONFIG,)
    assert evidence(Kept(after), Transaction(GRIT, ()))["globs"][CONFIG] == [CONFIG]


@pytest.mark.parametrize(
    ("components", "found"),
    [
        ((GRIT, CONTAINERD), True),
        ((DOCKER,), False),
        ((DOCKER, Component.COMPOSE), False),
        ((Component.TOOLKIT, DOCKER), False),
        ((Component.CDI, CONTAINERD, DOCKER), True),
    ],
)
def test_an_answer_is_kept_where_two_follow_each_other(
    components: tuple[Component, ...], found: bool
) -> None:
    assert several(Plan(tuple(Transaction(each, ()) for each in components))) is found


# --- how it is told, and what did not help


def test_a_change_that_failed_is_looked_at_with_those_before_it() -> None:
    host = Answers(sick())
    host.results[CONTAINERD] = {"status": "put_back", "detail": "no"}
    host.mend(GRIT, CONTAINERD)
    assert host.looks == 1 and not host.record.unseen
    assert host.statuses() == {GRIT: "changed", CONTAINERD: "put_back"}
    assert UNSEEN not in host.record.done[0][1].detail


def test_a_host_that_is_as_nobody_foresaw_is_planned_anew() -> None:
    """An operator was at work between two components."""
    host = Answers(sick())
    host.results[CONTAINERD] = {"status": "moved", "detail": "config.toml changed since the plan was made"}
    host.mend(GRIT, CONTAINERD)
    assert host.record.outcomes[CONTAINERD].status == "conflict"
    host.results.clear()
    host.mend(CONTAINERD, DOCKER)
    assert host.looks == 2 and "evidence" not in host.sent[2], "its plan is of this moment"
    assert host.statuses() == dict.fromkeys((GRIT, CONTAINERD, DOCKER), "changed")


def test_what_was_not_seen_and_did_not_help_is_undone_with_what_builds_on_it() -> None:
    host = Answers(sick(), GRIT)
    host.mend(GRIT, CONTAINERD, DOCKER)
    undone = [data["component"] for data in host.sent if data["verb"] == "rollback"]
    assert undone == [CONTAINERD, GRIT], "the newest first"
    assert host.statuses() == {GRIT: "put_back", CONTAINERD: "put_back", DOCKER: "changed"}
    assert "GM522 is still found after the change" in host.record.outcomes[GRIT].detail
    assert "grit.config, on which it builds, was put back" in host.record.outcomes[CONTAINERD].detail


def test_who_asks_no_more_is_told_after_all() -> None:
    """The next one is not sent: somebody has stopped the run."""
    host = Answers(sick())
    host.mend(GRIT)
    assert UNSEEN in host.record.done[0][1].detail
    host.results["watch"] = {"status": "unchanged"}
    assert host.end() == Outcome("unchanged")
    assert host.looks == 1 and host.record.now is not None
    assert "GM522" not in [found.code for found in host.record.now.verdict.drift]
    assert host.record.done[0][1].detail == ""


def test_a_host_that_vanishes_then_is_told_as_not_looked_at() -> None:
    host = Answers(sick())
    host.mend(GRIT)
    answers = host.send

    def gone(data: dict[str, Any]) -> tuple[Outcome, Snapshot]:
        raise OSError("gone")

    host.send = gone  # type: ignore[method-assign]
    host.mend(CONTAINERD)
    host.send = answers  # type: ignore[method-assign]
    assert host.statuses() == {GRIT: "changed", CONTAINERD: "lost"}
    assert UNSEEN in host.record.outcomes[GRIT].detail
    assert host.end() is not None and len(host.sent) == 1, "nobody asks it again"


@pytest.mark.parametrize("look", [True, False])
def test_an_answer_without_a_look_is_one_only_where_that_was_asked_for(look: bool) -> None:
    text = json.dumps({"result": {"status": "changed"}, "snapshot": None})
    if look:
        with pytest.raises(AnswerError):
            parse_answer(text, look)
    else:
        outcome, snapshot = parse_answer(text, look)
        assert not outcome.looked and snapshot.unread("/etc/docker/daemon.json"), "nothing is known by it"


def test_a_program_is_packed_once_for_its_beginning_and_is_the_same() -> None:
    """Compressing all of it for each transaction of each host was 40 ms of the controller's time."""
    found: dict[str, Any] = {}
    exec(packed("def doubled(x):\n    return 2 * x\n") + packed_now("said = doubled(21)\n"), found)
    assert found["said"] == 42


class Sent:
    """What pyinfra has of a host, as far as we ask for it: it gives these answers, one after the other."""

    def __init__(self, *answers: dict[str, Any]) -> None:
        self.name, self.print_prefix, self.groups = "gpu1", "", ()
        self.answers = list(answers)
        self.inventory = self
        self.data: Any = SimpleNamespace(get=lambda *_: None, dict=dict)
        self.state = SimpleNamespace(config=Config())
        self.current_deploy_kwargs = self.current_op_global_arguments = None

    def get_data(self, *_: str) -> dict[str, Any]:
        return {}

    get_group_data = get_host_data = get_override_data = get_data

    def run_shell_command(self, *_: Any, **__: Any) -> tuple[bool, Any]:
        return True, SimpleNamespace(stdout=json.dumps(self.answers.pop(0)), stderr="", stderr_lines=[])


def test_what_builds_on_a_change_that_is_put_back_by_the_next_ones_look_waits() -> None:
    """GRIT's did not help, which shows as containerd's plan is refused: containerd is not planned anew over it."""
    answer = sick().answer()
    host: Any = Sent(
        {"result": {"status": "changed"}, "snapshot": None},
        {"result": {"status": "moved", "detail": "it changed"}, "snapshot": answer},
        {"result": {"status": "changed"}, "snapshot": answer},
        {"result": {"status": "changed"}, "snapshot": answer},
    )
    this = run.current(host)
    this.watches = True
    record = this.records["gpu1"] = Answers(sick()).record
    assert _carry_out(host.state, host, GRIT) and record.unseen
    assert _carry_out(host.state, host, CONTAINERD)
    assert record.outcomes[GRIT].status == "put_back"
    assert CONTAINERD not in record.outcomes and "GRIT" in record.held[CONTAINERD].upper()
    assert len(host.answers) == 1, "nothing was sent after GRIT's was put back"
