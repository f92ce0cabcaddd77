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
from gpumend.deploy.facts_report import hosts_of
from gpumend.reports import terminal
from gpumend.reports.document import Exit, document, envelope, exit_of
from gpumend.rules import wanted
from gpumend.run.budget import OverBudget, within
from gpumend.run.outcome import parse_answer
from gpumend.run.record import Record, Run, judged_answer, new_id
from gpumend.run.remote import agent, output
from gpumend.run.remote.component import _attempt
from gpumend.state.cdi import SpecError, load
from gpumend.state.snapshot import AnswerError, Snapshot
from tests.unit.build import healthy
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


def test_what_is_shown_of_it_bends_no_terminal() -> None:
    """`-v` of pyinfra's, which prints what a host prints."""
    lines: Queue[Any] = Queue()
    shown: list[str] = []
    output.read_buffer("stdout", Channel(b"\x1b[2Jx\n"), lines, True, shown.append)
    assert shown == ["\\x1b[2Jx"]
    assert lines.get().line == "\x1b[2Jx", "what it is taken for stays"


def test_an_agents_words_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """The next line is another host's, or a command to who runs us (`::error` of GitHub's)."""
    assert agent._say("gpu1", "agent 1, every 15\ngpu2: the agent is gone\r\n::error::x\x1b[2J min")
    assert (
        capsys.readouterr().out
        == "gpu1: agent 1, every 15 gpu2: the agent is gone\\r ::error::x\\x1b[2J min\n"
    )


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


def nested(levels: int) -> Any:
    found: Any = "x"
    for _ in range(levels):
        found = [found]
    return found


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("processes",), {"status": "failed", "error": "x" * 5_000_000}),
        (("system", "kernel"), "x" * 5_000_000),
        (("docker", "info", "Warnings"), nested(900)),
        (("docker", "info", "Warnings"), [float("inf"), float("nan")]),
    ],
    ids=["a reason without end", "a name without end", "hundreds of levels", "numbers that are none"],
)
def test_what_a_host_says_leaves_the_reports_of_others_as_they_are(path: tuple[str, ...], value: Any) -> None:
    """Its report and its facts are made, are JSON, and are no larger than a report is."""
    answer = healthy().answer()
    at = answer
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    run = Run(new_id(), time.time())
    found = judged_answer(Snapshot.from_output(json.dumps(answer)), wanted.parse({}), "liar")
    run.records["liar"] = Record("liar", found, found)
    run.records["good"] = run_record("good", healthy())
    for told in (document(run, False), envelope(run, "facts", Exit.OK, hosts_of(run))):
        text = json.dumps(told, allow_nan=False)
        assert len(text) < 1_000_000 and "good" in told["hosts"]
    assert len(terminal.render(document(run, False))) < 100_000


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
