"""What a lying host can do to the controller: fill its memory, hold its processor, raise in the middle of a run."""

from __future__ import annotations

import io
import json
import time
from queue import Queue
from typing import Any

import pytest
from pyinfra.connectors import util

import gpumend.run.remote.connection  # noqa: F401  (has pyinfra read by gpumend.run.remote.output)
from gpumend.run.budget import OverBudget, within
from gpumend.run.outcome import parse_answer
from gpumend.run.remote import output
from gpumend.state.cdi import SpecError, load
from gpumend.state.snapshot import AnswerError


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
