"""The alert rules, by Prometheus's own evaluation of metrics that reports of ours made: they fire on a planted fault, and a host
that is well is silent. The dashboard's queries are Prometheus's, too."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families

from gpumend.cli.main import main
from gpumend.reports.formats.prometheus import render
from tests.nodes.base import base
from tests.nodes.conftest import Boot
from tests.nodes.lab import Lab
from tests.nodes.slot import wait_for
from tests.nodes.test_agent import TEXTFILE, agent, audited
from tests.unit import farm
from tests.unit.build import healthy
from tests.unit.test_monitoring import MONITORING, dashboard

HOUR = 60  # evaluations: one a minute


def promtool(*argv: str) -> subprocess.CompletedProcess[str]:
    """Debian's promtool."""
    program = base("trixie+fleet") / "usr/bin/promtool"
    return subprocess.run([str(program), *argv], capture_output=True, text=True, timeout=120, check=False)


def series(document: Mapping[str, Any], began: str = "", until: int = 3 * HOUR) -> list[dict[str, str]]:
    """The metrics of a report as Prometheus has them, every minute. began: when its audit began, as promtool writes a series;
    a new one every minute where that is not said."""
    found = []
    for family in text_string_to_metric_families(render(dict(document))):
        for sample in family.samples:
            labels = ",".join(
                f"{key}={json.dumps(value)}"
                for key, value in {**sample.labels, "instance": "gpu1:9100"}.items()
            )
            values = f"{sample.value:g}x{until}"
            if sample.name == "gpumend_run_timestamp_seconds":
                values = began or f"0+60x{until}"
            found.append({"series": f"{sample.name}{{{labels}}}", "values": values})
    return found


