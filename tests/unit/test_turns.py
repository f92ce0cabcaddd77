"""How many hosts are asked at a time."""

from __future__ import annotations

import gevent
import pytest
from gevent.event import Event
from gevent.lock import BoundedSemaphore

from gpumend.run.remote import asking


@pytest.fixture
def two_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "_turns", BoundedSemaphore(2))


@pytest.mark.usefixtures("two_at_once")
def test_a_host_waits_for_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "TURN", 60)
    begun: list[int] = []
    ends = [Event() for _ in range(4)]

    def ask(number: int) -> None:
        with asking.a_turn():
            begun.append(number)
            ends[number].wait()

    hosts = [gevent.spawn(ask, number) for number in range(4)]
    gevent.idle()
    assert begun == [0, 1]
    ends[1].set()
    hosts[1].join()
    gevent.idle()
    assert begun == [0, 1, 2]
    hosts[3].kill(RuntimeError("interrupted"))  # while it waits: it had no turn to give back
    for end in ends:
        end.set()
    gevent.joinall(hosts)
    assert begun == [0, 1, 2] and asking._turns.counter == 2


@pytest.mark.usefixtures("two_at_once")
def test_hosts_that_do_not_answer_hold_up_nobody_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "TURN", 0.01)
    with asking.a_turn(), asking.a_turn():
        with asking.a_turn():
            assert asking._turns.counter == 0
        assert asking._turns.counter == 0, "it gives back no turn that it had not"
    assert asking._turns.counter == 2


@pytest.mark.usefixtures("two_at_once")
def test_what_goes_wrong_gives_the_turn_back() -> None:
    with pytest.raises(ValueError, match="no answer"), asking.a_turn():
        raise ValueError("no answer")
    assert asking._turns.counter == 2
