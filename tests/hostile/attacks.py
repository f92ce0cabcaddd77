"""One attack, how it is carried out, and the count of all.

An attack names the promise of the design (README.md, docs/architecture.md) at which it aims. PROTECTED names what it fails by,
and that can be taken out: of the probe's text by `without`, of the controller's functions by a `Lie`'s. With
GPUMEND_UNGUARDED=1 in the environment every case runs without its protection, and passes where the attack succeeds: so each
was seen to be one. The last lines then say of each how it went. An attack without a row in PROTECTED is none.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import os
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ParamSpec

from gpumend.payload.source import probe_source
from gpumend.state.host_state import request
from gpumend.state.snapshot import unpacked
from tests.nodes.lab import Node

P = ParamSpec("P")
UNGUARDED = os.environ.get("GPUMEND_UNGUARDED") == "1"
SECONDS = 30  # in which a probe ends on any host
RESIDENT = 128 << 20  # bytes that our own processes have together (PSS, proc(5) smaps_rollup)
TRIED: Counter[str] = Counter()
HELD: Counter[str] = Counter()
SUCCEEDED: list[tuple[str, str]] = []  # without its protection: (by whom, which attack)

# What each attack fails by, which is what is taken out where it is to succeed.
PROTECTED: dict[str, dict[str, str]] = {
    "a user": {
        "a link to root's file where a version is read": "walked",
        "a directory of root's under a name of the user's": "walked",
        "a name more for root's file, where the kernel lets users make them": "walked",
        "a link to root's file where a pattern is looked for": "walked",
        "a link to a closed directory where a pattern is looked for": "walked",
        "what the kernel shows to root alone, whatever its mode says": "walked",
        "a compose file that includes root's": "written_by",
        "a compose file that has root's file for a Dockerfile": "written_by",
        "a FIFO where a library is looked for": "open_file, the reader's time",
        "an ELF file that says that its headers are half a gigabyte": "the limit of what is read of headers, the reader's memory",
        "a crontab line of 300,000 slashes": "a linear pattern, the limit of a line, the reader's time",
        "a file of 20 MB where a pattern is looked for": "MAX_SEARCHED_BYTES",
        "twelve files of a megabyte that are read whole": "MAX_USER_BYTES, MAX_USERS_BYTES",
        "names of files that are no text, with line breaks and escape sequences": "an answer of ASCII",
        "a mount that does not answer, and links into it": "dead_mounts, the reader's time",
        "a program of the user's that root is led to": "distrust",
        "a program in a directory that the user's group may write to": "distrust",
        "a program of root's whose interpreter is the user's": "distrust",
        "a program that root's own scripts call by its name": "surroundings",
        "su under the name dockerd, with root's directory for its data": "impostor",
        "a dockerd of the user's with root's directory for its data": "whose process it is",
        "forty processes with the name of a daemon and arguments of 100 KB": "MAX_OTHERS_ARGV, MAX_OTHERS",
        "another user's token on a command line, asked of the audit rule": "without_secrets",
        "another user's environment, asked of the audit rule": "allowed_env",
        "su under the name dockerd, and a file that is not Docker's": "impostor",
        "su under the name dockerd, where Docker is stopped on purpose": "impostor",
        "nvcc in a user's home": "distrust",
        "what only root may read, asked of the audit rule": "the request, which the rule's program has",
        "a command that is not the audit, by the audit's sudo rule": "the sudo rule, which pins the program's digest",
        "an environment and a directory that would bend the audit": "sudo's own environment, and python3 -I",
        "secrets of root's, asked of the audit rule": "without_secrets, allowed_env",
    },
    "a container": {
        "an answer that trickles": "BoundedSocket.hurry, the reader's time",
        "an answer without end": "Budget, MAX_ANSWER, the reader's time and memory",
        "an answer of chunks without end": "Budget, MAX_ANSWER, the reader's time and memory",
        "one that will go on, without end": "Budget, MAX_ANSWER, the reader's time and memory",
        "six megabytes of lists": "Budget, MAX_ANSWER, the reader's time and memory",
        "a number of four million digits": "number, the reader's CPU time",
        "a proxy's password in what it says of itself": "docker_info_of",
        "the environment of its own containers": "allowed_env",
        "the environment of its dockerd": "allowed_env",
        "the lines of its log that nobody asked for": "matches",
        "a link to the host's file": "open_inside",
        "a link to the host's directory": "open_inside",
        "a link to the host's own Docker": "open_inside",
        "a FIFO where its daemon.json is read": "open_file, the reader's time",
        "a daemon.json of 60 MB": "MAX_FILE_BYTES, the reader's memory",
        "a dockerd in the host's own process namespace, with root's directory for its data": "inner, impostor",
    },
    "a lying host": {
        "a line without end": "LIMIT and LINES of output",
        "lines without end": "LIMIT and LINES of output",
        "nothing, and all is well": "an answer has to be one",
        "an answer without anything in it": "what was not read is unknown",
        "bytes that are no text": "read_buffer",
        "a hundred thousand lists, one in another": "RecursionError is an answer's",
        "an answer that unpacks to a gigabyte": "MAX_ANSWER_BYTES",
        "a number of four million digits": "Python's limit of digits",
        "a spec of two megabytes of numbers to base 60": "YAML without base 60, JUDGING",
        "a spec whose aliases multiply": "check_yaml, JUDGING",
        "escape sequences and lines of others in its texts": "printable",
        "lists where there are texts, and texts where there are lists": "the types of an answer, one host's error is its own",
        "a program that never answers": "a command's time",
        "a program that prints without end": "MAX_OUTPUT_BYTES, the scope",
        "a program whose child keeps its output open, in a session of its own": "the scope's end",
        "a program that would take all memory": "the scope",
        "a program that ends by a signal": "a command's exit status",
    },
}

# Runs on a node: a program in a cgroup of its own, so that nothing that it starts is lost sight of.
RUNNER = r"""
import json, os, subprocess, sys, time
limit = float(sys.argv[1])
cgroup = "/sys/fs/cgroup/gpumend-hostile"
os.makedirs(cgroup, exist_ok=True)
def members():
    with open(cgroup + "/cgroup.procs") as handle:
        return handle.read().split()
