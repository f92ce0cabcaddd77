"""`python -m tests.bench.scale`: what 10,000 and 100,000 hosts with agents do to what they share. A simulation of the timers as
gpumend/agent/units.py writes them (systemd.timer(5): each elapse is later by a random part of RandomizedDelaySec), the metrics as
they are rendered, and the writes of node-problem-detector as its source has them. No host is asked; docs/scale.md has the numbers.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from dataclasses import dataclass

import click
from prometheus_client.parser import text_string_to_metric_families

from gpumend.reports.formats.prometheus import render
from tests.unit import farm
from tests.unit.build import healthy

AUDIT = 1.0  # seconds of an audit on a host
BOOT, INTERVAL, SPREAD = (
    120.0,
    900.0,
    90.0,
)  # OnBootSec, OnUnitInactiveSec, RandomizedDelaySec of the default interval
# Writes of a node to its API server, in seconds between two: the kubelet's lease and status
# (kubernetes.io/docs/concepts/architecture/nodes, "Heartbeats"), and node-problem-detector's --k8s-exporter-heartbeat-period.
LEASE, STATUS, HEARTBEAT = 10.0, 300.0, 300.0
CLUSTER = 5000  # nodes (kubernetes.io/docs/setup/best-practices/cluster-large)
LINES = 1.2  # findings that come or go on a host a day: a guess, to see what they weigh


@dataclass(frozen=True)
class Load:
    """Audits that begin within one second, and that run at one moment, at most."""

    begins: int
    runs: int


def load(hosts: int, together: bool, hours: float = 12.0, settled: float = 0.0) -> Load:
    """Of so many hosts' timers. together: all are switched on at once, as after a power cut; else at any moment of an interval.
    settled: hours after which it is looked."""
    draw = random.Random(0)
    queue = [
        (BOOT + draw.random() * SPREAD + (0 if together else draw.random() * INTERVAL)) for _ in range(hosts)
    ]
    heapq.heapify(queue)
    begins: Counter[int] = Counter()
    while queue[0] < hours * 3600:
        at = heapq.heappop(queue)
        if at >= settled * 3600:
            begins[int(at)] += 1
        heapq.heappush(queue, at + AUDIT + INTERVAL + draw.random() * SPREAD)
    seconds = range(min(begins), max(begins))
    return Load(max(begins.values()), max(begins[at] + begins[at - 1] for at in seconds))


def series(sick: bool) -> int:
    """Time series that one host's metrics are."""
    document = farm.audit([farm.record("gpu1", farm.sick(1) if sick else healthy())])
    return sum(len(family.samples) for family in text_string_to_metric_families(render(document)))


def main() -> None:
    click.echo(f"series a host: healthy {series(False)}, with much wrong {series(True)}")
    for hosts in (10_000, 100_000):
        first = load(hosts, together=True, hours=0.5)
        later = load(hosts, together=True, hours=12.5, settled=12.0)
        even = load(hosts, together=False, hours=2.0, settled=1.0)
        total = hosts * (0.9 * series(False) + 0.1 * series(True))
        clusters = -(-hosts // CLUSTER)
        nodes = hosts / clusters
        ours, kubelets = nodes / HEARTBEAT + 2 * nodes * LINES / 86400, nodes / LEASE + nodes / STATUS
        click.echo(f"{hosts} hosts")
        for what, found in (
            ("switched on at once, first audits", first), ("the same 12 hours later", later), ("switched on at any time", even)
        ):  # fmt: skip
            click.echo(
                f"  {what}: {found.begins} audits begin in the busiest second, {found.runs} run at once"
            )
        click.echo(
            f"  metrics: {total:,.0f} series with one host in ten sick, {total / 60:,.0f} samples/s at one scrape a minute"
        )
        click.echo(
            f"  reports: {hosts * 6.3e3 / 1e6:,.0f} MB, {hosts / INTERVAL:,.0f} uploads/s where each audit is collected"
        )
        click.echo(
            f"  API servers: {clusters} clusters of {nodes:,.0f} nodes, each {ours:.1f} writes/s of node-problem-detector beside "
            f"{kubelets:.0f} of its kubelets"
        )


if __name__ == "__main__":
    main()
