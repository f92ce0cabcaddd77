"""Security on booted hosts: what a sudo rule for the audit gives away, data that reaches no shell, secrets that leave no
host, staged files that nobody else can read, and host keys that are not the known ones."""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpumend.rules.finding import Component
from gpumend.run.audit_program import PATH, RULE
from gpumend.state.docker import DAEMON_JSON
from gpumend.state.snapshot import Snapshot
from tests.hostile.attacks import UNGUARDED, attempt, counted
from tests.nodes import images, scenarios
from tests.nodes.conftest import Boot
from tests.nodes.drive import (
    ROOT,
    Ran,
    Target,
    audit,
    carry_out,
    inline,
    mend,
    planned,
    result_of,
    start,
)
from tests.nodes.lab import Lab, Node
from tests.nodes.toolkit import CONFIG

PLACES = ("/etc", "/usr/local", "/var/lib/gpumend", "/var/run/cdi")

# -- 1. a sudo rule for the audit --------------------------------------------------------------------------------

INSTALL = ("--data", "audit_user=ops")


def as_user(node: Node, script: str, user: str = "ops") -> subprocess.CompletedProcess[str]:
    """A shell script, run by a user of the node."""
    return node.run(["runuser", "-u", user, "--", "sh", "-c", script], check=False)


def findings(ran: Ran, node: Node) -> list[dict[str, object]]:
    return sorted(ran.host(node)["findings"], key=lambda found: json.dumps(found, sort_keys=True))


@pytest.fixture(scope="module")
def full(lab: Lab, shared_boot: Boot) -> tuple[Node, Ran]:
    """A broken host, and what its audit says with full sudo; after that, the rule is all the sudo that `ops` has."""
    node = shared_boot("trixie", "report_002")
    ran = audit(lab, Target(node, "ops"))
    installed = start(lab, node, deploy="audit_rule", more=INSTALL).finish()
    assert installed.rc == 0, installed.said
    node.sh("rm /etc/sudoers.d/ops")
    return node, ran


def test_the_audit_rule_gives_the_same_audit(lab: Lab, full: tuple[Node, Ran]) -> None:
    node, before = full
    assert audit(lab, Target(node, "ops")).rc == 1, "no other sudo is left"
    tree = node.tree(*PLACES)
    ran = audit(lab, Target(node, "ops", sudo="audit"))
    assert (ran.rc, before.rc) == (3, 3), ran.said
    assert findings(ran, node) == findings(before, node)
    assert ran.host(node)["plan"] == before.host(node)["plan"]
    assert ran.sessions[node.name] == 1
    assert node.tree(*PLACES) == tree
    log = node.run(["journalctl", "-t", "sudo", "-o", "cat", "--no-pager"]).stdout
    assert re.findall(r"COMMAND=(.*)", log)[-1] == PATH


@pytest.mark.parametrize(
    "command",
    [
        "sudo -n cat /etc/shadow",
        "sudo -n bash -c id",
        "sudo -n sh -c 'exec python3 -I -S -B -' </dev/null",
        "sudo -n python3 -I -S -B - </dev/null",
        f"sudo -n {PATH} /etc/shadow",
        f"sudo -n {PATH} -c 'import os'",
        f"sudo -n -u ops -g root {PATH}",
        f"sudo -n PYTHONSTARTUP=/tmp/x {PATH}",
        f"sudo -n -E {PATH}",
        f"sudo -n python3 {PATH}",
        f"cp {PATH} /tmp/audit && sudo -n /tmp/audit",
        "SUDO_EDITOR=/bin/true sudo -n -e /etc/sudoers",
        "sudo -n -i",
    ],
)
def test_the_audit_rule_allows_nothing_else(full: tuple[Node, Ran], command: str) -> None:
    node, _ = full
    with attempt("a user", "a command that is not the audit, by the audit's sudo rule"):
        if UNGUARDED:
            before = node.read(RULE)
            node.write(RULE, "ops ALL=(ALL:ALL) NOPASSWD:SETENV: ALL\n", 0o440)
            done = as_user(node, command)
            node.write(RULE, before, 0o440)
            assert done.returncode == 0
            return
        done = as_user(node, command)
        assert done.returncode != 0
        assert "sudo:" in done.stderr
        assert done.stdout == ""


