"""Nobody on a host can hang or flood the probe, and what a user points elsewhere is not read for him."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gpumend.payload.change.file_steps import WriteFile
from gpumend.payload.change.files import Refused
from gpumend.payload.probe import docker, files, processes
from gpumend.payload.probe.compose import compose_project
from gpumend.payload.source import probe_source
from tests.scripts.test_probe import a_glob, alive, data, output, run
from tests.scripts.test_probe import asked as asked

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="it is root that has something to lose")
ANN, BEN = 1001, 1002
SECRET = "root:$y$j9T$only-roots"


# --- files


@pytest.fixture
def home(programs: Path) -> Path:
    """A user's home directory, beside a file that root alone may read."""
    (programs / "shadow").write_text(SECRET)
    (programs / "shadow").chmod(0o600)
    (programs / "home/ann").mkdir(parents=True)
    for directory in (programs / "home", programs):
        directory.chmod(0o755)
    os.chown(programs / "home/ann", ANN, ANN)
    return programs / "home/ann"


def owned(path: Path, text: str = "{}", mode: int = 0o600, uid: int = ANN) -> Path:
    for parent in (path.parent, *path.parent.parents):
        if parent.exists():
            break
        parent.mkdir(parents=True)
        os.chown(parent, uid, uid)
    path.write_text(text)
    path.chmod(mode)
    os.chown(path, uid, uid)
    return path


def read(path: Path | str) -> dict[str, Any]:
    """One file through the whole program; the secret is nowhere in the answer."""
    found = output(program=asked(files=[str(path)]))
    assert SECRET not in found
    item: dict[str, Any] = json.loads(found)["files"][str(path)]
    assert "data" not in item or SECRET.encode() not in data(item)
    return item


def link_out(home: Path, secret: Path) -> Path:
    (home / "cuda").mkdir()
    (home / "cuda/version.json").symlink_to(secret)
    return home / "cuda/version.json"


def link_of_a_link(home: Path, secret: Path) -> Path:
    link_out(home, secret)
    (home.parent.parent / "cuda").symlink_to(home / "cuda")
    return home.parent.parent / "cuda/version.json"


def hard_link(home: Path, secret: Path) -> Path:
    os.link(secret, home / "daemon.json")
    return home / "daemon.json"


def directory_link(home: Path, secret: Path) -> Path:
    """Through a directory that only root may enter, to a file that all may read."""
    closed = secret.parent / "closed"
    closed.mkdir(mode=0o700)
    (closed / "x").write_text(SECRET)
    (closed / "x").chmod(0o644)
    (home / "cuda").symlink_to(closed)
    return home / "cuda/x"


def link_of_a_user(home: Path, secret: Path) -> Path:
    """In a directory of root's."""
    link = secret.parent / "version.json"
    link.symlink_to(secret)
    os.chown(link, ANN, ANN, follow_symlinks=False)
    return link


def shared_directory(home: Path, secret: Path) -> Path:
    shared = secret.parent / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    (shared / "x").symlink_to(secret)
    return shared / "x"


def sticky_hard_link(home: Path, secret: Path) -> Path:
    shared = secret.parent / "tmp"
    shared.mkdir()
    shared.chmod(0o1777)
    os.link(secret, shared / "x")
    return shared / "x"


def anothers(home: Path, secret: Path) -> Path:
    other = owned(secret.parent / "home/ben/config", SECRET, uid=BEN)
    (home / "x").symlink_to(other)
    return home / "x"


@AS_ROOT
@pytest.mark.parametrize(
    "lay",
    [link_out, link_of_a_link, hard_link, directory_link, link_of_a_user, shared_directory, sticky_hard_link, anothers],
)  # fmt: skip
def test_a_user_does_not_have_root_read_for_him(home: Path, lay: Callable[[Path, Path], Path]) -> None:
    """The hole: version.json -> /etc/shadow came out of the audit rule whole."""
    path = lay(home, home.parent.parent / "shadow")
    item = read(path)
    assert item["status"] == "failed" and not {"data", "sha256"} & set(item)
    assert item["error"].startswith(f"not read: {path} leads through {home.parent.parent}")


