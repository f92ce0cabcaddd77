"""What a host whose root is hostile tries on the controller and on the report of others; and what broken programs of root's
do to the probe."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gpumend.rules import wanted
from gpumend.rules.finding import Status
from gpumend.run.programs import probe_program
from gpumend.run.record import judged
from gpumend.run.remote import asking
from gpumend.state.host_state import parse
from gpumend.state.snapshot import Snapshot, unpacked
from tests.hostile.attacks import (
    RESIDENT,
    UNGUARDED,
    Attack,
    Seen,
    add,
    attempt,
    both,
    counted,
    probed,
    program,
    put,
)
from tests.nodes.conftest import Boot
from tests.nodes.drive import ROOT, inline
from tests.nodes.lab import Lab, Node

# --- what it answers: each of these is the login shell of a user, who is a host of his own to the controller

FORGE = """
import base64, json, os, sys, zlib
with open("/srv/liars/answer") as handle:
    answer = json.load(handle)
def send(found):
    print(json.dumps(found, separators=(",", ":")))
def spec(text):
    answer["files"]["/etc/cdi/x.yaml"] = {"status": "ok", "kind": "file", "mode": 420, "uid": 0, "gid": 0, "size": 1, "mtime": 1, "ctime": 1,
                                          "base64": True, "data": base64.b64encode(text.encode()).decode()}
    answer["globs"]["/etc/cdi/*"] = {"status": "ok", "paths": ["/etc/cdi/x.yaml"]}
    send(answer)
"""


@dataclass(frozen=True)
class Lie:
    """script: Python, which is told nothing and prints what the controller takes for the probe's answer. held: whether the
    report, and what was said, is as it should be. without: Python for the controller, which takes the protection out."""

    name: str
    promise: int
    script: str
    held: Callable[[dict[str, Any], str], bool]
    without: str

    def __str__(self) -> str:
        return self.name


def lost(host: dict[str, Any], said: str) -> bool:
    """It gave no answer: an error of this host's alone."""
    return bool(host["error"]) and not host["findings"]


def unknown(host: dict[str, Any], said: str) -> bool:
    """It is not as wanted, whatever is not said."""
    return bool(host["exit"] != 0 and host["status"] != "as wanted")


def told(host: dict[str, Any], said: str) -> bool:
    """It is judged, or is unknown: in no case as wanted."""
    return bool(host["error"]) or any(found["status"] != "ok" for found in host["findings"])


def plain(host: dict[str, Any], said: str) -> bool:
    """What it says bends no terminal, no line and no workflow."""
    lines = said.splitlines()
    return "\33" not in said and not any(
        line.startswith(("::error", "good ")) and "gm-" in line for line in lines
    )


LIMIT = "output.LIMIT = output.LINES = 1 << 50"
KNOWN = 'put(judge.judge, ("found.append(_unknown(code, rule.title, unread))", "pass")); '
EMPTY = KNOWN + "snapshot.Snapshot.from_output = classmethod(lambda cls, text: cls({'system': {'uid': 0}}))"
PACKED = "snapshot.MAX_ANSWER_BYTES = 1 << 40"
SLOW = "assessment.JUDGING = asking.JUDGING = 1e6; "
BASE = SLOW + "go_yaml.Loader.yaml_implicit_resolvers = yaml.SafeLoader.yaml_implicit_resolvers"
ALIASES = SLOW + "go_yaml.check_yaml = lambda text: None"
TEXT = 'put(output.read_buffer, ("except ValueError", "except ZeroDivisionError"))'
ALL = '; put(session.begin, ("except Exception", "except ZeroDivisionError"))'
DEEP = 'put(snapshot.Snapshot.from_output, ("(ValueError, RecursionError)", "ValueError"))' + ALL
DIGITS = "sys.set_int_max_str_digits(0)"
PRINTED = "mask.printable.__code__ = (lambda text: text).__code__"
TYPES = (
    'put(snapshot.Snapshot._item, (" if isinstance(part, dict) else None", ""))'
    '; put(host_state.parse, ("(TypeError, ValueError, AttributeError, LookupError, ArithmeticError)", "ZeroDivisionError"))'
) + ALL
CONTROLLER = """
from gevent import monkey
monkey.patch_all()
import __future__, inspect, runpy, sys, textwrap, yaml
import gpumend.run.remote.connection
from gpumend.deploy import session
from gpumend.rules import judge
from gpumend.run.remote import asking, assessment, output
from gpumend.state import host_state, snapshot
from gpumend.text import go_yaml, mask
def put(function, *pairs):
    function = getattr(function, "__func__", function)
    text = textwrap.dedent(inspect.getsource(function))
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new)
    made = {{}}
    exec(compile(text, "without", "exec", __future__.annotations.compiler_flag), function.__globals__, made)
    made = made[function.__name__]
    function.__code__ = getattr(made, "__func__", made).__code__
{}
sys.argv = ["pyinfra", *sys.argv[1:]]
try:
    runpy.run_module("pyinfra", run_name="__main__")
finally:
    with open("/proc/self/status") as status:
        print(*(line for line in status if line.startswith("VmHWM:")), file=sys.stderr)
"""

