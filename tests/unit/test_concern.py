"""A deploy that is about one concern: which findings, changes and statuses are its own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gpumend.plan.transaction import Plan, Transaction
from gpumend.reports.document import Exit, document
from gpumend.rules.change import GenerateSpec, SetValues
from gpumend.rules.finding import Change, Component, Finding, Status
from gpumend.rules.judge import Verdict
from gpumend.rules.rule import RULES, Context
from gpumend.rules.wanted import Wanted
from gpumend.run.concern import COMMON, CONCERNS
from gpumend.run.record import Assessment, Run
from tests.unit.build import TODAY, healthy

ROOT = Path(__file__).resolve().parents[2]


def run(*concerns: str) -> Run:
    """A run over one host whose CDI spec is stale and whose Docker has no nvidia runtime."""
    findings = (
        Finding("GM304", Status.FAIL, "stale", change=Change(Component.CDI, GenerateSpec())),
        Finding("GM403", Status.FAIL, "no runtime", change=Change(Component.DOCKER, SetValues(()))),
        Finding("GM601", Status.UNKNOWN, "not known"),
    )
    plan = Plan(
        (Transaction(Component.CDI, ("GM304",)), Transaction(Component.DOCKER, ("GM403",))),
        {Component.CUDA: "why"},
    )
    this = Run("20261128T000000Z-0000", 0.0, concerns=[CONCERNS[name] for name in concerns])
    record = this.record("a")
    record.before = record.now = this.seen(
        Assessment(Context(healthy().state(), Wanted(), "a", TODAY), Verdict(findings, *VERDICT_REST), plan)
    )
    return this


VERDICT_REST = ((), ()) if "passed" in Verdict._fields else (0, 0)


def told(this: Run) -> tuple[int, list[str], list[str], list[str]]:
    """Exit status, codes of findings, planned components, blocked components."""
    host = document(this, executed=False)["hosts"]["a"]
    return (
        host["exit"],
        [finding["code"] for finding in host["findings"]],
        [transaction["component"] for transaction in host["plan"]],
        list(host["blocked"]),
    )


def test_everything_is_told_where_the_deploy_is_about_everything() -> None:
    assert told(run()) == (
        Exit.UNREAD,
        ["GM304", "GM403", "GM601"],
        ["cdi.spec_current", "docker.daemon_config"],
        ["cuda.compat"],
    )


@pytest.mark.parametrize(
    ("concerns", "wanted", "rest"),
    [
        (["cdi"], (Exit.DRIFT, ["GM304"], ["cdi.spec_current"], []), {"GM403", "GM601"}),
        (["cdi", "docker"], (Exit.DRIFT, ["GM304", "GM403"], ["cdi.spec_current", "docker.daemon_config"], []), {"GM601"}),
        (["storage"], (Exit.OK, [], [], []), {"GM304", "GM403", "GM601"}),
        (["cuda"], (Exit.UNREAD, ["GM601"], [], ["cuda.compat"]), {"GM304", "GM403"}),
    ],
)  # fmt: skip
def test_one_concern_has_its_own_findings_plan_and_status(
    concerns: list[str], wanted: tuple[object, ...], rest: set[str]
) -> None:
    this = run(*concerns)
    assert told(this) == wanted
    now = this.records["a"].now
    assert now is not None and {finding.code for finding in now.rest} == rest


def test_a_deploy_about_everything_beside_one_about_a_concern_is_about_everything() -> None:
    this = run("cdi")
    this.concerns.append(None)
    now = this.records["a"].now
    assert now is not None and this.seen(now).verdict.findings == now.whole.verdict.findings  # type: ignore[union-attr]


def test_every_code_and_every_component_is_of_some_concern() -> None:
    codes = tuple(code for concern in CONCERNS.values() for code in concern.codes)
    assert [code for code in RULES if not code.startswith((COMMON, *codes))] == []
    assert {component for concern in CONCERNS.values() for component in concern.components} == set(Component)


@pytest.mark.parametrize("name", CONCERNS)
def test_a_concern_has_the_components_that_its_deploy_calls(name: str) -> None:
    text = (ROOT / "deploys" / f"{name}.py").read_text()
    assert f'concern="{name}"' in text
    calls = re.findall(r"^    (\w+\.\w+)\(", text, re.MULTILINE)
    assert {Component(call) for call in calls} == CONCERNS[name].components
