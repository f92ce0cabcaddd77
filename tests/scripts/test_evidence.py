"""A transaction whose plan is older than the last change of its run: the host looks first whether what the plan was made of is so
still, and looks at all of itself wherever something did not go as it was known to go."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gpumend.payload.source import change_source
from gpumend.plan.step import WriteFile
from tests.scripts import trees
from tests.scripts.test_watch import DAEMON, EDITED, NEW, Host

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

UNIT = "containerd.service"


@pytest.fixture
def host(programs: Path, tmp_path: Path) -> Iterator[Host]:
    yield Host(tmp_path / "host", programs / "of-evidence")


def evidence(host: Host) -> dict[str, Any]:
    """What a plan was made of: a file, one that was not there, a directory's files, and the daemon's process."""
    root = str(host.root)
    (host.root / f"told-main.{UNIT}").write_text("5\n")
    return {
        "files": {f"{root}/{NEW}": trees.sha(host.root, NEW), f"{root}/etc/absent.toml": None},
        "globs": {f"{root}/etc/cdi/*.yaml": sorted(map(str, host.root.glob("etc/cdi/*.yaml")))},
        "units": {UNIT: {"MainPID": "5"}},
    }


def written(path: str) -> Callable[[Host], object]:
    return lambda host: (host.root / path).write_text("somebody's\n")


OTHERWISE: dict[str, Callable[[Host], object]] = {
    "a file that the plan was made of was edited": written(NEW),
    "it is gone": lambda host: (host.root / NEW).unlink(),
    "a file is there that was not": written("etc/absent.toml"),
    "there is one more beside those that were read": written("etc/cdi/more.yaml"),
    "the daemon was restarted": lambda host: host.dies(),
}


def test_it_is_carried_out_where_all_is_so_still(host: Host) -> None:
    answer = host.answer(host.data(0, evidence=evidence(host)))
    assert answer["status"] == "changed", answer
    assert host.text(EDITED) == "old = false\n"


@pytest.mark.parametrize("what", OTHERWISE)
def test_nothing_is_written_by_a_plan_of_another_moment(host: Host, what: str) -> None:
    known = evidence(host)
    OTHERWISE[what](host)
    files = trees.host(trees.entries(host.root))
    answer = host.answer(host.data(0, evidence=known))
    assert answer["status"] == "moved", answer
    assert trees.host(trees.entries(host.root)) == files
    assert not host.journal().exists()


def test_what_cannot_be_read_is_not_as_it_was(host: Host) -> None:
    known = evidence(host)
    (host.root / NEW).unlink()
    os.mkfifo(host.root / NEW)
    assert host.answer(host.data(0, evidence=known))["status"] == "moved"


LOOKED = {"looked": True}


def said(host: Host, data: dict[str, Any]) -> dict[str, Any]:
    """What the program prints, as it is sent."""
    lines = [
        change_source(),
        f"ROOT = {str(host.root / 'var/lib/gpumend')!r}",
        f"LOCK = {str(host.root / 'gpumend.lock')!r}",
        f"WATCH = {str(host.root / 'gpumend.watch')!r}",
        f"main_transaction(json.loads({json.dumps(data)!r}), lambda: {LOOKED!r})",
    ]
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-"], input="\n".join(lines), capture_output=True, text=True
    )
    assert not done.stderr, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def file(host: Host, before: str, **more: Any) -> dict[str, Any]:
    step = WriteFile(f"{host.root}/{EDITED}", before, b"old = false\n")
    return {**trees.common(DAEMON), "steps": [step.as_data()], **more}


@pytest.mark.parametrize(
    ("more", "snapshot"), [({}, LOOKED), ({"look": True}, LOOKED), ({"look": False}, None)]
)
def test_the_host_is_looked_at_unless_it_need_not_be(
    host: Host, more: dict[str, Any], snapshot: dict[str, Any] | None
) -> None:
    answer = said(host, file(host, trees.sha(host.root, EDITED), **more))
    assert answer["result"]["status"] == "changed"
    assert answer["snapshot"] == snapshot


def test_it_is_looked_at_wherever_that_did_not_go_well(host: Host) -> None:
    answer = said(host, file(host, "0" * 64, look=False))
    assert answer["result"]["status"] == "moved"
    assert answer["snapshot"] == LOOKED
