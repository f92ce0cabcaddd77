"""The package as it is installed: built without network, in an environment of its own, away from the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from gpumend.rules.judge import RULES
from tests.installed import built, installed


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return built(tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="module")
def environment(files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return installed(files[1], tmp_path_factory.mktemp("installed"))


def run(environment: Path, cwd: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    kept = {
        key: value
        for key, value in os.environ.items()
        if key not in ("PYTHONPATH", "GPUMEND_HOSTS", "SUDO_UID")
    }
    return subprocess.run(
        [str(environment / argv[0]), *argv[1:]],
        cwd=cwd, env={**kept, "XDG_CONFIG_HOME": str(cwd)}, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=180,
    )  # fmt: skip


def test_the_wheel_installs_one_package(files: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(files[1]) as wheel:
        names = wheel.namelist()
    about = next(n for n in names if "dist-info" in n).split("/")[0].removesuffix(".dist-info")
    assert {name.split("/")[0] for name in names} == {"gpumend", f"{about}.dist-info", f"{about}.data"}
    assert [name for name in names if ".data/" in name] == [f"{about}.data/data/share/man/man1/gpumend.1"]
    assert "gpumend/project/inventory.py" in names and "gpumend/run/remote/sudoers.d/gpumend-audit" in names
    assert not [name for name in names if name.startswith("gpumend/project/") and "hosts.toml" in name]


def test_the_sdist_has_what_the_tests_need(files: tuple[Path, Path]) -> None:
    with tarfile.open(files[0]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    for name in (
        "Makefile",
        "pyproject.toml",
        "requirements.lock",
        "README.md",
        "LICENSE",
        "tools/lock",
        "tests/scripts/test_wheel.py",
    ):
        assert name in names
    assert not [name for name in names if name.startswith((".git/", ".venv", "hosts.toml"))]


def test_gpumend_is_the_installed_one(environment: Path, tmp_path: Path) -> None:
    call = "import gpumend, gpumend.places as p, gpumend.deploy; print(gpumend.__file__, p.PROJECT); import facts; print(facts.__file__)"
    done = run(environment, tmp_path, "python", "-c", call)
    assert done.returncode == 0, done.stderr
    where = str(environment.parent.resolve())
    assert all(path.startswith(where) for path in done.stdout.split()), done.stdout


def test_audit_facts_and_a_failed_report(environment: Path, tmp_path: Path) -> None:
    done = run(environment, tmp_path, "gpumend", "audit", "--report", "report.json")
    assert done.returncode in (0, 1, 3), done.stderr
    assert done.stdout.startswith("\nHOST")
    assert list(json.loads((tmp_path / "report.json").read_text())["hosts"]) == ["@local"]
    facts = run(environment, tmp_path, "gpumend", "facts", "@local")
    assert facts.returncode == 0, facts.stderr
    assert json.loads(facts.stdout)["hosts"]["@local"]["host"]["kernel"] == os.uname().release
    assert {path.name for path in tmp_path.iterdir()} == {"report.json"}


def test_every_page_and_schema_travels(environment: Path, tmp_path: Path) -> None:
    listed = run(environment, tmp_path, "gpumend", "explain").stdout.splitlines()
    assert {line.split(":")[0] for line in listed} == set(RULES)
    assert run(environment, tmp_path, "gpumend", "explain", "GM304").stdout.startswith("# GM304")
    call = "from gpumend import schemas; print(*(schemas.load(n)['title'] for n in ('wanted', 'report', 'hosts')), sep='\\n')"
    assert len(run(environment, tmp_path, "python", "-c", call).stdout.splitlines()) == 3


def test_pyinfra_finds_the_deploys_and_the_guard(environment: Path, tmp_path: Path) -> None:
    """provision --dry with our inventory; and with somebody's own, where the entry point prepares pyinfra."""
    call = "from gpumend.places import PROJECT; print(PROJECT)"
    project = Path(run(environment, tmp_path, "python", "-c", call).stdout.strip())
    pyinfra = ("python", "-m", "pyinfra")
    done = run(
        environment,
        tmp_path,
        *pyinfra,
        str(project / "inventory.py"),
        str(project / "deploys/provision.py"),
        "--dry",
    )
    assert done.returncode in (0, 1, 3), done.stderr
    assert "@local" in done.stdout
    (tmp_path / "mine.py").write_text(
        'gpu_hosts = ["@local", ("a", {"ssh_hostname": "127.0.0.1", "ssh_port": 1})]\n'
    )
    done = run(environment, tmp_path, *pyinfra, "mine.py", str(project / "deploys/gpu_host.py"), "--dry")
    assert done.returncode == 1 and "port 1 on 127.0.0.1: connection refused" in done.stdout, done.stderr
