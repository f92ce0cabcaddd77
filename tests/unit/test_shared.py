"""What hosts of a fleet have in common is made once, and is kept as far as it is bounded."""

from __future__ import annotations

import pytest
from pyinfra.api.inventory import Inventory

from gpumend.rules.judge import judge
from gpumend.rules.wanted import Wanted
from gpumend.run.record import Run, _runs
from gpumend.run.remote.assessment import wanted_of
from gpumend.run.remote.layers import asked
from gpumend.schemas.wanted import WantedError
from gpumend.text.mask import mask
from gpumend.text.shared import shared
from tests.unit.build import TODAY, healthy


def test_the_last_texts_are_remembered_and_long_ones_are_not() -> None:
    made: list[str] = []

    @shared(2, longest=6)
    def upper(text: str, more: str = "") -> list[str]:
        made.append(text)
        return [text.upper(), more]

    assert upper("a") is upper("a")
    assert upper("abc", "def") is upper("abc", "def")
    assert upper("abc", "defg") is not upper("abc", "defg")
    assert made == ["a", "abc", "abc", "abc"]
    upper("b")
    upper("c")
    upper("a")  # forgotten
    assert made[4:] == ["b", "c", "a"]


def test_what_is_refused_is_refused_each_time() -> None:
    @shared(2)
    def number(text: str) -> int:
        return int(text)

    for _ in range(2):
        with pytest.raises(ValueError, match="x"):
            number("x")


def test_equal_outputs_of_two_hosts_are_read_once() -> None:
    one, other = healthy().state(), healthy().state()
    assert one.driver.cached.value
    assert one.driver.cached.value is other.driver.cached.value
    assert one.cuda.packages.value
    assert all(a is b for a, b in zip(one.cuda.packages.value, other.cuda.packages.value or (), strict=True))


def test_the_codes_of_rules_that_found_nothing_are_there_once() -> None:
    one, other = (judge(healthy().state(), Wanted(), name, TODAY) for name in ("gpu1", "gpu2"))
    assert one.passed is other.passed
    assert one.inapplicable is other.inapplicable


def test_a_text_of_a_report_is_masked_once() -> None:
    told = "proxy http://user:pass" + "word@10.0.0.1"
    assert mask(told) == "proxy http://********@10.0.0.1"
    assert mask(told) is mask(told)


def fleet(*layers: dict[str, object]) -> Inventory:
    """Hosts of which each is wanted what its own layer says, beside what is wanted of all."""
    hosts = [(f"@fake/host{number}", {"gpumend": layer}) for number, layer in enumerate(layers)]
    found = Inventory((hosts, {"gpumend": {"restarts": "never"}}))
    _runs[found] = Run("run", 0.0)
    return found


def test_hosts_of_which_the_same_is_wanted_share_it() -> None:
    same = {"cdi": {"manage": False}}
    found = fleet(same, dict(same), {"cdi": {"manage": True}}, {"ask_cuda": "never"})
    one, other, third, _ = (wanted_of(host) for host in found)
    assert one is other
    assert (one.manage_cdi, third.manage_cdi, one.restarts) == (False, True, "never")
    assert [asked(host)[0] for host in found] == [True, True, True, False]


def test_equal_texts_of_another_kind_are_another_desired_state() -> None:
    """What is allowed as one of JSON's kinds is refused as another that reads alike."""
    found = list(fleet({"cdi": {"manage": False}}, {"cdi": {"manage": 0}}, {"cdi": {"manage": "False"}}))
    assert not wanted_of(found[0]).manage_cdi
    for host in found[1:]:
        for _ in range(2):
            with pytest.raises(WantedError, match="manage"):
                wanted_of(host)
