"""For code scanning: SARIF 2.1.0 (OASIS). A result is a finding on a host, at the file that its first evidence names.

A host is a base of URIs, so that equal files of two hosts stay apart. What is unknown is a warning, not `open`, which viewers
hide; a waived finding is suppressed with its reason; a host without an answer is a result of its own and a notification.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
from typing import Any
from urllib.parse import quote

from gpumend.reports.fleet import one_line
from gpumend.reports.format import report_format
from gpumend.rules.rule import RULES

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
LEVELS = {"fail": "error", "warn": "warning", "unknown": "warning", "note": "note", "waived": "warning"}
NO_ANSWER = "no-answer"
PLACE = re.compile(r"(/[^\s:]+)(?::(\d{1,7}))?", re.ASCII)  # a file with its line
OWN = re.compile(r"(.+):(\d{1,7})")  # the same of a working copy's file, whatever it is called


def _base(host: str) -> str:
    return quote(host, safe="")


def _file(name: str, found: dict[str, Any]) -> dict[str, Any]:
    """The place in a file of a working copy, by its path there: relative to wherever the viewer has the repository."""
    places = (OWN.fullmatch(item["source"]) for item in found.get("evidence", ()))
    place = next(filter(None, places), None)
    path = posixpath.normpath(place[1] if place else name)
    region = {"region": {"startLine": int(place[2])}} if place and int(place[2]) else {}
    uri = f"file://{quote(path)}" if path.startswith("/") else quote(path)
    return {"physicalLocation": {"artifactLocation": {"uri": uri}, **region}}


def _location(host: str, found: dict[str, Any]) -> dict[str, Any]:
    physical: dict[str, Any] = {"artifactLocation": {"uri": ".", "uriBaseId": _base(host)}}
    for item in found.get("evidence", ()):
        place = PLACE.fullmatch(item["source"])
        if place:
            physical["artifactLocation"]["uri"] = quote(place.group(1).lstrip("/")) or "."
            if place.group(2) and int(place.group(2)):
                physical["region"] = {"startLine": int(place.group(2))}
            break
    return {"physicalLocation": physical, "logicalLocations": [{"name": host, "kind": "host"}]}


def _fingerprint(*parts: str) -> dict[str, str]:
    """Equal for the same finding of the same host in every run, so that a viewer knows it again."""
    return {"finding/v1": hashlib.sha256("\0".join(parts).encode("utf-8", "replace")).hexdigest()}


def _result(host: str, found: dict[str, Any], index: dict[str, int], file: bool) -> dict[str, Any]:
    rows = [found["summary"], *(f"{item['source']}: {item['text']}" for item in found["evidence"])]
    rows += [found[key] for key in ("cause", "remedy", "refused") if found[key]]
    result: dict[str, Any] = {
        "ruleId": found["code"],
        "ruleIndex": index[found["code"]],
        "level": LEVELS.get(found["status"], "none"),
        "message": {"text": f"{host}: " + "\n".join(rows)},
        "locations": [_file(host, found) if file else _location(host, found)],
        "partialFingerprints": _fingerprint(host, found["code"], found["summary"]),
        "properties": {"status": found["status"], "mends": found["mends"], "risk": found["risk"]},
    }
    if found["status"] == "waived":
        result["suppressions"] = [
            {"kind": "external", "status": "accepted", "justification": found["refused"]}
        ]
    return result


def _rules(codes: dict[str, str]) -> list[dict[str, Any]]:
    return [
        {
            "id": code,
            "shortDescription": {"text": title or code},
            "help": {"text": f"`gpumend explain {code}` says what it means and what to do."},
            "properties": {"source": RULES[code].source if code in RULES else ""},
        }
        for code, title in codes.items()
    ]


@report_format("sarif")
def render(document: dict[str, Any]) -> str:
    hosts, files = document["hosts"], bool(document.get("files"))
    titles = {f["code"]: f["title"] for host in hosts.values() for f in host["findings"]}
    titles |= {code: rule.title for code, rule in RULES.items()}
    codes = {**dict(sorted(titles.items())), NO_ANSWER: "The host answers"}
    index = {code: number for number, code in enumerate(codes)}
    results = []
    notifications = []
    for name, host in hosts.items():
        if host["error"]:
            message = {"text": f"{name}: {host['error']}"}
            notifications.append({"level": "error", "message": message})
            results.append(
                {
                    "ruleId": NO_ANSWER,
                    "ruleIndex": index[NO_ANSWER],
                    "level": "error",
                    "message": message,
                    "locations": [_file(name, {}) if files else _location(name, {})],
                    "partialFingerprints": _fingerprint(name, NO_ANSWER),
                }
            )
        results += [_result(name, found, index, files) for found in host["findings"]]
        notifications += [
            {
                "level": "error",
                "message": {"text": one_line(f"{name}: {change['component']}: {change['detail']}")},
            }
            for change in host.get("changes", ())
            if change["status"] not in ("changed", "unchanged", "pending")
        ]
        notifications += [
            {"level": "note", "message": {"text": one_line(f"{name}: {component} is left alone: {why}")}}
            for component, why in host["blocked"].items()
        ]
    version = {"version": document["version"]} if document["version"] else {}
    driver = {"name": "gpumend", **version, "rules": _rules(codes)}
    run = {
        "tool": {"driver": driver},
        "automationDetails": {"id": f"gpumend/{document['kind']}/{document['run']}"},
        "originalUriBaseIds": {_base(name): {"uri": f"file://{_base(name)}/"} for name in hosts if not files},
        "invocations": [
            {
                "executionSuccessful": document["exit"] in (0, 3),
                "exitCode": document["exit"],
                "startTimeUtc": document["started"].replace("+00:00", "Z"),
                "toolExecutionNotifications": notifications,
            }
        ],
        "results": results,
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2) + "\n"