def enter():
    with open(cgroup + "/cgroup.procs", "w") as handle:
        handle.write("0")
def resident():
    total = 0
    for pid in members():
        try:
            with open("/proc/%s/cmdline" % pid) as handle:
                if handle.read().split("\0")[1:5] != ["-I", "-S", "-B", "-"]:
                    continue
            with open("/proc/%s/smaps_rollup" % pid) as handle:
                total += next(int(line.split()[1]) for line in handle if line.startswith("Pss:")) << 10
        except (OSError, StopIteration):
            continue
    return total
def named(pid):
    try:
        with open("/proc/%s/cmdline" % pid) as handle:
            return handle.read().replace("\0", " ")
    except OSError:
        return ""
argv = ["python3", "-I", "-S", "-B", "-"]
began = time.monotonic()
with open("/run/hostile.out", "wb+") as out, open("/run/hostile.err", "wb+") as err, open("/run/hostile.py", "rb") as program:
    child = subprocess.Popen(argv, stdin=program, stdout=out, stderr=err, preexec_fn=enter)
    peak = 0
    while child.poll() is None and time.monotonic() - began < limit:
        peak = max(peak, resident())
        time.sleep(0.05)
    seconds, rc = time.monotonic() - began, child.poll()
    end = time.monotonic() + 1
    while members() and time.monotonic() < end and rc is not None:
        time.sleep(0.02)
    left = [named(pid) for pid in members()]
    while members():
        for pid in members():
            os.kill(int(pid), 9)
        child.wait()
    out.seek(0), err.seek(0)
    said = [out.read(64 << 20).decode("utf-8", "replace"), err.read(4096).decode("utf-8", "replace")]
print(json.dumps({"rc": rc, "seconds": seconds, "peak": peak, "left": left, "out": said[0], "err": said[1]}))
"""


def told(answer: str) -> str:
    """An answer's text, and what in it is base64."""
    packed = re.findall(r'"data": ?"([A-Za-z0-9+/=]+)", ?"base64": ?true', answer)
    return answer + "".join(base64.b64decode(data).decode("utf-8", "replace") for data in packed)


