"""`gpumend compose` as people and CI start it: files of a working copy, no host."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest
import yaml

from gpumend import schemas
from gpumend.payload.change import step
from gpumend.payload.change.files import Failed
from tests.scripts import command
from tests.unit.test_compose import REPORT

HOST: dict[str, Any] = {
    "kind": "audit",
    "hosts": {"gpu1": {"error": "", "facts": {"docker": "29.1.3", "mode": "cdi"}}},
}
SECRET = "hunter2-in-no-report"


def gpumend(cwd: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    return command.gpumend(cwd, "compose", *argv)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    (tmp_path / "docker-compose.yml").write_text(
        REPORT + f"    env_file: secrets.env\n    labels: {{x: {SECRET}}}\n"
    )
    (tmp_path / "secrets.env").write_text(f"NVIDIA_VISIBLE_DEVICES={SECRET}\n")
    (tmp_path / "report.json").write_text(json.dumps(HOST))
    return tmp_path


def test_an_audit_names_file_and_line_and_its_exit_status_says_drift(copy: Path) -> None:
    done = gpumend(copy, "audit", "--for", "report.json", "--compose", "2.40.3")
    assert done.returncode == 3, done.stderr
    assert "docker-compose.yml:12" in done.stdout
    assert "refuses in mode 'cdi'" in done.stdout
    assert SECRET not in done.stdout + done.stderr


def test_the_hosts_of_a_report_judge_the_images_that_a_project_builds(copy: Path) -> None:
    (copy / "compose.yml").write_text("services:\n  a:\n    build: .\n    gpus: all\n")
    (copy / "Dockerfile").write_text("FROM nvidia/cuda:13.0.1-base-ubuntu24.04\n")
    cards = [{"name": "A100", "brand": "NVIDIA", "architecture": "Ampere"}]
    hosts = {
        name: {"error": "", "facts": {**HOST["hosts"]["gpu1"]["facts"], "driver": driver, "kernel": "6.8.0", "cards": cards}}
        for name, driver in (("old", "470.256.02"), ("new", "580.95.05"))
    }  # fmt: skip
    (copy / "two.json").write_text(json.dumps({"kind": "audit", "hosts": hosts}))
    assert "GM955" not in gpumend(copy, "audit", "compose.yml").stdout
    done = gpumend(
        copy, "audit", "compose.yml", "--for", "two.json", "--compose", "2.40.3", "--output=json=told.json"
    )
    told = json.loads((copy / "told.json").read_text())["hosts"]
    found = {name: [each["code"] for each in host["findings"]] for name, host in told.items()}
    assert [("GM955" in found[f"compose.yml for {name}"]) for name in ("old", "new")] == [True, False], found
    assert done.returncode == 3 and "Dockerfile:1" in done.stdout


def test_without_a_host_the_report_s_file_is_fine(copy: Path) -> None:
    assert gpumend(copy, "audit").returncode == 0


def test_the_reports_for_programs_are_those_of_every_audit(copy: Path) -> None:
    outputs = [
        f"--output={name}={name}.out" for name in ("json", "sarif", "junit", "github", "markdown", "html")
    ]
    done = gpumend(copy, "audit", "docker-compose.yml", "--for", "report.json", *outputs)
    assert done.returncode == 3, done.stderr
    document = json.loads((copy / "json.out").read_text())
    jsonschema.Draft202012Validator(schemas.load("report")).validate(document)
    assert [found["code"] for found in document["hosts"]["docker-compose.yml"]["findings"]] == [
        "GM905",
        "GM907",
    ]
    sarif = json.loads((copy / "sarif.out").read_text())
    place = sarif["runs"][0]["results"][0]["locations"][0]["physicalLocation"]
    assert place == {"artifactLocation": {"uri": "docker-compose.yml"}, "region": {"startLine": 12}}
    suite = ElementTree.fromstring((copy / "junit.out").read_text()).find("testsuite")
    assert suite is not None and suite.get("failures") == "1"
    assert not [path for path in copy.glob("*.out") if SECRET in path.read_text()]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("audit", "gone.yml"), "gone.yml"),
        (("audit", "-f", "gone.yml"), "gone.yml"),
        (("audit", "empty"), "no compose file"),
        (("audit", "--for", "secrets.env"), "secrets.env"),
        (("audit", "--docker", "new"), "version"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(copy: Path, argv: tuple[str, ...], said: str) -> None:
    (copy / "empty").mkdir()
    done = gpumend(copy, *argv)
    assert done.returncode == 2
    assert said in done.stderr


@pytest.mark.parametrize("link", ["file", "directory"])
def test_a_link_of_another_user_is_not_followed(copy: Path, link: str) -> None:
    """Run by root over what a user owns: the link could lead to what the user must not see."""
    (copy / "private").mkdir()
    (copy / "private/shadow.yml").write_text(f"{SECRET}: 1\n{SECRET}: 2\n")
    path = "compose.yml" if link == "file" else "theirs/shadow.yml"
    (copy / ("compose.yml" if link == "file" else "theirs")).symlink_to(
        "private/shadow.yml" if link == "file" else "private"
    )
    assert SECRET in gpumend(copy, "audit", path).stdout  # one's own is followed
    os.chown(copy / path.partition("/")[0], 12345, 12345, follow_symlinks=False)
    done = gpumend(copy, "audit", path)
    assert done.returncode == 1
    assert SECRET not in done.stdout
    assert "symlink of uid 12345" in done.stdout


def test_a_pipe_in_place_of_the_file_holds_nothing(copy: Path) -> None:
    os.mkfifo(copy / "compose.yml")
    began = time.monotonic()
    done = gpumend(copy, "audit", "compose.yml")
    assert done.returncode == 1
    assert "not a regular file" in done.stdout
    assert time.monotonic() - began < 20


def test_the_pre_commit_hook_calls_what_there_is(copy: Path) -> None:
    hooks = yaml.safe_load((command.ROOT / ".pre-commit-hooks.yaml").read_text())
    (hook,) = [each for each in hooks if each["id"] == "gpumend-compose"]
    names = [
        "compose.yaml",
        "a/docker-compose.yml",
        "docker-compose-distributed.yml",
        "compose.override.yaml",
    ]
    assert [name for name in names if re.search(hook["files"], name)] == names
    assert not [name for name in ("compose.py", "a.yml", "compose/x.yml") if re.search(hook["files"], name)]
    program, *argv = hook["entry"].split()
    assert program == "gpumend"
    assert gpumend(copy, *argv[1:], "docker-compose.yml").returncode == 0


# --- nothing is run or asked, and nothing of what a service is given is told


@pytest.fixture
def watched(copy: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working copy where whatever would be run leaves `ran` behind: docker, git's and a plugin's programs."""
    (copy / "bin").mkdir()
    for name in ("docker", "docker-compose", "docker-evil", "evil", "git", "curl", "ssh"):
        (copy / "bin" / name).write_text(f"#!/bin/sh\necho $0 >> {copy}/ran\n")
        (copy / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{copy}/bin:{os.environ['PATH']}")
    return copy


SERVICE = "services:\n  a:\n    image: x\n    gpus: all\n"


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        (f"include:\n  - https://127.0.0.1:9/x.yml\n{SERVICE}", 1, "compose.yml:2: an include from elsewhere"),
        (f"include:\n  - path: git@127.0.0.1:x/y.git\n{SERVICE}", 1, "compose.yml:2: an include from elsewhere"),
        (f"include:\n  - oci://127.0.0.1:9/x\n{SERVICE}", 1, "compose.yml:2: an include from elsewhere"),
        (f"{SERVICE}    extends: {{file: 'https://127.0.0.1:9/x.yml', service: b}}\n", 1, "lies elsewhere"),
        (f"{SERVICE}    env_file: /etc/shadow\n", 0, ""),
        (f"{SERVICE}    env_file: [{{path: /etc/shadow, format: raw}}]\n    runtime: nvidia\n", 1, "an env_file may set it"),
        (f"{SERVICE}  db:\n    provider: {{type: evil, options: {{x: {SECRET}}}}}\n", 0, ""),
        (f"{SERVICE}    secrets: [s]\nsecrets: {{s: {{file: /etc/shadow}}}}\n", 0, ""),
        (f"include:\n  - path: sub.yml\n    env_file: /etc/shadow\n{SERVICE}", 1, "sub.yml"),
    ],
)  # fmt: skip
def test_what_compose_would_fetch_run_or_open_is_not(
    watched: Path, text: str, status: int, said: str
) -> None:
    (watched / "compose.yml").write_text(text)
    done = gpumend(watched, "audit", "compose.yml", "--output", "json=told.json")
    assert (done.returncode, said in done.stdout) == (status, True), done.stdout + done.stderr
    told = done.stdout + done.stderr + (watched / "told.json").read_text()
    shadow = [
        word
        for line in Path("/etc/shadow").read_text().splitlines()
        for word in line.split(":")[1:2]
        if len(word) > 1
    ]
    assert not [word for word in (SECRET, "root:", *shadow) if word in told]
    assert not (watched / "ran").exists()


