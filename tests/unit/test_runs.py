"""gpumend's own runs on a host: how they are listed, which is the last, and how they are told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from gpumend.deploy.runs_report import host_runs
from gpumend.reports.document import Exit, envelope
from gpumend.reports.formats import text
from gpumend.run.remote.rollback import NO_RUN, NoLastRun, last
from gpumend.state.runs import Runs
from tests.unit.build import Host, healthy, unread
from tests.unit.farm import record
from tests.unit.farm import run as a_run
from tests.unit.test_leftovers import EARLIER, LATER, RUNS, journal

DOCKER, CDI = "docker.daemon_config", "cdi.spec_current"


def host(*found: Mapping[str, Any]) -> Host:
    return healthy().but(files={path: content for each in found for path, content in each.items()})


def runs(*found: Mapping[str, Any]) -> Runs:
    return host(*found).state().runs


def test_runs_are_listed_the_newest_first_with_all_of_their_components() -> None:
    found = runs(
        journal(EARLIER, DOCKER, "done"), journal(LATER, CDI, "done"), journal(LATER, DOCKER, "put_back")
    ).listed()
    assert [(each.name, each.state) for each in found] == [(LATER, "done"), (EARLIER, "done")]
    assert sorted(each.component for each in found[0].journals) == [CDI, DOCKER]


@pytest.mark.parametrize(
    ("states", "told"),
    [
        (("done", "broken"), "broken"),
        (("broken", "working"), "working"),
        (("put_back", "done"), "done"),
        (("put_back", "put_back"), "put_back"),
        (("of a newer gpumend", "of a newer gpumend"), "of a newer gpumend"),
    ],
)
def test_a_run_is_what_its_worst_component_is(states: tuple[str, str], told: str) -> None:
    [found] = runs(journal(EARLIER, DOCKER, states[0]), journal(EARLIER, CDI, states[1])).listed()
    assert found.state == told


def test_an_acknowledged_run_says_so() -> None:
    note = {f"{RUNS}/{EARLIER}/acknowledged": ""}
    [found] = runs(journal(EARLIER, DOCKER, "broken"), note).listed()
    assert found.acknowledged
    [part] = host_runs(runs(journal(EARLIER, DOCKER, "broken"), note))["runs"]
    assert (part["state"], part["acknowledged"]) == ("broken", True)


def test_journals_that_cannot_be_read_are_an_error_and_no_empty_list() -> None:
    denied = {path: unread("denied") for path in journal(EARLIER, DOCKER, "done")}
    told = host_runs(runs(denied))
    assert told["runs"] == []
    assert "denied" in told["error"]


def test_the_last_run_is_the_newest_that_ended_done_on_any_host() -> None:
    this = a_run(
        [
            record("gpu1", host(journal(EARLIER, DOCKER, "done"))),
            record("gpu2", host(journal(LATER, DOCKER, "done"), journal(LATER, CDI, "broken"))),
        ]
    )
    assert last(this) == LATER


@pytest.mark.parametrize("state", ["put_back", "broken", "working"])
def test_a_run_that_did_not_end_done_is_not_the_last(state: str) -> None:
    this = a_run([record("gpu1", host(journal(EARLIER, DOCKER, "done"), journal(LATER, DOCKER, state)))])
    assert last(this) == EARLIER


def test_without_a_run_there_is_no_last_one() -> None:
    with pytest.raises(NoLastRun, match=NO_RUN):
        last(a_run([record("gpu1", healthy()), record("gpu2", host(journal(LATER, DOCKER, "put_back")))]))


def test_the_last_run_is_not_known_where_a_host_did_not_answer() -> None:
    """It may have a newer one: an older run than the one that is meant would be undone on the others."""
    known = record("gpu1", host(journal(EARLIER, DOCKER, "done")))
    with pytest.raises(NoLastRun, match="gpu2 was not read"):
        last(a_run([known, record("gpu2", None)]))
    denied = {path: unread("denied") for path in journal(LATER, DOCKER, "done")}
    with pytest.raises(NoLastRun, match=r"gpu2: .*denied"):
        last(a_run([known, record("gpu2", host(denied))]))


def test_the_text_has_a_line_a_run() -> None:
    hosts = {
        "gpu1": host_runs(
            runs(
                journal(EARLIER, DOCKER, "broken"),
                {f"{RUNS}/{EARLIER}/acknowledged": ""},
                journal(LATER, CDI, "done"),
                journal(LATER, DOCKER, "done"),
            )
        ),
        "gpu-22": host_runs(runs()),
        "down": {"error": "no route to host", "runs": []},
    }
    told = text.render(envelope(a_run([]), "runs", Exit.UNREAD, hosts))
    assert told.splitlines() == [
        f"gpu1    {LATER}  done                  {CDI}, {DOCKER}",
        f"gpu1    {EARLIER}  broken, acknowledged  {DOCKER}",
        "gpu-22  no run",
        "down    no route to host",
    ]
