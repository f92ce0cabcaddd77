"""GM901 to GM910: compose files, what their services ask for, and whether that works."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping

import pytest

from gpumend.deploy.facts_report import as_json
from gpumend.rules.compose.judge import CHECKS, judge_project
from gpumend.rules.compose.where import NOWHERE, Where, from_report
from gpumend.rules.finding import Finding
from gpumend.state.compose_files import Project, project
from gpumend.state.compose_request import grant, requests
from gpumend.text.interpolate import dotenv, resolve
from gpumend.text.yaml_nodes import LARGEST
from tests.unit.build import healthy

Files = Mapping[str, str | bytes]
# What the incident report has: the service before its fix, and the variables that it names beside it.
REPORT = """\
services:
  worker:
    image: moe-worker
    command: uvicorn expert_worker.main:app
    environment:
      - NVIDIA_VISIBLE_DEVICES=all
      - CUDA_VISIBLE_DEVICES=0
    deploy:
      resources:
        reservations:
          devices:
            - driver: nvidia
              device_ids: ["0"]
              capabilities: [gpu]
"""
# Its host: Docker 29.1.3, mode cdi after fix 2.
HOST = Where(host="gpu1", docker=(29, 1, 3), compose=(2, 40, 3), toolkit=(1, 18, 1), mode="cdi")
AUTO = Where(host="gpu1", docker=(29, 1, 3), compose=(2, 40, 3), toolkit=(1, 18, 1), mode="auto")


def files_of(text: str | bytes | Files) -> dict[str, bytes]:
    found = {"compose.yml": text} if isinstance(text, str | bytes) else dict(text)
    return {path: data if isinstance(data, bytes) else data.encode() for path, data in found.items()}


def project_of(text: str | bytes | Files, *given: str) -> Project:
    files = files_of(text)

    def opener(path: str) -> bytes:
        if path not in files:
            raise FileNotFoundError(2, "No such file or directory")
        return files[path]

    return project(given or ("compose.yml",), opener)


def judged(text: str | bytes | Files, where: Where = NOWHERE, *given: str) -> list[Finding]:
    return list(judge_project(project_of(text, *given), where))


def rows(found: list[Finding]) -> list[str]:
    return [f"{each.code} {each.status}" for each in found]


def service(text: str, name: str = "a") -> str:
    return f"services:\n  {name}:\n    image: cuda\n" + "".join(f"    {line}\n" for line in text.splitlines())


def reserved(text: str) -> str:
    inner = "".join(f"\n            {line}" for line in text.splitlines())
    return service(
        f"deploy:\n  resources:\n    reservations:\n      devices:{inner.replace('            ', '        ')}"
    )


ONE = '- driver: nvidia\n  device_ids: ["0"]\n  capabilities: [gpu]'


# --- the report


def test_the_reports_service_fails_in_mode_cdi_and_its_fix_would_widen_the_grant() -> None:
    found = judged(REPORT, HOST)
    assert rows(found) == ["GM905 fail", "GM907 note"]
    assert "refuses in mode 'cdi'" in found[0].summary
    assert [item.source for item in found[0].evidence] == ["compose.yml:12"]
    assert "NVIDIA_VISIBLE_DEVICES=all" in found[1].summary


def test_in_mode_auto_it_works_until_mode_cdi_is_wanted() -> None:
    assert rows(judged(REPORT, AUTO)) == ["GM907 note"]
    wanted = AUTO._replace(wanted="cdi")
    assert rows(judged(REPORT, wanted)) == ["GM906 warn", "GM907 note"]


STYLES = {
    "anchor": REPORT.replace("services:", "x-none: &none {}\nservices:").replace("    deploy:", "    deploy: &gpu"),
    "merge": "x-gpu: &gpu\n  deploy:\n    resources:\n      reservations:\n        devices:\n        - {driver: nvidia, "
    'device_ids: ["0"], capabilities: [gpu]}\nservices:\n  worker:\n    <<: *gpu\n    image: x\n',
    "gpus": 'services:\n  worker:\n    gpus:\n      - driver: nvidia\n        device_ids: ["0"]\n',
    "crlf": REPORT.replace("\n", "\r\n"),
    "bom": "\ufeff" + REPORT,
    "flow": 'services: {worker: {deploy: {resources: {reservations: {devices: [{driver: nvidia, device_ids: ["0"], capabilities: [gpu]}]}}}}}',
}  # fmt: skip


@pytest.mark.parametrize("style", STYLES)
def test_every_style_asks_for_the_same(style: str) -> None:
    found = project_of(STYLES[style])
    assert found.problems == ()
    assert grant(found.services["worker"]).devices == {"0"}
    assert "GM905 fail" in rows(judged(STYLES[style], HOST))


def test_extends_include_and_override_files_are_put_together() -> None:
    files = {
        "compose.yml": "include:\n  - sub/compose.yml\nservices:\n  a:\n    extends: {file: base.yml, service: gpu}\n",
        "sub/compose.yml": service("runtime: nvidia\nenvironment: {NVIDIA_VISIBLE_DEVICES: '${ID}'}", "b"),
        "sub/.env": "ID=1,2\n",
        "base.yml": reserved(ONE).replace("  a:", "  gpu:"),
        "override.yml": reserved(ONE.replace('"0"', '"1"')),
        "instead.yml": reserved(ONE.replace('"0"', '"1"')).replace("devices:", "devices: !override"),
        "none.yml": "services: {a: {deploy: !reset null}}",
    }
    services = project_of(files).services
    assert {name: grant(found).shown for name, found in services.items()} == {"b": "1, 2", "a": "0"}
    both = project_of(files, "compose.yml", "override.yml").services["a"]
    assert [request.place for request in requests(both)] == ["base.yml:8", "override.yml:8"]
    assert grant(both).shown == "0, 1"
    assert grant(project_of(files, "compose.yml", "instead.yml").services["a"]).shown == "1"
    assert requests(project_of(files, "compose.yml", "none.yml").services["a"]) == ()
    assert "GM908 warn" in rows(judged(files, AUTO, "compose.yml", "override.yml"))


# --- what cannot be known


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (reserved(ONE.replace('"0"', '"${GPU}"')), "${GPU}"),
        (service("runtime: nvidia\nenvironment:\n  - NVIDIA_VISIBLE_DEVICES"), "${NVIDIA_VISIBLE_DEVICES}"),
        (service("runtime: nvidia\nenvironment: {NVIDIA_VISIBLE_DEVICES: $IDS}"), "${IDS}"),
        (service("runtime: nvidia\nenv_file: /etc/shadow"), "env_file"),
        (service("runtime: ${RUNTIME}"), "${RUNTIME}"),
        ("include:\n  - https://example.org/compose.yml\n", "elsewhere"),
        ("include:\n  - oci://example.org/x\n", "elsewhere"),
        ("include:\n  - ${WHERE}/compose.yml\n", "${WHERE}"),
        ("include: [gone.yml]\n", "No such file"),
        ("services: {a: {extends: {file: gone.yml, service: b}}}", "No such file"),
        ("services: {a: {extends: {file: 'git@example.org:x', service: b}}}", "elsewhere"),
        (b"services: {}\n#" + b"x" * (5 << 20), "larger than"),
        ("a: 1\n---\nb: 2\n", "more than one"),
        ("x0: &x0 [a, a, a, a, a, a, a, a, a]\n" + "".join(
            f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9)}]\n" for n in range(1, 8)), "alias"),
        ("x: " + "[" * 500 + "]" * 500, "deep"),
    ],
)  # fmt: skip
def test_what_cannot_be_known_is_unknown_and_says_why(text: str | bytes, names: str) -> None:
    began = time.process_time()
    found = judged(text, AUTO)
    assert rows(found) == ["GM902 unknown"]
    assert names in found[0].summary
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("services:\n\ta: {}\n", 2),
        ("services:\n  a: {}\n  b: {}\n  a: {}\n", 4),
        ("services:\n  a: {image: x\n", 3),
        ("services: [a]\n", 1),
        ("services:\n  a: text\n", 2),
        ("services:\n  a:\n    extends: b\n", 3),
        ("services:\n  a:\n    extends: a\n", 3),
        ("- a\n", 1),
        (b"a: \xff\n", 1),
        ("services:\n  a: *nobody\n", 2),
    ],
)
def test_what_compose_refuses_fails_with_its_line(text: str | bytes, line: int) -> None:
    found = judged(text)
    assert rows(found) == ["GM901 fail"]
    assert found[0].evidence[0].source == f"compose.yml:{line}"


# --- single rules

NEW = Where(host="gpu1", docker=(29, 2, 1), compose=(2, 40, 3), mode="auto", names=frozenset({"0", "1", "all"}), cdi=True, runtime=True)  # fmt: skip
OLD = Where(host="gpu1", docker=(24, 0, 7), compose=(2, 26, 1), mode="legacy", cdi=False, runtime=False)
BETWEEN = Where(host="gpu1", docker=(26, 1, 5), compose=(2, 30, 0), mode="auto", cdi=False, runtime=True)
TABLE = [
    # a request that Compose refuses
    (reserved("- driver: nvidia\n  count: 1"), NEW, ["GM903 fail"]),
    (reserved(ONE + "\n  count: 1"), NEW, ["GM903 fail"]),
    (reserved(ONE.replace('"0"', "0")), NEW, ["GM903 fail"]),
    (reserved("- driver: nvidia\n  count: some\n  capabilities: [gpu]"), NEW, ["GM903 fail"]),
    (service("gpus: one"), NEW, ["GM903 fail"]),
    (reserved(ONE.replace('"0"', "1:2")), AUTO, []),  # a text to go-yaml, with or without quotes
    (reserved(ONE.replace('"0"', "GPU-1a2b")), AUTO, []),
    # what Compose makes of it
    (service("gpus: all"), NEW, []),
    (service("gpus: all"), OLD, ["GM904 fail"]),
    (service("gpus: all"), BETWEEN, ["GM904 fail"]),
    (service("gpus: [{count: 1}]"), BETWEEN, []),
    (service("gpus: all"), NOWHERE, ["GM904 note"]),
    (service("devices: [nvidia.com/gpu=0]"), NEW, []),
    (service("devices: [nvidia.com/gpu=1:2]"), NEW, ["GM904 fail"]),
    (service("devices: [{source: nvidia.com/gpu=0, target: nvidia.com/gpu=0}]"), NEW, []),
    # ways that the host has
    (service("devices: [nvidia.com/gpu=all]"), OLD, ["GM904 fail", "GM905 fail"]),
    (service("devices: [nvidia.com/gpu=all]"), BETWEEN, ["GM905 fail"]),
    (service("devices: [nvidia.com/gpu=7]"), NEW, ["GM905 fail"]),
    (reserved('- driver: cdi\n  device_ids: ["nvidia.com/gpu=0"]\n  capabilities: [gpu]'), NEW, []),
    (
        reserved('- driver: cdi\n  device_ids: ["nvidia.com/gpu=0"]\n  capabilities: [gpu]'),
        OLD,
        ["GM905 fail"],
    ),
    (reserved('- driver: cdi\n  device_ids: ["vendor.com/net=0"]\n  capabilities: [net]'), OLD, []),
    (reserved("- driver: nvidia.cdi\n  count: 1\n  capabilities: [gpu]"), BETWEEN, ["GM905 fail"]),
    (reserved("- driver: amd\n  count: 1\n  capabilities: [gpu]"), HOST, []),
    (reserved("- capabilities: [tpu]"), HOST, []),
    (service("runtime: nvidia\nenvironment: {NVIDIA_VISIBLE_DEVICES: all}"), HOST, []),
    (service("runtime: nvidia\nenvironment: {NVIDIA_VISIBLE_DEVICES: all}"), OLD, ["GM905 fail"]),
    (service("gpus: all"), Where(host="h", compose=(2, 40, 3)), ["GM905 unknown"]),
    (service("gpus: all"), Where(host="h", compose=(2, 40, 3), docker=(28, 0, 0)), ["GM905 unknown"]),
    # the environment beside it
    (reserved(ONE) + "    environment: {CUDA_VISIBLE_DEVICES: '0'}\n", AUTO, []),
    (
        reserved(ONE.replace('"0"', '"2"')) + "    environment: {CUDA_VISIBLE_DEVICES: 2}\n",
        AUTO,
        ["GM907 warn"],
    ),
    (reserved(ONE) + "    environment: [NVIDIA_VISIBLE_DEVICES=0]\n", AUTO, []),
    (reserved(ONE + "\n" + ONE.replace('"0"', '"1"')), AUTO, ["GM908 warn"]),
    (reserved(ONE + "\n" + ONE.replace('"0"', '"1"')), NEW, []),
    (reserved("- driver: nvidia\n  count: 0\n  capabilities: [gpu]"), AUTO, ["GM909 warn"]),
    (service("runtime: nvidia"), AUTO, ["GM910 note"]),
    (service("environment: {NVIDIA_VISIBLE_DEVICES: all}"), AUTO, ["GM910 note"]),
    (service("runtime: nvidia\nenvironment: {NVIDIA_VISIBLE_DEVICES: none}"), AUTO, []),
    (service("runtime: runc"), AUTO, []),
]


@pytest.mark.parametrize(("text", "where", "expected"), TABLE)
def test_the_table(text: str, where: Where, expected: list[str]) -> None:
    assert rows(judged(text, where)) == expected


def test_every_check_comes_up_in_a_table() -> None:
    found = {row.partition(" ")[0] for _, _, expected in TABLE for row in expected}
    assert set(CHECKS) == found | {"GM901", "GM902", "GM906"}


# --- variables

KNOWN = {"A": "1", "E": ""}
VARIABLES = [
    ("$A-${A}", "1-1", ()),
    ("${B:-2}${B-3}", "23", ()),
    ("${E:-2}|${E-3}", "2|", ()),
    ("${B:-${A}}", "1", ()),
    ("${B:-${C}}", "", ("C",)),
    ("${B}", "", ("B",)),
    ("${B:?is needed}", "", ("B",)),
    ("${A:+x}${E:+y}${E+z}", "xz", ()),
    ("$$A ${", "$A ${", ()),
]


@pytest.mark.parametrize(("text", "resolved", "unknown"), VARIABLES)
def test_variables_are_resolved_as_compose_does(text: str, resolved: str, unknown: tuple[str, ...]) -> None:
    found = resolve(text, KNOWN)
    assert (found.text, found.unknown) == (resolved, unknown)


def test_an_env_file_is_read_as_compose_does() -> None:
    text = "# c\nA=1 # one\nexport B='x # y'\nC=\"$A-${A}\"\nD=\n not a line\nE: yaml\n"
    assert dotenv(text) == {"A": "1", "B": "x # y", "C": "1-1", "D": "", "E": "yaml"}


# --- hosts of reports


def test_a_report_says_what_its_hosts_have() -> None:
    audit = {
        "kind": "audit",
        "hosts": {"a": {"error": "", "facts": {"docker": "29.1.3", "mode": "cdi"}}, "b": {"error": "no"}},
    }
    assert tuple(each._replace(target=None) for each in from_report(audit)) == (
        Where(host="a", docker=(29, 1, 3), mode="cdi"),
    )
    facts = {
        "kind": "facts",
        "hosts": {
            "a": {
                "docker": {
                    "version": [29, 2, 1],
                    "info": {"CDISpecDirs": ["/etc/cdi"], "Runtimes": {"nvidia": {}}, "DiscoveredDevices": [{"ID": "nvidia.com/gpu=0"}]},
                },
                "toolkit": {"version": [1, 18, 1], "config": {}},
            }
        },
    }  # fmt: skip
    assert tuple(each._replace(target=None) for each in from_report(facts)) == (
        Where(host="a", docker=(29, 2, 1), toolkit=(1, 18, 1), mode="auto", cdi=True, names=frozenset({"0"}), runtime=True),
    )  # fmt: skip


def test_the_facts_of_a_host_say_what_an_audit_of_it_knows() -> None:
    told = {"kind": "facts", "hosts": {"gpu1": as_json(healthy("28.5.2", "1.18.1", "cdi").state())}}
    (found,) = from_report(json.loads(json.dumps(told)))
    assert (found.docker, found.toolkit, found.mode) == ((28, 5, 2), (1, 18, 1), "cdi")
    assert (found.cdi, found.runtime) == (True, True)


@pytest.mark.parametrize("document", [[], {}, {"kind": "runs", "hosts": {}}])
def test_what_is_no_report_of_hosts_is_refused(document: object) -> None:
    with pytest.raises(ValueError, match="report"):
        from_report(document)


def test_limits_are_beyond_what_people_write() -> None:
    many = "services:\n" + "".join(f"  s{n}:\n    image: x\n    gpus: all\n" for n in range(2000))
    assert len(many) < LARGEST
    assert len(project_of(many).services) == 2000
