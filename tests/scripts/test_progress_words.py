"""What a program on a host is at reaches who watches, by the host, and nobody else: real pyinfra on this machine."""

from __future__ import annotations

import json
import random
import subprocess
import tracemalloc
from pathlib import Path
from typing import Any

import gevent
import pytest
from pyinfra.api.config import Config
from pyinfra.api.connect import connect_all
from pyinfra.api.inventory import Inventory
from pyinfra.api.state import State

from gpumend.payload.change.progress import PROGRESS
from gpumend.payload.source import change_source
from gpumend.run.local import here
from gpumend.run.remote.connection import RemoteError, run_program
from gpumend.run.remote.output import MOST, heard

SAYS = f'import sys; print("{PROGRESS}waits for {{0}}", file=sys.stderr, flush=True); print("{PROGRESS}", file=sys.stderr); print("done")'


@pytest.fixture
def host() -> Any:
    inventory = Inventory((["@local"], {}))
    state = State(inventory, Config())
    connect_all(state)
    return inventory.get_host("@local")


def test_each_who_waits_hears_his_own_program(host: Any) -> None:
    told: dict[str, list[str]] = {"one": [], "other": []}

    def ask(name: str) -> str:
        with heard(told[name].append):
            return run_program(host, SAYS.format(name), 60)

    asked = [gevent.spawn(ask, name) for name in told]
    gevent.joinall(asked, raise_error=True)
    assert [each.value for each in asked] == ["done", "done"]
    assert told == {"one": ["waits for one", ""], "other": ["waits for other", ""]}
    assert run_program(host, SAYS.format("nobody"), 60) == "done"


WAITS = """
import os, time
open({ready!r}, "w").close()
while not os.path.exists({go!r}):
    time.sleep(0.02)
print(len(data))
"""


def test_what_all_hosts_are_sent_is_in_memory_once(host: Any, tmp_path: Path) -> None:
    """While their transactions are at work, of 50 hosts it was 50 programs as they are written and packed, a megabyte each."""
    begins = f"data = {random.Random(1).randbytes(500_000).hex()!r}\n"
    assert run_program(host, "print(len(data))", 60, begins) == "1000000"
    tracemalloc.start()
    ready = [tmp_path / str(number) for number in range(4)]
    texts = [WAITS.format(ready=str(each), go=str(tmp_path / "go")) for each in ready]
    asked = [gevent.spawn(run_program, host, text, 60, begins) for text in texts]
    with gevent.Timeout(60):
        while not all(each.exists() for each in ready):
            gevent.sleep(0.02)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    (tmp_path / "go").touch()
    gevent.joinall(asked, raise_error=True)
    assert [each.value for each in asked] == ["1000000"] * 4
    assert held < 300_000


def test_no_more_is_told_than_fits(host: Any) -> None:
    told: list[str] = []
    with heard(told.append):
        run_program(host, SAYS.format("x" * 5000), 60)
    assert told == [("waits for " + "x" * 5000)[:MOST], ""]


def test_it_is_no_reason_of_a_program_that_died(host: Any) -> None:
    dies = f'import sys; print("it broke", file=sys.stderr); print("{PROGRESS}waits", file=sys.stderr); sys.exit(1)'
    with pytest.raises(RemoteError, match=r"^it broke$"):
        run_program(host, dies, 60)
    with pytest.raises(Exception, match=r"^it broke$"):
        here.ran(dies)


# A transaction that says more than the pipe holds, and does not wait for anybody to read it.
TALKS = """
def transact(wanted):
    for number in range(wanted["words"]):
        at_work_on("step %d" % number)
    return {"status": "changed"}
main_transaction({"words": WORDS}, dict)
"""


@pytest.mark.parametrize(("words", "closed"), [(2, False), (100_000, False), (2, True)])
def test_a_transaction_is_kept_from_its_work_by_nobody_who_listens(words: int, closed: bool) -> None:
    program = f"{change_source()}\n{TALKS.replace('WORDS', str(words))}"
    shell = "exec python3 -I -S -B -" + (" 2>&-" if closed else "")
    done = subprocess.run(
        ["sh", "-c", shell], input=program, capture_output=True, text=True, timeout=60, check=False
    )
    assert json.loads(done.stdout)["result"] == {"status": "changed"}, done.stderr[-2000:]
    told = done.stderr.splitlines()
    if closed:
        assert told == []
    else:
        assert told[0] == f"{PROGRESS}step 0" and all(line.startswith(PROGRESS) for line in told)
