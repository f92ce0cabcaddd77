"""Every JSON document that is written fits the published schema, whatever its kind, and says what it is of."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from typing import Any

import jsonschema
import pytest

from gpumend import schemas
from gpumend.deploy.facts_report import as_json
from gpumend.deploy.runs_report import host_runs
from gpumend.reports import parity
from gpumend.reports.document import Exit, digest, envelope, exit_of, word_of
from gpumend.rules.rule import RULES
from gpumend.rules.wanted import parse as parse_wanted
from gpumend.run.outcome import Outcome, parse_answer
from gpumend.run.record import Record
from gpumend.state.reading import Reading
from gpumend.state.reading import Status as ReadStatus
from gpumend.state.runs import Journal, Runs
from gpumend.text.mask import mask_all
from tests.unit.build import healthy
from tests.unit.farm import audit, farm, mend, mended, no_cdi, record, run, sick
from tests.unit.fuzz import seeds
from tests.unit.test_fuzz_answers import assessed, parsed

FAILED = ("conflict", "refused", "put_back", "broken", "running", "lost")


def fits(document: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(schemas.load("report")).validate(json.loads(json.dumps(document)))


@cache
def mended_farm() -> dict[str, Any]:
    outcomes = [Outcome(word, "why not") for word in FAILED]
    outcomes += [
        Outcome("changed", notified="restart", not_restarted=("job",)),
        Outcome("pending", notified="reload"),
    ]
    records = [mended(f"gpu{number}", no_cdi(number), outcome) for number, outcome in enumerate(outcomes)]
    proven = mended("gpu8", no_cdi(8), Outcome("changed"), healthy())
    proven.proof = Outcome("changed", "cuda:13 sees 8 GPUs")
    return mend([*records, proven, record("gpu9", None)])


@cache
def facts() -> dict[str, Any]:
    hosts = {name: as_json(state) for name, answer in seeds().items() if (state := parsed(answer))}
    return envelope(run(()), "facts", Exit.UNREAD, {**hosts, "down": {"error": "no route to host"}})


@cache
def compared() -> dict[str, Any]:
    states = {name: state for name, answer in seeds().items() if (state := parsed(answer))}
    pools = mask_all(parity.section({parity.EVERYBODY: states}))
    return envelope(run(()), "parity", Exit.DRIFT, {name: {"error": ""} for name in states}, parity=pools)


def rolled_back() -> dict[str, Any]:
    words = ("undone", "unchanged", "pending", "no such run", *FAILED)
    hosts = {word: {"status": word, "error": "", "detail": "x"} for word in words}
    hosts["down"] = {"status": "no answer", "error": "no route to host", "detail": ""}
    return envelope(run(()), "rollback", Exit.BROKEN, hosts)


def acknowledged() -> dict[str, Any]:
    words = ("acknowledged", "unchanged", "no such run", "refused", "broken", "lost")
    hosts = {word: {"status": word, "error": "", "detail": "x"} for word in words}
    return envelope(run(()), "acknowledge", Exit.BROKEN, hosts)


def runs_listed() -> dict[str, Any]:
    journals = (
        Journal("/var/lib/gpumend/runs/20261101T000000Z-aaaa/cdi/journal.json", "20261101T000000Z-aaaa", "cdi", "done", ("/etc/cdi/nvidia.yaml",)),
        Journal("/var/lib/gpumend/runs/20261101T000000Z-aaaa/new/journal.json", "20261101T000000Z-aaaa", "new", "odd", None),
    )  # fmt: skip
    hosts = {"gpu1": host_runs(Runs(Reading.of(journals, "/var/lib/gpumend/runs")))}
    hosts["gpu2"] = host_runs(Runs(Reading.of((), "/var/lib/gpumend/runs")))
    hosts["gpu3"] = host_runs(Runs(Reading(ReadStatus.DENIED, None, "/var/lib/gpumend/runs", "uid 1000")))
    hosts["down"] = {"error": "no route to host", "runs": []}
    return envelope(run(()), "runs", Exit.UNREAD, hosts)


@cache
def audited() -> dict[str, Any]:
    return audit([*farm(), record("sick", sick(0)), record("down", None)])


DOCUMENTS = {
    "audit": audited,
    "mend": mended_farm,
    "rollback": rolled_back,
    "acknowledge": acknowledged,
    "runs": runs_listed,
    "facts": facts,
    "parity": compared,
}


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_a_document_of_each_kind_fits_the_schema(kind: str) -> None:
    found = DOCUMENTS[kind]()
    fits(found)
    assert found["kind"] == kind and found["gpumend"] == 2


@pytest.mark.parametrize("kind", DOCUMENTS)
@pytest.mark.parametrize("other", DOCUMENTS)
def test_the_schema_tells_the_kinds_apart(kind: str, other: str) -> None:
    """Else a schema that takes everything would pass the test above."""
    if kind == other or {kind, other} == {"audit", "mend"}:
        return
    with pytest.raises(jsonschema.ValidationError):
        fits({**DOCUMENTS[kind](), "kind": other})


@pytest.mark.parametrize("name", sorted(seeds()))
def test_the_report_of_every_host_known_fits(name: str) -> None:
    state = parsed(seeds()[name])
    assert state is not None
    found = assessed(state, {})
    fits(audit([Record(name, before=found, now=found)]))


def test_the_rules_that_passed_and_that_do_not_apply_are_named() -> None:
    host = audit([record("a", sick(0))])["hosts"]["a"]
    found = {finding["code"] for finding in host["findings"]}
    assert {*host["passed"], *host["skipped"]} | found == set(RULES)
    assert not set(host["passed"]) & (set(host["skipped"]) | found)


def test_a_host_without_an_answer_has_its_error_and_nothing_that_looks_fine() -> None:
    host = audit([record("a", None)])["hosts"]["a"]
    assert host["error"] == "port 22 on 192.0.2.9: connection refused"
    assert (host["status"], host["exit"], host["passed"], host["wanted"]) == ("no answer", 1, [], None)


def test_the_desired_states_digest_is_of_what_is_wanted_and_not_of_how_it_is_written() -> None:
    usual = digest(parse_wanted({}))
    assert digest(parse_wanted({"restarts": "idle", "runtime": {"mode": "cdi"}})) == usual
    assert digest(parse_wanted({"restarts": "never"})) != usual
    assert audit([record("a", healthy())])["hosts"]["a"]["wanted"] == usual


REFUSED = [
    pytest.param([Outcome("refused", "sudo")], "refused", id="refused"),
    pytest.param([Outcome("conflict", "changed")], "conflict", id="conflict"),
    pytest.param([Outcome("put_back", "x")], "change failed, put back", id="put-back"),
    pytest.param([Outcome("refused"), Outcome("put_back")], "change failed, put back", id="both"),
    pytest.param([Outcome("refused"), Outcome("changed")], "refused", id="one-of-two"),
    pytest.param([Outcome("changed"), Outcome("running")], "still at work", id="running"),
    pytest.param([Outcome("broken"), Outcome("refused")], "change failed, NOT put back", id="broken"),
]


@pytest.mark.parametrize(("outcomes", "word"), REFUSED)
def test_what_was_not_attempted_has_not_failed(outcomes: list[Outcome], word: str) -> None:
    found = mended("a", no_cdi(0), outcomes[0])
    transaction = found.done[0][0]
    found.done = [(transaction, outcome) for outcome in outcomes]
    assert word_of(found) == word
    assert exit_of(found) in (Exit.UNREAD, Exit.PUT_BACK, Exit.BROKEN)


def test_a_proof_that_had_no_image_is_not_known_and_undoes_nothing() -> None:
    found = mended("a", no_cdi(0), Outcome("changed"), healthy())
    assert exit_of(found) is Exit.OK
    found.proof = Outcome("pending", "not proven: docker has no image cuda:13")
    assert (exit_of(found), word_of(found)) == (Exit.UNREAD, "not known") and found.proof.good


WORDS = [
    pytest.param({"status": "moved"}, Outcome("conflict"), id="moved"),
    pytest.param({"status": "conflict"}, Outcome("conflict"), id="conflict"),
    pytest.param({"status": "changed", "told": "reload", "lost": ["a"]}, Outcome("changed", notified="reload", not_restarted=("a",)), id="old"),
    pytest.param({"status": "changed", "notified": "restart", "not_restarted": ["a"]}, Outcome("changed", notified="restart", not_restarted=("a",)), id="new"),
]  # fmt: skip


@pytest.mark.parametrize(("result", "wanted"), WORDS)
def test_a_programs_words_become_the_reports(result: dict[str, Any], wanted: Outcome) -> None:
    outcome, _ = parse_answer(json.dumps({"result": result, "snapshot": {"gpumend": 1}}))
    assert replace(outcome, files=()) == wanted
