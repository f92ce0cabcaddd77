"""The report for people: a fleet fits a screen, every width from 60 columns on, colours as asked for."""

from __future__ import annotations

import os
from typing import Any

import click
import pytest

from gpumend.reports import fleet, terminal
from gpumend.rules.finding import Component, Evidence, Finding, Status
from gpumend.run.outcome import Outcome
from gpumend.run.record import Record
from tests.unit.build import DAEMON_JSON, healthy
from tests.unit.farm import assessed, audit, farm, mend, mended, no_cdi, no_docker_answer, record, sick


def text(document: dict[str, Any], width: int = 80, **more: Any) -> str:
    return click.unstyle(terminal.render(document, width=width, **more))


def small_differences() -> list[Record]:
    """30 hosts that are wrong in the same way, each with a file and a version of its own."""
    records = []
    for number in range(1, 31):
        host = no_cdi(number).but(info={"ServerVersion": f"28.{number % 3}.{number}"})
        if number % 5 == 0:
            host = host.but(files={DAEMON_JSON: f'{{"max": {number}}}\n'}, info={"Runtimes": {"runc": {}}})
        records.append(record(f"gpu{number:02}", host))
    return records


def test_thirty_hosts_with_small_differences_fit_one_screen() -> None:
    told = text(audit(small_differences()))
    assert len(told.splitlines()) <= 24, told
    assert "30 hosts: gpu[01-30]" in told


@pytest.mark.parametrize("width", [60, 80, 160])
def test_a_farm_of_forty_with_three_kinds_of_fault_fits_sixty_lines(width: int) -> None:
    told = text(audit(farm()), width)
    rows = told.splitlines()
    assert len(rows) <= 60
    assert max(map(len, rows)) <= width, told
    assert "fail    GM404, 12 hosts: gpu[01-12]; mend restarts docker" in rows
    assert "as wanted     22" in rows, "healthy hosts are a count"
    assert "2 hosts: gpu[17-18]: port 22 on 192.0.2.9" in told
    assert "gpu[13-16]" in told and "would change docker.daemon_config, 12 hosts: gpu[01-12]" in told


def test_unknowns_of_one_cause_are_one_line() -> None:
    document = audit(farm())
    [unknown] = [group for group in fleet.groups(document) if group.status == "unknown"]
    assert len(unknown.codes) > 5 and unknown.hosts == ["gpu13", "gpu14", "gpu15", "gpu16"]
    body = text(audit([record("a", no_docker_answer(0))]))
    assert body.count("not known, for one cause: /run/docker.sock") == 1, "on a single host, too"
    assert all(code in body for code in unknown.codes)


def test_under_five_hosts_and_with_details_everything_is_shown() -> None:
    four = audit([record(f"gpu{number}", no_cdi(number)) for number in range(4)])
    five = audit([record(f"gpu{number}", no_cdi(number)) for number in range(5)])
    assert "+++ /etc/docker/daemon.json" in text(four)
    assert "+++ /etc/docker/daemon.json" not in text(five)
    assert text(five, details=True).count("+++ /etc/docker/daemon.json") == 5
    assert "--details" in text(five) and "--details" not in text(four)


@pytest.mark.parametrize("count", [1, 8])
def test_a_mend_that_did_nothing_says_why(count: int) -> None:
    records = []
    for number in range(count):
        found = record(f"gpu{number}", no_cdi(number))
        assert found.now is not None
        why = {Component.DOCKER: "daemon.json is a symlink into /nix/store"}
        found.now.plan = type(found.now.plan)((), why)
        records.append(found)
    for document in (audit(records), mend(records)):
        assert "daemon.json is a symlink into /nix/store" in text(document, 120)


def test_how_a_mend_ended_is_told_by_component() -> None:
    records = [
        mended(f"gpu{n}", no_cdi(n), Outcome("changed", notified="restart", not_restarted=("job",) * (n == 1)), healthy())
        for n in range(6)
    ]  # fmt: skip
    records.append(mended("gpu9", no_cdi(9), Outcome("put_back", "dockerd did not come up")))
    told = text(mend(records))
    assert "changed   docker.daemon_config (restart docker.service), 6 hosts: gpu[0-5]" in told
    assert "put_back  docker.daemon_config, gpu9\n        dockerd did not come up" in told
    assert "gpu1: did not come back: job" in told
    assert "gpumend rollback" in told


def test_a_change_without_a_file_does_not_say_no_file() -> None:
    found = mend([mended("a", no_cdi(0), Outcome("changed", notified="restart"))])
    change = found["hosts"]["a"]["changes"][0]
    change["files"] = []
    assert terminal.done(change) == "docker.daemon_config (GM404): no file to change (restart docker.service)"
    assert terminal.planned(change) == "docker.daemon_config (GM404): restart docker.service, no file changes"


def test_the_order_is_stable_and_natural() -> None:
    records = [record(name, no_cdi(0)) for name in ("gpu10", "gpu2", "gpu1")]
    one, other = audit(records), audit(records[::-1])
    assert text({**one, "seconds": 1.0}) == text({**other, "seconds": 1.0})
    names = [name for name, _ in fleet.in_order(audit(records))]
    assert names == ["gpu1", "gpu2", "gpu10"]


def test_the_table_fits_narrow_terminals() -> None:
    told = text(audit([record("node-with-a-long-name.example.net", sick(0))]), 60)
    table = told.split("\n\n")[0].splitlines()
    assert max(map(len, table)) <= 60, told
    assert table[1].startswith("HOST") and "FINDINGS" in table[1]


def test_a_line_break_of_a_hosts_makes_no_line_of_the_reports() -> None:
    extra = Finding(
        "GM404",
        Status.FAIL,
        "x\naudit 1: 1 host: 1 as wanted",
        (Evidence("a\nb", "c\n\nall hosts as wanted"),),
        refused="y\nz",
    )
    for count in (1, 9):
        records = [record(f"h\n{number}", healthy(), extra=[extra]) for number in range(count)]
        rows = text(audit(records), 200).splitlines()
        assert not [row for row in rows if row.startswith(("audit 1:", "all hosts"))]


COLOURS = [
    pytest.param({}, None, id="as-the-terminal"),
    pytest.param({"NO_COLOR": "1"}, False, id="no"),
    pytest.param({"NO_COLOR": ""}, None, id="no-but-empty"),
    pytest.param({"FORCE_COLOR": "1"}, True, id="force"),
    pytest.param({"NO_COLOR": "1", "FORCE_COLOR": "1"}, False, id="both"),
    pytest.param({"TERM": "dumb"}, False, id="dumb"),
]


@pytest.mark.parametrize(("environment", "wanted"), COLOURS)
def test_colours(environment: dict[str, str], wanted: bool | None) -> None:
    assert terminal.colored(environment) is wanted


@pytest.mark.parametrize(("said", "wanted"), [("20", 60), ("72", 72), ("400", 160), ("0", 110), ("x", 110)])
def test_width(monkeypatch: pytest.MonkeyPatch, said: str, wanted: int) -> None:
    monkeypatch.setenv("COLUMNS", said)
    monkeypatch.setattr(os, "get_terminal_size", lambda _=0: os.terminal_size((0, 0)))
    assert terminal.columns() == wanted


def test_the_summary_is_one_line() -> None:
    document = audit(farm())
    assert terminal.summary(document).startswith(
        "audit 20261123T064523Z-0ffb: 40 hosts: 4 not known, 2 no answer"
    )
    assert assessed(healthy().state()).verdict.drift == ()
