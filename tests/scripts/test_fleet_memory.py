"""What a run over a fleet keeps of each host, and does for each: real pyinfra, hosts of its @fake connector, objects counted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gpumend.run.remote.asking import AT_ONCE
from tests.unit.build import DAEMON_JSON, Host, daemon_json, healthy

ROOT = Path(__file__).resolve().parents[2]
INVENTORY = """
answer = open({answer!r}).read()
hosts = [
    (f"@fake/host{{n}}", dict(fake_responses={{"python3": answer}}, fake_delay=0, fake_delay_jitter=0)) for n in range({count})
]
del answer
"""
# pyinfra ends by SystemExit; its state, and with it ours, is there until the process ends.
COUNTED = """
import sys
scans = 0
def heard(event, arguments):
    global scans
    scans += event == "open" and str(arguments[0]).endswith("entry_points.txt")
sys.addaudithook(heard)
from pyinfra_cli.main import main
import collections, gc, gevent, json
from pyinfra_cli import cli
connect_all, states = cli.connect_all, 0
def connected(state):
    global states
    connect_all(state)
    from gpumend.run.remote.asking import _ahead
    gevent.joinall([each for begun in _ahead.values() for each in begun.values()])
    states = sum(type(each).__name__ == "HostState" for each in gc.get_objects())
cli.connect_all = connected
try:
    main()
except SystemExit as end:
    status = end.code
gc.collect()
found = collections.Counter(type(each).__name__ for each in gc.get_objects() if str(type(each).__module__).startswith("gpumend."))
json.dump({"status": status or 0, "scans": scans, "at once": states, "all": sum(found.values()), **found}, open(sys.argv[0] + ".json", "w"))
"""


def drifted() -> Host:
    off = daemon_json("28.5.2", features={"cdi": False})
    return healthy("28.5.2", "1.18.1", "auto").but(files={DAEMON_JSON: off}, info={"CDISpecDirs": []})


def ran(
    tmp_path: Path, host: Host, count: int, *words: str, deploy: str = "deploys/gpu_host.py"
) -> dict[str, int]:
    """What is there after a run over so many such hosts: exit status, scans for connectors, objects of ours by their class."""
    answer, inventory, program = (tmp_path / name for name in ("answer", "inventory.py", "counted.py"))
    answer.write_text(json.dumps(host.answer()))
    inventory.write_text(INVENTORY.format(answer=str(answer), count=count))
    program.write_text(COUNTED)
    done = subprocess.run(
        [sys.executable, str(program), str(inventory), deploy, *words],
        cwd=ROOT, env={"PYTHONPATH": str(ROOT), "PYINFRA_PROGRESS": "off", "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    told = Path(f"{program}.json")
    assert told.exists(), done.stderr[-3000:]
    found: dict[str, int] = json.loads(told.read_text())
    return found


@pytest.mark.parametrize(
    ("host", "words", "status"),
    [(healthy(), ("--dry",), 0), (drifted(), ("--dry",), 3), (healthy(), ("-y",), 0)],
    ids=["healthy, audit", "drifted, audit", "healthy, mend"],
)
def test_no_state_of_a_host_is_kept_once_it_was_judged(
    tmp_path: Path, host: Host, words: tuple[str, ...], status: int
) -> None:
    found = ran(tmp_path, host, 3, *words)
    assert found["status"] == status
    assert found["Record"] == 3
    assert found.get("HostState", 0) == 0


def test_no_more_hosts_wait_to_be_judged_than_are_asked_at_a_time(tmp_path: Path) -> None:
    found = ran(tmp_path, healthy(), AT_ONCE + 3, "--dry")
    assert (found["status"], found["Record"], found.get("HostState", 0)) == (0, AT_ONCE + 3, 0)
    assert found["at once"] == AT_ONCE


def test_facts_are_of_the_state_that_was_read(tmp_path: Path) -> None:
    found = ran(tmp_path, healthy(), 3, "--dry", deploy="deploys/facts.py")
    assert (found["status"], found["HostState"]) == (0, 3)


def test_a_deploy_of_somebody_elses_may_ask_for_what_was_read(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs.py"
    theirs.write_text("from gpumend.deploy import session\nsession.begin()\n")
    found = ran(tmp_path, healthy(), 3, "--dry", deploy=str(theirs))
    assert (found["status"], found["HostState"]) == (0, 3)


def test_what_one_more_host_leaves_does_not_grow_with_what_it_has(tmp_path: Path) -> None:
    """Objects of ours of a host that is done with: its record, findings and their evidence, and little else."""
    few, many = (ran(tmp_path, drifted(), count, "--dry")["all"] for count in (2, 12))
    assert (many - few) / 10 < 40


def test_pyinfras_connectors_are_looked_up_once_for_all_hosts(tmp_path: Path) -> None:
    few, many = (ran(tmp_path, healthy(), count, "--dry")["scans"] for count in (2, 12))
    assert few == many > 0