@AS_ROOT
def test_it_is_told_who_could_have_turned_it(home: Path) -> None:
    path = link_of_a_link(home, Path("/etc/shadow"))
    assert read(path)["error"] == f"not read: {path} leads through {home}, which belongs to uid {ANN}"


@AS_ROOT
def test_the_modes_of_proc_do_not_tell_who_may_read(home: Path) -> None:
    """/proc/kallsyms is 0444, and shows addresses to root alone (kptr_restrict, proc(5))."""
    (home / "x").symlink_to("/proc/kallsyms")
    assert read(home / "x")["status"] == "failed"


@AS_ROOT
def test_no_search_and_no_elf_section_either(home: Path) -> None:
    (home / "x").symlink_to(home.parent.parent / "shadow")
    spec = {**a_glob(str(home / "*"), read=False), "search": r"\$y\$.*", "section": ".note"}
    answer = run(globs=[spec])
    item = answer["stats"][str(home / "x")]
    assert "only-roots" not in json.dumps(answer) and item["section"]["status"] == "failed"


@AS_ROOT
@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_a_users_own_file_is_read(home: Path, mode: int) -> None:
    assert data(read(owned(home / ".config/docker/daemon.json", mode=mode))) == b"{}"


@AS_ROOT
@AS_ROOT
@pytest.mark.parametrize(
    "who", ["his own file", "a file of root's where anybody may write", "a file that one of his includes"]
)
def test_what_a_file_of_a_users_names_is_read_as_he_could(home: Path, who: str) -> None:
    """A compose file includes YAML, extends other files, has images built by Dockerfiles and values from .env files: the user
    who writes one chooses which, and root reads them for the audit."""
    top, compose = home.parent.parent, home / "app/compose.yml"
    for name in ("root/keys.yml", "root/Dockerfile", "root/.env"):
        (top / name).parent.mkdir(exist_ok=True)
        (top / name).write_text("FROM only-roots\nWORKER=7\nonly-roots: 1\n")
        (top / name).chmod(0o600)
    (top / "root/open.yml").write_text("for-all: 1\n")
    (top / "root/open.yml").chmod(0o644)
    owned(home / "app/own.yml", "his: 1\n")
    text = f"include: [{top}/root/keys.yml, {top}/root/open.yml, own.yml]\nx: {{build: {{context: {top}/root}}, gpus: [{{device_ids: ['$WORKER']}}]}}\n"
    owned(compose, text)
    if who.startswith("a file of root's"):
        os.chown(compose, 0, 0)
        compose.chmod(0o666)
        os.chown(compose.parent, 0, 0)
    elif who.endswith("includes"):
        compose = owned(home / "app/first.yml", "include: [compose.yml]\n")
    found = compose_project((str(compose),), str(top / "root"), ())
    told = json.dumps(found)
    assert "only-roots" not in told and '"7"' not in told
    for name in ("keys.yml", "Dockerfile", ".env"):
        item = found[f"{top}/root/{name}"]
        assert item["status"] == "failed" and "is named in" in item["error"], item
        assert not {"text", "sha256", "dockerfile", "variables"} & set(item)
    assert "for-all" in found[f"{top}/root/open.yml"]["text"]
    if not who.startswith("a file of root's"):
        assert "his" in found[str(home / "app/own.yml")]["text"]


@AS_ROOT
@pytest.mark.parametrize("how", ["a link into it", "a directory of root's under it", "a link of his"])
def test_root_writes_nowhere_that_a_user_could_turn_elsewhere(home: Path, how: str) -> None:
    """Between the look and the rename he has a directory of his be a link to /etc/cdi: root's new file would be there, with what he
    had in his."""
    top = home.parent.parent
    (top / "docker").mkdir()
    owned(home / "conf/daemon.json")
    path = top / "docker/daemon.json"
    if how == "a link into it":
        path.symlink_to(home / "conf/daemon.json")
    elif how == "a link of his":
        (home / "docker").symlink_to(top / "docker")
        path.write_text("{}")
        path = home / "docker/daemon.json"
    else:
        (home / "roots").mkdir()
        path = home / "roots/daemon.json"
        path.write_text("{}")
    wanted = {"do": "write", "path": str(path), "before": hashlib.sha256(b"{}").hexdigest(), "data": "e30K"}
    with pytest.raises(Refused, match=f"is not written: .*belongs to uid {ANN}"):
        WriteFile(wanted).check()
    own = top / "docker/own.json"
    own.write_text("{}")
    WriteFile({**wanted, "path": str(own)}).check()


