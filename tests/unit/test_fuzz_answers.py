"""Whole answers of hosts, spoilt in every way: nothing of ours raises, from the parser to the report."""

from __future__ import annotations

import ast
import base64
import json
import os
import zlib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gpumend.deploy.facts_report import as_json
from gpumend.plan.plan import plan
from gpumend.plan.wire import as_data
from gpumend.reports import terminal
from gpumend.reports.document import document
from gpumend.rules.judge import judge
from gpumend.rules.rule import Context
from gpumend.rules.wanted import parse as parse_wanted
from gpumend.run.outcome import parse_answer
from gpumend.run.programs import change_program as program
from gpumend.run.record import Assessment, Record, Run
from gpumend.run.remote.fact import StateFact
from gpumend.state.containerd import ConfigError
from gpumend.state.host_state import HostState, parse
from gpumend.state.reading import Unread
from gpumend.state.snapshot import AnswerError, Snapshot
from gpumend.text.mask import mask_all
from tests.unit.build import TODAY, Item
from tests.unit.fuzz import DEEP, VALUES, WANTS, Spoilt, put, seeds, spoilt, spoilt_text, walk

import facts as facts_package


def sent(answer: Any) -> str:
    """The answer as a host prints it."""
    return json.dumps(answer, ensure_ascii=True, separators=(",", ":")) + "\n"


def parsed(answer: Item) -> HostState | None:
    try:
        return parse(Snapshot.from_output(sent(answer)))
    except AnswerError:
        return None


def assessed(state: HostState, wanted: dict[str, Any]) -> Assessment:
    wants = parse_wanted(wanted)
    context = Context(state, wants, "gpu1", TODAY)
    verdict = judge(state, wants, "gpu1", TODAY)
    return Assessment(context, verdict, plan(context, verdict.findings))


def printed(value: Any) -> None:
    """It can be written to a file and to a terminal."""
    json.dumps(value, ensure_ascii=False).encode("utf-8")


def everything(answer: Item, wanted: dict[str, Any]) -> None:
    """Parsed, judged, planned, shown, and made into a program to send."""
    state = parsed(answer)
    if state is None:
        return
    found = assessed(state, wanted)
    run = Run("20261123T000000Z-0000", 0.0, {"gpu1": Record("gpu1", before=found, now=found)})
    told = document(run, executed=False)
    printed(told)
    shown = terminal.render(told)
    assert not set(click.unstyle(shown)) & UNPRINTABLE
    for transaction in found.plan.transactions:
        sent_whole(as_data(transaction, run.id, "idle", "ops@controller"))
    printed(mask_all(as_json(state)))
    facts(state)


UNPRINTABLE = {
    chr(code)
    for code in (*range(9), *range(11, 32), *range(0x7F, 0xA0), 0x2028, 0x202E, *range(0xD800, 0xE000))
}


def sent_whole(data: dict[str, Any]) -> None:
    """The program that would be sent is ASCII, and its literal is the transaction's data."""
    text = program(data)
    text.encode("ascii")
    literal = text.rpartition("main_transaction(json.loads(")[2].partition("), lambda:")[0]
    assert json.loads(ast.literal_eval(literal)) == data


def facts(state: HostState) -> None:
    """Every single fact is a value that can be printed, or says why there is none."""
    for fact in FACTS:
        try:
            printed(mask_all(fact().read(state)))
        except (Unread, ConfigError) as error:
            assert str(error)


FACTS: list[type[StateFact[Any]]] = [
    kind
    for path in sorted(Path(facts_package.__path__[0]).glob("[a-z]*.py"))
    for module in (import_module(f"facts.{path.stem}"),)
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, StateFact) and kind is not StateFact
]


def test_there_are_facts_to_read() -> None:
    assert len(FACTS) > 15


@given(spoilt(), st.sampled_from(WANTS))
def test_any_answer_is_parsed_judged_planned_and_shown(found: Spoilt, wanted: dict[str, Any]) -> None:
    everything(found.answer, wanted)


