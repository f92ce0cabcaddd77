"""For CI servers: JUnit XML, a test suite a host and a test case a rule.

What Jenkins and GitLab read: testsuites, testsuite, testcase with failure, error or skipped (the junit-10.xsd of
jenkinsci/xunit-plugin). A finding that is unknown, and a host without an answer, is an error; a waived one is skipped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any
from xml.etree import ElementTree

from gpumend.reports.fleet import one_line
from gpumend.reports.format import report_format

NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, production 2 (Char)
OUTCOMES = {"fail": "failure", "warn": "failure", "unknown": "error", "waived": "skipped"}


def clean(text: str) -> str:
    """The text with what XML cannot hold spelt out."""
    return NOT_XML.sub(lambda match: ascii(match.group())[1:-1], text)


def _case(suite: ElementTree.Element, name: str, host: str) -> ElementTree.Element:
    return ElementTree.SubElement(
        suite, "testcase", name=clean(one_line(name)), classname=clean(host), time="0"
    )


def _finding(suite: ElementTree.Element, host: str, found: dict[str, Any]) -> str:
    case = _case(suite, f"{found['code']} {found['summary']}", host)
    outcome = OUTCOMES.get(found["status"], "")
    rows = [f"{item['source']}: {item['text']}" for item in found["evidence"]]
    rows += [
        f"{word}: {found[key]}"
        for word, key in (("why", "cause"), ("do", "remedy"), ("held", "refused"))
        if found[key]
    ]
    text = clean("\n".join(rows))
    if not outcome:  # a note: passed, and told
        ElementTree.SubElement(case, "system-out").text = text
        return outcome
    message = found["refused"] if outcome == "skipped" else found["summary"]
    element = ElementTree.SubElement(case, outcome, message=clean(one_line(message)))
    if outcome != "skipped":
        element.set("type", found["status"])
        element.text = text
    return outcome


def _change(suite: ElementTree.Element, host: str, change: dict[str, Any]) -> str:
    case = _case(suite, f"mend {change['component']}", host)
    if change["status"] in ("changed", "unchanged", "pending"):
        return ""
    element = ElementTree.SubElement(case, "failure", message=clean(one_line(change["detail"])))
    element.set("type", change["status"])
    return "failure"


def _suite(root: ElementTree.Element, name: str, host: dict[str, Any], started: str) -> Iterable[str]:
    suite = ElementTree.SubElement(root, "testsuite", name=clean(one_line(name)), timestamp=started[:19])
    outcomes = []
    if host["error"]:
        case = _case(suite, "answers", name)
        ElementTree.SubElement(case, "error", message=clean(one_line(host["error"])), type="no answer")
        outcomes.append("error")
    outcomes += [_finding(suite, name, found) for found in host["findings"]]
    outcomes += [_change(suite, name, change) for change in host.get("changes", ())]
    if host.get("proof"):
        outcomes.append(_change(suite, name, {"component": "proof", **host["proof"]}))
    for component, why in host["blocked"].items():
        case = _case(suite, f"plan {component}", name)
        ElementTree.SubElement(case, "skipped", message=clean(one_line(why)))
        outcomes.append("skipped")
    for code in host["passed"]:
        _case(suite, code, name)
        outcomes.append("")
    _totals(suite, outcomes)
    suite.set("time", "0")
    return outcomes


def _totals(element: ElementTree.Element, outcomes: list[str]) -> None:
    for key, outcome in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        element.set(key, str(outcomes.count(outcome)))
    element.set("tests", str(len(outcomes)))


@report_format("junit")
def render(document: dict[str, Any]) -> str:
    root = ElementTree.Element("testsuites", name=f"gpumend {document['kind']} {document['run']}")
    outcomes: list[str] = []
    for name, host in document["hosts"].items():
        outcomes.extend(_suite(root, name, host, document["started"]))
    pools = [pool for pool in document.get("parity", ()) if pool["differences"]]
    for pool in pools:
        suite = ElementTree.SubElement(root, "testsuite", name=clean(one_line(f"parity of {pool['pool']}")))
        found = []
        for item in pool["differences"]:
            case = _case(suite, item["title"], "parity")
            if item["class"] != "risk":
                outcome = "error" if item["class"] == "unknown" else "failure"
                values = "; ".join(f"{host}: {value}" for host, value in item["values"].items())
                ElementTree.SubElement(case, outcome, message=clean(one_line(values)), type=item["class"])
                found.append(outcome)
            else:
                found.append("")
        _totals(suite, found)
        outcomes.extend(found)
    _totals(root, outcomes)
    root.set("time", str(document["seconds"]))
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"