def firing(
    tmp_path: Path, given: list[dict[str, str]], at: str, expected: Mapping[str, list[dict[str, str]]]
) -> str:
    """What promtool says against these alerts being all that fire at a moment; empty where it agrees."""
    rules = yaml.safe_load((MONITORING / "alerts.yml").read_text("utf-8"))
    names = [rule["alert"] for group in rules["groups"] for rule in group["rules"]]
    assert set(expected) <= set(names)
    severities = {
        rule["alert"]: rule["labels"]["severity"] for group in rules["groups"] for rule in group["rules"]
    }
    stripped = [
        {
            **group,
            "rules": [
                {key: value for key, value in rule.items() if key != "annotations"} for rule in group["rules"]
            ],
        }
        for group in rules["groups"]
    ]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": stripped}))
    tests = [
        {
            "eval_time": at,
            "alertname": name,
            "exp_alerts": [
                {"exp_labels": {**labels, "instance": "gpu1:9100", "severity": severities[name]}}
                for labels in expected.get(name, ())
            ],
        }
        for name in names
    ]
    case = {
        "rule_files": ["rules.yml"],
        "evaluation_interval": "1m",
        "tests": [{"interval": "1m", "input_series": given, "alert_rule_test": tests}],
    }
    (tmp_path / "test.yml").write_text(yaml.safe_dump(case))
    done = promtool("test", "rules", str(tmp_path / "test.yml"))
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_the_rules_are_rules_and_the_queries_queries(tmp_path: Path) -> None:
    done = promtool("check", "rules", str(MONITORING / "alerts.yml"))
    assert done.returncode == 0, done.stdout + done.stderr
    asked = [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]
    rules = [
        {"record": f"query:{number}", "expr": query.replace("$host", ".*")}
        for number, query in enumerate(asked)
    ]
    (tmp_path / "queries.yml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = promtool("check", "rules", str(tmp_path / "queries.yml"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_host_that_is_well_is_silent(tmp_path: Path) -> None:
    well = farm.audit([farm.record("gpu1", healthy())])
    assert well["exit"] == 0
    assert firing(tmp_path, series(well), "2h", {}) == ""


def test_a_planted_fault_fires(tmp_path: Path) -> None:
    sick = farm.audit([farm.record("gpu1", farm.sick(1))])
    found = {
        status: {f["code"] for f in sick["hosts"]["gpu1"]["findings"] if f["status"] == status}
        for status in ("fail", "warn", "unknown")
    }
    assert found["fail"]

    def of(status: str) -> list[dict[str, str]]:
        return [{"host": "gpu1", "code": code} for code in sorted(found[status])]

    assert firing(tmp_path, series(sick), "1m", {"GpumendFinding": of("fail")}) == ""
    later = {"GpumendFinding": of("fail"), "GpumendWarning": of("warn"), "GpumendUnknown": of("unknown")}
    assert firing(tmp_path, series(sick), "2h", later) == ""


def test_a_host_without_an_answer_fires_within_an_hour(tmp_path: Path) -> None:
    silent = farm.audit([farm.record("gpu1", None)])
    assert firing(tmp_path, series(silent), "10m", {}) == ""
    assert firing(tmp_path, series(silent), "1h", {"GpumendHostUnread": [{"host": "gpu1"}]}) == ""


@pytest.mark.parametrize(
    ("began", "at", "alert"),
    [
        ("0+60x60 3600x300", "2h", None),  # the last audit is an hour old
        ("0+60x60 3600x300", "3h", "GpumendLate"),
        ("0+60x60 _x300", "80m", None),
        ("0+60x60 _x300", "2h", "GpumendMetricsGone"),
    ],
)
def test_an_agent_that_tells_nothing_more_fires(
    tmp_path: Path, began: str, at: str, alert: str | None
) -> None:
    well = farm.audit([farm.record("gpu1", healthy())])
    assert firing(tmp_path, series(well, began, 6 * HOUR), at, {alert: [{}]} if alert else {}) == ""


def test_a_real_prometheus_tells_of_an_agents_host(lab: Lab, boot: Boot) -> None:
    """Debian's node_exporter and Prometheus with our rules, and `gpumend fleet` by its URL."""
    node = boot("trixie+fleet", "stale_spec")
    node.sh(f"mkdir -p {TEXTFILE}")
    agent(lab, node, "install", {"agent": {"interval": 60, "textfile": TEXTFILE}})
    report = audited(node)
    [host] = report["hosts"].values()
    node.write("/etc/default/prometheus-node-exporter", f'ARGS="--collector.textfile.directory={TEXTFILE}"\n')
    node.write("/etc/prometheus/alerts.yml", (MONITORING / "alerts.yml").read_bytes())
    node.write("/etc/default/prometheus", 'ARGS="--storage.tsdb.path=/var/lib/prometheus/metrics2/"\n')
    settings = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": ["alerts.yml"],
        "scrape_configs": [{"job_name": "node", "static_configs": [{"targets": ["localhost:9100"]}]}],
    }
    node.write("/etc/prometheus/prometheus.yml", yaml.safe_dump(settings))
    node.run(["systemctl", "restart", "prometheus-node-exporter.service", "prometheus.service"])
    url = f"http://{node.address}:9090"

    def alerts() -> set[tuple[str, str]]:
        try:
            with urllib.request.urlopen(f"{url}/api/v1/alerts", timeout=10) as answer:
                told = json.load(answer)["data"]["alerts"]
        except OSError:
            return set()
        return {
            (row["labels"]["alertname"], row["labels"].get("code", ""))
            for row in told
            if row["state"] == "firing"
        }

    failed = {("GpumendFinding", f["code"]) for f in host["findings"] if f["status"] == "fail"}
    wait_for("the alert fires", lambda: alerts() >= failed, 60.0, 0.5)
    assert failed and alerts() == failed
    done = CliRunner().invoke(main, ["fleet", url])
    assert done.exit_code == 3 and node.name in done.output, done.output
    assert all(code in done.output for _, code in failed), done.output
    assert node.read("/var/lib/node-exporter/gpumend.prom")
