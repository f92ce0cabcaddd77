"""Reports as an operator asks for them: several formats at once, one on standard output, quiet, in colour. This machine is
only read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from junitparser import JUnitXml

from gpumend import schemas

ROOT = Path(__file__).resolve().parents[2]
PYINFRA = (sys.executable, "-m", "pyinfra", "inventory.py", "deploys/gpu_host.py", "--dry")
GPUMEND = (sys.executable, "-m", "gpumend.cli.main")
READ = (0, 1, 3)  # whatever this machine has


def run(*argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    environment = {
        key: value
        for key, value in os.environ.items()
        if key not in ("GPUMEND_HOSTS", "NO_COLOR", "FORCE_COLOR", "COLUMNS")
    }
    return subprocess.run(
        argv,
        cwd=ROOT,
        env={**environment, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]), **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )  # fmt: skip


def valid(text: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(text)
    jsonschema.Draft202012Validator(schemas.load("report")).validate(found)
    return found


def test_several_formats_at_once(tmp_path: Path) -> None:
    wanted = {"junit": "a.xml", "html": "a.html", "sarif": "a.sarif", "prometheus": "a.prom", "text": "a.txt"}
    outputs = [item for name, file in wanted.items() for item in ("--output", f"{name}={tmp_path / file}")]
    done = run(*GPUMEND, "audit", *outputs, "--output", "json=-")
    assert done.returncode in READ, done.stderr
    assert valid(done.stdout)["kind"] == "audit", "standard output is the report alone"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(wanted.values())
    assert [suite.name for suite in JUnitXml.fromfile(str(tmp_path / "a.xml"))] == ["@local"]


def test_with_pyinfra_alone(tmp_path: Path) -> None:
    texts = json.dumps([f"html={tmp_path / 'a.html'}", f"jsonl={tmp_path / 'a.jsonl'}"])
    done = run(*PYINFRA, "--data", f"output={texts}")
    assert done.returncode in READ, done.stderr
    assert done.stdout.startswith("\nHOST"), "the terminal's report, too"
    valid((tmp_path / "a.jsonl").read_text())
    done = run(*PYINFRA, "--data", f"output=markdown={tmp_path / 'a.md'}")
    assert (tmp_path / "a.md").read_text().startswith("# gpumend audit")


WRONG = [
    pytest.param("xml=a", "no format 'xml'", id="format"),
    pytest.param("json", "FORMAT=PATH is needed", id="path"),
    pytest.param("html=/nowhere/at/all.html", "there is no directory", id="directory"),
]


@pytest.mark.parametrize(("output", "words"), WRONG)
def test_an_output_that_cannot_be_is_usage_before_anything_is_asked(output: str, words: str) -> None:
    done = run(*GPUMEND, "audit", "--output", output)
    assert done.returncode == 2 and words in " ".join(done.stderr.split()), done.stderr


def test_a_format_that_cannot_show_facts_is_usage() -> None:
    done = run(*GPUMEND, "facts", "--output", "junit=-")
    assert done.returncode == 2 and "formats that do: json, jsonl" in " ".join(done.stderr.split())


def test_with_pyinfra_a_wrong_output_is_usage() -> None:
    assert run(*PYINFRA, "--data", "output=xml=a").returncode == 2


def test_facts_and_rollback_and_parity_fit_the_schema() -> None:
    assert valid(run(*GPUMEND, "facts").stdout)["kind"] == "facts"
    assert valid(run(*GPUMEND, "facts", "--output", "jsonl=-").stdout)["kind"] == "facts"
    done = run(*GPUMEND, "rollback", "20200101T000000Z-0000", "--output", "json=-")
    assert done.returncode == 1
    hosts = valid(done.stdout)["hosts"]
    assert isinstance(hosts, dict) and hosts["@local"]["status"] == "no such run"
    assert valid(run(*GPUMEND, "parity", "--output", "json=-").stdout)["kind"] == "parity"


def test_quiet_is_one_line() -> None:
    done = run(*GPUMEND, "audit", "-q")
    [row] = done.stdout.splitlines()
    assert row.startswith("audit ") and "1 host:" in row


@pytest.mark.parametrize(
    ("env", "colours"),
    [({}, False), ({"FORCE_COLOR": "1"}, True), ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False)],
)
def test_colours(env: dict[str, str], colours: bool) -> None:
    done = run(*GPUMEND, "audit", **env)
    assert ("\x1b[" in done.stdout) is colours, done.stdout


def test_the_width_is_the_terminals() -> None:
    rows = run(*GPUMEND, "audit", COLUMNS="200").stdout.splitlines()
    narrow = run(*GPUMEND, "audit", COLUMNS="60").stdout.splitlines()
    assert len(narrow) >= len(rows)
    assert max(len(row) for row in narrow if row.startswith(("HOST", "@local", "audit"))) <= 60
