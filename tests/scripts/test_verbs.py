"""The verbs around audit and mend, as an operator starts them. This machine is only read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from gpumend import schemas

ROOT = Path(__file__).resolve().parents[2]
KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\n"


def run(
    here: Path,
    *words: str,
    env: dict[str, str] | None = None,
    program: tuple[str, ...] = ("-m", "gpumend.cli.main"),
) -> subprocess.CompletedProcess[str]:
    environment = {
        key: value for key, value in os.environ.items() if key not in ("GPUMEND_HOSTS", "SUDO_UID")
    }
    environment |= {"PYTHONPATH": str(ROOT), "XDG_CONFIG_HOME": str(here / "none"), **(env or {})}
    return subprocess.run(
        [sys.executable, *program, *words], cwd=here, env=environment, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "id").write_text(KEY)
    (tmp_path / "id").chmod(0o600)
    (tmp_path / "known").write_text(
        "gpu1 ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHPSgbBPoTXM6ebVShFMPCNGP2hIvqBOjJqEJIfwoNrT\n"
    )
    (tmp_path / "hosts.toml").write_text(
        '[defaults]\nuser = "root"\nkey = "id"\nknown_hosts = "known"\n[hosts.gpu1]\n[hosts.gpu2]\n'
        '[groups.lab]\nhosts = ["gpu2"]\n'
    )
    return tmp_path


# -- check


def test_check_finds_nothing_and_connects_to_nobody(here: Path) -> None:
    done = run(here, "check", "gpu1")
    assert (done.returncode, done.stdout) == (
        0,
        "nothing is wrong with what was given for 1 host; none was connected to\n",
    ), done.stderr
    assert "could not be reached" not in done.stdout + done.stderr


def broken_key(here: Path) -> None:
    (here / "id").chmod(0o644)


def public_key(here: Path) -> None:
    (here / "id").write_text("ssh-ed25519 AAAA me@here\n")


def bad_group(here: Path) -> None:
    (here / "group_data").mkdir(mode=0o755)
    (here / "group_data/lab.py").write_text('gpumend = {"restart": "idle"}\n')


def bad_waiver(here: Path) -> None:
    (here / "group_data").mkdir(mode=0o755)
    waiver = {"code": "GM999", "host": "gpu1", "reason": "r", "owner": "o", "until": "2099-01-01"}
    (here / "group_data/all.py").write_text(f'gpumend = {{"waivers": [{waiver!r}]}}\n')


WRONG = [
    pytest.param(broken_key, "gpu1, gpu2: the key", "others may read it (mode 0644)", id="key's mode"),
    pytest.param(public_key, "gpu1, gpu2: the key", "it is no private key", id="public key"),
    pytest.param(bad_group, "group_data/lab.py", "did you mean 'restarts'?", id="group_data"),
    pytest.param(bad_waiver, "gpumend.waivers", "there is no finding GM999", id="waiver"),
    pytest.param(lambda here: None, "gpu2: its key is not in", "ssh-keyscan gpu2 >>", id="host key"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "who", "what"), WRONG)
def test_check_says_what_is_wrong(here: Path, make: Any, who: str, what: str) -> None:
    make(here)
    done = run(here, "check")
    assert done.returncode == 2, done.stderr
    assert who in done.stderr and what in done.stderr
    assert "Traceback" not in done.stderr


# -- plan, and mend --plan


def test_a_plan_is_the_audits_report_and_nothing_to_change_is_said(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    done = run(tmp_path, "plan", "--out", str(file), "@local")
    assert done.returncode in (0, 1, 3), done.stderr
    document = json.loads(file.read_text())
    jsonschema.Draft202012Validator(schemas.load("report")).validate(document)
    assert document["kind"] == "audit"
    document["hosts"]["@local"]["plan"] = []
    file.write_text(json.dumps(document))
    done = run(tmp_path, "mend", "--yes", "--plan", str(file))
    assert (done.returncode, done.stderr) == (0, f"gpumend: {file} has nothing to change\n")


def test_a_plan_of_an_address_is_mended_at_that_address(tmp_path: Path) -> None:
    host = "root@no-such-host.invalid"
    plan = {
        "kind": "audit",
        "hosts": {host: {"plan": [{"component": "docker.daemon_config", "digest": "0" * 64}]}},
    }
    (tmp_path / "p.json").write_text(json.dumps(plan))
    done = run(tmp_path, "mend", "--yes", "--plan", "p.json", "--report", "r.json")
    found = json.loads((tmp_path / "r.json").read_text())
    assert (done.returncode, list(found["hosts"])) == (1, [host]), done.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "No such file"),
        ("{", "no plan"),
        ("[]", "no plan"),
        ('{"kind": "mend", "hosts": {}}', "a report of mend"),
        ('{"kind": "audit", "hosts": {"a": {"plan": [{"component": "x"}]}}}', "no plan"),
    ],
)
def test_what_is_no_plan_is_usage(tmp_path: Path, text: str | None, said: str) -> None:
    if text is not None:
        (tmp_path / "p.json").write_text(text)
    done = run(tmp_path, "mend", "--yes", "--plan", "p.json")
    assert done.returncode == 2 and said in done.stderr, done.stderr


# -- diff, bundle, completion


def test_diff_is_3_where_something_is_new_and_2_where_a_file_is_no_report(tmp_path: Path) -> None:
    assert run(tmp_path, "audit", "@local", "--report", "a.json", "-q").returncode in (0, 1, 3)
    same = run(tmp_path, "diff", "a.json", "a.json")
    assert (same.returncode, same.stdout) == (0, "nothing is different\n")
    document = json.loads((tmp_path / "a.json").read_text())
    document["hosts"]["@local"]["error"] = "no route to host"
    (tmp_path / "b.json").write_text(json.dumps(document))
    worse = run(tmp_path, "diff", "a.json", "b.json")
    assert (worse.returncode, worse.stdout) == (3, "no answer any more  @local: no route to host\n")
    (tmp_path / "c.json").write_text("{}")
    assert run(tmp_path, "diff", "a.json", "c.json").returncode == 2


def test_a_bundle_has_report_and_facts_and_is_its_owners(tmp_path: Path) -> None:
    done = run(tmp_path, "bundle", "@local", "--out", "b.tar.gz")
    assert done.returncode in (0, 1, 3), done.stderr
    file = tmp_path / "b.tar.gz"
    assert f"{file}: report and facts of 1 host" in done.stdout
    assert file.stat().st_mode & 0o777 == 0o600
    with tarfile.open(file) as tar:
        names = {Path(name).name: name for name in tar.getnames()}
        assert set(names) == {"README.txt", "report.txt", "report.json", "facts.json"}
        for name, kind in (("report.json", "audit"), ("facts.json", "facts")):
            opened = tar.extractfile(names[name])
            assert opened is not None
            document = json.load(opened)
            jsonschema.Draft202012Validator(schemas.load("report")).validate(document)
            assert (document["kind"], document["exit"]) == (kind, done.returncode)
    assert run(tmp_path, "bundle", "@local", "--out", "none/b.tar.gz").returncode == 2


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_the_shells_own(here: Path, shell: str) -> None:
    done = run(here, "completion", shell)
    assert done.returncode == 0 and "_GPUMEND_COMPLETE" in done.stdout


@pytest.mark.parametrize(("words", "found"), [("gpumend aud", {"audit"}), ("gpumend audit g", {"gpu1", "gpu2"}), ("gpumend audit l", {"lab"})])  # fmt: skip
def test_verbs_hosts_and_groups_are_completed(here: Path, words: str, found: set[str]) -> None:
    count = str(len(words.split()) - 1)
    program = "from gpumend.cli.main import main; main(prog_name='gpumend')"
    environment = {"_GPUMEND_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": count}
    done = run(here, env=environment, program=("-c", program))
    assert {row.partition(",")[2] for row in done.stdout.splitlines()} == found, done.stderr


def test_hosts_of_another_program_are_the_runs_hosts(here: Path) -> None:
    nodes = ROOT / "tests/fixtures/hosts/kubectl-1.32.4-nodes.json"
    done = run(here, "check", "--hosts", f"kubectl:{nodes}", "nvidia1")
    assert done.stderr.startswith(f"gpumend: {nodes}: 3 hosts, of them 1\n"), done.stderr
    assert "nvidia1: " in done.stderr and "ssh-keyscan" in done.stderr


def test_the_agents_verbs_and_parity_name_the_host_that_is_down(here: Path, tmp_path: Path) -> None:
    """And no word of pyinfra's: `status` ended with exit status 1 and all of them, whatever the agent had said."""
    done = run(here, "agent", "status", "@local")
    assert (done.returncode, done.stdout) == (0, "@local: no agent is installed\n"), done.stderr
    assert done.stderr == "gpumend: 1 host of the command line: @local\n"
    (here / "down.toml").write_text(
        '[defaults]\nuser = "root"\nstrict_host_keys = "no"\n[hosts.gpu1]\naddress = "127.0.0.1"\nport = 1\n'
    )
    for verb in ("status", "install"):
        done = run(here, "agent", verb, "--hosts", "down.toml")
        assert done.returncode == 1
        assert done.stdout == "gpu1: could not be reached: port 1 on 127.0.0.1: connection refused\n"
        assert [line for line in done.stderr.splitlines() if not line.startswith("gpumend: ")] == []
    done = run(here, "parity", "--hosts", "down.toml")
    assert done.returncode == 1
    assert "gpumend: gpu1: could not be reached: port 1 on 127.0.0.1: connection refused" in done.stderr
    done = run(here, "agent", "status", "@local", "--report", str(tmp_path / "x.json"))
    assert done.returncode == 2 and "there is no report of it" in done.stderr