@counted("a user", "an environment and a directory that would bend the audit")
def test_what_a_user_brings_along_does_not_bend_the_audit(full: tuple[Node, Ran]) -> None:
    """Standard input, environment, directory and umask are the user's; the answer is the same host's."""
    node, _ = full
    node.sh("rm -rf /tmp/own; mkdir /tmp/own; chmod 777 /tmp/own")
    before, home = {path: node.read(path) for path in (RULE, PATH)}, "PYTHONHOME=/tmp/own"
    if UNGUARDED:
        home = ""  # with it Python ends before it takes anything else
        node.write(
            RULE,
            "Defaults !env_reset, !env_check, !env_delete\nops ALL=(ALL:ALL) NOPASSWD:SETENV: ALL\n",
            0o440,
        )
        program = node.read(PATH).decode().partition("\n")[2]
        node.write(PATH, "#!/usr/bin/python3\n" + program, 0o755)
    for name in ("json.py", "os.py", "sitecustomize.py", "docker", "systemctl"):
        node.write(f"/tmp/own/{name}", "#!/bin/sh\ntouch /tmp/own/pwned\n", 0o755)
    done = as_user(
        node,
        f"cd /tmp/own; export HOME=/tmp/own PATH=/tmp/own:$PATH PYTHONPATH=/tmp/own {home} LD_PRELOAD=/tmp/own/x.so; "
        f"umask 0; echo 'import os; os.mkdir(\"/tmp/own/pwned\")' | /usr/bin/sudo -n {PATH}",
    )
    if UNGUARDED:
        for path, mode in ((RULE, 0o440), (PATH, 0o755)):
            node.write(path, before[path], mode)
        assert "/tmp/own/json.py" in done.stderr, "it is executed, and is no Python"
        return
    assert done.returncode == 0, done.stderr
    answer = Snapshot.from_output(done.stdout).answer
    assert (answer["system"]["uid"], answer["gpumend"]) == (0, 1)
    assert not node.exists("/tmp/own/pwned")


def test_a_mend_says_that_it_takes_more_than_the_audit_rule(lab: Lab, full: tuple[Node, Ran]) -> None:
    node, _ = full
    tree = node.tree(*PLACES)
    ran = mend(lab, Target(node, "ops", sudo="audit"))
    assert ran.rc == 4, ran.said
    changes = ran.host(node)["changes"]
    assert {change["status"] for change in changes} == {"refused"}
    assert all("allows the audit and nothing else" in change["detail"] for change in changes)
    assert "connect as root or as a user with full sudo" in " ".join(ran.stdout.split())
    assert ran.sessions[node.name] == 1, "nothing was sent that could not be run"
    undo = start(
        lab,
        Target(node, "ops", sudo="audit"),
        deploy="rollback",
        more=("--data", "run=20260101T000000Z-0000"),
    ).finish()
    assert undo.rc == 4, undo.said
    assert "allows the audit and nothing else" in " ".join(undo.stdout.split())
    assert node.tree(*PLACES) == tree


def test_a_program_that_is_not_the_pinned_one_is_not_run(lab: Lab, full: tuple[Node, Ran]) -> None:
    node, _ = full
    text = node.read(PATH)
    node.write(PATH, text + b'\nopen("/tmp/pwned", "w")\n', 0o755)
    ran = audit(lab, Target(node, "ops", sudo="audit"))
    assert ran.rc == 1, ran.said
    assert "deploys/audit_rule.py" in ran.host(node)["error"]
    assert not node.exists("/tmp/pwned")
    # Of another version, with its own rule: it runs, and what it did not ask for is not taken for an answer.
    other = re.sub(rb"program='[0-9a-f]+'", b"program='0000000000000000'", text)
    assert other != text
    node.write(PATH, other, 0o755)
    digest = node.run(["sha256sum", PATH]).stdout.split()[0]
    rule = node.read(RULE).decode()
    node.write(RULE, re.sub("sha256:[0-9a-f]+", f"sha256:{digest}", rule), 0o440)
    ran = audit(lab, Target(node, "ops", sudo="audit"))
    assert ran.rc == 1, ran.said
    assert "another version's" in ran.host(node)["error"]
    # The deploy puts both right, and a second time changes nothing.
    assert start(lab, node, deploy="audit_rule", more=INSTALL).finish().rc == 0
    assert (node.read(PATH), node.read(RULE).decode()) == (text, rule)
    tree = node.tree(*PLACES)
    assert start(lab, node, deploy="audit_rule", more=INSTALL).finish().rc == 0
    assert node.tree(*PLACES) == tree
    assert as_user(node, f"sudo -n {PATH}").returncode == 0