def test_ordinary_files_are_read(home: Path) -> None:
    top = home.parent.parent
    (top / "etc").mkdir()
    (top / "etc/real").write_text("x")
    (top / "etc/real").chmod(0o600)
    (top / "link").symlink_to("etc")
    (top / "etc/second").symlink_to(top / "link/../etc/real")
    assert data(read(top / "link/second")) == b"x", "links of root's"
    (home / "real").mkdir(mode=0o700)
    os.chown(home / "real", ANN, ANN)
    owned(home / "real/daemon.json")
    (home / "own").symlink_to("real")
    assert data(read(home / "own/daemon.json")) == b"{}", "a user's link to his own"
    (home / "roots").write_text("x")
    (home / "roots").chmod(0o644)
    assert data(read(home / "roots")) == b"x", "a file that all may read"
    owned(home / "bens", mode=0o604, uid=BEN)
    assert data(read(home / "bens")) == b"{}"
    assert "data" in read("/proc/self/mountinfo") and "data" in read("/proc/1/mountinfo")


def test_a_fifo_where_a_library_is_looked_for(programs: Path) -> None:
    """The hole: mkfifo compat/libcuda.so.999 hung the probe."""
    os.mkfifo(programs / "libcuda.so.999")
    spec = {**a_glob(f"{programs}/libcuda*", read=False), "section": ".note"}
    item = run(globs=[spec])["stats"][f"{programs}/libcuda.so.999"]
    assert item["kind"] == "fifo" and item["section"]["status"] == "failed"
    assert "its kind is fifo" in item["section"]["error"]


# --- sockets


@contextlib.contextmanager
def serving(path: Path, answer: Callable[[socket.socket], object]) -> Iterator[str]:
    """Something that calls itself Docker's socket."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(8)

        def talk() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection = server.accept()[0]
                    threading.Thread(target=one, args=(connection,), daemon=True).start()

        def one(connection: socket.socket) -> None:
            with contextlib.suppress(OSError), connection:
                connection.recv(65536)
                answer(connection)

        threading.Thread(target=talk, daemon=True).start()
        yield str(path)
        server.shutdown(socket.SHUT_RDWR)


OK = b"HTTP/1.1 200 OK\r\n"


def trickle(connection: socket.socket) -> None:
    connection.sendall(OK + b"Content-Length: 100000\r\n\r\n")
    pause = threading.Event()
    while True:
        connection.sendall(b" ")
        pause.wait(0.02)


def endless(connection: socket.socket) -> None:
    connection.sendall(OK + b"Connection: close\r\n\r\n")
    while True:
        connection.sendall(b" " * 65536)


def endless_chunks(connection: socket.socket) -> None:
    connection.sendall(OK + b"Transfer-Encoding: chunked\r\n\r\n")
    while True:
        connection.sendall(b"10000\r\n" + b" " * 65536 + b"\r\n")


def endless_headers(connection: socket.socket) -> None:
    connection.sendall(OK)
    while True:
        connection.sendall(b"A: " + b"x" * 60000 + b"\r\n")


def endless_line(connection: socket.socket) -> None:
    while True:
        connection.sendall(b"H" * 65536)


def endless_continue(connection: socket.socket) -> None:
    while True:
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)


def huge_length(connection: socket.socket) -> None:
    connection.sendall(OK + b"Content-Length: 1000000000000000\r\n\r\n{}")


def huge_chunk(connection: socket.socket) -> None:
    connection.sendall(OK + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffff\r\n{}")


def body(text: bytes) -> Callable[[socket.socket], object]:
    return lambda connection: connection.sendall(OK + b"Content-Length: %d\r\n\r\n" % len(text) + text)


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (trickle, "timeout"),
        (endless, "failed"),
        (endless_chunks, "failed"),
        (endless_headers, "failed"),
        (endless_line, "failed"),
        (endless_continue, "failed timeout"),
        (huge_length, "failed"),
        (huge_chunk, "failed"),
        (body(b"[" * 100000), "failed"),
        (body(b"9" * 4000000), "failed"),
        (body(b"[]"), "failed"),
        (body(b'{"Runtimes": 7}'), "failed"),
    ],
)
def test_what_calls_itself_docker_neither_hangs_nor_floods(
    tmp_path: Path, answer: Callable[[socket.socket], object], status: str
) -> None:
    with serving(tmp_path / "s", answer) as path:
        began = time.monotonic()
        found = docker.docker(path, True, 2)
    assert time.monotonic() - began < 8
    assert found["status"] in status.split() and found["error"], found


# --- the whole


HANG = """
import threading
real = %(name)s
def %(name)s(*arguments):
    if %(when)s:
        threading.Event().wait()
    return real(*arguments)
