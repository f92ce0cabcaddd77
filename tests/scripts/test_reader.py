"""What reads for the probe what others have written: its limits, and that it alone dies of them."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpumend.payload.change import inner
from gpumend.payload.probe import allocations, fence, files, reader, running
from gpumend.payload.source import probe_source
from tests.scripts.test_bounded import AS_ROOT, body, serving, trickle
from tests.scripts.test_probe import a_glob, alive, output

END, WAIT = 20.0, 0.5


def read(
    *sources: Callable[[], Any], wait: float = WAIT, seconds: float = END, at_a_time: int = 1
) -> list[Any]:
    """The answers of some sources, in their order."""
    found: dict[int, Any] = {}
    end = time.monotonic() + seconds
    reader.read_apart(sources, found.__setitem__, end, {}, wait, at_a_time)
    return [found[number] for number in range(len(sources))]


def spin() -> dict[str, Any]:
    while True:
        pass


def forget() -> dict[str, Any]:
    return {"x": len([bytes(1 << 20) for _ in range(1 << 10)])}


def die() -> dict[str, Any]:
    os.kill(os.getpid(), 11)
    return {}


def deep() -> dict[str, Any]:
    raise RecursionError("too deep")


@pytest.mark.parametrize("at_a_time", [1, 2])
@pytest.mark.parametrize(
    ("source", "status", "error"),
    [
        (spin, "timeout", "no answer within 0.5 s"),
        (forget, "failed", "reading it takes more than 40 MiB"),
        (die, "failed", "reading it ended with signal 11"),
        (deep, "failed", "RecursionError: too deep"),
        (lambda: {"x": {1}}, "failed", "TypeError: Object of type set is not JSON serializable"),
    ],
)
def test_one_source_harms_itself_alone(
    source: Callable[[], Any], status: str, error: str, at_a_time: int
) -> None:
    good = [lambda: {"x": "y" * 100_000}, lambda: {"x": 2}]
    answers = read(*good, source, *good, source, at_a_time=at_a_time)
    why = {"status": status, "error": error}
    three = [{"x": "y" * 100_000}, {"x": 2}, why]
    assert answers == [*three, *three]


def test_its_cpu_time_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAX_READER_SECONDS", 1)
    (found,) = read(spin, wait=30)
    assert found == {"status": "failed", "error": "reading it takes more than 1 s of CPU time"}


def test_at_the_end_what_was_not_reached_is_a_timeout() -> None:
    began = time.monotonic()
    answers = read(lambda: {"x": 1}, spin, lambda: {"x": 2}, wait=30, seconds=1)
    assert time.monotonic() - began < 3
    assert [found.get("status") for found in answers[1:]] == ["timeout", "timeout"]


def test_many_that_die_have_an_end() -> None:
    answers = read(*[die] * 40, lambda: {"x": 1})
    assert {found["status"] for found in answers} == {"failed"}


def test_a_path_is_not_read_again(tmp_path: Path) -> None:
    """Of a source with many paths the one that hangs is left out, and the others are read."""
    spoiled: dict[str, Any] = {}

    def source() -> dict[str, Any]:
        for path in ("a", "b", "c"):
            reader.at(path)
            if path == "b" and path not in spoiled:
                spin()
        return {"x": sorted(spoiled)}

    found: list[Any] = []
    reader.read_apart([source], lambda _, item: found.append(item), time.monotonic() + END, spoiled, WAIT)
    assert found == [{"x": ["b"]}] and spoiled == {
        "b": {"status": "timeout", "error": "no answer within 0.5 s"}
    }


def test_it_holds_nothing_of_its_parents(tmp_path: Path) -> None:
    """Neither the lock of a host nor the output: who waits for their end waits for the run and not for a reader."""

    def source() -> dict[str, Any]:
        names = list(Path("/proc/self/fd").iterdir())
        limits = (resource.RLIMIT_CORE, resource.RLIMIT_CPU, resource.RLIMIT_AS)
        return {
            "open": sorted(str(name.readlink()).partition(":")[0] for name in names if name.is_symlink()),
            "limits": [resource.getrlimit(limit)[0] for limit in limits],
        }

    with (tmp_path / "lock").open("w") as lock:
        os.set_inheritable(lock.fileno(), True)
        (found,) = read(source)
    comm = f"/proc/{os.getpid()}/comm"
    assert [path for path in found["open"] if "/comm" not in path] == ["/dev/null"] * 3 + ["pipe"], comm
    assert found["limits"][:2] == [0, reader.MAX_READER_SECONDS] and found["limits"][2] > 0


def test_it_reads_where_its_name_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """/proc is mounted read-only in some containers (systemd-nspawn, a Pod with procMount)."""
    real = os.open

    def refused(path: Any, flags: int, *more: Any, **named: Any) -> int:
        if path == "/proc/self/comm":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real(path, flags, *more, **named)

    monkeypatch.setattr(reader.os, "open", refused)
    assert read(lambda: {"x": 1}, lambda: {"x": 2}) == [{"x": 1}, {"x": 2}]


def test_none_is_left(tmp_path: Path) -> None:
    def source() -> dict[str, Any]:
        (tmp_path / "pid").write_text(str(os.getpid()))
        return spin()

    read(source)
    assert not alive(int((tmp_path / "pid").read_text()))


def test_a_slow_pattern_over_one_file_costs_that_file(programs: Path) -> None:
    """As the crontab line of 300,000 slashes did: Python holds its lock in it, and no thread gets a turn."""
    for name, text in (("a", "x"), ("b", "a" * 60 + "!"), ("c", "aaa")):
        (programs / name).write_text(text)
    spec = {**a_glob(f"{programs}/?", read=False), "search": r"(a|a)+$"}
    request = {"globs": [spec], "files": ["/etc/passwd"], "timeout": 1}
    source = f"{probe_source()}\nHANGS = 1\nmain(json.loads({json.dumps(request)!r}))\n"
    answer = json.loads(output(program=source, timeout=30))
    assert answer["globs"][spec["pattern"]]["paths"] == [f"{programs}/b", f"{programs}/c"]
    assert answer["stats"][f"{programs}/b"]["status"] == "timeout"
    assert answer["stats"][f"{programs}/c"]["found"] and answer["files"]["/etc/passwd"]["status"] == "ok"


def test_a_proof_in_an_inner_docker_that_trickles(tmp_path: Path) -> None:
    """The host's lock is held meanwhile."""
    with serving(tmp_path / "s", trickle) as path:
        began = time.monotonic()
        assert inner.driver_inside(os.getpid(), path, 1) == ""
    assert time.monotonic() - began < 4
    with serving(tmp_path / "t", body(b'{"Driver": "overlay2"}')) as path:
        assert inner.driver_inside(os.getpid(), path) == "overlay2"
    with serving(tmp_path / "u", body(b'{"Driver": ' + b"[1]," * 2_000_000)) as path:
        assert inner.driver_inside(os.getpid(), path) == ""