@given(
    st.text()
    | st.sampled_from(sorted(seeds())).flatmap(lambda name: spoilt_text(sent(seeds()[name])[:20_000]))
)
@example("[" * 100_000)
@example('{"gpumend": 1, "a": ' + "[" * 100_000)
@example('{"gpumend": ' + "9" * 5000 + "}")
@example('\ufeff{"gpumend": 1}')
@example('{"gpumend": 1}\0')
@example('{"gpumend": 1}{"gpumend": 1}')
@example('{"gpumend": 2, "gpumend": 1}')
@example("gpumend:zlib:")
@example("gpumend:zlib:" + base64.b64encode(zlib.compress(b'{"gpumend": 1}')[:-4]).decode())
@example("gpumend:zlib:" + base64.b64encode(zlib.compress(b"x")).decode())
def test_any_output_is_an_answer_or_an_error(output: str) -> None:
    try:
        parse(Snapshot.from_output(output))
    except AnswerError as error:
        assert str(error)


def test_an_answer_that_unpacks_to_too_much_is_refused() -> None:
    """100 KB on the wire would be 100 MB here."""
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(b" " * (1 << 20)) for _ in range(100)) + packer.flush()
    with pytest.raises(AnswerError, match="larger than"):
        Snapshot.from_output("gpumend:zlib:" + base64.b64encode(data).decode())


RESULTS = st.fixed_dictionaries(
    {},
    optional={
        "result": VALUES | st.fixed_dictionaries({"status": VALUES}, optional={"detail": VALUES, "files": VALUES, "told": VALUES, "lost": VALUES, "notified": VALUES, "not_restarted": VALUES}),
        "snapshot": VALUES | st.just({"gpumend": 1}),
    },
)  # fmt: skip


@given(RESULTS | VALUES)
def test_any_answer_of_a_transaction_is_one_or_an_error(answer: Any) -> None:
    try:
        outcome, snapshot = parse_answer(sent(answer))
        parse(snapshot)
    except AnswerError:
        return
    printed(
        mask_all(
            [
                outcome.status,
                outcome.detail,
                outcome.notified,
                list(outcome.files),
                list(outcome.not_restarted),
            ]
        )
    )


# --- what a generator would be long in finding: one thing of each sort, wrong in each way, on each host

WRONG: list[Any] = [
    None,
    True,
    -1,
    10**30,
    float("nan"),
    float("inf"),
    "",
    "\0",
    "\udc80",
    "\x1b[2J",
    [],
    [None],
    {},
    {"": None},
    DEEP,
]


def sorts(name: str) -> Iterator[tuple[Any, ...]]:
    """One path of each shape in a seed: files, stats and units are alike, whatever their names."""
    seen = set()
    for path in walk(seeds()[name]):
        shape = tuple("#" if isinstance(key, int) else key for key in path)
        if (
            path[0] in ("files", "stats", "globs", "programs", "listings", "spaces", "inside")
            and len(path) > 1
        ):
            shape = (path[0], "*", *shape[2:])
        if path[:2] == ("units", "units") and len(path) > 2:
            shape = ("units", "*", *shape[3:])
        if shape not in seen:
            seen.add(shape)
            yield path


THOROUGH = int(os.environ.get("GPUMEND_FUZZ_EXAMPLES", "0")) >= 1000
WAYS = 3 if THOROUGH else 1


@pytest.mark.fuzz
@pytest.mark.parametrize("name", sorted(seeds()) if THOROUGH else ["dind"])
def test_one_thing_of_each_sort_wrong_in_each_way(name: str) -> None:
    """With `make fuzz` each path of every host in three of the ways; otherwise of one host, in one of them."""
    failed = []
    for number, path in enumerate(sorts(name)):
        for offset in range(WAYS):
            wrong = WRONG[(number * WAYS + offset) % len(WRONG)]
            try:
                everything(put(seeds()[name], path, wrong), WANTS[number % len(WANTS)])
            except Exception as error:  # all of them at once
                failed.append((path, repr(wrong)[:40], repr(error)[:200]))
    assert failed == []