"""


def hung(name: str, when: str = "True", **request: Any) -> tuple[dict[str, Any], float]:
    """(The answer of a probe in which a function never returns, its seconds): as a read of a dead file system does."""
    source = probe_source() + HANG % {"name": name, "when": when} + "HANGS = 2\nREADS = 6\n"
    began = time.monotonic()
    found = output(program=f"{source}\nmain(json.loads({json.dumps(request)!r}))\n", timeout=30)
    return json.loads(found), time.monotonic() - began


def test_a_read_that_hangs_keeps_nothing_but_what_it_was_for(programs: Path) -> None:
    for name in ("a", "b", "c/x"):
        (programs / name).parent.mkdir(exist_ok=True)
        (programs / name).write_text("x")
    paths = [str(programs / name) for name in ("a", "b", "c/x")]
    globs = [a_glob(f"{programs}/*/x"), a_glob(f"{programs}/b"), a_glob(f"{programs}/none")]
    answer, _ = hung(
        "opened", f"arguments[0] == {paths[1]!r}", globs=globs, files=paths[2:], stats=["/"], programs=["sh"], timeout=1
    )  # fmt: skip
    assert [answer["globs"][spec["pattern"]]["paths"] for spec in globs] == [[paths[2]], [paths[1]], []]
    assert {spec["status"] for spec in answer["globs"].values()} == {"ok"}
    assert answer["files"][paths[2]]["status"] == "ok"
    assert answer["files"][paths[1]] == {"status": "timeout", "error": "no answer within 2 s"}
    assert answer["stats"]["/"]["status"] == "ok" and answer["programs"]["sh"]["status"] == "ok"
    assert answer["processes"]["status"] == "ok", "the rest is there"


@pytest.mark.parametrize(
    ("name", "section"),
    [
        ("read_file", "files"),
        ("processes", "processes"),
        ("docker", "docker"),
        ("units", "units"),
        ("spaces", "spaces"),
    ],
)
def test_whatever_hangs_there_is_an_answer(name: str, section: str) -> None:
    answer, seconds = hung(name, files=["/etc/passwd"], timeout=0.2)
    assert seconds < 15
    found = answer[section]["/etc/passwd"] if section == "files" else answer[section]
    assert found["status"] == "timeout" and "no answer within" in found["error"]


def test_a_file_system_that_gives_no_numbers() -> None:
    source = probe_source() + HANG % {"name": "room", "when": "arguments[0] == '/etc'"} + "HANGS = 0.5\n"
    answer = json.loads(output(program=f"{source}\nmain({{}})\n"))
    assert answer["system"]["filesystems"]["/etc"]["status"] == "timeout"
    assert "free" in answer["system"]["filesystems"]["/"] and answer["system"]["uid"] == os.geteuid()


def test_a_command_that_is_left_behind_is_ended(programs: Path) -> None:
    """Its thread never came to that: the select of its output is what hangs here."""
    source = (
        probe_source()
        + "\nimport threading\nready, own = select.select, threading.get_ident()\n"
        + "select.select = lambda *of: ready(*of) if threading.get_ident() == own else threading.Event().wait()\nHANGS = 2\n"
    )
    commands = {"x": {"argv": ["sh", "-c", f"echo $$ >{programs}/pid; exec sleep 600"], "timeout": 0.5}}
    request = {"commands": commands, "timeout": 0.5}
    answer = json.loads(output(program=f"{source}\nmain(json.loads({json.dumps(request)!r}))\n"))
    assert answer["commands"]["x"]["status"] == "timeout"
    pid = int((programs / "pid").read_text())
    deadline = time.monotonic() + 5
    while alive(pid) and time.monotonic() < deadline:
        os.sched_yield()
    assert not alive(pid)


# --- mounts and numbers


def test_below_a_dead_mount_nothing_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look below an NFS server that is gone, or a user's FUSE, never returns."""
    for name in ("ann", "ben", "ben\\040x"):
        (tmp_path / "home" / name.replace("\\040", " ") / "bin").mkdir(parents=True)
    row = "1 1 0:1 / {}/home/{} rw - {} server:/x rw\n"
    text = "".join(
        row.format(tmp_path, *pair)
        for pair in (("ann", "nfs4"), ("ben\\040x", "fuse.sshfs"), ("ben", "ext4"))
    )
    gone = {str(tmp_path / "home/ann"): "nfs4"}

    def statvfs(path: str) -> None:
        assert path != str(tmp_path / "home/ben"), "that is a local one"
        if path in gone:
            threading.Event().wait()

    monkeypatch.setattr(os, "statvfs", statvfs)
    assert files.dead_mounts(text, 0.3) == gone
    real = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: real(path) if path not in gone else pytest.fail(path))
    for end in ("bin", "b*", "bin/*"):
        paths, unread = files.expand(f"{tmp_path}/home/*/{end}", gone)
        assert not [path for path in paths if "ann" in path]
        assert str(unread) == f"not looked into: {tmp_path}/home/ann (nfs4) does not answer"
    assert (
        files.expand(f"{tmp_path}/home/*", gone)[0] != []
        and files.expand(f"{tmp_path}/home/*", {})[1] is None
    )


