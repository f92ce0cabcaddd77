"""Runs over many hosts, as documents: for the tests of reports."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from gpumend.plan.plan import plan
from gpumend.reports.document import document
from gpumend.rules.finding import Component, Finding
from gpumend.rules.judge import judge
from gpumend.rules.rule import Context
from gpumend.rules.wanted import parse as parse_wanted
from gpumend.run.outcome import Outcome
from gpumend.run.record import Assessment, Record, Run
from gpumend.state.host_state import HostState
from tests.unit.build import DAEMON_JSON, TODAY, Host, healthy, unread
from tests.unit.test_judge import SICK

RUN = "20261123T064523Z-0ffb"
STARTED = 1_795_000_000.0
REFUSED = "port 22 on 192.0.2.9: connection refused"


def assessed(
    state: HostState,
    name: str = "gpu1",
    wanted: Mapping[str, Any] | None = None,
    extra: Iterable[Finding] = (),
) -> Assessment:
    """A host judged and planned; extra: findings besides its own."""
    wants = parse_wanted(dict(wanted or {}))
    context = Context(state, wants, name, TODAY)
    verdict = judge(state, wants, name, TODAY)
    verdict = verdict._replace(findings=(*verdict.findings, *extra))
    return Assessment(context, verdict, plan(context, verdict.findings))


def record(name: str, host: Host | None, error: str = "", **more: Any) -> Record:
    if host is None:
        return Record(name, error=error or REFUSED)
    found = assessed(host.state(), name, **more)
    return Record(name, before=found, now=found)


def run(records: Iterable[Record]) -> Run:
    return Run(RUN, STARTED, {found.name: found for found in records})


def audit(records: Iterable[Record]) -> dict[str, Any]:
    return document(run(records), executed=False)


def mend(records: Iterable[Record]) -> dict[str, Any]:
    return document(run(records), executed=True)


def no_cdi(number: int) -> Host:
    """CDI is off in dockerd, and the file is a little different on each host."""
    well = healthy()
    daemon = {**well.daemon(), "log-opts": {"max-file": str(number)}, "features": {"cdi": False}}
    return well.but(files={DAEMON_JSON: json.dumps(daemon)}, info={"CDISpecDirs": []})


def no_docker_answer(_: int) -> Host:
    """dockerd runs and says nothing: everything that needs its word is unknown."""
    return replace(healthy(), docker=unread("timeout"))


def sick(_: int) -> Host:
    return SICK


@cache
def farm() -> tuple[Record, ...]:
    """40 hosts: 22 healthy, and three kinds of fault: CDI off on 12, dockerd that hangs on 4, no answer on 2."""
    hosts = [f"gpu{number:02}" for number in range(1, 41)]
    records = [record(name, no_cdi(number)) for number, name in enumerate(hosts[:12])]
    records += [record(name, no_docker_answer(0)) for name in hosts[12:16]]
    records += [record(name, None) for name in hosts[16:18]]
    well = healthy()
    return (*records, *(record(name, well) for name in hosts[18:]))


def mended(name: str, host: Host, outcome: Outcome, after: Host | None = None) -> Record:
    """A host whose planned transactions all ended so."""
    found = record(name, host)
    assert found.before is not None
    found.done = [(transaction, outcome) for transaction in found.before.plan.transactions]
    if after is not None:
        found.now = assessed(after.state(), name)
    return found


__all__ = ["Component", "audit", "farm", "mend", "mended", "record", "run"]