def test_the_audit_rule_is_roots_and_proven_or_put_back(lab: Lab, full: tuple[Node, Ran]) -> None:
    node, _ = full
    found = node.tree("/usr/local/lib/gpumend", RULE)
    assert {path: entry[1:4] for path, entry in found.items()} == {
        "/usr/local/lib/gpumend": (0o755, 0, 0),
        PATH: (0o755, 0, 0),
        RULE: (0o440, 0, 0),
    }
    # A user that is not there: sudo, asked after the change, says so.
    ran = start(lab, node, deploy="audit_rule", more=("--data", "audit_user=nobody-here")).finish()
    assert ran.rc == 1, ran.said
    assert "nobody-here" in ran.stderr
    assert node.tree("/usr/local/lib/gpumend", RULE) == found
    ran = start(lab, node, deploy="audit_rule", more=("--data", "audit_user=ops ALL=(ALL) ALL #")).finish()
    assert ran.rc == 2, ran.said
    assert "is not the name of a user" in ran.stderr
    # A program that somebody else could change under sudo's eyes is not taken over.
    node.sh('chown ops "$1"; echo >>"$1"', PATH)
    ran = start(lab, node, deploy="audit_rule", more=INSTALL).finish()
    assert ran.rc == 1, ran.said
    assert "can be changed by others than root" in ran.stderr
    node.sh('rm "$1"', PATH)
    assert start(lab, node, deploy="audit_rule", more=INSTALL).finish().rc == 0
    assert node.tree(PATH)[PATH][1:4] == (0o755, 0, 0)


# -- 2. host data reaches no shell ---------------------------------------------------------------------------------


def payloads(mark: str) -> list[str]:
    """Texts that would make the file `mark` if any shell came upon them."""
    return [
        f"$(touch {mark})",
        f"`touch {mark}`",
        f"; touch {mark} #",
        f"x\ntouch {mark}\n",
        f"'; touch {mark}; '",
        f'"; touch {mark}; "',
        f"|| touch {mark}",
        f"%(touch {mark})s {{0}} $HOME ~ *",
    ]


@pytest.fixture
def mark() -> Iterator[str]:
    """A path that no shell is to make: here it is looked at on the controller."""
    path = f"/tmp/gpumend-pwned-{secrets.token_hex(4)}"
    yield path
    assert not Path(path).exists(), "a shell of the controller"


def hostile(
    lab: Lab, directory: Path, text: str, *arguments: str
) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """A run over a hosts.toml that is given as it is, and its report."""
    (directory / "hosts.toml").write_text(text)
    report = directory / "report.json"
    report.unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "pyinfra", "inventory.py", *arguments, "--data", f"report={report}"],
        cwd=ROOT,
        env={**os.environ, "GPUMEND_HOSTS": str(directory / "hosts.toml"), "PYINFRA_PROGRESS": "off"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
    )
    return done, json.loads(report.read_text()) if report.exists() else {}


