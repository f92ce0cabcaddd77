"""The front door: which hosts are meant, what is told before one is connected to, and a report whatever happens."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYINFRA = (sys.executable, "-m", "pyinfra")
GPUMEND = (sys.executable, "-m", "gpumend.cli.main")
DEPLOYS = ROOT / "deploys"
# Nothing listens on these ports of this machine (IANA: tcpmux, compressnet): connections are refused at once.
HOSTS = """\
[defaults]
user = "root"
strict_host_keys = "no"

[hosts.gpu1]
address = "127.0.0.1"
port = 1

[hosts.gpu2]
address = "localhost"
port = 2

[hosts.desk]
address = "127.0.0.3"
port = 3

[groups.my-group]
hosts = ["gpu1", "desk"]
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A current directory that is nobody's checkout; its parent has a home without a hosts file."""
    (tmp_path / "home").mkdir(mode=0o755)
    (tmp_path / "here").mkdir(mode=0o755)
    return tmp_path / "here"


@pytest.fixture
def hosts(here: Path) -> Path:
    (here / "hosts.toml").write_text(HOSTS)
    return here / "hosts.toml"


def run(here: Path, *argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    environment = {
        key: value for key, value in os.environ.items() if key not in ("GPUMEND_HOSTS", "SUDO_UID")
    }
    environment |= {"PYTHONPATH": str(ROOT), "XDG_CONFIG_HOME": str(here.parent / "home"), **env}
    return subprocess.run(
        argv, cwd=here, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
    )


def report(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The report on standard output."""
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["exit"] == done.returncode
    return found


# -- which hosts


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ([], "gpu1 gpu2 desk"),
        (["gpu1"], "gpu1"),
        (["gpu1,gpu2"], "gpu1 gpu2"),
        (["gpu2", "my-group"], "gpu1 gpu2 desk"),
        (["gpu*"], "gpu1 gpu2"),
        (["127.0.0.3"], "desk"),
        (["--limit", "my-group"], "gpu1 desk"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value) or "all",
)
def test_names_groups_patterns_and_addresses_of_the_hosts_file(
    hosts: Path, words: list[str], names: str
) -> None:
    done = run(hosts.parent, *GPUMEND, "audit", *words, "--report", "-")
    assert set(report(done)["hosts"]) == set(names.split())
    first = done.stderr.splitlines()[0]
    assert first.startswith(f"gpumend: {hosts}: 3 hosts"), "which file, and how many"
    assert (f"of them {len(names.split())}" in first) == (len(names.split()) < 3)


@pytest.mark.parametrize("verb", [["audit"], ["mend", "--yes"]], ids=" ".join)
@pytest.mark.parametrize(
    "words", [["no-such-host"], ["--limit", "no-such-host"], ["gpu1,no-such-host"]], ids=" ".join
)
def test_a_name_that_matches_no_host_is_usage_and_says_what_there_is(
    hosts: Path, verb: list[str], words: list[str]
) -> None:
    done = run(hosts.parent, *GPUMEND, *verb, *words, "--report", "-")
    found = report(done)
    assert (found["exit"], found["hosts"], found["kind"]) == (2, {}, verb[0])
    for said in (done.stderr, found["error"]):
        assert "no host matches 'no-such-host'; hosts: desk, gpu1, gpu2; groups: my-group" in said
    assert "-->" not in done.stderr, "pyinfra was not even started"


def test_pyinfra_with_a_limit_that_matches_no_host(hosts: Path) -> None:
    target = hosts.parent / "report.json"
    done = run(
        hosts.parent, *PYINFRA, str(ROOT / "inventory.py"), str(DEPLOYS / "gpu_host.py"),
        "--limit", "gpu1", "--limit", "gpu9", "--data", f"report={target}",
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert (
        "no host matches 'gpu9'; did you mean 'gpu2'?; hosts: desk, gpu1, gpu2; groups: my-group"
        in done.stderr
    )
    assert json.loads(target.read_text())["exit"] == 2


def test_a_name_without_a_hosts_file_is_an_address_or_nothing(here: Path) -> None:
    done = run(here, *GPUMEND, "audit", "no-such-host.invalid", "--report", "-")
    assert "no host matches 'no-such-host.invalid'" in report(done)["error"]
    assert str(here / "hosts.toml") in done.stderr, "where a hosts file was looked for"


def test_a_host_by_its_user_and_address(hosts: Path) -> None:
    """Whatever the hosts file says of others."""
    done = run(hosts.parent, *GPUMEND, "audit", "ops@no-such-host.invalid", "--report", "-")
    assert done.returncode == 1
    found = report(done)["hosts"]
    assert list(found) == ["ops@no-such-host.invalid"]
    assert "no-such-host.invalid: the name is not known here" in found["ops@no-such-host.invalid"]["error"]


def test_hosts_option_and_variable(hosts: Path) -> None:
    other = hosts.parent / "other.toml"
    other.write_text("[hosts.x]\naddress = '127.0.0.1'\nport = 1\n")
    for words, env in ((["--hosts", "other.toml"], {}), ([], {"GPUMEND_HOSTS": "other.toml"})):
        done = run(hosts.parent, *GPUMEND, "audit", *words, "--report", "-", **env)
        assert set(report(done)["hosts"]) == {"x"}
        assert done.stderr.startswith(f"gpumend: {other}: 1 host\n")


def test_pyinfra_takes_the_same_hosts_file_and_says_so_first(hosts: Path) -> None:
    done = run(
        hosts.parent,
        *PYINFRA,
        str(ROOT / "inventory.py"),
        str(DEPLOYS / "gpu_host.py"),
        "--dry",
        "--data",
        "report=-",
    )
    assert set(report(done)["hosts"]) == {"gpu1", "gpu2", "desk"}
    assert f"gpumend: {hosts}: 3 hosts\n" in done.stderr


# -- whose files


GPUMEND_AUDIT = (*GPUMEND, "audit")
PYINFRA_AUDIT = (*PYINFRA, str(ROOT / "inventory.py"), str(DEPLOYS / "gpu_host.py"), "--dry")


@pytest.mark.parametrize("program", [GPUMEND_AUDIT, PYINFRA_AUDIT], ids=["gpumend", "pyinfra"])
@pytest.mark.parametrize("what", ["hosts.toml", "group_data/all.py", "group_data", "."])
def test_what_others_could_have_written_is_not_run(hosts: Path, program: tuple[str, ...], what: str) -> None:
    ran = hosts.parent.parent / "ran"
    (hosts.parent / "group_data").mkdir(mode=0o755)
    (hosts.parent / "group_data/all.py").write_text(f"open({str(ran)!r}, 'w')\n")
    loose = hosts.parent / what
    loose.chmod(0o777)
    done = run(hosts.parent, *program)
    assert done.returncode == 2, done.stderr
    assert f"{loose.resolve()}: everybody may write to it" in done.stderr
    assert not ran.exists()


@pytest.mark.parametrize("name", ["config.py", "group_data/all.py", "click.py"])
def test_an_inventory_of_ones_own_brings_nothing_of_somebody_elses(here: Path, name: str) -> None:
    ran, loose = here.parent / "ran", here / name
    (here / "mine.py").write_text('gpu_hosts = ["@local"]\n')
    loose.parent.mkdir(exist_ok=True, mode=0o755)
    loose.write_text(f"open({str(ran)!r}, 'w')\n")
    loose.chmod(0o666)
    program = (sys.executable, "-P", "-m", "gpumend.cli.main")  # as the installed command starts
    done = run(here, *program, "audit", "mine.py")
    assert not ran.exists()
    if name == "click.py":
        assert done.returncode in (0, 1, 3), done.stderr
    else:
        assert done.returncode == 2 and f"{loose}: everybody may write to it" in done.stderr


def test_group_data_beside_the_hosts_file_counts(hosts: Path) -> None:
    (hosts.parent / "group_data").mkdir(mode=0o755)
    (hosts.parent / "group_data/my-group.py").write_text('gpumend = {"restart": "idle"}\n')
    done = run(hosts.parent.parent, *GPUMEND, "audit", "--hosts", str(hosts))
    assert done.returncode == 2
    assert (
        f"{hosts.parent}/group_data/my-group.py: gpumend: unknown key 'restart'; did you mean 'restarts'?"
        in done.stderr
    )


# -- a report whatever happens


def test_all_hosts_down_is_a_report_with_each_ones_own_error(hosts: Path) -> None:
    target = hosts.parent / "report.json"
    done = run(hosts.parent, *GPUMEND, "audit", "--report", str(target))
    assert done.returncode == 1
    errors = {name: host["error"] for name, host in json.loads(target.read_text())["hosts"].items()}
    assert errors["gpu1"] == "could not be reached: port 1 on 127.0.0.1: connection refused"
    assert "port 2 on 127.0.0.1: connection refused" in errors["gpu2"]
    assert done.stdout.startswith("\nHOST") and errors["desk"] in done.stdout


@pytest.mark.parametrize("deploy", ["gpu_host", "facts", "parity", "rollback"])
def test_all_hosts_of_ones_own_inventory_down(here: Path, deploy: str) -> None:
    (here / "mine.py").write_text('gpu_hosts = [("a", {"ssh_hostname": "127.0.0.1", "ssh_port": 1})]\n')
    data = ["--data", "run=20200101T000000Z-0000"] if deploy == "rollback" else []
    target = here / "report.json"
    done = run(
        here, *PYINFRA, "mine.py", str(DEPLOYS / f"{deploy}.py"), "--dry", *data, "--data", f"report={target}"
    )
    assert done.returncode == 1, done.stderr
    assert "EOFError" not in done.stderr
    assert "port 1 on 127.0.0.1: connection refused" in target.read_text() + done.stderr


@pytest.mark.parametrize("program", [GPUMEND_AUDIT, PYINFRA_AUDIT], ids=["gpumend", "pyinfra"])
def test_one_host_down_in_ones_own_inventory_never_ends_the_run(here: Path, program: tuple[str, ...]) -> None:
    (here / "mine.py").write_text(
        'gpu_hosts = ["@local", ("a", {"ssh_hostname": "127.0.0.1", "ssh_port": 1}),\n'
        '    ("b", {"ssh_hostname": "127.0.0.1", "ssh_port": 1, "ssh_key": "/no/key"})]\n'
    )
    argv = [*program, "mine.py"] if program is GPUMEND_AUDIT else [*PYINFRA, "mine.py", *program[4:]]
    done = run(here, *argv)
    assert done.returncode == 1, done.stderr
    assert "EOFError" not in done.stderr and "continue?" not in done.stderr
    assert "3 hosts" in done.stdout
    assert "port 1 on 127.0.0.1: connection refused" in done.stdout
    assert "No such private key file: /no/key" in done.stdout


# -- before anything is connected to


USAGE = [
    (["audit", "--data", "foo"], "--data foo: KEY=VALUE is needed"),
    (["audit", "--data", "gpumend={'restarts': 'idle'}"], "not JSON: use double quotes"),
    (["audit", "--data", 'gpumend={"restarts": "idel"}'], "gpumend.restarts: 'idel' is not allowed"),
    (["audit", "--data", "gpumnd={}"], "--data gpumnd: unknown key; did you mean 'gpumend'?"),
    (["audit", "--data", "restarts=allow"], "--data restarts: it is a key of gpumend"),
    (["audit", "hosts.toml"], "a hosts file is named by --hosts hosts.toml"),
    (["audit", "./nofile.py"], "there is no such file: ./nofile.py"),
    (["audit", "."], ". is a directory"),
    (["audit", "--hosts", "none.toml"], "--hosts names none.toml, which is not there"),
    (["audit", "--report", "no/directory/x.json"], "the report could not be written"),
    (["audit", "--report", "."], "is a directory"),
    (["audit", "gpu1", "--limit", "gpu2"], "give one of them"),
    (["audt"], "No such command 'audt'. Did you mean 'audit'?"),
    (["mend"], "there is no terminal to ask on: add --yes"),
]


@pytest.mark.parametrize(("words", "said"), USAGE, ids=[" ".join(words) for words, _ in USAGE])
def test_wrong_usage_is_told_and_nothing_is_connected_to(hosts: Path, words: list[str], said: str) -> None:
    before = {path.name for path in hosts.parent.iterdir()}
    done = run(hosts.parent, *GPUMEND, *words)
    assert done.returncode == 2, done.stderr
    assert said in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr and "connection refused" not in done.stderr
    assert {path.name for path in hosts.parent.iterdir()} == before, "no pyinfra-debug.log"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("gpumend={\"restarts\": \"idel\"}", "gpumend.restarts: 'idel' is not allowed"),
        ("gpumend={'restarts': 'idle'}", "not JSON: use double quotes"),
        ("gpumnd={}", "did you mean 'gpumend'?"),
        ("report=/no/directory/x", "the report could not be written"),
    ],
)  # fmt: skip
def test_pyinfra_is_told_before_it_connects(hosts: Path, data: str, said: str) -> None:
    (hosts.parent / "mine.py").write_text(
        'gpu_hosts = [("a", {"ssh_hostname": "127.0.0.1", "ssh_port": 1})]\n'
    )
    for inventory in (str(ROOT / "inventory.py"), "mine.py"):
        done = run(hosts.parent, *PYINFRA, inventory, str(DEPLOYS / "gpu_host.py"), "--dry", "--data", data)
        assert done.returncode == 2, done.stderr
        assert said in done.stderr and "connect to port" not in done.stderr
    assert not (hosts.parent / "pyinfra-debug.log").exists()


@pytest.mark.parametrize("words", [["--data", "foo"], ["--data=foo"], ["--data", "=x"]], ids=" ".join)
def test_pyinfra_is_told_of_data_without_a_value(words: list[str]) -> None:
    """Where pyinfra runs in the project, as README has it: it takes --data apart before it loads anything else of ours."""
    done = run(ROOT, *PYINFRA, "inventory.py", "deploys/gpu_host.py", "--dry", *words)
    assert done.returncode == 2, done.stderr
    assert "KEY=VALUE is needed" in done.stderr and "Traceback" not in done.stderr


def test_what_sudo_says_on_this_machine_is_told(here: Path) -> None:
    """It ends before it has read the program, which is more than a pipe holds."""
    sudo = here.parent / "sudo"
    sudo.write_text("#!/bin/sh\necho 'sudo: nobody is not in the sudoers file' >&2\nexit 1\n")
    sudo.chmod(0o755)
    done = run(
        here, *GPUMEND, "audit", "@local", "--data", "_sudo=true", "--report", "-",
        PATH=f"{sudo.parent}:{os.environ['PATH']}",
    )  # fmt: skip
    assert report(done)["hosts"]["@local"]["error"] == "sudo: nobody is not in the sudoers file"


def shell(here: Path, line: str, **env: str) -> subprocess.CompletedProcess[str]:
    """A line of bash, in which $GPUMEND is the command."""
    done = run(here, "bash", "-c", line, GPUMEND=" ".join(GPUMEND), **env)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_a_disk_that_is_full_takes_no_report_away(here: Path) -> None:
    """Of a mend's log, say: what was done is told in the report, and that the log is not whole in the exit status."""
    target = here / "report.json"
    done = shell(here, f"$GPUMEND audit @local --report {target} > /dev/full")
    assert done.returncode == 1
    assert (
        done.stderr.splitlines()[-1]
        == "gpumend: standard output could not be written: No space left on device"
    )
    assert list(json.loads(target.read_text())["hosts"]) == ["@local"]
    for words in ("audit @local --report -", "audit @local -v"):
        done = shell(here, f"$GPUMEND {words} > /dev/full")
        assert done.returncode == 1
        assert "standard output could not be written: No space left on device" in done.stderr
    for words in ("explain", "--help"):
        done = shell(here, f"$GPUMEND {words} > /dev/full")
        assert (done.returncode, done.stderr) == (1, "gpumend: [Errno 28] No space left on device\n")


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_what_is_closed_changes_no_exit_status(here: Path, closed: str) -> None:
    """As some schedulers start their jobs."""
    target = here / "report.json"
    done = shell(here, f"$GPUMEND audit @local --report {target} {closed}")
    assert done.returncode == json.loads(target.read_text())["exit"]


def test_a_plan_of_a_fleet_is_no_argument_that_is_too_long(here: Path) -> None:
    """execve(2): a string has up to 128 KiB, and two components of 600 hosts had more."""
    (here / "hosts.toml").write_text('[hosts.gpu1]\naddress = "127.0.0.1"\nport = 1\n')
    digests = [{"component": f"{number}", "digest": "0" * 64} for number in range(3000)]
    (here / "plan.json").write_text(json.dumps({"kind": "audit", "hosts": {"gpu1": {"plan": digests}}}))
    report = here / "report.json"
    done = shell(here, f"$GPUMEND mend --yes --hosts hosts.toml --plan plan.json --report {report}")
    assert "could not be reached" in json.loads(report.read_text())["hosts"]["gpu1"]["error"], done.stderr


def test_a_reader_who_has_seen_enough(here: Path) -> None:
    target = here / "report.json"
    done = shell(here, f"$GPUMEND audit @local --details --report {target} | true; exit ${{PIPESTATUS[0]}}")
    assert done.returncode == json.loads(target.read_text())["exit"]
    assert [line for line in done.stderr.splitlines() if not line.startswith("gpumend: ")] == []


def test_a_locale_of_ascii_shows_the_report_and_no_words_of_pyinfra(here: Path) -> None:
    """A terminal that cannot show a name shows something in its place."""
    there = here / "pl\u00e4tze"
    there.mkdir(mode=0o755)
    (there / "hosts.toml").write_text(HOSTS)
    done = run(
        there,
        *GPUMEND,
        "audit",
        LC_ALL="C",
        PYTHONIOENCODING="ascii",
        PYTHONCOERCECLOCALE="0",
        PYTHONUTF8="0",
    )
    assert done.returncode == 1 and "3 no answer" in done.stdout
    assert "-->" not in done.stderr and "Traceback" not in done.stderr


WAIVER = {"code": "GM409", "host": "dsk*", "reason": "r", "owner": "o", "until": "2099-01-01"}


def test_a_waiver_of_a_finding_that_there_is_not_is_usage(hosts: Path) -> None:
    wanted = json.dumps({"waivers": [{**WAIVER, "code": "GM999"}]})
    done = run(hosts.parent, *GPUMEND, "audit", "--data", f"gpumend={wanted}")
    assert done.returncode == 2
    assert "gpumend.waivers: there is no finding GM999" in done.stderr


def test_a_waiver_for_nobody_is_told(here: Path) -> None:
    done = run(here, *GPUMEND, "audit", "@local", "--data", f"gpumend={json.dumps({'waivers': [WAIVER]})}")
    assert done.returncode in (0, 1, 3), done.stderr
    assert "gpumend: the waiver of GM409 for 'dsk*' holds for no host here" in done.stderr


def test_one_concern_tells_its_own_findings(here: Path) -> None:
    done = run(
        here, *PYINFRA, str(ROOT / "inventory.py"), str(DEPLOYS / "cdi.py"), "--dry", "--data", "report=-"
    )
    [host] = report(done)["hosts"].values()
    assert {finding["code"][:3] for finding in host["findings"]} <= {"GM0", "GM3"}


def test_an_answer_that_needs_no_host_imports_nothing_that_talks_to_hosts(hosts: Path) -> None:
    program = (
        "import sys\nfrom gpumend.cli.main import main\ntry:\n    main()\nexcept SystemExit as end:\n"
        "    print('exit', end.code, *sorted({'pyinfra', 'paramiko', 'gevent', 'gpumend.rules.judge'} & set(sys.modules)))\n"
    )
    for words, status in (
        (["explain", "GM201"], 0), (["explain", "AMD CDI spec not found"], 0), (["--help"], 0), (["mend", "--no-such-option"], 2), (["audit", "gpu9"], 2),
        (["audit", "--data", "foo"], 2), (["mend"], 2),
    ):  # fmt: skip
        done = run(hosts.parent, sys.executable, "-c", program, *words)
        assert done.stdout.splitlines()[-1].strip() == f"exit {'None' if status is None else status}", (
            words,
            done.stderr,
        )


# -- on a terminal


def test_mend_on_a_terminal_asks_nothing_where_nothing_is_to_be_changed(hosts: Path) -> None:
    """And needs no --yes there. The question itself: tests/nodes/test_front_door.py."""
    ours, theirs = pty.openpty()
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "XDG_CONFIG_HOME": str(hosts.parent.parent / "home"),
    }
    done = subprocess.run(
        [*GPUMEND, "mend", "gpu1", "--report", str(hosts.parent / "report.json")], cwd=hosts.parent, env=environment, stdin=theirs, stdout=subprocess.PIPE, stderr=theirs,
        text=True, timeout=120,
    )  # fmt: skip
    os.close(theirs)
    os.close(ours)
    assert done.returncode == 1
    assert "port 1 on 127.0.0.1: connection refused" in done.stdout
    assert json.loads((hosts.parent / "report.json").read_text())["kind"] == "mend"
