"""What was not attempted is told as that: a run that was not begun, and a host whose sudo allows the audit alone."""

from __future__ import annotations

import jsonschema
import pytest

from gpumend import schemas
from gpumend.plan.transaction import Transaction
from gpumend.reports import refused
from gpumend.reports.document import word_of
from gpumend.reports.names import nobody
from gpumend.rules.finding import Component
from gpumend.run.audit_program import AUDIT_ONLY
from gpumend.run.outcome import Outcome
from gpumend.run.record import Record


@pytest.mark.parametrize("mend", [False, True])
def test_the_report_of_a_run_that_was_not_begun_fits_the_schema_and_is_masked(mend: bool) -> None:
    told = refused.document("gpu_host", "no host; http://user:secret@proxy:3128", mend=mend)
    jsonschema.Draft202012Validator(schemas.load("report")).validate(told)
    assert (told["kind"], told["exit"], told["hosts"]) == ("mend" if mend else "audit", 2, {})
    assert "secret" not in told["error"]


@pytest.mark.parametrize("deploy", refused.KINDS)
def test_it_is_of_the_kind_that_was_asked_for(deploy: str) -> None:
    assert refused.document(deploy, "no host")["kind"] == deploy


def test_a_host_whose_sudo_allows_the_audit_alone_is_not_called_failed() -> None:
    record = Record("a")
    record.done.append(
        (Transaction(Component.CDI, ("GM304",)), Outcome("refused", f"{AUDIT_ONLY}: connect as root"))
    )
    assert word_of(record) == "refused: audit-only sudo"
    assert word_of(record) in schemas.load("report")["$defs"]["host"]["properties"]["status"]["enum"]


def test_names_of_a_thousand_hosts_are_not_all_told() -> None:
    text = nobody("gpu0O1", [f"gpu{number:04}" for number in range(1000)], ["training"])
    assert text.startswith("no host matches 'gpu0O1'; did you mean 'gpu0")
    assert text.endswith("gpu0019 and 980 more; groups: training")