def test_host_data_reaches_no_shell(lab: Lab, boot: Boot, mark: str, tmp_path: Path) -> None:
    """In every text that the schema lets through, in names of hosts, and in how they are reached: an audit and a mend."""
    node = boot("trixie", "report_002")
    texts = payloads(mark)
    head = f"[defaults]\nkey = {inline(str(lab.key))}\nknown_hosts = {inline(str(lab.known_hosts))}\n"
    wanted = {
        "restart_watch": 0,
        "grit": {"role": "both", "binary": f"/{texts[0]}", "root": f"/{texts[2]}", "pool": "a"},
        "prove": {"image": images.BASE, "command": ["echo", *texts]},
        "waivers": [
            {"code": "GM101", "host": text, "reason": text, "owner": text, "until": "2099-01-01"}
            for text in texts
        ],
    }
    names = [node.name, *(f"{text} {number}" for number, text in enumerate(texts))]
    text = head + "".join(
        f"[hosts.{json.dumps(name)}]\naddress = {inline(node.address)}\nuser = {inline(user)}\n"
        f"data = {inline({'site': name, '_shell_executable': texts[2], 'report_to': texts[0]})}\n"
        f"gpumend = {inline(wanted)}\n"
        for name, user in zip(names, ("ops", *["root"] * 8), strict=True)
    )
    done, report = hostile(lab, tmp_path, text, "deploys/gpu_host.py", "--dry")
    assert done.returncode == 3, done.stderr[-3000:]
    assert len(report["hosts"]) == len(names)
    assert all(not found["error"] for found in report["hosts"].values())
    done, report = hostile(lab, tmp_path, text, "deploys/gpu_host.py", "--limit", node.name)
    assert report["hosts"][node.name]["proof"]["status"] == "changed", done.stdout
    assert not node.exists(mark), "a shell of the node"


def test_how_a_host_is_reached_reaches_no_shell(
    lab: Lab, full: tuple[Node, Ran], mark: str, tmp_path: Path
) -> None:
    """Addresses, users and paths that are commands: each host is unreached, and the other one is read."""
    node = full[0]
    head = f"[defaults]\nkey = {inline(str(lab.key))}\nknown_hosts = {inline(str(lab.known_hosts))}\nconnect_timeout = 5\n"
    text = head + f'[hosts.good]\naddress = {inline(node.address)}\nuser = "root"\n'
    for number, item in enumerate(payloads(mark)):
        text += f'[hosts.a{number}]\naddress = {inline(item)}\nuser = "root"\n'
        text += f"[hosts.u{number}]\naddress = {inline(node.address)}\nuser = {inline(item)}\n"
    text += f"[hosts.h]\naddress = {inline(node.address)}\nknown_hosts = {inline(payloads(mark)[1])}\n"
    key = f"[hosts.k]\naddress = {inline(node.address)}\nkey = {inline(payloads(mark)[0])}\n"
    done, report = hostile(lab, tmp_path, text + key, "deploys/gpu_host.py", "--dry")
    assert (done.returncode, report) == (2, {}), done.stderr[-3000:]
    assert "hosts.k.key: there is no such file" in done.stderr
    done, report = hostile(lab, tmp_path, text, "deploys/gpu_host.py", "--dry")
    assert done.returncode == 1, done.stderr[-3000:]
    assert report, done.stdout[-2000:] + done.stderr[-6000:]
    assert not report["hosts"].pop("good")["error"]
    assert len(report["hosts"]) == 17
    assert all(found["error"] for found in report["hosts"].values())
    assert not node.exists(mark), "a shell of the node"


# -- 3. no secret leaves the host -----------------------------------------------------------------------------------