LIES = (
    Lie("a line without end", 9, "while True: sys.stdout.write('x' * 65536)", lost, LIMIT),
    Lie("lines without end", 9, "while True: sys.stdout.write('gumend\\n' * 8192)", lost, LIMIT),
    Lie("nothing, and all is well", 4, "pass", lost, EMPTY),
    Lie("an answer without anything in it", 4, "send({'gpumend': 1, 'system': answer['system']})", unknown, KNOWN),
    Lie("bytes that are no text", 9, "os.write(1, bytes(range(128, 256)) * 100 + b'\\n')", lost, TEXT),
    Lie("a hundred thousand lists, one in another", 9, "print('[' * 100000)", lost, DEEP),
    Lie(
        "an answer that unpacks to a gigabyte",
        9,
        "z = zlib.compressobj(9); data = b''.join(z.compress(b' ' * (1 << 20)) for _ in range(1024)) + z.flush();"
        " print('gpumend:zlib:' + base64.b64encode(data).decode())",
        lost, PACKED),
    Lie("a number of four million digits", 9, "answer['system']['time'] = 'N'; print(json.dumps(answer).replace('\"N\"', '9' * 4000000))", lost, DIGITS),
    Lie("a spec of two megabytes of numbers to base 60", 9, "spec('cdiVersion: 0.6.0\\nx: [' + '1:' * 500000 + '1]\\n')", told, BASE),
    Lie("a spec whose aliases multiply", 9, "spec('devices:\\n- &d {name: x, containerEdits: {env: [&m x=y' + ', *m' * 20000 + ']}}\\n' + '- *d\\n' * 20000)", told, ALIASES),
    Lie("escape sequences and lines of others in its texts", 9, "forged = '\\33]0;x\\7\\n::error gm-forged\\ngood gm-forged'; answer['system']['hostname'] = answer['system']['kernel'] = forged;"
        " answer['files']['/etc/docker/daemon.json'] = {'status': 'failed', 'error': forged}; send(answer)", plain, PRINTED),
    Lie("lists where there are texts, and texts where there are lists", 9, "answer.update(files=[], stats='x', commands=7, docker=[], units=None); send(answer)", unknown, TYPES),
)  # fmt: skip
# Hosts of a fleet: one that is well, and those that take longer than any.
FLEET = {
    "well": "send(answer)",
    "slowly": "import time\nwhile True: print(end='x', flush=True); time.sleep(0.2)",
    "never": "import time; time.sleep(3600)",
    "endlessly": "while True: sys.stdout.write('gumend\\n' * 8192)",
}
BEGINS = "import time\nwith open(os.path.expanduser('~/began'), 'w') as file: print(time.time(), file=file)\n"
SET_UP = r"""
mkdir -p /srv/liars
echo MaxStartups 100 >/etc/ssh/sshd_config.d/many.conf; systemctl reload ssh
for n in $(seq 0 "$1"); do
    printf '#!/bin/sh\nexec python3 -I -S -c "exec(open(\\"/srv/liars/forge\\").read() + open(\\"/srv/liars/%s\\").read())" </dev/null\n' "$n" >/srv/liars/shell$n
    chmod 755 /srv/liars/shell$n
    useradd -m -s /srv/liars/shell$n liar$n
    mkdir -p /home/liar$n/.ssh; cp /root/.ssh/authorized_keys /home/liar$n/.ssh/; chown -R liar$n: /home/liar$n
done
"""


@pytest.fixture(scope="module")
def host(shared_boot: Boot) -> Node:
    return shared_boot("trixie", "healthy")


