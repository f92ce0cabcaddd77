"""A mend host by host: who is begun when, and what stops it; a plan that somebody approved."""

from __future__ import annotations

import gevent
import pytest

from gpumend.deploy import rollout
from gpumend.deploy.rollout import Rollout, in_turn
from gpumend.reports.document import Exit, exit_of
from gpumend.run.outcome import Outcome
from gpumend.run.record import Record
from tests.unit.build import DAEMON_JSON, Host
from tests.unit.farm import audit, mend, no_cdi, no_docker_answer, record, run, sick

HOSTS = [f"gpu{number}" for number in range(1, 9)]


class Farm:
    """Hosts whose change takes a turn of the loop; what was begun, how many at once, and why it was stopped."""

    def __init__(self, bad: tuple[str, ...] = ()) -> None:
        self.bad, self.begun, self.at_work, self.most, self.why = bad, [], 0, 0, ""
        self.rounds: list[int] = []

    def ended(self, name: str) -> str:
        self.begun.append(name)
        self.at_work += 1
        self.most = max(self.most, self.at_work)
        gevent.sleep(0)
        self.at_work -= 1
        return "failed" if name in self.bad else ""

    def stop(self, why: str) -> None:
        self.why = self.why or why

    def mended(self, **how: int) -> Farm:
        in_turn(HOSTS, Rollout(**how), self.ended, self.stop, lambda: bool(self.why))  # type: ignore[arg-type]
        return self


CASES = [
    # what is asked, who is bad, who is begun, how many at once at most, why it was stopped
    pytest.param({}, (), 8, 8, "", id="all at once"),
    pytest.param({"serial": True}, (), 8, 1, "", id="serial"),
    pytest.param({"serial": True}, ("gpu2",), 8, 1, "", id="serial goes on after a failure"),
    pytest.param({"canary": 2}, (), 8, 6, "", id="two first"),
    pytest.param({"canary": 2}, ("gpu1",), 2, 2, "gpu1 failed, one of the first 2", id="one of the first failed"),
    pytest.param({"canary": 2}, ("gpu5",), 8, 6, "", id="a later one failed"),
    pytest.param({"max_failures": 1}, (), 8, 1, "", id="as many at once as may fail"),
    pytest.param({"max_failures": 1}, ("gpu3",), 3, 1, "1 failed: gpu3", id="the first failure ends it"),
    pytest.param({"max_failures": 3}, ("gpu1", "gpu2", "gpu6"), 6, 3, "3 failed: gpu1, gpu2, gpu6", id="three failures"),
    pytest.param({"max_failures": 2}, tuple(HOSTS), 2, 2, "2 failed: gpu1, gpu2", id="never more than allowed"),
    pytest.param({"canary": 1, "max_failures": 3}, (), 8, 3, "", id="both"),
]  # fmt: skip


@pytest.mark.parametrize(("how", "bad", "begun", "most", "why"), CASES)
def test_who_is_begun(how: dict[str, int], bad: tuple[str, ...], begun: int, most: int, why: str) -> None:
    farm = Farm(bad).mended(**how)
    assert farm.begun == HOSTS[:begun], "in order, and who is left is left"
    assert (farm.most, farm.why) == (most, why)


ENDS = [
    pytest.param(("changed",), False, "", id="changed"),
    pytest.param(("changed", "unchanged"), False, "", id="changed, and nothing to do"),
    pytest.param(("changed", "put_back"), False, "failed", id="put back"),
    pytest.param(("lost",), False, "failed", id="no answer"),
    pytest.param(("changed", "watching"), False, "was not seen to end well", id="its watch was not seen to end"),
    pytest.param(("running",), False, "was not seen to end well", id="at work after we had gone"),
    pytest.param(("changed",), True, "was not seen to end well", id="nobody looked after the last change"),
]  # fmt: skip


@pytest.mark.parametrize(("statuses", "unseen", "fault"), ENDS)
def test_the_others_follow_a_host_that_is_known_to_have_ended_well(
    statuses: tuple[str, ...], unseen: bool, fault: str
) -> None:
    ended = record("gpu1", no_cdi(1))
    assert ended.now is not None
    transaction = ended.now.plan.transactions[0]
    ended.done = [(transaction, Outcome(status, "")) for status in statuses]
    ended.unseen = [transaction] if unseen else []
    assert rollout.fault_of(ended) == fault
    if unseen:
        assert exit_of(ended) is Exit.UNREAD, "nobody knows whether it helped"


def approved(*records: Record) -> dict[str, dict[str, str]]:
    """What `mend --plan` takes of the audit's report."""
    hosts = audit(records)["hosts"].items()
    return {name: {part["component"]: part["digest"] for part in host["plan"]} for name, host in hosts}


def test_the_same_host_is_what_was_approved_whichever_run_reads_it() -> None:
    assert rollout.held(record("gpu1", no_cdi(1)), approved(record("gpu1", no_cdi(1)))) == ""


CHANGED = [
    pytest.param(no_cdi(1).but(files={DAEMON_JSON: '{"max": 1}\n'}), "docker.daemon_config would be changed otherwise", id="a file"),
    pytest.param(sick(1), "is not in the plan", id="more is wrong"),
    pytest.param(no_docker_answer(1), "docker.daemon_config is not to be changed any more", id="less is known"),
]  # fmt: skip


@pytest.mark.parametrize(("host", "why"), CHANGED)
def test_a_host_that_has_changed_since_is_refused(host: Host, why: str) -> None:
    now, plan = record("gpu1", host), approved(record("gpu1", no_cdi(1)))
    assert why in rollout.held(now, plan)
    this = run([now])
    rollout.refuse_changed(this, plan)
    if now.now and now.now.plan.transactions:
        assert {outcome.status for _, outcome in now.done} == {"refused"}
        [told] = mend([now])["hosts"].values()
        assert (told["status"], told["exit"]) == ("refused", 4)
        assert "changed since the plan was made" in told["changes"][0]["detail"]


def test_a_host_that_is_not_in_the_plan_is_refused() -> None:
    now = record("gpu2", no_cdi(1))
    rollout.refuse_changed(run([now]), approved(record("gpu1", no_cdi(1))))
    assert "it is not in the plan; nothing was changed" in now.done[0][1].detail
