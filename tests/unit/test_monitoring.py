"""docs/monitoring: the dashboard is one of Grafana's, and whatever is asked for is a metric of ours."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard, Panel
from grafana_foundation_sdk.models.prometheus import Dataquery
from prometheus_client.parser import text_string_to_metric_families

from gpumend.reports.formats.prometheus import render
from tests.unit import farm

MONITORING = Path(__file__).resolve().parents[2] / "docs/monitoring"
METRIC = re.compile(r"\bgpumend_\w+")
LABEL = re.compile(r"[{,]\s*(\w+)\s*(?:=~|!~|!=|=)")


def dashboard() -> Any:
    return json.loads((MONITORING / "dashboard.json").read_text("utf-8"))


def queries() -> list[str]:
    """What the dashboard and the alerts ask."""
    asked = [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]
    rules = yaml.safe_load((MONITORING / "alerts.yml").read_text("utf-8"))
    return asked + [rule["expr"] for group in rules["groups"] for rule in group["rules"]]


def lost(given: Any, back: Any, path: str = "") -> Iterator[str]:
    """What came back otherwise than it was given."""
    if isinstance(given, dict) and isinstance(back, dict):
        for key, value in given.items():
            yield from lost(value, back[key], f"{path}/{key}") if key in back else [f"{path}/{key}"]
    elif isinstance(given, list) and isinstance(back, list) and len(given) == len(back):
        for number, (one, other) in enumerate(zip(given, back, strict=True)):
            yield from lost(one, other, f"{path}/{number}")
    elif given != back:
        yield path


def test_the_dashboard_has_nothing_that_grafana_does_not_know() -> None:
    """The types that Grafana generates from its own schema (grafana-foundation-sdk, Grafana 10.1)."""
    register_default_plugins()
    read = Dashboard.from_json(dashboard())
    assert list(lost(dashboard(), json.loads(JSONEncoder().encode(read)))) == []
    assert read.panels and len({panel.id_val for panel in read.panels if isinstance(panel, Panel)}) == len(
        read.panels
    )
    for panel in read.panels:
        assert isinstance(panel, Panel)
        assert all(isinstance(target, Dataquery) for target in panel.targets or ())


def test_panels_do_not_overlap() -> None:
    places = [panel["gridPos"] for panel in dashboard()["panels"]]
    cells = [
        (x, y)
        for at in places
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) < 24


def test_whatever_is_asked_for_is_a_metric_of_ours() -> None:
    families = list(text_string_to_metric_families(render(farm.audit([farm.record("gpu1", farm.sick(1))]))))
    metrics = {family.name for family in families}
    labels = {label for family in families for sample in family.samples for label in sample.labels}
    named = {name for query in queries() for name in METRIC.findall(query)}
    assert named and named <= metrics
    assert {label for query in queries() for label in LABEL.findall(query)} <= labels
    assert METRIC.findall(dashboard()["templating"]["list"][1]["query"]["query"])[0] in metrics
