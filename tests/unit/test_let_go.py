"""Of a host that is done with nothing is left but what the report says."""

from __future__ import annotations

import copy
import gc
from dataclasses import replace

import pytest

from gpumend.reports.document import document
from gpumend.run.concern import CONCERNS
from gpumend.run.record import Record
from gpumend.state.host_state import HostState
from tests.unit import farm
from tests.unit.build import healthy


def copies() -> list[Record]:
    """The farm's records, which are shared, with assessments of their own."""
    found = [replace(record) for record in farm.farm()]
    for record in found:
        record.before = record.now = copy.copy(record.now)
    return found


@pytest.mark.parametrize("executed", [False, True])
def test_the_report_is_the_same_once_the_hosts_were_let_go(executed: bool) -> None:
    records = copies()
    before = document(farm.run(records), executed)
    for record in records:
        if record.now is not None:
            record.now.let_go()
            record.now.let_go()
    after = document(farm.run(records), executed)
    assert [each["facts"].get("os") for each in after["hosts"].values()].count(None) == 2, "those unread"
    assert {**after, "seconds": 0} == {**before, "seconds": 0}


@pytest.mark.parametrize("first", [True, False], ids=["let go, then narrowed", "narrowed, then let go"])
def test_a_run_about_one_concern_is_told_the_same(first: bool) -> None:
    told = []
    for goes in (False, True):
        records = copies()
        this = farm.run(records)
        this.concerns.append(CONCERNS["docker"])
        for record in records:
            if record.now is None:
                continue
            if goes and first:
                record.now.let_go()
            record.before = record.now = this.seen(record.now)
            if goes and not first:
                record.now.let_go()
            assert record.now.whole is not None
            assert hasattr(record.now, "context") is not goes, "only where it was let go"
            assert hasattr(record.now.whole, "context") is not goes
        told.append({**document(this, executed=False), "seconds": 0})
    assert told[0] == told[1]


def test_nothing_of_its_state_is_left() -> None:
    """As objects: a HostState has no other way to be counted."""
    found = farm.record("gpu1", healthy().but(info={"CDISpecDirs": ["/here/alone"]}))
    assert found.now is not None
    number = id(found.now.context.state)

    def there() -> bool:
        gc.collect()
        return any(id(each) == number and isinstance(each, HostState) for each in gc.get_objects())

    assert there()
    found.now.let_go()
    assert not there()
    with pytest.raises(AttributeError):
        found.now.context  # noqa: B018  # that asking for it fails is what is meant


def test_two_equal_hosts_share_what_is_left() -> None:
    one, other = (farm.record(name, healthy()).now for name in ("gpu1", "gpu2"))
    assert one is not None
    assert other is not None
    one.let_go()
    other.let_go()
    assert one.told.facts is other.told.facts
