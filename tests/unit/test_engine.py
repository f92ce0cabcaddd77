"""The engine table: each row is whole, and what is written elsewhere about engines agrees with it."""

from __future__ import annotations

from gpumend.rules.engines.engine import ENGINES, newest_readable
from gpumend.schemas import load
from gpumend.state.host_state import request
from gpumend.text.version import Version


def test_names_stand_once() -> None:
    assert len({engine.name for engine in ENGINES}) == len(ENGINES)


def test_spec_versions_rise_with_the_engine() -> None:
    for engine in ENGINES:
        assert list(engine.reads) == sorted(engine.reads), engine.name
        assert [spec for _, spec in engine.reads] == sorted(spec for _, spec in engine.reads), engine.name


def test_the_services_of_the_table_are_looked_at() -> None:
    assert {engine.unit for engine in ENGINES if engine.unit} <= set(request()["units"])


def test_what_changes_an_engine_is_a_transaction_of_its_own() -> None:
    components = [engine.component for engine in ENGINES if engine.component is not None]
    assert len(components) == len(set(components))
    assert all(engine.component is not None for engine in ENGINES if engine.unit)


def test_prove_engines_may_name_every_engine_that_can_be_proven() -> None:
    """An engine without containers of its own (CRI-O, k3s) cannot be named."""
    proven = load("wanted")["properties"]["prove"]["properties"]["engines"]["oneOf"]
    allowed = next(choice["items"]["enum"] for choice in proven if "items" in choice)
    default = type(ENGINES[0])._field_defaults["trials"]
    assert set(allowed) == {engine.name for engine in ENGINES if engine.trials is not default}


def test_an_engine_older_than_its_first_entry_has_no_cdi() -> None:
    old: Version = (0, 1)
    assert [engine.newest_readable(old) for engine in ENGINES] == [None] * len(ENGINES)
    assert newest_readable("docker", (24, 0)) is None
