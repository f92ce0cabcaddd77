"""What a run makes of daemons that are watched while it goes on: what it sends, what it says of them, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from gpumend.plan.transaction import Plan, Transaction
from gpumend.reports.document import Exit, exit_of, word_of
from gpumend.reports.outputs import known
from gpumend.reports.terminal import render
from gpumend.rules.finding import Component
from gpumend.run.attempt import UNWATCHED, attempt, end_watches, followed
from gpumend.run.outcome import Outcome, parse_answer
from gpumend.run.record import Assessment, Record
from gpumend.state.snapshot import Snapshot
from tests.unit.build import healthy
from tests.unit.farm import RUN, mend, mended, no_cdi, record

FOLLOWED = [
    # what is sent, what is planned after it, whether its watch may be over later
    pytest.param(Component.CONTAINERD, (Component.DOCKER,), True, id="another daemon"),
    pytest.param(Component.GRIT, (Component.CONTAINERD,), True, id="a file before one"),
    pytest.param(Component.DOCKER, (), False, id="the last"),
    pytest.param(Component.DOCKER, (Component.CONTAINERD,), False, id="what came before is no more"),
    pytest.param(Component.DOCKER, (Component.STORAGE,), False, id="what stops containers waits"),
    pytest.param(Component.CONTAINERD, (Component.COMPOSE, Component.DOCKER)[::-1], True, id="only the next one counts"),
    pytest.param(Component.ENGINE, (Component.PACKAGES,), False, id="packages restart what they like"),
]  # fmt: skip


@pytest.mark.parametrize(("which", "after", "later"), FOLLOWED)
def test_a_watch_may_be_over_later_where_nothing_follows_that_disturbs_it(
    which: Component, after: tuple[Component, ...], later: bool
) -> None:
    plan = Plan(tuple(Transaction(component, ("GM999",)) for component in (which, *after)))
    assert followed(which, plan) is later


Send = Callable[[dict[str, Any]], tuple[Outcome, Snapshot]]


def answering(result: dict[str, Any], sent: list[dict[str, Any]]) -> Send:
    """A host that answers so; what was sent to it."""

    def send(data: dict[str, Any]) -> tuple[Outcome, Snapshot]:
        sent.append(data)
        return parse_answer(json.dumps({"result": result, "snapshot": {"gpumend": 1}}))

    return send


def kept(found: Record) -> Callable[[Snapshot], Assessment]:
    """The host is as it was judged last."""

    def take(snapshot: Snapshot) -> Assessment:
        assert found.now is not None
        return found.now

    return take


def watching(detail: str = "") -> Record:
    """A host of which the one change has not been watched to its end."""
    said = "; ".join(filter(None, (detail, UNWATCHED)))
    return mended("gpu1", no_cdi(1), Outcome("watching", said, notified="restart"), healthy())


def test_a_change_that_is_watched_yet_is_not_said_to_be_done() -> None:
    found = watching()
    assert exit_of(found) is Exit.UNREAD
    assert word_of(found) == "still at work"
    text = " ".join(render(mend([found])).split())
    assert "watching" in text and "the host watches it" in text


# Prometheus has numbers of hosts, and of no change.
TELLING = sorted(name for name, each in known().items() if "mend" in each.kinds and name != "prometheus")


@pytest.mark.parametrize("name", TELLING)
def test_each_format_says_it(name: str) -> None:
    assert "the host watches it" in known()[name].render(mend([watching()]))


ENDED = [
    # how its watch ended on the host, why, the exit status, the host's word
    pytest.param("changed", "", Exit.OK, "mended", id="it lives"),
    pytest.param("put_back", "dockerd did not live 6 s", Exit.PUT_BACK, "change failed, put back", id="it died"),
    pytest.param("broken", "dockerd does not start", Exit.BROKEN, "change failed, NOT put back", id="and stays dead"),
    pytest.param("watching", "", Exit.UNREAD, "still at work", id="the journal could not be written"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "why", "exit_status", "word"), ENDED)
def test_how_it_ended_is_how_it_is_told(status: str, why: str, exit_status: Exit, word: str) -> None:
    found = watching("stopped and started again: a")
    component, sent = str(found.done[0][0].component), list[dict[str, Any]]()
    send = answering({"status": status, "watched": {component: [status, why]}}, sent)
    assert end_watches(RUN, found, send, kept(found)) is not None
    assert [(data["verb"], data["run"]) for data in sent] == [("watch", RUN)]
    outcome = found.done[0][1]
    assert outcome.status == status and outcome.notified == "restart"
    if status == "changed":
        assert outcome.detail == "stopped and started again: a", "and no word of the watch"
    elif status != "watching":
        assert outcome.detail == why
    assert (exit_of(found), word_of(found)) == (exit_status, word)


def test_a_host_that_does_not_answer_then_is_told_as_watching() -> None:
    found = watching()

    def gone(data: dict[str, Any]) -> tuple[Outcome, Snapshot]:
        raise OSError("gone")

    assert end_watches(RUN, found, gone, kept(found)) == Outcome("watching", "internal error: OSError: gone")
    assert found.done[0][1].status == "watching" and exit_of(found) is Exit.UNREAD


@pytest.mark.parametrize("status", ["lost", "running"])
def test_a_host_that_is_gone_or_at_work_is_not_asked_again(status: str) -> None:
    found, sent = watching(), list[dict[str, Any]]()
    found.done.append((Transaction(Component.PODMAN, ("GM540",)), Outcome(status)))
    end_watches(RUN, found, answering({"status": "changed"}, sent), kept(found))
    assert sent == []
    assert [outcome.status for _, outcome in found.done] == ["watching", status]


def test_nobody_is_asked_where_nothing_is_watched() -> None:
    sent: list[dict[str, Any]] = []
    found = mended("gpu1", no_cdi(1), Outcome("changed"), healthy())
    assert end_watches(RUN, found, answering({"status": "unchanged"}, sent), kept(found)) is None
    assert sent == []


def test_what_came_after_a_daemon_that_died_is_told_as_put_back() -> None:
    """Two changes: the watched one, and one that had ended well."""
    found = watching()
    second = Transaction(Component.PODMAN, ("GM540",))
    found.done.append((second, Outcome("changed")))
    first = str(found.done[0][0].component)
    watched = {
        first: ["put_back", "died"],
        "podman.spec_directories": ["put_back", f"{first}, which came before it"],
    }
    end_watches(RUN, found, answering({"status": "put_back", "watched": watched}, []), kept(found))
    assert [outcome.status for _, outcome in found.done] == ["put_back", "put_back"]
    assert found.outcomes[Component.PODMAN].detail == f"{first}, which came before it"


@pytest.mark.parametrize("together", [True, False])
def test_only_who_ends_the_watches_asks_for_a_later_one(together: bool) -> None:
    """An agent does not: its answer is the end of its run."""
    found, sent = record("gpu1", no_cdi(1)), list[dict[str, Any]]()
    assert found.now is not None
    [transaction] = found.now.plan.transactions
    after = record("gpu1", healthy())
    send = answering({"status": "changed"}, sent)
    attempt(RUN, found, transaction, send, kept(after), together)
    assert {"overlaps", "later"} <= set(sent[0]) if together else not {"overlaps", "later"} & set(sent[0])
    assert not sent[0].get("later"), "nothing follows"