# --- what cannot be ended


@pytest.fixture
def sleeper(programs: Path) -> Path:
    """A program that is in state D (proc(5)) while its child, which was made by vfork(2), does nothing but wait."""
    (programs / "x.c").write_text(
        "#include <unistd.h>\nint main(void) { if (vfork() == 0) { for (;;) pause(); } return 0; }\n"
    )
    subprocess.run(["gcc", "-O0", "-o", programs / "sleeper", programs / "x.c"], check=True)
    return programs / "sleeper"


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@AS_ROOT
def test_what_is_left_of_an_earlier_look_is_not_started_again(sleeper: Path) -> None:
    """As a broken GPU leaves nvidia-smi in uninterruptible sleep: one more would stay there, too."""
    argv = [str(sleeper), "-q"]
    program = (
        probe_source().replace("OLD = 120", "OLD = -1")
        + f"\nmain(json.loads({json.dumps({'commands': {'x': {'argv': argv, 'timeout': 1}}})!r}))\n"
    )
    child = subprocess.Popen(argv, start_new_session=True)
    try:
        deadline = time.monotonic() + 10
        while state(child.pid) != "D":
            assert time.monotonic() < deadline
        told = json.loads(output(program=program))["commands"]["x"]
        other = json.loads(output(program=program.replace('"-q"', '"-L"')))["commands"]["x"]
    finally:
        os.killpg(child.pid, 9)
        child.wait()
    why = f"not started: process {child.pid}, which is the same, cannot be ended"
    assert told == {"status": "failed", "error": why}
    assert other["status"] == "timeout", "with other arguments it is another"


@AS_ROOT
def test_what_a_reader_hangs_at_is_not_read_again(sleeper: Path, programs: Path) -> None:
    """It has its name from what it reads."""
    (programs / "hangs").write_text("x")
    (programs / "other").write_text("x")
    path = str(programs / "hangs")
    named = programs / reader.name_for(path).decode()
    sleeper.rename(named)
    program = (
        probe_source().replace("OLD = 120", "OLD = -1")
        + f"\nmain(json.loads({json.dumps({'files': [path, str(programs / 'other')]})!r}))\n"
    )
    child = subprocess.Popen([str(named)], start_new_session=True)
    try:
        deadline = time.monotonic() + 10
        while state(child.pid) != "D":
            assert time.monotonic() < deadline
        found = json.loads(output(program=program))["files"]
    finally:
        os.killpg(child.pid, 9)
        child.wait()
    why = f"not read: process {child.pid}, which did, cannot be ended"
    assert found[path] == {"status": "failed", "error": why}
    assert found[str(programs / "other")]["status"] == "ok"
    assert json.loads(output(program=program))["files"][path]["status"] == "ok", "it has ended"


