"""The programs as an operator starts them, on this machine: from anywhere, with any inventory, without a terminal.

This machine is only read. It has whatever it has: what is asserted holds with a GPU and without.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from gpumend import schemas

ROOT = Path(__file__).resolve().parents[2]
PYINFRA = (sys.executable, "-m", "pyinfra")
GPUMEND = (sys.executable, "-m", "gpumend.cli.main")


def run(*argv: str, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "GPUMEND_HOSTS"}
    return subprocess.run(
        argv,
        cwd=cwd,
        env={**environment, "PYTHONPATH": str(ROOT), **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    path = tmp_path_factory.mktemp("report") / "report.json"
    done = run(*PYINFRA, "inventory.py", "deploys/gpu_host.py", "--dry", "--data", f"report={path}")
    assert done.returncode in (0, 1, 3), done.stderr
    found: dict[str, object] = json.loads(path.read_text())
    assert found["exit"] == done.returncode
    assert path.stat().st_mode & 0o077 == 0, "a report names hosts and their weaknesses: it is its owner's"
    return found


def test_the_report_fits_its_schema(report: dict[str, object]) -> None:
    jsonschema.Draft202012Validator(schemas.load("report")).validate(report)
    assert report["kind"] == "audit"
    hosts = report["hosts"]
    assert isinstance(hosts, dict)
    assert list(hosts) == ["@local"]


def test_an_audit_prints_the_table_on_stdout_only() -> None:
    done = run(*PYINFRA, "inventory.py", "deploys/gpu_host.py", "--dry")
    assert done.stdout.startswith("\nHOST"), done.stdout
    assert "@local" in done.stdout
    assert "-->" not in done.stdout, "pyinfra's commentary is on standard error"


@pytest.mark.parametrize("where", ["elsewhere", "deploys"])
def test_it_works_from_any_directory(tmp_path: Path, where: str) -> None:
    cwd = tmp_path if where == "elsewhere" else ROOT / "deploys"
    environment = {"PYTHONPATH": ""}
    done = run(
        *PYINFRA,
        str(ROOT / "inventory.py"),
        str(ROOT / "deploys/gpu_host.py"),
        "--dry",
        cwd=cwd,
        **environment,
    )
    assert done.returncode in (0, 1, 3), done.stderr
    assert "@local" in done.stdout


def test_an_inventory_of_ones_own_works(tmp_path: Path) -> None:
    inventory = tmp_path / "mine.py"
    inventory.write_text('gpu_hosts = ["@local"]\n')
    done = run(*PYINFRA, str(inventory), str(ROOT / "deploys/gpu_host.py"), "--dry", cwd=tmp_path)
    assert done.returncode in (0, 1, 3), done.stderr
    assert "@local" in done.stdout


def test_gpumend_audit_gives_the_same_status_and_table(report: dict[str, object]) -> None:
    done = run(*GPUMEND, "audit")
    assert done.returncode == report["exit"]
    assert done.stdout.startswith("\nHOST")


def test_report_to_standard_output_is_json_alone() -> None:
    done = run(*GPUMEND, "audit", "--report", "-")
    assert json.loads(done.stdout)["kind"] == "audit"


def test_single_facts_are_pyinfra_facts() -> None:
    names = [
        "driver.DriverVersion",
        "toolkit.LdconfigPath",
        "toolkit.RuntimeMode",
        "docker.DaemonJson",
        "cdi.CdiSpecs",
    ]
    done = run(*PYINFRA, "inventory.py", "fact", *(f"facts.{name}" for name in names))
    assert done.returncode == 0, done.stderr
    for name in names:
        assert f"Loaded fact facts.{name}" in done.stderr


def test_facts_are_json(tmp_path: Path) -> None:
    done = run(*GPUMEND, "facts")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["hosts"]["@local"]
    assert found["host"]["kernel"] == os.uname().release
    assert {"driver", "gpus", "toolkit", "cdi", "docker", "containerd"} <= set(found)


USAGE = [
    pytest.param(["--data", 'gpumend={"runtme": {}}'], "unknown key 'runtme'", id="unknown-key"),
    pytest.param(["--data", 'gpumend={"runtime": {"mode": "x"}}'], "allowed: 'cdi', 'auto'", id="value"),
    pytest.param(["--data", 'gpumend={"restarts": 3}'], "gpumend.restarts", id="type"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), USAGE)
def test_a_wanted_state_that_is_not_valid_is_usage(arguments: list[str], message: str) -> None:
    done = run(*PYINFRA, "inventory.py", "deploys/gpu_host.py", "--dry", *arguments)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr


def test_group_data_is_checked_before_anything_connects(tmp_path: Path) -> None:
    (tmp_path / "group_data").mkdir()
    (tmp_path / "group_data" / "all.py").write_text('gpumend = {"restart": "idle"}\n')
    done = run(*PYINFRA, str(ROOT / "inventory.py"), str(ROOT / "deploys/gpu_host.py"), "--dry", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "unknown key 'restart'" in done.stderr
    assert "Connecting to hosts" not in done.stderr


def test_a_bad_hosts_file_is_usage_before_anything_connects(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts.toml"
    hosts.write_text("[hosts.a]\nuzer = 'x'\n")
    done = run(*PYINFRA, "inventory.py", "deploys/gpu_host.py", "--dry", GPUMEND_HOSTS=str(hosts))
    assert done.returncode == 2, done.stderr
    assert f"{hosts}:2" in done.stderr
    assert "Connecting to hosts" not in done.stderr


def test_a_group_overrides_single_keys_only(tmp_path: Path) -> None:
    inventory = tmp_path / "mine.py"
    inventory.write_text('lab = ["@local"]\n')
    (tmp_path / "group_data").mkdir()
    (tmp_path / "group_data" / "all.py").write_text(
        'gpumend = {"restarts": "never", "runtime": {"mode": "auto"}}\n'
    )
    (tmp_path / "group_data" / "lab.py").write_text('gpumend = {"runtime": {"ldconfig": "keep"}}\n')
    script = tmp_path / "show.py"
    script.write_text(
        "from pyinfra import host\nfrom gpumend.run.remote.assessment import wanted_of\n"
        "found = wanted_of(host)\nprint('WANTED', found.restarts, found.mode, found.ldconfig)\n"
    )
    done = run(*PYINFRA, str(inventory), str(script), "--dry", cwd=tmp_path)
    assert "WANTED never auto keep" in done.stdout, done.stderr


def test_explain_prints_the_page() -> None:
    done = run(*GPUMEND, "explain", "gm201")
    assert done.returncode == 0
    assert done.stdout == (ROOT / "docs/findings/GM201.md").read_text()


def test_explain_without_a_code_lists_every_page() -> None:
    done = run(*GPUMEND, "explain")
    assert len(done.stdout.splitlines()) == len(list((ROOT / "docs/findings").glob("GM*.md")))


@pytest.mark.parametrize(
    "arguments",
    [
        ["explain", "GM999"],
        ["explain", "../README"],
        ["rollback", "x"],
        ["runs", "ack"],
        ["runs", "ack", "last"],
        ["nonsense"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_2(arguments: list[str]) -> None:
    assert run(*GPUMEND, *arguments).returncode == 2


def test_a_run_that_no_host_has_is_not_acknowledged() -> None:
    done = run(*GPUMEND, "runs", "ack", "20200101T000000Z-0000")
    assert done.returncode == 1
    assert "there is no run" in done.stdout


def test_the_runs_of_this_machine_are_listed(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    done = run(*GPUMEND, "runs", "--report", str(report))
    assert done.returncode == (0 if os.geteuid() == 0 else 1), done.stderr
    assert done.stdout.startswith("@local")
    found = json.loads(report.read_text())
    jsonschema.Draft202012Validator(schemas.load("report")).validate(found)
    assert found["kind"] == "runs"


def test_rollback_of_a_run_that_no_host_has() -> None:
    done = run(*GPUMEND, "rollback", "20200101T000000Z-0000")
    assert done.returncode == 1
    assert "there is no run" in done.stdout


@pytest.mark.parametrize("program", [GPUMEND, PYINFRA], ids=["gpumend", "pyinfra"])
def test_a_report_that_cannot_be_written_is_told_before_the_audit(
    tmp_path: Path, program: tuple[str, ...]
) -> None:
    report = tmp_path / "no" / "directory" / "x.json"
    arguments = ["audit", "--report", str(report)]
    if program is PYINFRA:
        arguments = ["inventory.py", "deploys/gpu_host.py", "--dry", "--data", f"report={report}"]
    done = run(*program, *arguments)
    assert done.returncode == 2
    assert "could not be written" in done.stderr
    assert done.stdout == ""


def test_two_deploys_in_one_run_tell_one_report() -> None:
    done = run(*PYINFRA, "inventory.py", "deploys/cdi.py", "deploys/docker.py", "--dry")
    assert done.returncode in (0, 1, 3), done.stderr
    assert done.stdout.count("HOST ") == 1