def test_env_s_own_switches_of_compose_are_minded_and_its_docker_is_not(watched: Path) -> None:
    for name, service in (("base.yml", "b"), ("gpu.yml", "g"), ("compose.yml", "c")):
        (watched / name).write_text(
            f"services:\n  {service}:\n    image: x\n    gpus: one\n    profiles: [never]\n"
        )
    (watched / ".env").write_text(
        f"DOCKER_HOST=tcp://127.0.0.1:9\nCOMPOSE_PROFILES=other\nCOMPOSE_PATH_SEPARATOR=;\nCOMPOSE_FILE=base.yml;gpu.yml\nX={SECRET}\n"
    )
    done = gpumend(watched, "audit")
    assert done.returncode == 3, done.stderr
    assert [name in done.stdout for name in ("base.yml:4", "gpu.yml:4", "compose.yml:4")] == [
        True,
        True,
        False,
    ]
    assert SECRET not in done.stdout
    assert not (watched / "ran").exists()


def test_a_compose_that_does_not_end_is_ended_and_says_nothing_of_an_env_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What makes a container anew on a host is bounded, whatever Compose does: of an anchor bomb it computed 11 minutes, SIGTERM ignored."""
    monkeypatch.setattr(step, "COMMAND_TIMEOUT", 0.5)
    began = time.monotonic()
    with pytest.raises(Failed, match=r"0\.5 s"):
        step.command(["sh", "-c", "trap '' TERM; while :; do :; done"])
    assert time.monotonic() - began < 15
    said = f'failed to read s.env: line 2: unexpected character "$" in variable name near "{SECRET} a=b"'
    with pytest.raises(Failed) as failed:
        step.command(["sh", "-c", f"echo '{said}' >&2; exit 1"])
    assert "line 2: unexpected character" in str(failed.value).partition(": ")[2]
    assert SECRET not in step.last_error({"err": said, "rc": 1})


# --- fix


@pytest.fixture
def repository(copy: Path) -> Path:
    for argv in (
        ("init", "-q"),
        ("add", "docker-compose.yml"),
        ("-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "before"),
    ):
        subprocess.run(("git", *argv), cwd=copy, check=True, capture_output=True)
    return copy


def test_fix_shows_the_diff_writes_and_a_second_one_changes_nothing(repository: Path) -> None:
    file = repository / "docker-compose.yml"
    file.chmod(0o640)
    done = gpumend(repository, "fix", "--for", "report.json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert '-              device_ids: ["0"]' in done.stdout
    assert "+    runtime: nvidia" in done.stdout
    assert "pending: docker compose -f docker-compose.yml up -d worker" in done.stdout
    assert SECRET not in done.stdout.replace(f"labels: {{x: {SECRET}}}", "")
    assert "    runtime: nvidia\n" in file.read_text() and "=all" not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o640
    written = file.stat().st_ino
    again = gpumend(repository, "fix", "--for", "report.json")
    assert (again.returncode, file.stat().st_ino) == (0, written)
    assert "nothing to rewrite" in again.stdout


def test_fix_with_dry_writes_nothing_and_says_drift(repository: Path) -> None:
    before = (repository / "docker-compose.yml").read_bytes()
    done = gpumend(repository, "fix", "--to", "devices", "--dry")
    assert done.returncode == 3
    assert "+      - nvidia.com/gpu=0" in done.stdout
    assert (repository / "docker-compose.yml").read_bytes() == before


@pytest.mark.parametrize("case", ["changed", "untracked", "no repository"])
def test_what_git_could_not_give_back_is_written_only_when_told(repository: Path, case: str) -> None:
    file = repository / "docker-compose.yml"
    if case == "changed":
        file.write_text(file.read_text() + "# mine\n")
    elif case == "untracked":
        subprocess.run(("git", "rm", "-q", "--cached", file.name), cwd=repository, check=True)
    else:
        (repository / ".git").rename(repository / "git")
    before = file.read_bytes()
    done = gpumend(repository, "fix", "--to", "devices")
    assert done.returncode == 3
    assert file.read_bytes() == before
    assert "pending" not in done.stdout
    assert gpumend(repository, "fix", "--to", "devices", "--uncommitted").returncode == 0
    assert file.read_bytes() != before


def test_fix_writes_through_no_link_of_another_user_and_to_no_file_of_one(repository: Path) -> None:
    file = repository / "docker-compose.yml"
    (repository / "compose.yml").symlink_to(file.name)
    os.chown(repository / "compose.yml", 12345, 12345, follow_symlinks=False)
    before = file.read_bytes()
    assert gpumend(repository, "fix", "compose.yml", "--to", "devices", "--uncommitted").returncode == 3
    os.chown(file, 12345, 12345)
    done = gpumend(repository, "fix", "docker-compose.yml", "--to", "devices", "--uncommitted")
    assert done.returncode == 4
    assert "uid 12345" in done.stdout
    assert file.read_bytes() == before


def test_a_link_of_ones_own_stays_a_link(repository: Path) -> None:
    (repository / "compose.yml").symlink_to("docker-compose.yml")
    assert gpumend(repository, "fix", "compose.yml", "--to", "devices", "--uncommitted").returncode == 0
    assert (repository / "compose.yml").is_symlink()
    assert "nvidia.com/gpu=0" in (repository / "docker-compose.yml").read_text()


def test_fix_needs_a_form_or_a_host(repository: Path) -> None:
    assert gpumend(repository, "fix").returncode == 2


def test_a_host_is_asked_where_there_is_no_report(copy: Path) -> None:
    """This machine, whatever it has: without a Docker or a toolkit that can be asked, what depends on them is not known."""
    done = gpumend(copy, "audit", "--for", "@local", "--output", "json=told.json")
    assert done.returncode in (0, 1, 3), done.stderr
    assert json.loads((copy / "told.json").read_text())["kind"] == "audit"
    assert gpumend(copy, "audit", "--for", "nobody-is-called-so").returncode == 2
