"""`gpumend fleet`: many reports as one audit, whatever somebody put among them."""

from __future__ import annotations

import copy
import datetime
import http.server
import json
import os
import threading
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from jsonschema import Draft202012Validator
from prometheus_client.parser import text_string_to_metric_families

from gpumend import schemas
from gpumend.cli.main import main
from gpumend.reports import collected, fleet, terminal
from gpumend.reports.formats.prometheus import render
from tests.unit import farm
from tests.unit.build import healthy

NOW = datetime.datetime.now(datetime.UTC)


def told(name: str, host: Any, hours: float = 0.1) -> dict[str, Any]:
    """A host's report as its agent wrote it, so many hours ago."""
    found = farm.audit([farm.record(name, host)])
    found["started"] = (NOW - datetime.timedelta(hours=hours)).isoformat(timespec="seconds")
    return found


def put(directory: Path, path: str, document: Any) -> Path:
    target = directory / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(document if isinstance(document, str) else json.dumps(document))
    return target


def gpumend(*argv: str | Path) -> Result:
    return CliRunner().invoke(main, ["fleet", *map(str, argv)], catch_exceptions=False)


def test_reports_of_a_fleet_are_shown_as_an_audit_of_it(tmp_path: Path) -> None:
    """The same hosts, once as one audit and once as each one's own report: the same groups, states and words."""
    whole = farm.audit(farm.farm())
    for name, host in whole["hosts"].items():
        put(tmp_path, f"{name}/report.json", {**whole, "started": NOW.isoformat(), "hosts": {name: host}})
    found = collected.collect([tmp_path], NOW)
    document = collected.document(found, NOW, datetime.timedelta(hours=1))
    document.update({key: whole[key] for key in ("run", "seconds", "started")})
    assert (found.unread, found.passed, found.foreign) == ([], 0, [])
    assert terminal.render(document, width=110) == terminal.render(whole, width=110)
    assert document["exit"] == whole["exit"] == 1
    assert [group.codes for group in fleet.groups(document)] == [group.codes for group in fleet.groups(whole)]


def test_the_newest_report_counts(tmp_path: Path) -> None:
    put(tmp_path, "gpu1/old.json", told("gpu1", farm.no_cdi(1), 3))
    put(tmp_path, "gpu1/new.json", told("gpu1", healthy()))
    done = gpumend(tmp_path)
    assert (done.exit_code, "GM404" in done.output) == (0, False), done.output
    assert "1 older reports of the same hosts" in done.output


def test_a_report_that_is_too_old_is_no_answer(tmp_path: Path) -> None:
    put(tmp_path, "gpu1.json", told("gpu1", healthy(), 30))
    done = gpumend(tmp_path)
    assert done.exit_code == 1 and "no report since" in done.output
    assert gpumend(tmp_path, "--older", "48").exit_code == 0


def test_a_host_tells_of_itself_alone(tmp_path: Path) -> None:
    """gpu2's file says that gpu1 is well, and is newer than gpu1's own."""
    put(tmp_path, "gpu1.json", told("gpu1", farm.no_cdi(1), 2))
    put(tmp_path, "gpu2.json", told("gpu1", healthy()))
    done = gpumend(tmp_path)
    assert "GM404" in done.output and done.exit_code == 1
    assert "gpu2.json tells of gpu1, of which another file has the name" in done.output.replace("\n", " ")


def test_a_report_of_the_future_is_not_the_newest(tmp_path: Path) -> None:
    put(tmp_path, "gpu1/a.json", told("gpu1", healthy(), -48))
    done = gpumend(tmp_path)
    assert done.exit_code == 1 and "of the future" in done.output
    put(tmp_path, "gpu1/b.json", told("gpu1", farm.no_cdi(1)))
    assert gpumend(tmp_path).exit_code == 3


def without(*path: str | int) -> Any:
    """A report of which a part is missing."""
    found: Any = copy.deepcopy(told("gpu9", farm.sick(1)))
    at = found
    for key in path[:-1]:
        at = at[key]
    del at[path[-1]]
    return found


def changed(value: Any, *path: str | int) -> Any:
    found: Any = copy.deepcopy(told("gpu9", farm.sick(1)))
    at = found
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return found


