"""`gpumend diff`: what has come, gone and changed between two reports."""

from __future__ import annotations

from typing import Any

from gpumend.reports.compare import compare, render
from tests.unit.build import healthy
from tests.unit.farm import audit, no_cdi, record


def report(**hosts: Any) -> dict[str, Any]:
    return audit([record(name, host, "" if host else "no route to host") for name, host in hosts.items()])


def test_two_reports_of_the_same_are_equal() -> None:
    found = compare(report(a=no_cdi(1), b=healthy()), report(a=no_cdi(1), b=healthy()))
    assert (render(found), found.worse) == ("nothing is different\n", False)


def test_what_is_new_is_worse_and_equal_changes_share_a_line() -> None:
    found = compare(
        report(gpu1=healthy(), gpu2=healthy(), gpu3=healthy()),
        report(gpu1=no_cdi(1), gpu2=no_cdi(1), gpu3=healthy()),
    )
    assert found.worse
    assert "new  fail    GM404  2 hosts: gpu[1-2]: CDI is off in Docker" in render(found)
    back = compare(report(gpu1=no_cdi(1)), report(gpu1=healthy()))
    assert not back.worse and "gone fail    GM404  gpu1: " in render(back)


def test_a_host_that_gives_no_answer_any_more_is_worse_and_its_findings_are_not_called_gone() -> None:
    found = compare(report(a=no_cdi(1)), report(a=None))
    assert (render(found), found.worse) == ("no answer any more  a: no route to host\n", True)
    again = compare(report(a=None), report(a=healthy()))
    aged, _, text = render(again).partition("\n")  # the captured driver's note is new, too
    assert aged.startswith("new  note    GM221  a:")
    assert (text, again.worse) == ("a: answers again\n", False)


def test_facts_and_hosts_that_came_and_went() -> None:
    newer = healthy().but(info={"ServerVersion": "29.1.0"})
    text = render(compare(report(a=healthy(), old=healthy()), report(a=newer, new=no_cdi(1))))
    assert "-> 29.1.0  a\n" in text
    assert "old: is not in the new report\n" in text and "new: was not in the old report\n" in text
    assert "GM404  new:" in text, "the findings of a host that is new are new"
