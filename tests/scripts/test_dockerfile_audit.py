"""`gpumend dockerfile audit`, as whoever builds images starts it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.scripts import command

DOCKERFILE = 'FROM python:3.11-slim\nWORKDIR /srv\nCOPY app ./app\nRUN pip install uvicorn\nCMD ["uvicorn", "expert_worker.main:app"]\n'


def audit(cwd: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    return command.gpumend(cwd, "dockerfile", "audit", *argv)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A working copy whose Dockerfile lies in a directory of its own, and is built from the root."""
    for name in ("app/__init__.py", "app/main.py", "expert_worker/__init__.py", "expert_worker/main.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / ".git").mkdir()
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker" / "Dockerfile").write_text(DOCKERFILE)
    return tmp_path


def test_a_directory_is_searched_and_the_context_found(copy: Path) -> None:
    done = audit(copy, ".", "--report", "report.json", "--output", "sarif=-")
    assert done.returncode == 3, done.stderr
    told = json.loads((copy / "report.json").read_text())
    [finding] = told["hosts"]["docker/Dockerfile"]["findings"]
    assert (finding["code"], finding["evidence"][0]["source"]) == ("GM953", "docker/Dockerfile:5")
    assert {"source": "expert_worker", "text": "is in the context"} in finding["evidence"]
    assert json.loads(done.stdout)["runs"][0]["results"][0]["ruleId"] == "GM953"


def test_the_command_that_compose_gives_counts(copy: Path) -> None:
    assert audit(copy, "docker/Dockerfile", "--command", "uvicorn app.main:app").returncode == 0


def test_a_host_that_does_not_run_the_images_cuda(copy: Path) -> None:
    (copy / "docker" / "Dockerfile").write_text("FROM nvidia/cuda:13.0.1-base-ubuntu24.04\n")
    facts = {"driver": "470.256.02", "toolkit": "1.18.1", "kernel": "6.8.0", "cards": [{"name": "A100", "brand": "NVIDIA", "architecture": "Ampere"}]}  # fmt: skip
    (copy / "gpu1.json").write_text(
        json.dumps({"kind": "audit", "hosts": {"gpu1": {"error": "", "facts": facts}}})
    )
    assert audit(copy, "docker").returncode == 0
    done = audit(copy, "docker", "--for", "gpu1.json")
    assert done.returncode == 3 and "GM955" in done.stdout


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ((), "Missing argument"),
        (("nowhere",), "nowhere is not there"),
        (("app",), "app has no Dockerfile"),
        ((".", "--for", "nowhere.json"), "nowhere.json could not be read"),
        ((".", "--for", "docker/Dockerfile"), "is no JSON"),
        ((".", "--build-arg", "A"), "NAME=VALUE"),
        ((".", "--context", "nowhere"), "no directory nowhere"),
        ((".", "--output", "nothing=-"), "no format"),
    ],
)
def test_what_is_not_usable_is_exit_2(copy: Path, argv: tuple[str, ...], said: str) -> None:
    done = audit(copy, *argv)
    assert done.returncode == 2 and said in done.stderr


def test_what_cannot_be_read_is_exit_1(copy: Path) -> None:
    (copy / ".dockerignore").write_text("a[b\n")
    done = audit(copy, "docker/Dockerfile", "--context", ".")
    assert done.returncode == 1 and ".dockerignore" in done.stdout


def test_a_link_out_of_the_context_is_not_read(copy: Path) -> None:
    """A requirements file that leads elsewhere: its text is nobody's business here, and what it names is not known."""
    (copy / "requirements.txt").symlink_to("/etc/passwd")
    (copy / "docker" / "Dockerfile").write_text(
        'FROM python:3.12\nCOPY requirements.txt /r.txt\nRUN pip install -r /r.txt\nCMD ["python", "-m", "root"]\n'
    )
    done = audit(copy, "docker/Dockerfile", "--context", ".", "--output", "json=-")
    assert done.returncode == 1 and "/bin/" not in done.stdout


def test_a_link_of_somebody_else_is_not_followed(copy: Path) -> None:
    """As root in another user's working copy: his link would have root read what he may not."""
    os.chown(copy / "docker", 65534, 65534)
    link = copy / "docker" / "Dockerfile.gpu"
    link.symlink_to("/etc/shadow")
    os.lchown(link, 65534, 65534)
    done = audit(copy, "docker/Dockerfile.gpu", "--output", "json=-")
    assert done.returncode == 1 and "root:" not in done.stdout and "ROOT:" not in done.stdout


def test_arguments_and_environments_stay_where_they_are(copy: Path) -> None:
    """Only the words that name what is run are shown."""
    (copy / "docker" / "Dockerfile").write_text(
        'FROM python:3.12\nENV API_KEY=s3cret\nCMD ["python", "gone.py", "--key", "s3cret"]\n'
    )
    done = audit(copy, "docker/Dockerfile", "--output", "json=-")
    assert done.returncode == 3 and "s3cret" not in done.stdout