HOST = ("hosts", "gpu9")
BROKEN = {
    "empty": "", "cut": json.dumps(told("gpu9", healthy()))[:-40], "deep": "[" * 200_000, "number": "1", "not-utf8": "\udce4",
    "list": [], "other": {"a": 1}, "another format": {**told("gpu9", healthy()), "gpumend": 1},
    "another kind": {**told("gpu9", healthy()), "kind": "facts"}, "no hosts": without("hosts"),
    "hosts are a list": changed([], "hosts"), "a host is a text": changed("x", *HOST), "no time": without("started"),
    "time is a number": changed(5, "started"), "no findings": without(*HOST, "findings"), "findings are a text": changed("x", *HOST, "findings"),
    "a code of another": changed("GM1\n", *HOST, "findings", 0, "code"), "a status of another": changed("fine", *HOST, "findings", 0, "status"),
    "a summary is a list": changed(["x"], *HOST, "findings", 0, "summary"), "evidence is a number": changed(1, *HOST, "findings", 0, "evidence"),
    "exit 7": changed(7, *HOST, "exit"), "exit true": changed(True, *HOST, "exit"), "exit NaN": changed(float("nan"), *HOST, "exit"),
    "a plan of nothing": changed([{}], *HOST, "plan"), "blocked is a list": changed(["a"], *HOST, "blocked"), "facts is null": changed(None, *HOST, "facts"),
    "100,000 findings": changed([{}] * 100_000, *HOST, "findings"), "a fact is an object": changed({"os": {"a": 1}}, *HOST, "facts"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_is_no_report_is_said_and_harms_no_other(name: str, tmp_path: Path) -> None:
    put(tmp_path, "gpu1.json", told("gpu1", healthy()))
    text = BROKEN[name]
    data = (text if isinstance(text, str) else json.dumps(text)).encode("utf-8", "surrogateescape")
    (tmp_path / "gpu9.json").write_bytes(data)
    done = gpumend(tmp_path)
    assert done.exit_code == 1, done.output
    assert "not a report: " in done.output and "gpu9.json: " in done.output
    assert "1 as wanted" in done.output


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    put(tmp_path, "gpu1.json", told("gpu1", healthy()))
    os.mkfifo(tmp_path / "gpu2.json")
    (tmp_path / "gpu3.json").symlink_to("gpu1.json")
    (tmp_path / "gpu4.json").write_bytes(b" " * (collected.MOST + 1))
    (tmp_path / ".gpu5.json.Xy12").write_text("{")  # rsync's, unfinished
    (tmp_path / "notes.txt").write_text("x")
    done = gpumend(tmp_path)
    assert done.exit_code == 1
    assert done.output.count("not a report: ") == 3


def test_what_a_host_says_is_printed_without_control_characters_and_masked(tmp_path: Path) -> None:
    found = told("gpu1", farm.no_cdi(1))
    [host] = found["hosts"].values()
    host["findings"][0].update(summary="\x1b[2J evil\nGM999 https://me:geheim@example.org " + "x" * 500_000)
    found["hosts"] = {"gpu1\x1b]0;evil\x07": host}
    put(tmp_path, "gpu1.json", found)
    done = gpumend(tmp_path)
    assert "\x1b" not in done.output and "geheim" not in done.output
    assert len(done.output) < 250_000


def test_a_host_that_names_files_after_another_tells_of_itself_alone(tmp_path: Path) -> None:
    """Each host's directory comes from that host whole: whatever gpu2 calls a file or a directory in it, gpu1's own counts."""
    put(tmp_path, "gpu1/report.json", told("gpu1", farm.no_cdi(1), 2))
    put(tmp_path, "gpu2/report.json", told("gpu2", healthy()))
    forged = [
        put(tmp_path, f"gpu2/{name}", told("gpu1", healthy())) for name in ("gpu1.json", "gpu1/report.json")
    ]
    done = gpumend(tmp_path)
    assert "GM404" in done.output and done.exit_code == 1
    for path in forged:
        assert f"{path} tells of gpu1, of which another file has the name" in done.output
    (tmp_path / "gpu1/report.json").rename(tmp_path / "gpu1.json")
    assert "GM404" in gpumend(tmp_path).output, "and where a host's report is a file and no directory"


def test_an_older_report_further_in_is_one_of_the_same_host(tmp_path: Path) -> None:
    put(tmp_path, "gpu1.json", told("gpu1", healthy()))
    put(tmp_path, "last-week/gpu1.json", told("gpu1", farm.no_cdi(1), 20))
    done = gpumend(tmp_path)
    assert (done.exit_code, "1 older reports of the same hosts" in done.output) == (0, True), done.output


def test_names_of_files_bend_no_terminal(tmp_path: Path) -> None:
    """rsync brings whatever names a host has given its files."""
    put(tmp_path, "gpu1/report.json", told("gpu1", healthy(), 2))
    for name in ("gpu2/\x1b[2J\n::error forged.json", "gpu2/\udce4.json"):
        put(tmp_path, name, "x")
    put(tmp_path, "gpu2/\x1b[31mforged/gpu1.json", told("gpu1", farm.no_cdi(1)))
    done = gpumend(tmp_path)
    assert done.exit_code == 1 and "\x1b" not in done.output and "\n::error" not in done.output
    assert done.output.count("not a report: ") == 2 and "\\x1b[31mforged" in done.output


@pytest.mark.parametrize("details", [(), ("--details",)])
@pytest.mark.parametrize("where", ["facts", "beside"])
def test_a_report_of_hundreds_of_levels_harms_no_other(
    details: tuple[str, ...], where: str, tmp_path: Path
) -> None:
    deep: Any = "x"
    for _ in range(900):
        deep = [deep]
    put(tmp_path, "gpu1.json", told("gpu1", healthy()))
    put(
        tmp_path,
        "gpu2.json",
        changed(deep, *HOST, "facts", "os") if where == "facts" else changed(deep, *HOST, "more"),
    )
    done = gpumend(tmp_path, *details, "--report", tmp_path / "all")
    assert "1 as wanted" in done.output and "gpu1" in json.loads((tmp_path / "all").read_text())["hosts"]


def test_nothing_at_all_is_not_fine(tmp_path: Path) -> None:
    assert gpumend(tmp_path).exit_code == 2
    assert gpumend(tmp_path / "missing").exit_code == 2


def test_all_reports_as_one_document(tmp_path: Path) -> None:
    directory = tmp_path / "reports"
    put(directory, "gpu1.json", told("gpu1", farm.no_cdi(1)))
    put(directory, "gpu2.json", told("gpu2", healthy()))
    put(directory, "gpu3.json", told("gpu3", healthy(), 50))
    assert gpumend(directory, "--report", tmp_path / "all.json").exit_code == 1
    made = json.loads((tmp_path / "all.json").read_text())
    assert list(Draft202012Validator(schemas.load("report")).iter_errors(made)) == []
    assert made["hosts"]["gpu1"] == told("gpu1", farm.no_cdi(1))["hosts"]["gpu1"]
    assert made["hosts"]["gpu3"]["error"].startswith("no report since")
    assert (tmp_path / "all.json").stat().st_mode & 0o777 == 0o600
    again = gpumend(tmp_path / "all.json")
    assert "no report since" in again.output and "GM404" in again.output
    lines = "\n".join(json.dumps(told(name, healthy())) for name in ("gpu1", "gpu2"))
    assert "2 as wanted" in gpumend(put(tmp_path, "all.jsonl", lines)).output


def test_what_a_host_wrote_is_compared_without_harm(tmp_path: Path) -> None:
    """`gpumend diff` of two reports that an agent has written, and `--against`."""
    old = put(tmp_path, "old/gpu1.json", told("gpu1", healthy(), 20))
    forged = told("gpu1", farm.no_cdi(1))
    [host] = forged["hosts"].values()
    host["findings"][0]["summary"] = host["facts"]["os"] = "\x1b[2J\n::error forged"
    host["facts"]["os\n::error forged"] = "\x1b]0;x"
    new = put(tmp_path, "new/gpu1.json", forged)
    for argv in (["diff", old, new], ["fleet", new.parent, "--against", old.parent]):
        done = CliRunner().invoke(main, [*map(str, argv)], catch_exceptions=False)
        assert done.exit_code == 3 and "forged" in done.output
        assert "\x1b" not in done.output and "\n::error" not in done.output
    for broken in ("[" * 100_000, json.dumps(changed([{}], *HOST, "findings")), "{}"):
        put(tmp_path, "new/gpu1.json", broken)
        done = CliRunner().invoke(main, ["diff", str(old), str(new)], catch_exceptions=False)
        assert done.exit_code == 2, done.output


def test_what_has_come_and_gone_since_older_reports(tmp_path: Path) -> None:
    put(tmp_path, "old/gpu1.json", told("gpu1", farm.no_cdi(1), 100))
    put(tmp_path, "old/gpu2.json", told("gpu2", healthy(), 100))
    put(tmp_path, "new/gpu1.json", told("gpu1", healthy()))
    put(tmp_path, "new/gpu2.json", told("gpu2", healthy()))
    done = gpumend(tmp_path / "new", "--against", tmp_path / "old")
    assert done.exit_code == 0 and "gone fail    GM404  gpu1" in done.output
    back = gpumend(tmp_path / "old", "--older", "1000", "--against", tmp_path / "new")
    assert back.exit_code == 3 and "new  fail    GM404  gpu1" in back.output


def test_the_history_says_since_when_and_what_is_gone(tmp_path: Path) -> None:
    kept, directory = tmp_path / "history.json", tmp_path / "reports"
    day = (NOW - datetime.timedelta(hours=20)).strftime("%Y-%m-%d")
    put(directory, "gpu1.json", told("gpu1", farm.no_cdi(1), 20))
    put(directory, "gpu2.json", told("gpu2", healthy(), 20))
    assert f"first seen {day}  fail GM404  gpu1" in gpumend(directory, "--history", kept).output
    assert kept.stat().st_mode & 0o777 == 0o600
    put(directory, "gpu1.json", told("gpu1", farm.no_cdi(1)))
    assert f"first seen {day}  fail GM404  gpu1" in gpumend(directory, "--history", kept).output
    put(directory, "gpu1.json", told("gpu1", healthy()))
    (directory / "gpu2.json").unlink()
    done = gpumend(directory, "--history", kept)
    assert (
        "gone " in done.output
        and "fail GM404  gpu1" in done.output
        and "first seen" not in done.output.replace(f"first seen {day}  note GM221", "")
    )
    assert "no report any more  gpu2" in done.output and done.exit_code == 1
    put(tmp_path, "history.json", "{}")
    assert gpumend(directory, "--history", kept).exit_code == 2
    assert kept.read_text() == "{}", "what is no history is not written over"


class Prometheus(http.server.BaseHTTPRequestHandler):
    """Answers an instant query of one metric, as /api/v1/query does: a stand-in (tests/nodes/test_fleet.py has the real one)."""

    metrics: Mapping[str, str] = {}  # instance -> text of its exporter
    broken = ""

    def do_GET(self) -> None:
        query = urllib.parse.parse_qs(urllib.parse.urlparse(self.path).query)["query"][0]
        rows = [
            {"metric": {**sample.labels, "instance": instance}, "value": [0, f"{sample.value:.17g}"]}
            for instance, text in self.metrics.items()
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if f"({sample.name})" in query
        ]
        data = (
            self.broken or json.dumps({"status": "success", "data": {"resultType": "vector", "result": rows}})
        ).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def prometheus(metrics: Mapping[str, str], broken: str = "") -> Iterator[str]:
    handler = type("Handler", (Prometheus,), {"metrics": metrics, "broken": broken})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_fleet_from_prometheus(tmp_path: Path) -> None:
    metrics = {
        "gpu1:9100": render(told("gpu1", farm.no_cdi(1))), "gpu2:9100": render(told("gpu2", healthy())),
        "gpu3:9100": render(told("gpu3", healthy(), 60)), "gpu4:9100": render(told("gpu4", None)),
    }  # fmt: skip
    with prometheus(metrics) as url:
        done = gpumend(url)
        assert gpumend(url, "--report", tmp_path / "x").exit_code == 2
        assert done.exit_code == 1
        assert "GM404" in done.output and "no report since" in done.output and "got no answer" in done.output
        assert "1 as wanted" in done.output and "by hand" not in done.output
    assert gpumend(url).exit_code == 2, "nobody listens there"


@pytest.mark.parametrize(
    "broken", ["", "[" * 100_000, "{}", '{"data": {"result": [{"metric": {}, "value": []}]}}']
)
def test_what_is_no_prometheus_is_said(broken: str) -> None:
    with prometheus({}, broken) as url:
        assert gpumend(url).exit_code == 2
