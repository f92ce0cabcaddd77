"""What the probe could not read, or what ended or changed while it looked, is never told as `not there`."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import os
import shutil
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gpumend.payload.change import services
from gpumend.payload.probe import containers, docker, execution, files, processes, running
from tests.scripts.test_probe import ARGV, a_glob, as_nobody, asked, output, run
from tests.scripts.test_probe import root as root

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="mounts are root's")


@pytest.fixture
def closed(root: Path) -> Iterator[Path]:
    """A tree in which one of two users' directories may not be entered, as homes on NFS are to root."""
    for name in ("home/ann/.config/docker/daemon.json", "home/ben/.config/docker/daemon.json"):
        path = root / name
        path.parent.mkdir(parents=True)
        path.write_text("{}")
    (root / "home/ben/.config").chmod(0)
    yield root
    (root / "home/ben/.config").chmod(0o755)


# --- directories behind a star


@pytest.mark.parametrize(
    "pattern", ["/home/*/.config/docker/daemon.json", "/home/*/.config/*/daemon.json", "/home/*/.config/*"]
)
def test_a_directory_behind_a_star_that_may_not_be_entered(closed: Path, pattern: str) -> None:
    found = run(*as_nobody(), root=str(closed), globs=[a_glob(pattern, read=False)])["globs"][pattern]
    assert found["status"] == "denied" and "/home/ann" in found["paths"][0]


def test_a_directory_behind_a_star_that_is_not_there_is_knowledge(closed: Path) -> None:
    pattern = "/home/*/.docker/desktop"
    found = run(*as_nobody(), root=str(closed), globs=[a_glob(pattern, read=False)])["globs"][pattern]
    assert found == {"status": "ok", "paths": []}


@pytest.mark.parametrize(
    "pattern",
    ["/etc/*", "/etc/*.d/*.conf", "/etc/.*", "/etc/os-release", "/sys/class/*/*/uevent", "/dev/char/1:[0-9]", "/no/*/x", "/etc/passwd/*"],
)  # fmt: skip
def test_patterns_mean_what_they_mean_to_glob(pattern: str) -> None:
    before, found, after = glob.glob(pattern), files.expand(pattern), glob.glob(pattern)  # noqa: PTH207
    assert found[1] is None and set(before) & set(after) <= set(found[0]) <= set(before) | set(after)


# --- programs, and what commands need


def test_a_directory_of_path_that_may_not_be_entered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an NFS server that is gone: whether nvidia-ctk is there is not known, and nothing is installed for want of it."""
    loop, there = tmp_path / "loop", tmp_path / "there"
    loop.symlink_to(loop)
    there.mkdir()
    monkeypatch.setattr(execution, "PATH", f"{loop}:{there}")
    assert execution.program("nvidia-ctk")["status"] == "failed"
    assert running.execute({"argv": ["nvidia-ctk"]}, "", 5)["status"] == "failed"
    shutil.copy("/bin/true", there / "nvidia-ctk")
    assert execution.program("nvidia-ctk")["path"] == str(there / "nvidia-ctk")
    monkeypatch.setattr(execution, "PATH", f"{tmp_path}/none:{there}")
    assert execution.program("no-such-program") == {"status": "absent"}


def test_whether_there_is_what_a_command_needs_may_not_be_known(closed: Path) -> None:
    need = "/home/ben/.config/docker/daemon.json"
    item = {"argv": ["sh", "-c", "echo ran"], "needs": [need]}
    found = run(*as_nobody(), root=str(closed), commands={"x": item})["commands"]["x"]
    assert found["status"] == "denied"


# --- a directory that changes between the listing and the look


def test_a_directory_that_goes_while_its_parent_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Docker root whose `tmp` goes is no root that is not there."""
    for name in ("overlay2/a", "vfs/b", "tmp/c"):
        (tmp_path / name).mkdir(parents=True)
    real = os.listdir

    def goes(path: str) -> list[str]:
        if path == str(tmp_path / "tmp"):
            shutil.rmtree(path)
        return real(path)

    monkeypatch.setattr(os, "listdir", goes)
    found = files.listing(str(tmp_path))
    assert found["status"] == "ok" and {"overlay2": 1, "vfs": 1}.items() <= found["names"].items()
    assert files.listing(str(tmp_path / "none"))["status"] == "absent"