@pytest.fixture(scope="module")
def audited(lab: Lab, host: Node, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """One audit of a good host and of all that lie: (the report, what was said)."""
    directory = tmp_path_factory.mktemp("liars")
    answer = unpacked(host.run(["python3", "-I", "-S", "-B", "-"], input=probe_program()).stdout)
    host.write("/srv/liars/answer", answer)
    host.write("/srv/liars/forge", FORGE)
    scripts = [*(lie.script for lie in LIES), *(BEGINS + script for script in FLEET.values())]
    for number, script in enumerate(scripts):
        host.write(f"/srv/liars/{number}", script)
    host.sh(SET_UP, str(len(scripts) - 1))
    users = {"good": "root", **{f"liar{number}": f"liar{number}" for number in range(len(LIES))}}
    done, report = run(lab, host, directory, users, ["-m", "pyinfra"], 240)
    assert done.returncode == 1, done.stdout[-2000:] + done.stderr[-4000:]
    return report, done.stdout + done.stderr


def run(
    lab: Lab, host: Node, directory: Path, users: Mapping[str, str], controller: list[str], limit: float
) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """An audit of hosts, each of which is a user of the node: (what was said, the report)."""
    text = f"[defaults]\nkey = {inline(str(lab.key))}\nknown_hosts = {inline(str(lab.known_hosts))}\n"
    for name, user in users.items():
        text += f"[hosts.{name}]\naddress = {inline(host.address)}\nuser = {inline(user)}\nsudo = false\n"
    (directory / "hosts.toml").write_text(text)
    report = directory / "report"
    report.unlink(missing_ok=True)
    done = subprocess.run(
        [
            sys.executable,
            *controller,
            "inventory.py",
            "deploys/gpu_host.py",
            "--dry",
            "--data",
            f"report={report}",
        ],
        cwd=ROOT,
        env={**os.environ, "GPUMEND_HOSTS": str(directory / "hosts.toml"), "PYINFRA_PROGRESS": "off"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=limit,
    )
    return done, json.loads(report.read_text()) if report.exists() else {}


def succeeds(lab: Lab, host: Node, directory: Path, number: int) -> bool:
    """Whether a lie harms a controller without its protection: in time, in memory, in what is reported."""
    try:
        done, report = run(
            lab,
            host,
            directory,
            {"good": "root", f"liar{number}": f"liar{number}"},
            ["-c", CONTROLLER.format(LIES[number].without)],
            25,
        )
    except subprocess.TimeoutExpired:
        return True
    hosts, said = report.get("hosts", {}), done.stdout + done.stderr
    (directory / "said").write_text(said[-4000:])
    peak = re.findall(r"VmHWM:\s+(\d+) kB", said)
    larger = not peak or int(peak[-1]) > 700_000
    good, liar = hosts.get("good"), hosts.get(f"liar{number}")
    return (
        larger
        or "Traceback" in said
        or not good
        or bool(good["error"])
        or not liar
        or "the run ended before it" in liar["error"]  # and before all that come after it
        or not LIES[number].held(liar, said)
    )


@pytest.mark.parametrize("number", range(len(LIES)), ids=map(str, LIES))
def test_a_lie_harms_the_liar_alone(
    lab: Lab, host: Node, audited: tuple[dict[str, Any], str], number: int, tmp_path: Path
) -> None:
    report, said = audited
    with attempt("a lying host", LIES[number].name):
        if UNGUARDED:
            assert succeeds(lab, host, tmp_path, number), (tmp_path / "said").read_text()
            return
        assert LIES[number].held(report["hosts"][f"liar{number}"], said), report["hosts"][f"liar{number}"]
        assert not report["hosts"]["good"]["error"], "the other host is judged"
        assert "Traceback" not in said


DEADLINE = 20  # seconds that a host may take here; PROBE_TIMEOUT of asking.py for others


@pytest.mark.usefixtures("audited")
def test_a_fleet_takes_no_longer_than_the_slowest_host_that_is_allowed(
    lab: Lab, host: Node, tmp_path: Path
) -> None:
    """Twenty hosts, three of which answer slowly, never and without end: waited for side by side, and not in turn."""
    if UNGUARDED:
        return
    numbers = {name: len(LIES) + place for place, name in enumerate(FLEET)}
    users = {f"well{each}": f"liar{numbers['well']}" for each in range(17)}
    users.update((name, f"liar{number}") for name, number in numbers.items() if name != "well")
    start = time.monotonic()
    done, report = run(
        lab, host, tmp_path, users, ["-c", CONTROLLER.format(f"asking.PROBE_TIMEOUT = {DEADLINE}")], 240
    )
    seconds = time.monotonic() - start
    assert done.returncode == 1 and len(report["hosts"]) == 20, done.stderr[-3000:]
    for name, found in report["hosts"].items():
        assert bool(found["error"]) is not name.startswith("well"), (name, found["error"])
    assert len({str(found["findings"]) for name, found in report["hosts"].items() if "well" in name}) == 1
    began = [float(host.read(f"/home/liar{numbers[name]}/began")) for name in list(FLEET)[1:]]
    assert max(began) - min(began) < DEADLINE, "none is begun with when another has been waited for"
    assert seconds < asking.PROBE_TIMEOUT, "what the slowest may take where nobody has changed that"


# --- what it executes: programs of root's that are broken

FLOOD = "while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done"


def said_of(name: str, *statuses: str) -> Callable[[Seen], bool]:
    return lambda seen: bool(seen.answer) and seen.answer["commands"][name]["status"] in statuses


ATTACKS = (
    Attack("a program that never answers", 9, said_of("podman", "timeout"),
           put(("return bool(ended or time.monotonic() >= self.deadline)", "return bool(ended)"),
               ("min(each.deadline for each in running.values()) - time.monotonic()", "10**6"), ("HANGS = 5", "HANGS = 10**6")),
           "podman", "exec sleep 600"),
    Attack("a program that prints without end", 9,
           lambda seen: said_of("crio", "timeout", "failed")(seen) and seen.peak < RESIDENT,
           both(add("MAX_OUTPUT_BYTES = 1 << 40"), add("FENCE.raise_up = lambda: None")), "crio", FLOOD),
    Attack("a program whose child keeps its output open, in a session of its own", 9,
           lambda seen: said_of("criu", "ok")(seen) and not seen.left
           and "gm-left" not in seen.node.run(["ps", "-eo", "args"]).stdout,
           put(("os.kill(int(pid), signal.SIGKILL)", "pass")), "criu", "setsid sh -c 'sleep 590; : gm-left' & exit 0"),
    Attack("a program that ends by a signal", 4, lambda seen: seen.answer["commands"]["mokutil"].get("rc") != 0,
           add("real_told = told\ntold = lambda command, found: dict(real_told(command, found), rc=0)"),
           "mokutil", "kill -11 $$"),
)  # fmt: skip


@pytest.fixture(scope="module")
def broken(host: Node) -> Iterator[Node]:
    """A host whose programs they are."""
    for attack in ATTACKS:
        host.write(f"/usr/local/sbin/{attack.user}", f"#!/bin/sh\n{attack.root}\n", 0o755)
    yield host
    for attack in ATTACKS:
        host.run(["rm", f"/usr/local/sbin/{attack.user}"])


@pytest.fixture(scope="module")
def seen(broken: Node) -> Seen:
    return probed(broken, program())


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_a_broken_program_harms_its_answer_alone(broken: Node, seen: Seen, attack: Attack) -> None:
    with attempt("a lying host", attack.name):
        if UNGUARDED:
            assert attack.succeeds(probed(broken, program(None, attack.without), attack.limit))
        else:
            assert attack.held(seen), (attack.promise, seen.answer["commands"])


def test_the_probe_among_them_keeps_its_bounds(seen: Seen) -> None:
    seen.bounds()
    assert Path("/proc").is_dir() and seen.answer["docker"]["status"] == "ok"


MEMORY = 256 << 20
LIMITED = add(f"MAX_MEMORY = {MEMORY}")
TAKES = 'exec python3 -c \'print("gm-took", len(bytearray(b"x") * (600 << 20)))\''
# Where the kernel's memory is version 1's, as on some machines that tests run on, systemd of a node cannot limit it.
FIRST = "/run/gm-memory"
BY_HAND = f"mkdir -p {FIRST}; mount -t cgroup -o memory none {FIRST}; mkdir {FIRST}/gm; echo {MEMORY} >{FIRST}/gm/memory.limit_in_bytes"


@pytest.fixture
def limited(host: Node) -> Iterator[Callable[[str], str]]:
    """What makes of the probe's text one with a lower limit, which the kernel keeps."""
    host.write("/usr/local/sbin/nvidia-smi", f"#!/bin/sh\n{TAKES}\n", 0o755)
    second = "memory" in host.read("/sys/fs/cgroup/cgroup.controllers").decode().split()
    if not second:
        host.sh(BY_HAND)
    yield LIMITED if second else both(LIMITED, add(f"members_of = lambda rows: '{FIRST}/gm/cgroup.procs'"))
    if not second:
        host.sh(f"rmdir {FIRST}/gm; umount {FIRST}")
    host.sh("rm /usr/local/sbin/nvidia-smi")


@counted("a lying host", "a program that would take all memory")
def test_a_program_over_the_limit_ends_and_what_it_says_is_unknown(
    host: Node, limited: Callable[[str], str]
) -> None:
    if UNGUARDED:
        seen = probed(host, program(None, both(limited, add("FENCE.raise_up = lambda: None"))))
        assert "gm-took" in seen.answer["commands"]["nvidia-smi"]["out"]
        return
    seen = probed(host, program(None, limited))
    seen.bounds()
    why = "it was killed, as what needs more than 256 MiB of memory is"
    assert seen.answer["commands"]["nvidia-smi"] == {"status": "failed", "error": why, "out": "", "err": ""}
    verdict = judged(parse(Snapshot(seen.answer)), wanted.parse({}), host.name).verdict
    assert [found for found in verdict.findings if found.status is Status.UNKNOWN and why in str(found)]