@AS_ROOT
def test_users_files_do_not_fill_the_answer(home: Path) -> None:
    for number in range(12):
        owned(home / f"conf.d/{number:02}.conf", "x" * 1000000)
    pattern = str(home / "conf.d/*")
    (home.parent.parent / "roots").write_text("x" * 1000000)
    bens = owned(home.parent / "ben/conf", "x" * 1000000, uid=BEN)
    link = home.parent.parent / "link"
    link.symlink_to("roots")
    answer = run(
        globs=[a_glob(pattern), a_glob(str(bens)), a_glob(str(link))],
        files=[str(home.parent.parent / "roots")],
    )
    assert answer["files"][str(bens)]["status"] == answer["files"][str(link)]["status"] == "ok", (
        "others' are read"
    )
    statuses = [answer["files"][path]["status"] for path in answer["globs"][pattern]["paths"]]
    assert statuses == ["ok"] * 4 + ["failed"] * 8
    assert answer["files"][str(home.parent.parent / "roots")]["status"] == "ok"


@AS_ROOT
def test_others_processes_do_not_fill_the_answer(
    daemon: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = daemon("gpumend-crowd")
    lines = [name, "600", "0" * 50000]
    argv = ["setpriv", f"--reuid={ANN}", f"--regid={ANN}", "--clear-groups", *lines]
    with contextlib.ExitStack() as stack:
        for command in (argv, argv, argv, lines):
            child = stack.enter_context(
                subprocess.Popen(command, env={"PATH": "/bin:/usr/bin:" + "x" * 50000})
            )
            stack.callback(child.kill)
            deadline = time.monotonic() + 10
            while not Path(f"/proc/{child.pid}/cmdline").read_text().startswith(name):
                assert time.monotonic() < deadline
        found = processes.processes(["gpumend-crowd"])
        monkeypatch.setattr(processes, "MAX_OTHERS", 20000)
        few = processes.processes(["gpumend-crowd"])
    theirs = [entry for entry in found["processes"] if entry["uid"] == ANN]
    (own,) = [entry for entry in found["processes"] if entry["uid"] == 0]
    assert len(theirs) == 3 and all(len(str(entry)) < 10000 and entry["cut"] for entry in theirs)
    assert own["argv"] == lines and "cut" not in own
    assert few["left_out"] == 1 and len(few["processes"]) == 3