# --- processes


@contextlib.contextmanager
def ending(monkeypatch: pytest.MonkeyPatch, program: str, call: str, path: str, **env: str) -> Iterator[str]:
    """The name of a process that ends right after os.`call` was asked of its /proc/PID`path`."""
    name = Path(program).name
    child = subprocess.Popen([program, "60"], env=env or None)
    wait_for_name(child.pid, program)
    real = getattr(os, call)

    def ends(asked: Any, *more: Any, **options: Any) -> Any:
        found = real(asked, *more, **options)
        if asked == f"/proc/{child.pid}{path}":
            child.kill()
            child.wait()
        return found

    monkeypatch.setattr(os, call, ends)
    try:
        yield name
        assert child.returncode is not None, "it was looked at"
    finally:
        child.kill()
        child.wait()


def test_a_containers_process_that_ends_while_it_is_looked_at_is_not_the_hosts(
    monkeypatch: pytest.MonkeyPatch, daemon: Callable[[str], str]
) -> None:
    """A dockerd in a container with --pid=host that ends before its cgroup is read would pass for the host's own, and
    Docker's socket would be asked, which starts a dockerd that was stopped."""
    with ending(monkeypatch, daemon("gpumend-stat"), "stat", "") as name:
        assert processes.processes([name]) == {"status": "ok", "processes": [], "impostors": []}


def test_a_process_that_ends_before_its_environment_is_read_is_not_one_without(
    monkeypatch: pytest.MonkeyPatch, daemon: Callable[[str], str]
) -> None:
    with ending(monkeypatch, daemon("gpumend-link"), "readlink", "/exe", DOCKER_DRIVER="vfs") as name:
        assert processes.processes([name]) == {"status": "ok", "processes": [], "impostors": []}


def wait_for_name(pid: int, word: str) -> None:
    """The process is called that."""
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}/cmdline").read_text().split("\0")[0] != word and time.monotonic() < deadline:
        os.sched_yield()


@AS_ROOT
@pytest.mark.parametrize("hidepid", [1, 2])
def test_processes_that_are_hidden_are_not_none(hidepid: int) -> None:
    """proc(5) hidepid=: to a user who is not root, /proc has his own processes alone, or tells nothing of the others."""
    # the shell stays, as root's process 1
    script = f"mount -o remount,hidepid={hidepid} /proc && {' '.join([*as_nobody(), *ARGV])}; exit $?"
    argv = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script]
    done = subprocess.run(
        argv, input=asked(processes=["dockerd"]), capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    assert answer["processes"]["status"] == "denied"
    assert answer["docker"]["status"] == "denied", "not absent: one may run"


# --- a dockerd that does not tell


class Dockerd:
    """Answers GETs from a table of bodies; what is not in it is a 500."""

    def __init__(self, path: Path, answers: dict[str, Any]) -> None:
        self.answers = answers
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(str(path))
        self.server.listen(8)
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self.talk, args=(self.server.accept()[0],), daemon=True).start()

    def talk(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as lines:
            while first := lines.readline():
                while lines.readline() not in (b"\r\n", b""):
                    pass
                found = self.answers.get(first.split()[1].decode())
                body = json.dumps(found).encode() if found is not None else b"broken"
                status = 200 if found is not None else 500
                connection.sendall(
                    b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)
                )


def table(**more: Any) -> dict[str, Any]:
    ident = "a" * 64
    return {
        "/info": {"ServerVersion": "28.5.2", "Driver": "overlay2"},
        "/version": {"Version": "28.5.2"},
        "/containers/json?all=1": [{"Id": ident}],
        f"/containers/{ident}/json": {"Id": ident, "Name": "/edge", "HostConfig": {"Privileged": True}},
        f"/containers/{ident}/logs?stdout=1&stderr=1&tail=200": "",
        "/images/json": [],
        **more,
    }


def test_a_log_that_dockerd_cannot_give_leaves_open_what_its_daemon_said(root: Path) -> None:
    path = root / "etc/d.sock"
    log = f"/containers/{'a' * 64}/logs?stdout=1&stderr=1&tail=200"
    server = Dockerd(path, table(**{log: None}))
    found = docker.docker(str(path), True, 5, keep=r"(?m)^.*$")
    server.server.close()
    assert found["status"] == "ok" and [entry["name"] for entry in found["containers"]] == ["edge"]
    assert "500" in found["unread"]["containers"][0]


