"""What a lying host can do to the controller: fill its memory, hold its processor, raise in the middle of a run."""

from __future__ import annotations

import io
import json
import time
from queue import Queue
from types import SimpleNamespace
from typing import Any

import pytest
from pyinfra.api.config import Config
from pyinfra.connectors import util

import gpumend.run.remote.connection  # noqa: F401  (has pyinfra read by gpumend.run.remote.output)
from gpumend.reports.document import Exit, exit_of
from gpumend.run.budget import OverBudget, within
from gpumend.run.outcome import parse_answer
from gpumend.run.remote import output
from gpumend.run.remote.component import _attempt
from gpumend.state.cdi import SpecError, load
from gpumend.state.snapshot import AnswerError
from tests.unit.farm import no_cdi
from tests.unit.farm import record as run_record


class Channel(io.BytesIO):
    """What paramiko hands to pyinfra: a file with the channel it reads from."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.channel = io.BytesIO()


def read(found: Any) -> list[tuple[str, str]]:
    lines: Queue[Any] = Queue()
    output.read_buffer("stdout", found, lines)
    return [(line.buffer_name, line.line) for line in lines.queue]


@pytest.mark.parametrize(
    "data", [b"x" * 5_000_000, b"line\n" * 1_000_000], ids=["a line without end", "lines without end"]
)
def test_no_more_is_read_than_the_limit(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(output, "LIMIT", 2_000_000)
    monkeypatch.setattr(output, "LINE", 1_000)
    channel = Channel(data)
    lines = read(channel)
    assert lines[-1] == ("stderr", output.TOO_MUCH)
    assert channel.channel.closed and channel.tell() <= 2_001_000
    assert sum(len(line) for _, line in lines) <= 2_001_000


def test_lines_are_as_pyinfra_has_them() -> None:
    data = "a\n\n  b \nc\u00e4\nlast".encode()
    assert read(Channel(data)) == [("stdout", line) for line in ("a", "", "  b ", "c\u00e4", "last")]


def test_what_is_no_text_is_said() -> None:
    class Strict(Channel):
        def readline(self, *_: Any) -> bytes:
            raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")

    channel = Strict(b"")
    assert read(channel) == [("stderr", output.NO_TEXT)] and channel.channel.closed


def test_the_connectors_read_by_it() -> None:
    assert util.read_buffer is output.read_buffer


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        json.dumps({"result": {"status": "changed"}, "snapshot": None}),
        json.dumps({"result": [], "snapshot": {}}),
        json.dumps({"result": {"status": "changed", "files": 5}, "snapshot": {}}),
        '{"result": {"status": "changed"}, "snapshot": ' + "[" * 50_000 + "]" * 50_000 + "}",
    ],
    ids=["deep", "no snapshot", "a list", "files a number", "a deep snapshot"],
)
def test_an_answer_that_is_none_is_one_error(text: str) -> None:
    with pytest.raises(AnswerError):
        parse_answer(text)


def test_numbers_of_base_60_are_texts() -> None:
    """As go-yaml has it; PyYAML took the square of their digits, and two specs of 1 MB held the controller for minutes."""
    digits = ":".join(["59"] * 100_000)
    began = time.process_time()
    with pytest.raises(SpecError):
        load("/etc/cdi/x.yaml", f"cdiVersion: 0.5.0\nkind: {digits}\n")
    with pytest.raises(SpecError):
        load("/etc/cdi/x.yaml", f"cdiVersion: 0.5.0\nkind: a.b/c\ncontainerEdits: {digits}.5\n")
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    ("text", "number"),
    [("0", 0), ("017", 15), ("0x1F", 31), ("0b11", 3), ("1_000", 1000), ("-5", -5), ("195", 195)],
)
def test_numbers_that_people_write_are_numbers(text: str, number: int) -> None:
    spec = load(
        "/etc/cdi/x.yaml",
        "cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n- name: a\n  containerEdits:\n    deviceNodes:\n"
        f"    - path: /dev/null\n      major: {text}\n",
    )
    assert spec.devices["a"].nodes[0].major == number


def test_a_spec_of_more_nodes_than_anybody_writes_is_refused_at_once() -> None:
    began = time.process_time()
    with pytest.raises(SpecError, match="more than 100000 nodes"):
        load("/etc/cdi/x.yaml", "a: [" + "1," * 500_000 + "1]\n")
    assert time.process_time() - began < 10


def test_pure_work_ends_at_its_budget() -> None:
    began = time.monotonic()
    with pytest.raises(OverBudget), within(0.2):
        while True:
            sum(range(1000))
    assert time.monotonic() - began < 10
    with within(60):
        pass


class LyingHost:
    """What pyinfra has of a host, as far as we ask for it; each program that is sent there is answered so."""

    def __init__(self, said: str | Exception) -> None:
        self.name = "gpu1"
        self.said = said
        self.inventory = self
        self.data: Any = SimpleNamespace(get=lambda *_: None, dict=dict)
        self.state = SimpleNamespace(config=Config())
        self.current_deploy_kwargs = self.current_op_global_arguments = None
        self.print_prefix, self.groups = "", ()

    def get_data(self, *_: str) -> dict[str, Any]:
        return {}

    get_group_data = get_host_data = get_override_data = get_data

    def run_shell_command(self, *_: Any, **__: Any) -> tuple[bool, Any]:
        if isinstance(self.said, Exception):
            raise self.said
        return True, SimpleNamespace(stdout=self.said, stderr="", stderr_lines=[])


DEEP = '{"a":' * 600 + "1" + "}" * 600
LIES = {
    "deep": '{"result": {"status": "changed"}, "snapshot": ' + "[" * 50_000 + "]" * 50_000 + "}",
    "less deep": '{"result": {"status": "changed"}, "snapshot": {"gpumend": 1, "files": ' + DEEP + "}}",
    "no state": '{"result": {"status": "changed"}, "snapshot": {"gpumend": 1, "system": []}}',
    "half": '{"result": {"sta',
    "nothing": "",
    "connection": OSError("gone"),
    "a fault of ours": ZeroDivisionError("x"),
}
NOTHING_KNOWN = ("less deep", "no state")  # an answer, of which every reading is unknown


@pytest.mark.parametrize("lie", LIES)
def test_whatever_an_answer_does_to_us_the_change_is_not_forgotten(lie: str) -> None:
    """A deep answer was a traceback: the change vanished from the report, and the exit status was 3."""
    record = run_record("gpu1", no_cdi(1))
    assert record.now is not None
    transaction = record.now.plan.transactions[0]
    host: Any = LyingHost(LIES[lie])
    outcome = _attempt(host, record, transaction)
    if lie in NOTHING_KNOWN:
        assert exit_of(record) is Exit.UNREAD
    else:
        assert outcome.status == "lost" and "AttributeError" not in outcome.detail, outcome
        assert exit_of(record) is Exit.BROKEN
    assert [sent for sent, _ in record.done] == [transaction]