@dataclass(frozen=True)
class Seen:
    """What one run of the probe did. rc: None where it did not end in time; peak: bytes of our own processes; left:
    processes that outlived it."""

    node: Node
    rc: int | None
    seconds: float
    peak: int
    left: tuple[str, ...]
    out: str
    err: str

    @functools.cached_property
    def answer(self) -> dict[str, Any]:
        """The answer, or nothing where there is none."""
        try:
            found: dict[str, Any] = json.loads(unpacked(self.out))
        except (ValueError, TypeError):
            return {}
        return found

    @functools.cached_property
    def told(self) -> str:
        """All that has left the host."""
        return told(unpacked(self.out) if self.answer else self.out)

    def bounds(self) -> None:
        """What holds on every host."""
        assert self.rc == 0 and self.answer, (self.rc, self.out[-500:], self.err)
        assert self.out.isascii() and self.out.count("\n") == 1 and self.err == ""
        assert self.seconds < SECONDS, self.seconds
        assert self.peak < RESIDENT, self.peak
        assert self.left == ()
        assert self.node.sh("systemctl list-units --plain --no-legend --all 'run-*.scope'").stdout == ""


def probed(node: Node, text: str, limit: float = SECONDS + 15) -> Seen:
    """The probe, run on a node as the controller has it run, watched."""
    node.write("/run/hostile.py", text)
    done = node.run(["python3", "-c", RUNNER, str(limit)], timeout=limit + 30)
    found = json.loads(done.stdout)
    return Seen(node, **{**found, "left": tuple(found["left"])})


def program(asked: Mapping[str, Any] | None = None, without: Callable[[str], str] | None = None) -> str:
    """The probe's text with a request, or with what protects it taken out."""
    wanted = json.dumps(asked if asked is not None else request())
    text = f"{probe_source()}\n#END\nmain(json.loads({wanted!r}))\n"
    changed = without(text) if without else text
    assert (changed != text) == bool(without), "what is to be taken out is not there"
    return changed


def add(more: str) -> Callable[[str], str]:
    """A text with definitions that count instead of its own."""
    return lambda text: text.replace("#END\n", more + "\n#END\n", 1)


def put(*pairs: tuple[str, str]) -> Callable[[str], str]:
    """A text with something else in place of some of it."""

    def changed(text: str) -> str:
        for old, new in pairs:
            assert old in text, old
            text = text.replace(old, new)
        return text

    return changed


def both(*changes: Callable[[str], str]) -> Callable[[str], str]:
    return lambda text: functools.reduce(lambda done, change: change(done), changes, text)


@dataclass(frozen=True)
class Attack:
    """promise: the design's number for what it aims at. root: what root has done before, unsuspecting; user: what the
    attacker does; held: whether the attack failed; clean: takes it away."""

    name: str
    promise: int
    held: Callable[[Seen], bool]
    without: Callable[[str], str]
    user: str = ""
    root: str = ""
    clean: str = ""
    limit: float = SECONDS  # seconds that a probe without protection gets

    def __str__(self) -> str:
        return self.name

    def succeeds(self, seen: Seen) -> bool:
        """Whether it reached its aim. That of most of promise 9 is that there is no answer in time; others need one."""
        answered = seen.rc == 0 and bool(seen.answer)
        return (answered and not self.held(seen)) or (not answered and self.promise == 9)


@contextlib.contextmanager
def attempt(by: str, name: str) -> Iterator[None]:
    """One attack: it failed where the body ends; without its protection, it succeeded."""
    assert PROTECTED[by][name], "what protects from it"
    TRIED[by] += 1
    yield
    HELD[by] += 1
    if UNGUARDED:
        SUCCEEDED.append((by, name))


def counted(by: str, name: str) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """A test that is one attack."""

    def decorate(test: Callable[P, None]) -> Callable[P, None]:
        @functools.wraps(test)
        def wrapped(*arguments: P.args, **named: P.kwargs) -> None:
            with attempt(by, name):
                test(*arguments, **named)

        return wrapped

    return decorate


def summary(tried: Mapping[str, int], held: Mapping[str, int]) -> str:
    """The line for people: how many in all, and by whom."""
    by = ", ".join(f"{who} {held.get(who, 0)}/{count}" for who, count in sorted(tried.items()))
    how = "succeeded without their protection" if UNGUARDED else "held"
    return f"{sum(tried.values())} attacks, {sum(held.values())} {how}: {by}"


def succeeded(rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    """A line for each attack that succeeded: by whom, what was taken out, which."""
    for by, name in sorted(rows):
        yield f"  {by:<13} without {PROTECTED[by][name]}: {name}"


def as_user(node: Node, script: str, user: str = "nosudo") -> subprocess.CompletedProcess[str]:
    """A shell script of a user's."""
    return node.run(["runuser", "-u", user, "--", "bash", "-c", script], check=False)
