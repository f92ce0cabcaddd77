"""The agent's one file judges a host under each Python that hosts have: 3.9 is RHEL 9's and Debian 11's."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipimport
from functools import cache
from pathlib import Path

import pytest

from gpumend.agent.bundle import bundle, digest
from gpumend.agent.config import Config, ConfigError, parse
from gpumend.agent.install import compiled
from gpumend.agent.journal import entry, message_id
from gpumend.agent.places import PROGRAM
from gpumend.agent.units import cron, texts
from tests.scripts.test_python36 import runs
from tests.unit.build import healthy
from tests.unit.farm import sick

JUDGE = """
import json, sys
sys.path.insert(0, sys.argv[1])
from gpumend.rules.wanted import parse as wanted
from gpumend.run.record import judged
from gpumend.state.host_state import parse
from gpumend.state.snapshot import Snapshot
with open(sys.argv[2]) as file:
    snapshot = Snapshot(json.load(file))
found = judged(parse(snapshot), wanted({}), "host")
planned = [[t.component, len(t.steps)] for t in found.plan.transactions]
print(json.dumps([[[f.code, str(f.status), f.summary] for f in found.verdict.findings], planned]))
print(json.dumps(sorted({name.split(".")[0] for name in sys.modules})))
"""


@cache
def interpreters() -> list[str]:
    """The interpreter of these tests, and the older ones that this machine has."""
    found = [sys.executable]
    for name in ("python3.9", "python3.10"):
        versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
        for path in (
            shutil.which(name),
            *map(str, sorted(versions.glob(f"{name.removeprefix('python')}.*/bin/{name}"))),
        ):
            found += runs(path) if path else []
    return sorted(set(found), key=found.index)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("agent") / "agent"
    path.write_bytes(bundle())
    return path


@pytest.mark.parametrize("python", interpreters())
@pytest.mark.parametrize("name", ["healthy", "sick"])
def test_it_judges_under_every_python(python: str, name: str, program: Path, tmp_path: Path) -> None:
    answer = tmp_path / "answer.json"
    answer.write_text(json.dumps((healthy() if name == "healthy" else sick(1)).answer()))
    argv = [python, "-I", "-S", "-B", "-", str(program), str(answer)]
    done = subprocess.run(argv, input=JUDGE, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    (findings, planned), modules = map(json.loads, done.stdout.splitlines())
    here = subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-", str(program), str(answer)],
        input=JUDGE, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert [findings, planned] == json.loads(here.stdout.splitlines()[0])
    assert bool(planned) == (name == "sick")
    assert bool(findings) == (name == "sick") or all(status == "note" for _, status, _ in findings)
    assert not {"pyinfra", "paramiko", "jsonschema", "click", "gevent"} & set(modules)


def test_the_file_is_the_same_for_the_same_sources(program: Path) -> None:
    bundle.cache_clear()
    assert bundle() == program.read_bytes()


def test_bytecode_is_added_and_nothing_lost(program: Path, tmp_path: Path) -> None:
    """What is installed has the bytecode of the Python that installed it."""
    path = tmp_path / "agent"
    path.write_bytes(compiled(bundle()))
    code = zipimport.zipimporter(f"{path}/gpumend/agent").get_code("main")
    assert code is not None and code.co_filename == f"{PROGRAM}/gpumend/agent/main.py", (
        "compiled, not read anew"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-B", str(path), "--help"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0 and "usage: agent" in done.stdout


def test_a_fault_of_the_agent_is_no_status_of_an_audit(tmp_path: Path, program: Path) -> None:
    argv = [sys.executable, "-I", "-S", "-B", str(program), "install", str(tmp_path / "missing")]
    done = subprocess.run(argv, input="{}", capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2 and "is not one of ours" in done.stderr


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"host": "a"}', '{"host": "a", "wanted": [1], "digest": ""}']
)
def test_a_configuration_that_is_not_one(text: str) -> None:
    with pytest.raises(ConfigError):
        parse(text)


def test_a_configuration_comes_back_as_it_was() -> None:
    config = Config("gpu1", {"runtime": {"mode": "cdi"}}, digest(), 5, "/var/lib/node-exporter")
    assert parse(config.text()) == config


def test_a_line_in_a_value_is_no_field_of_its_own() -> None:
    """systemd.io/JOURNAL_NATIVE_PROTOCOL: a value with a newline comes with its length."""
    assert (
        entry({"MESSAGE": "a\nPRIORITY=0"}) == b"MESSAGE\n" + (12).to_bytes(8, "little") + b"a\nPRIORITY=0\n"
    )
    assert message_id("GM301") == message_id("GM301") != message_id("GM302")


@pytest.mark.parametrize(
    ("interval", "when"), [(15, "*/15 * * * *"), (60, "0 */1 * * *"), (1440, "0 */23 * * *")]
)
def test_what_cron_is_told(interval: int, when: str) -> None:
    rows = cron(
        Config("gpu1", {}, digest(), interval, mend=("cdi.spec_current",)), "/usr/bin/python3"
    ).splitlines()
    assert [row.split(" root ")[0] for row in rows if " root " in row] == [when, when]
    assert [row.split(PROGRAM)[1].split()[0] for row in rows if PROGRAM in row] == ["audit", "mend"]


def test_a_transaction_that_goes_on_is_not_ended_with_the_unit() -> None:
    """systemd.kill(5): by default all that is left in a unit's cgroup is killed as its main process ends."""
    made = texts(Config("gpu1", {}, digest(), mend=("cdi.spec_current",)), "/usr/bin/python3")
    assert "\nKillMode=process\n" in made["gpumend-mend.service"]
    assert "KillMode" not in made["gpumend-audit.service"]