SECRETS = {
    "hunter2": "the password of a proxy in daemon.json",
    "s3cr3t-label": "a token in a label of dockerd",
    "pass-in-url": "a password in a URL of a label",
    "dXNlcjpwYXNz": "a registry's login",
    "t0k3n-of-trainer": "a container's environment",
    "pr0xy-in-unit": "the password of a proxy in docker.service's environment",
    "un1t-api-key": "a variable of a unit's environment",
    "r3gistry-pass": "a registry's password in containerd's config.toml",
    "t0k3n-in-toml": "a token in the NVIDIA runtime's config.toml, beside the line that is changed",
    "c0mpose-env": "a variable of a compose project",
    "d0tenv-value": "a compose project's .env",
}
ENCODED = re.compile(r"[A-Za-z0-9+/]{16,}={0,2}")
REGISTRY = """
[plugins."io.containerd.grpc.v1.cri".registry.configs."registry.invalid".auth]
  username = "bob"
  password = "r3gistry-pass"
"""
COMPOSE = """
services:
  edge:
    image: edge:1
    privileged: true
    environment:
      - API_TOKEN=c0mpose-env
"""
# A dockerd that repeats its whole configuration when it refuses it.
WRAPPER = """#!/bin/sh
case "$*" in
*--validate*) echo "unable to use $(cat /etc/docker/daemon.json)"; exit 1 ;;
esac
exec /usr/local/libexec/real/dockerd "$@"
"""


def leaked(text: str) -> set[str]:
    """The planted secrets in a text, and in whatever in it is base64."""
    texts = [text]
    for match in ENCODED.finditer(text):
        data = match.group().rstrip("=")
        texts.extend(
            base64.b64decode(data[start:] + "=" * (-len(data[start:]) % 4)).decode("utf-8", "replace")
            for start in range(4)
            if len(data[start:]) % 4 != 1
        )
    return {secret for secret in SECRETS if any(secret in each for each in texts)}


def test_the_search_for_secrets_finds_them() -> None:
    packed = base64.b64encode(b'{"x": "hunter2"}').decode()
    assert leaked(f"a {packed} b") == leaked(f"a /{packed} b") == leaked("hunter2") == {"hunter2"}


def planted(boot: Boot) -> Node:
    """A host with a secret in every place that is read, and beside every line that is changed."""
    node = boot("trixie", "healthy")
    dropin = "/etc/systemd/system/docker.service.d/proxy.conf"
    node.write(
        dropin,
        '[Service]\nEnvironment="HTTPS_PROXY=http://bob:pr0xy-in-unit@192.0.2.1:3128"\nEnvironment=API_KEY=un1t-api-key\n',
    )
    node.write("/root/.docker/config.json", '{"auths": {"registry.invalid": {"auth": "dXNlcjpwYXNz"}}}')
    node.write("/etc/containerd/config.toml", "version = 2\n" + REGISTRY)
    node.write("/srv/app/docker-compose.yml", COMPOSE)
    node.write("/srv/app/.env", "PASSWORD=d0tenv-value\n")
    config = node.read(CONFIG).decode()
    node.write(CONFIG, re.sub(r"(?m)^mode = .*", 'site-token = "t0k3n-in-toml"\nmode = "auto"', config))
    node.sh("systemctl daemon-reload; systemctl restart containerd")
    scenarios.write_daemon(
        node,
        {
            "proxies": {"http-proxy": "http://bob:hunter2@192.0.2.1:3128", "no-proxy": "localhost"},
            "features": {"buildkit": True},
            "labels": ["deploy-token=s3cr3t-label", "url=https://bob:pass-in-url@registry.invalid/x"],
        },
    )
    labels = {"project": "app", "service": "edge", "project.working_dir": "/srv/app"}
    node.run(
        [
            *("docker", "run", "-d", "--stop-signal=KILL", "--name", "trainer", "--privileged"),
            *(f"--label=com.docker.compose.{key}={value}" for key, value in labels.items()),
            *("--log-driver=none", "-e", "API_TOKEN=t0k3n-of-trainer", images.BASE, "sleep", "86400"),
        ]
    )
    return node