@AS_ROOT
def test_what_cannot_be_ended_is_named(sleeper: Path) -> None:
    """SIGKILL is what the kernel keeps from it."""
    request = {"commands": {"x": {"argv": [str(sleeper)], "timeout": 0.5}}}
    program = f"{probe_source()}\nos.killpg = print\nmain(json.loads({json.dumps(request)!r}))\n"
    said = output(program=program).splitlines()
    pid = int(said[0].split()[0])
    try:
        error = f"no answer within 0.5 s; process {pid} cannot be ended and is left behind"
        assert json.loads(said[-1])["commands"]["x"]["error"] == error
    finally:
        os.killpg(pid, 9)


def test_a_link_below_a_dead_mount_is_not_followed(tmp_path: Path) -> None:
    dead = {str(tmp_path / "nfs"): "nfs4"}
    (tmp_path / "home").mkdir()
    for name, target in (("a", tmp_path / "nfs/x"), ("b", "../nfs"), ("c", "b/../../home/d"), ("d", "d")):
        (tmp_path / "home" / name).symlink_to(target)
    for path in ("nfs", "nfs/x", "home/a", "home/b/y", "home/c", "home/../nfs/z"):
        assert str(files.lost(str(tmp_path / path), dead)).endswith("nfs (nfs4) does not answer"), path
    for path in ("home", "home/d", "home/e", "nfsx"):
        assert files.lost(str(tmp_path / path), dead) is None, path


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("0::/system.slice/run-r1.scope", "/sys/fs/cgroup/system.slice/run-r1.scope/cgroup.procs"),
        ("0::/user.slice/user-0.slice/session-1.scope", None),
        (
            "4:memory:/system.slice/run-2.scope\n0::/x/run-2.scope",
            "/sys/fs/cgroup/memory/system.slice/run-2.scope/cgroup.procs",
        ),
        ("4:memory:/\n1:name=systemd:/system.slice/run-2.scope", None),
    ],
)
def test_where_the_limit_of_memory_is(rows: str, expected: str | None) -> None:
    assert fence.members_of(rows.split("\n")) == expected


# --- a site's books, and whose names stand in arguments: users may write there, and start thousands of processes

BOOKS = {"socket": "/nonexistent", "pods": False}
NO_DOCKER = {"status": "ok", "processes": []}


@pytest.mark.parametrize(
    ("write", "error"),
    [
        (lambda path: path.write_text("[" + "[]," * 2_700_000 + "0]"), "reading it takes more than 40 MiB"),
        (lambda path: path.write_text("[" * 100_000), "too many levels"),
        (os.mkfifo, "a fifo, not a file"),
    ],
)
def test_a_book_that_a_user_wrote_harms_itself_alone(
    programs: Path, write: Callable[[Path], Any], error: str
) -> None:
    """In a process of its own: in one that has had much memory and given it back, a reader has that, too."""
    write(programs / "state.json")
    (programs / "books").mkdir()
    spec = {**BOOKS, "state": str(programs / "state.json"), "metadata": str(programs / "books")}
    peak = "resource.getrusage(resource.RUSAGE_SELF).ru_maxrss"
    program = (
        f"{probe_source()}\nSTILL = BOOKS = 60\nbefore = {peak}\n"  # this machine may be busy
        f"look = ledger(json.loads({json.dumps(spec)!r}), json.loads({json.dumps(NO_DOCKER)!r}), 1)\n"
        f"print(json.dumps([look, {peak} - before]))\n"
    )
    look, more = json.loads(output(program=program))
    assert look["state"]["status"] == "failed" and error in look["state"]["error"], look["state"]
    assert look["state"]["path"] == spec["state"] and look["metadata"]["status"] == look["status"] == "ok"
    assert more < 30 << 10


@pytest.mark.parametrize("name", ["names_at_work", "computing"])
def test_processes_that_take_long_to_read_end_one_look_at_the_books(
    programs: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten thousand processes of a user's, with arguments of 256 KB: the books are then not known, and all else is."""
    monkeypatch.setattr(allocations, "STILL", WAIT)
    monkeypatch.setattr(allocations, name, lambda _: spin())
    look = allocations.ledger(BOOKS, NO_DOCKER, 1)
    assert look == {"status": "timeout", "error": "no answer within 0.5 s"}


def test_a_process_is_found_by_its_name() -> None:
    """The kernel's, which its program's first 15 bytes are; reading it waits for nobody."""
    child = subprocess.Popen(["sleep", "60"])
    try:
        deadline = time.monotonic() + 10
        while child.pid not in running.by_name().get(b"sleep", ()):
            assert time.monotonic() < deadline
        assert running.asleep(child.pid) is False
    finally:
        child.kill()
        child.wait()
    assert child.pid not in running.by_name().get(b"sleep", ())


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("fusectl", False),
        ("fuse", True),
        ("fuseblk", True),
        ("fuse.sshfs", True),
        ("nfs4", True),
        ("ext4", False),
    ],
)
def test_what_may_never_answer(kind: str, expected: bool) -> None:
    """fusectl is the kernel's own, and on every host that has FUSE."""
    assert bool(files.NETWORK.match(kind)) is expected
