"""Daemons that are watched while other transactions of their run are done: how each watch ends, whoever is there to see it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gpumend.payload.probe.files import matches
from gpumend.payload.source import change_source
from gpumend.plan.step import WriteFile
from gpumend.state.runs import SEARCH, _journal
from tests.scripts import trees

# A transaction is root's.
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

SYSTEMCTL = """#!/bin/sh
# STAND-IN for tests, not systemctl: daemons that run, each with the number and the time of its start.
for unit; do :; done
main=@ROOT@/told-main.$unit start=@ROOT@/told-start.$unit
case "$*" in
is-active*) [ ! -e @ROOT@/told-dead ] || exit 3 ;;
"restart "*) rm -f @ROOT@/told-dead; echo $(($(cat "$main" 2>/dev/null || echo 0) + 1)) >"$main"
    python3 -I -S -c 'import time; print(int(time.monotonic() * 1e6))' >"$start" ;;
"show --value -p KillMode "*) echo process ;;
*--value*ExecMainStartTimestampMonotonic*) cat "$start" ;;
*MainPID*) echo "MainPID=$(cat "$main" 2>/dev/null || echo 0)" ;;
*RequiredBy*) cat @ROOT@/told-with 2>/dev/null ;;
*ActiveState*) echo ActiveState=active ;;
esac
echo "$*" >>@ROOT@/told
exit 0
"""
DAEMON, FILE = "containerd.config", "grit.config"
LONG = 600  # seconds: longer than any of these tests
EDITED, NEW = "etc/edited.toml", "etc/config.toml"


class Host:
    """A tree as a host, whose containerd is a number."""

    def __init__(self, root: Path, programs: Path) -> None:
        self.root = root
        tree = {**trees.BEFORE, "bin/systemctl": ["755", SYSTEMCTL]}
        trees.lay_out(tree, root)
        shutil.copytree(root / "bin", programs)
        programs.chmod(0o755)
        self.program = trees.program(change_source(), root, programs)
        self.files = trees.host(trees.entries(root))

    def answer(self, wanted: dict[str, Any]) -> dict[str, Any]:
        found, at = trees.carried_out(self.program, wanted)
        assert found is not None, at
        return found

    def data(self, seconds: float, **more: Any) -> dict[str, Any]:
        """A transaction that restarts containerd and may be watched later."""
        step = WriteFile(f"{self.root}/{EDITED}", trees.sha(self.root, EDITED), b"old = false\n")
        unit = ["containerd.service", "restart"]
        data = {**trees.common(DAEMON), "steps": [step.as_data()], "service": unit, "watch": seconds}
        return {**data, "overlaps": True, "later": True, **more}

    def daemon(self, seconds: float) -> dict[str, Any]:
        """The answer of that one."""
        return self.answer(self.data(seconds))

    def file(self, **more: Any) -> dict[str, Any]:
        """The answer of a transaction that changes a file, and may be made meanwhile."""
        step = WriteFile(f"{self.root}/{NEW}", trees.sha(self.root, NEW), b"new\n")
        return self.answer({**trees.common(FILE), "steps": [step.as_data()], "overlaps": True, **more})

    def watch(self) -> dict[str, Any]:
        return self.answer({"verb": "watch", "run": trees.RUN, "who": "test", "restarts": "allow"})

    def recover(self) -> dict[str, Any]:
        paths = sorted(map(str, self.root.glob("var/lib/gpumend/runs/*/*/journal.json")))
        call = {"verb": "recover", "run": "next", "who": "test", "restarts": "allow"}
        return self.answer({**call, "journals": paths})

    def journal(self, component: str = DAEMON) -> Path:
        return self.root / "var/lib/gpumend/runs" / trees.RUN / component / "journal.json"

    def record(self, component: str = DAEMON) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.journal(component).read_text())
        return found

    def state(self, component: str = DAEMON) -> str:
        """As an audit reads it."""
        path = str(self.journal(component))
        return _journal(path, matches(SEARCH, Path(path).read_text()), ()).state

    def ends(self, state: str, component: str = DAEMON) -> None:
        """It ends so by itself."""
        deadline = time.monotonic() + 60
        while self.record(component)["state"] == "working":
            assert time.monotonic() < deadline, self.record(component)
            time.sleep(0.05)
        assert self.record(component)["state"] == state

    def dies(self) -> None:
        """Something else than the process that was started runs as containerd."""
        (self.root / "told-main.containerd.service").write_text("4711\n")

    def watcher(self) -> int:
        return int((self.root / "gpumend.watch").read_text().rpartition(" pid ")[2])

    def kill_watcher(self) -> None:
        os.kill(self.watcher(), signal.SIGKILL)
        self.watcher_ends()

    def watcher_ends(self) -> None:
        pid = self.watcher()
        deadline = time.monotonic() + 60
        while Path(f"/proc/{pid}").exists() and "State:\tZ" not in Path(f"/proc/{pid}/status").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def as_before(self) -> bool:
        return trees.host(trees.entries(self.root)) == self.files

    def text(self, path: str) -> str:
        return (self.root / path).read_text()


Make = Callable[[], Host]


@pytest.fixture
def another(programs: Path, tmp_path: Path) -> Iterator[Make]:
    """another(): a new host."""
    memory = Path("/dev/shm")
    directory = Path(tempfile.mkdtemp(prefix="gpumend-test-", dir=memory if memory.is_dir() else tmp_path))
    count = 0

    def made() -> Host:
        nonlocal count
        count += 1
        return Host(directory / str(count), programs / f"of-watch-{count}")

    yield made
    shutil.rmtree(directory)


@pytest.fixture
def host(another: Make) -> Host:
    return another()


def test_the_answer_comes_before_the_watch_is_over_and_says_so(host: Host) -> None:
    answer = host.daemon(LONG)
    assert (answer["status"], answer["told"]) == ("watching", "restart")
    assert answer["watched"] == {DAEMON: ["watching", ""]}
    assert host.state() == "watching"
    host.kill_watcher()


def test_a_gpumend_that_knows_of_no_watch_takes_it_for_interrupted_and_puts_it_back(host: Host) -> None:
    """Its journal is of the same format: `working`, which an older one puts back by its steps, as a rollback does."""
    host.daemon(LONG)
    assert (host.record()["state"], host.record()["format"]) == ("working", 2)
    assert (
        host.answer({"verb": "rollback", "run": trees.RUN, "who": "test", "restarts": "allow"})["status"]
        == "changed"
    )
    assert host.as_before()
    assert host.state() == "put_back"


def test_the_host_ends_the_watch_by_itself(host: Host) -> None:
    host.daemon(1)
    host.ends("done")
    assert host.text(EDITED) == "old = false\n"


def test_the_host_puts_back_by_itself_what_did_not_live(host: Host) -> None:
    host.daemon(LONG)
    host.dies()
    host.ends("put_back")
    assert host.as_before()
    assert f"did not live {LONG} s after its restart" in host.record()["why"]


def test_who_asks_waits_until_the_watch_is_over(host: Host) -> None:
    host.daemon(2)
    answer = host.watch()
    assert (answer["status"], answer["watched"]) == ("changed", {DAEMON: ["changed", ""]})
    assert host.state() == "done"
    assert host.watch()["status"] == "changed", "how it ended stays known"


def test_the_last_transaction_ends_the_watches_before_it(host: Host) -> None:
    host.daemon(2)
    answer = host.file()
    assert answer["status"] == "changed"
    assert answer["watched"] == {DAEMON: ["changed", ""]}
    assert (host.state(), host.state(FILE)) == ("done", "done")


def test_one_that_may_not_overlap_begins_after_the_watch(host: Host) -> None:
    host.daemon(2)
    assert host.file(overlaps=False)["status"] == "changed"
    assert host.record()["ended"] <= host.record(FILE)["started"]


def test_a_daemon_that_died_takes_what_came_after_it_back_first(host: Host) -> None:
    host.daemon(LONG)
    assert host.file(later=True)["status"] == "changed"
    host.dies()
    answer = host.watch()
    assert answer["status"] == "put_back"
    assert {name: status for name, (status, _) in answer["watched"].items()} == {
        DAEMON: "put_back",
        FILE: "put_back",
    }
    assert answer["watched"][FILE][1].startswith(f"{DAEMON}, which came before it, was put back: ")
    assert host.as_before()
    assert host.record(FILE)["ended"] <= host.record()["ended"]


def test_the_last_transaction_is_taken_back_where_one_before_it_did_not_live(host: Host) -> None:
    """The watcher is gone, and the daemon dies while the last transaction waits for it."""
    host.daemon(3)
    host.kill_watcher()
    child = os.fork()
    if child == 0:
        try:
            while not host.journal(FILE).exists() or host.record(FILE)["state"] != "done":
                time.sleep(0.02)
            host.dies()
        finally:
            os._exit(0)
    answer = host.file()
    os.waitpid(child, 0)
    assert answer["status"] == "put_back", answer
    assert host.as_before()


def test_nothing_more_is_changed_by_a_run_whose_watch_failed(host: Host) -> None:
    host.daemon(LONG)
    host.dies()
    answer = host.file(later=True)
    assert answer["status"] == "refused"
    assert answer["detail"].startswith(
        f"nothing more is changed by this run: {DAEMON} was put back: containerd did not live"
    )
    assert host.as_before()


def test_another_run_waits_for_the_watch(host: Host) -> None:
    host.daemon(LONG)
    answer = host.file(run="20260101T000001Z-beef", lock_wait=0)
    assert answer["status"] == "refused"
    said = "another run watches what it has restarted: ops@controller, run 20260101T000000Z-dead, pid "
    assert answer["detail"].startswith(said), answer
    host.kill_watcher()
    assert host.file(run="20260101T000001Z-beef", lock_wait=0)["status"] == "changed"


@pytest.mark.parametrize("rebooted", [False, True], ids=["same boot", "another boot"])
def test_a_watch_that_was_broken_off_is_made_again(host: Host, rebooted: bool) -> None:
    host.daemon(1)
    host.kill_watcher()
    assert host.state() == "watching"
    if rebooted:
        record = host.record()
        record["watch"]["boot"], record["watch"]["main"] = "another", "MainPID=77"
        host.journal().write_text(json.dumps(record))
    answer = host.recover()
    assert answer["status"] == "changed"
    assert answer["detail"] == f"{DAEMON} of run {trees.RUN} stays: its daemon lives"
    assert host.state() == "done"
    assert host.text(EDITED) == "old = false\n"


def test_a_daemon_that_died_while_nobody_watched_is_put_back(host: Host) -> None:
    host.daemon(LONG)
    assert host.file(later=True)["status"] == "changed"
    host.kill_watcher()
    host.dies()
    answer = host.recover()
    assert answer["status"] == "changed"
    assert f"{DAEMON} of run {trees.RUN} was put back: containerd did not live" in answer["detail"]
    assert host.as_before()
    assert (host.state(), host.state(FILE)) == ("put_back", "put_back")


def test_a_daemon_that_does_not_live_after_a_boot_is_put_back(host: Host) -> None:
    host.daemon(1)
    host.kill_watcher()
    record = host.record()
    record["watch"]["boot"] = "another"
    host.journal().write_text(json.dumps(record))
    (host.root / "told-dead").touch()
    answer = host.recover()
    assert answer["status"] == "changed", answer
    assert "was put back: containerd did not live 1 s after its restart" in answer["detail"]
    assert host.as_before() and host.state() == "put_back"


def test_a_transaction_killed_while_another_is_watched_is_put_back_alone(host: Host) -> None:
    """The killed one by its steps; the watched one stays, its daemon lives."""
    host.daemon(1)
    step = WriteFile(f"{host.root}/{NEW}", trees.sha(host.root, NEW), b"new\n")
    data = {**trees.common(FILE), "steps": [step.as_data()], "overlaps": True, "later": True}
    number, found = 0, None
    while found is None or not host.journal(FILE).exists():
        number += 1
        found, _ = trees.carried_out(host.program, data, number)
        if found is None and host.journal(FILE).exists() and host.text(NEW) == "new\n":
            break
    host.ends("done")
    assert host.state(FILE) == "working"
    assert host.recover()["status"] == "changed"
    assert (host.state(), host.state(FILE)) == ("done", "put_back")
    assert host.text(EDITED) == "old = false\n" and host.text(NEW) == "# of its owner\n"


@pytest.mark.parametrize("along", ["", "RequiredBy=containerd.service"], ids=["by itself", "with it"])
def test_a_restart_that_was_planned_is_no_crash(host: Host, along: str) -> None:
    """Another unit is restarted; where systemd restarts the watched one with it, it is watched from that start on."""
    host.daemon(LONG)
    host.kill_watcher()
    (host.root / "told-with").write_text(along + "\n")
    program = host.program

    class Other(program.Service):  # type: ignore[misc, name-defined]
        """A daemon with which containerd is restarted."""

        name = "other"

        def tell(self, action: str) -> None:
            host.dies()

        @staticmethod
        def answers() -> bool:
            return True

    mine = program.Journal(str(host.root), {"run": trees.RUN})
    program.tell(Other("other.service", mine), "restart")
    assert host.record()["watch"]["main"].strip() == ("MainPID=4711" if along else "MainPID=1")
    program.close_watches(trees.RUN, "allow", False)
    assert host.state() == ("watching" if along else "put_back")


def test_killed_before_any_step_it_ends_well(another: Make) -> None:
    """The transaction, or the process that watches for it: what was never proven is put back, what was is watched again."""
    number, ends = 0, list[tuple[str, str]]()
    while not ends or ends[-1][0] != "by itself":
        number += 1
        host = another()
        answer, at = trees.carried_out(host.program, host.data(0.2), number)
        if answer is not None:
            assert answer["status"] == "watching"
            host.watcher_ends()
        if host.journal().exists() and host.record()["state"] == "working":
            assert host.recover()["status"] == "changed", at
            ends.append(("recovered", host.state()))
        elif host.journal().exists():
            ends.append(("by itself", host.state()))
        if host.journal().exists() and host.state() == "done":
            assert host.text(EDITED) == "old = false\n"
        else:
            assert host.as_before(), at
    assert number > 15
    assert {("recovered", "put_back"), ("recovered", "done"), ("by itself", "done")} == set(ends)