def test_no_secret_leaves_the_host(lab: Lab, boot: Boot) -> None:
    """By any verb, as talkative as pyinfra gets, and when a mend fails whose tool repeats the file."""
    node = planted(boot)
    settings = json.loads(node.read(DAEMON_JSON))
    loud = ("-vvv", "--debug")
    target = Target(node, wanted={"restarts": "allow", "grit": {"role": "both", "pool": "a"}})
    quiet = Target(node, wanted={"restarts": "allow"})
    ran = {
        "audit": start(lab, quiet, dry=True).finish(),
        "loud audit": start(lab, target, dry=True, more=loud).finish(),
        "facts": start(lab, target, deploy="facts", dry=True, more=loud).finish(),
        "parity": start(lab, target, deploy="parity", dry=True, more=loud).finish(),
    }
    node.sh("mkdir -p /usr/local/libexec/real; mv /usr/sbin/dockerd /usr/local/libexec/real/dockerd")
    node.write("/usr/sbin/dockerd", WRAPPER, 0o755)
    ran["failed mend"] = start(lab, quiet, more=loud).finish()
    node.sh("mv /usr/local/libexec/real/dockerd /usr/sbin/dockerd")
    ran["mend"] = start(lab, quiet, more=loud).finish()
    ran["rollback"] = start(
        lab, quiet, deploy="rollback", more=(*loud, "--data", f"run={ran['mend'].report['run']}")
    ).finish()
    assert [ran[verb].rc for verb in ("audit", "failed mend", "mend", "rollback")] == [3, 4, 0, 0], ran[
        "failed mend"
    ].said
    assert "deploy-token" in ran["audit"].stdout, "the diff does show the lines around"
    assert "site-token" in ran["audit"].stdout
    assert node.name in ran["facts"].report["hosts"]
    for verb, done in ran.items():
        assert leaked(done.stdout + done.stderr + json.dumps(done.report)) == set(), verb
    assert json.loads(node.read(DAEMON_JSON)) == settings
    facts = single_facts(
        lab, node, "docker.DaemonJson", "containerd.ContainerdRuntimes", "storage.DindContainers"
    )
    assert "deploy-token" in facts
    assert leaked(facts) == set()
    # What is left on the host itself: journals, logs and directories; only backups hold what the files held.
    node.run(["journalctl", "--sync"])
    assert leaked(node.run(["journalctl", "--no-pager", "-o", "cat"]).stdout) == set()
    files = node.sh("find /var/lib/gpumend /run/gpumend* /tmp -type f ! -name '*.before'").stdout.split()
    assert any(path.endswith("/journal.json") for path in files)
    assert {
        path: found for path in files if (found := leaked(node.read(path).decode("utf-8", "replace")))
    } == {}
    kept = node.sh("grep -rl hunter2 /var/lib/gpumend").stdout.split()
    assert kept
    assert {entry[1:4] for path, entry in node.tree("/var/lib/gpumend").items() if path in kept} == {
        (0o600, 0, 0)
    }