@pytest.mark.parametrize("own", [True, False])
def test_an_image_does_not_say_where_root_looks(root: Path, own: bool) -> None:
    """Docker gives a container its image's labels (docker-build(1), LABEL): one of the web could name any file of the host."""
    prefix = "com.docker.compose.project"
    said = {f"{prefix}.config_files": "/etc/secret.yml", f"{prefix}.working_dir": "/etc", prefix: "x"}
    config = {"config": {"Labels": said}}
    data = json.dumps(config).encode()
    image = f"sha256:{hashlib.sha256(data).hexdigest()}"
    stored = root / "docker/image/overlay2/imagedb/content/sha256"
    stored.mkdir(parents=True)
    (stored / image.partition(":")[2]).write_bytes(data)
    first, second = "a" * 64, "b" * 64
    answers = table(
        **{
            "/info": {"ServerVersion": "28", "Driver": "overlay2", "DockerRootDir": str(root / "docker")},
            "/containers/json?all=1": [{"Id": first}, {"Id": second}],
            f"/containers/{first}/json": {"Id": first, "Image": image, "Config": {"Labels": said}},
            f"/containers/{second}/json": {
                "Id": second, "Image": image, "Config": {"Labels": {**said, f"{prefix}.config_files": "/srv/a.yml"}},
            },
            "/images/json": [{"Id": image}],
            f"/images/{image}/json": {"Config": {"Labels": said}},
            f"/images/{image}/history": [],
        }
    )  # fmt: skip
    path = root / "etc/d.sock"
    server = Dockerd(path, answers)
    found = docker.docker(str(path), True, 5, own=own)
    server.server.close()
    assert [each["labels"] for each in sorted(found["containers"], key=lambda each: str(each["id"]))] == [
        {prefix: "x"},
        {prefix: "x", f"{prefix}.config_files": "/srv/a.yml"},
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, whose store it is")
def test_dockers_store_is_read_where_it_is_roots_alone(programs: Path) -> None:
    """As dockerd has it: of an image whose file is not what its name says, or not there, dockerd is asked."""
    texts = [
        b'{"config": {"Env": ["CUDA_VERSION=12.4.1"]}}',
        b'{"config": {"Env": ["A=1"]}}',
        b'CUDA_VERSION "',
    ]
    idents = [f"sha256:{hashlib.sha256(text).hexdigest()}" for text in texts]
    stored = programs / "image/overlay2/imagedb/content/sha256"
    stored.mkdir(parents=True)
    for ident, text in zip(idents, texts, strict=True):
        (stored / ident.partition(":")[2]).write_bytes(text)
    (stored / ("0" * 64)).write_bytes(texts[0])
    asked = [*idents, f"sha256:{'0' * 64}", f"sha256:{'1' * 64}"]
    found = docker.stored_configs(str(programs), "overlay2", asked)
    assert found == [json.loads(texts[0]), {}, None, None, None]
    os.chown(programs / "image", 1234, 1234)  # a root of user namespaces (userns-remap)
    assert docker.stored_configs(str(programs), "overlay2", asked) == [None] * 5
    assert docker.stored_configs(str(programs), "btrfs", asked) == [None] * 5


def test_a_container_that_began_and_of_which_dockerd_no_longer_tells(root: Path) -> None:
    """The list without it is not whole: a container that is looked for in it is not known to be missing."""
    daemon = {"nested": True, "container": "0123456789ab", "uid": 0, "pid": 1, "argv": ["dockerd"]}
    answer: dict[str, Any] = {
        "docker": {"status": "ok", "containers": [], "unread": {"containers": [], "images": []}}
    }
    path = root / "etc/d.sock"
    assert containers.late([daemon], answer, 1, str(path)) == []
    assert answer["docker"]["unread"]["containers"] == ["[Errno 2] No such file or directory"]
    server = Dockerd(path, {})
    assert containers.late([daemon], answer, 5, str(path)) == []
    server.server.close()
    assert "HTTP 500" in answer["docker"]["unread"]["containers"][1]


# --- inside of a container


@pytest.fixture
def container(root: Path) -> Iterator[tuple[int, Path]]:
    """A process with a root directory of its own, in which /bin and /etc/docker are links."""
    inner = root / "inner"
    for name in ("usr/bin", "opt/docker", "proc"):
        (inner / name).mkdir(parents=True)
    (inner / "opt/docker/daemon.json").write_text("{}")
    (inner / "etc").mkdir()
    (inner / "etc/docker").symlink_to("/opt/docker")
    (inner / "bin").symlink_to("usr/bin")
    (inner / "usr/bin/fuse-overlayfs").write_text("")
    (inner / "up").symlink_to("../../../../../etc")
    (inner / "loop").symlink_to("loop")
    (inner / "etc/passwd").write_text("of the container")
    unshare = ["unshare"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user"]
    script = (
        "import os,sys,time; os.chroot(sys.argv[1]); os.chdir('/'); print('in', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([*unshare, "python3", "-c", script, str(inner)], stdout=subprocess.PIPE)
    assert child.stdout and child.stdout.readline() == b"in\n"
    yield child.pid, inner
    child.kill()
    child.wait()
    child.stdout.close()


@AS_ROOT
def test_links_inside_of_a_container_are_followed_within_it(container: tuple[int, Path]) -> None:
    """/bin is a link in most images, /etc/docker in some: what lies behind one is not `not there`, nor the host's."""
    pid, _ = container
    paths = ["/etc/docker/daemon.json", "/up/passwd", "/loop/x", "/etc/none"]
    found = containers.inside(pid, {"files": paths, "stats": ["/bin/fuse-overlayfs", "/up"]}, 5, False)
    assert found["files"]["/etc/docker/daemon.json"]["data"] == "{}"
    assert found["files"]["/up/passwd"]["data"] == "of the container"
    assert found["files"]["/loop/x"]["status"] == "failed"
    assert found["files"]["/etc/none"]["status"] == "absent"
    assert found["stats"]["/bin/fuse-overlayfs"]["kind"] == "file" and found["stats"]["/up"]["kind"] == "dir"


@AS_ROOT
def test_following_links_leaves_no_handle_open(container: tuple[int, Path]) -> None:
    pid, _ = container
    before = len(list(Path("/proc/self/fd").iterdir()))
    for path in ("/etc/docker/daemon.json", "/up/../..", "/loop", "/etc/passwd/x", "/none"):
        with contextlib.suppress(OSError):
            os.close(files.open_inside(pid, path))
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    with pytest.raises(OSError) as error:
        files.open_inside(pid, "/loop")
    assert error.value.errno == errno.ELOOP
    handle = files.open_inside(pid, "/up/passwd")
    assert stat.S_ISREG(os.fstat(handle).st_mode)
    os.close(handle)


def test_nothing_of_this_needs_a_second(root: Path) -> None:
    """A thousand directories behind stars are looked into in a blink: the request has a hundred patterns."""
    for number in range(1000):
        (root / f"etc/{number}/x").mkdir(parents=True)
    began = time.monotonic()
    paths, unread = files.expand(f"{root}/etc/*/x")
    assert len(paths) == 1000 and unread is None and time.monotonic() - began < 2
    assert output(program=asked()) != ""


# --- what a transaction asks of containerd afterwards


@pytest.mark.parametrize(
    ("ctr", "expected"),
    [
        ("echo 'io.containerd.grpc.v1 cri linux/amd64 error'", "io.containerd.grpc.v1.cri"),
        ("echo 'io.containerd.grpc.v1 cri linux/amd64 ok'", ""),
        ("echo 'io.containerd.grpc.v1 cri linux/amd64 ok'; exit 1", None),
        ("kill -9 $$", None),
    ],
)
def test_plugins_that_containerd_does_not_tell_of_are_not_loaded(
    programs: Path, monkeypatch: pytest.MonkeyPatch, ctr: str, expected: str | None
) -> None:
    program = programs / "ctr"
    program.write_text(f"#!/bin/sh\n{ctr}\n")
    program.chmod(0o755)
    monkeypatch.setattr(execution, "PATH", f"{programs}:/usr/bin:/bin")
    assert services.cri_broken() == expected