def single_facts(lab: Lab, node: Node, *names: str) -> str:
    """What `pyinfra HOST fact` prints, all of it."""
    options = [
        "--user",
        "root",
        "--key",
        str(lab.key),
        "--data",
        f"ssh_known_hosts_file={lab.known_hosts}",
        "-y",
    ]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pyinfra",
            node.address,
            *options,
            "-vvv",
            "--debug",
            "fact",
            *(f"facts.{name}" for name in names),
        ],
        cwd=ROOT,
        env={**os.environ, "PYINFRA_PROGRESS": "off"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


# -- 4. staged files ------------------------------------------------------------------------------------------------

# Notes each file and directory that the program makes or whose mode it changes: the mode at that very moment, and whether a
# directory above it keeps others out.
SPY = """
import builtins
OPEN, MODE = os.open, os.O_WRONLY | os.O_CREAT | os.O_APPEND
os.close(OPEN("/run/spy.json", MODE | os.O_TRUNC, 0o600))
def note(what, path):
    path = os.path.abspath(path)
    closed, directory = False, os.path.dirname(path)
    while directory != "/":
        closed = closed or not os.stat(directory).st_mode & 0o001
        directory = os.path.dirname(directory)
    told = [what, path, stat.S_IMODE(os.lstat(path).st_mode), closed]
    handle = OPEN("/run/spy.json", MODE)  # it is the process that works which notes, and that ends without atexit
    os.write(handle, (json.dumps(told) + "\\n").encode("ascii"))
    os.close(handle)
def spied(module, name, is_write=lambda *a, **k: True, handle=False):
    real = getattr(module, name)
    def call(*args, **kwargs):
        made = is_write(*args, **kwargs)
        found = real(*args, **kwargs)
        if made:
            path = os.readlink("/proc/self/fd/%d" % args[0]) if isinstance(args[0], int) else args[-1] if name in ("rename", "link") else args[0]
            note(name, path)
        return found
    setattr(module, name, call)
spied(os, "open", lambda path, flags, *a, **k: bool(flags & os.O_CREAT))
spied(builtins, "open", lambda path, mode="r", *a, **k: "w" in mode and not isinstance(path, int))
for each in ("mkdir", "chmod", "fchmod", "rename", "link", "chown", "fchown"):
    spied(os, each)
os.umask(0)
"""
SECRET_FILE = '{\n  "log-driver": "json-file",\n  "labels": ["token=s3cr3t-label"]\n}\n'


def test_what_is_staged_is_never_readable_by_others(boot: Boot) -> None:
    """A daemon.json of mode 0600: at no moment is a file that holds its bytes open to anybody but root."""
    node = boot("trixie", "healthy")
    scenarios.write_daemon(node, SECRET_FILE)
    node.sh('chmod 0600 "$1"', DAEMON_JSON)
    data = planned(node, Component.DOCKER, "run")
    # The spy sees a program that would stage with mkstemp's mode taken away.
    careless = "tempfile.mkstemp = lambda prefix, suffix, dir: (lambda p: (os.open(p, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), p))(os.path.join(dir, prefix + 'x' + suffix))"
    assert (
        result_of(carry_out(node, {**data, "validate": ["false"]}, f"{SPY}\n{careless}"))["status"]
        == "refused"
    )
    assert [path for path in opened_up(node) if path.startswith("/etc/docker/")]
    result = result_of(carry_out(node, data, SPY))
    assert result["status"] == "changed", result
    notes = [json.loads(line) for line in node.read("/run/spy.json").splitlines()]
    staged = {path for what, path, _, _ in notes if what == "open" and path.startswith("/etc/docker/")}
    assert len(staged) == 1
    assert any(what == "rename" and path == DAEMON_JSON for what, path, _, _ in notes)
    assert any("/var/lib/gpumend/runs/run/" in path and path.endswith("0.before") for _, path, _, _ in notes)
    assert opened_up(node) == []
    assert node.run(["stat", "-c", "%a %U", DAEMON_JSON]).stdout == "600 root\n"


def opened_up(node: Node) -> list[str]:
    """Files that somebody else could have opened at some moment, by the spy's notes."""
    notes = [json.loads(line) for line in node.read("/run/spy.json").splitlines()]
    return [
        path
        for what, path, mode, closed in notes
        if what != "mkdir" and mode & 0o077 and not closed and path != "/run/spy.json"
    ]


# -- 5. host keys -----------------------------------------------------------------------------------------------------


def test_a_host_key_that_is_not_the_known_one(lab: Lab, full: tuple[Node, Ran], boot: Boot) -> None:
    """Unknown or changed: nothing is sent to such a host, the report names it, and the other host of the run is read."""
    well, node = full[0], boot("trixie", None)
    rows = {row.split()[0].split(",")[0]: row for row in lab.known_hosts.read_text().splitlines()}
    unknown = {address: row for address, row in rows.items() if address != node.address}
    kind, key = unknown[well.address].split()[1:3]
    changed = {**unknown, node.address: f"{node.address} {kind} {key}"}
    for keys, dry in ((unknown, True), (changed, False)):
        ran = start(
            lab, node, Target(well, "ops", sudo="audit"), dry=dry, keys="\n".join(keys.values()) + "\n"
        ).finish()
        assert ran.rc == (1 if dry else 4), ran.said
        assert "could not be reached" in ran.host(node)["error"]
        assert node.name in ran.stdout
        assert f"[{node.name}]" in ran.stderr
        assert re.search(r"(?i)host key|known_hosts|fingerprint", ran.stderr), ran.stderr
        assert ran.sessions[node.name] == 0
        assert ran.host(well)["findings"]
    assert audit(lab, node).sessions[node.name] == 1, "with its own key it is read"
