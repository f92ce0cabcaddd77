"""Whom root believes on a host: which programs it executes, and which processes are the daemons that they call themselves."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gpumend.payload.probe import execution, files, look, processes
from gpumend.payload.probe import running as runs
from tests.scripts.test_probe import NOBODY, asked, output, run

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="it is root that has something to lose")

OTHER = 1001
Change = Callable[[Path], object]


# --- what root executes


def script(path: Path, text: str = "echo ran", interpreter: str = "/bin/sh") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{interpreter}\n{text}\n")
    path.chmod(0o755)
    return path


def said(path: Path | str) -> dict[str, Any]:
    """What became of the one command of a request, through the whole program."""
    found: dict[str, Any] = run(commands={"x": {"argv": [str(path), "--version"]}})["commands"]["x"]
    return found


def test_nvcc_through_a_users_directory_is_not_executed(programs: Path) -> None:
    """The hole: /usr/local/cuda -> /home/USER/cuda-12.4, and an audit ran nvcc as root."""
    home = programs / "home/ann"
    mark = programs / "mark"
    script(home / "cuda-12.4/bin/nvcc", f"touch {mark}")
    for path in (home, *home.rglob("*")):
        os.chown(path, OTHER, OTHER)
    (programs / "cuda").symlink_to(home / "cuda-12.4")
    found = said(programs / "cuda/bin/nvcc")
    assert found["status"] == "failed" and not mark.exists()
    assert found["error"] == f"not executed: {home} belongs to uid {OTHER}"


def test_what_is_roots_alone_is_executed(programs: Path) -> None:
    script(programs / "cuda-12.4/bin/nvcc")
    (programs / "cuda").symlink_to("cuda-12.4")
    for path in (programs / "cuda/bin/nvcc", programs / "cuda-12.4/../cuda/./bin//nvcc"):
        assert said(path) == {"status": "ok", "rc": 0, "out": "ran\n", "err": ""}


def chown(path: Path) -> None:
    os.chown(path, OTHER, 0, follow_symlinks=False)


def acl(path: Path) -> None:
    """As `setfacl -m u:nobody:rwx` does: version 2, then tag, permissions and id of each entry
    (linux include/uapi/linux/posix_acl_xattr.h). The mask makes the group's bits `rwx`."""
    everyone = 0xFFFFFFFF
    rows = ((1, 7, everyone), (2, 7, NOBODY), (4, 5, everyone), (0x10, 7, everyone), (0x20, 5, everyone))
    entries = b"".join(struct.pack("<HHI", *row) for row in rows)
    try:
        os.setxattr(path, "system.posix_acl_access", struct.pack("<I", 2) + entries)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            pytest.skip("no ACLs on this file system")
        raise
    assert path.stat().st_mode & 0o777 == 0o775 and path.stat().st_gid == 0


@pytest.mark.parametrize(
    ("name", "change", "why"),
    [
        ("a", chown, f"belongs to uid {OTHER}"),
        ("a/bin/x", chown, f"belongs to uid {OTHER}"),
        ("link", chown, f"belongs to uid {OTHER}"),
        ("a", lambda path: path.chmod(0o777), "is writable by everybody"),
        ("a", lambda path: path.chmod(0o1777), "is writable by everybody"),
        ("a/bin/x", lambda path: path.chmod(0o757), "is writable by everybody"),
        ("a/bin", lambda path: (os.chown(path, 0, 12345), path.chmod(0o775)), "is writable by group 12345"),
        ("a/bin/x", lambda path: (os.chown(path, 0, 12345), path.chmod(0o775)), "is writable by group 12345"),
        ("a/bin", acl, "is writable by those whom its ACL names"),
    ],
)  # fmt: skip
def test_each_component_has_to_be_roots(programs: Path, name: str, change: Change, why: str) -> None:
    script(programs / "a/bin/x")
    (programs / "link").symlink_to("a")
    change(programs / name)
    found = said(programs / "link/bin/x")
    assert found["status"] == "failed" and found["error"] == f"not executed: {programs / name} {why}"


def test_a_link_out_of_a_good_directory(programs: Path, tmp_path: Path) -> None:
    """In pytest's own directory, which lies below /tmp."""
    (programs / "x").symlink_to(script(tmp_path / "x"))
    assert said(programs / "x")["error"] == "not executed: /tmp is writable by everybody"


@pytest.mark.parametrize(
    ("group", "passwd", "mode", "expected"),
    [
        ("staff:x:12345:\n", "root:x:0:0::/root:/bin/sh\n", 0o2775, "ok"),
        ("staff:x:12345:ann\n", "", 0o2775, "failed"),
        ("staff:x:12345:\n", "ann:x:1001:12345::/home/ann:/bin/sh\n", 0o2775, "failed"),
        ("other:x:1:\n", "", 0o2775, "failed"),
        ("nixbld:x:12345:nixbld1\n", "", 0o1775, "ok"),
    ],
    ids=["debian-10-staff", "member", "primary", "unknown-group", "nix-store"],
)
def test_a_group_without_members(
    programs: Path, monkeypatch: pytest.MonkeyPatch, group: str, passwd: str, mode: int, expected: str
) -> None:
    """Debian's /usr/local is root:staff, 2775, and staff has no member (Debian Policy 9.1.2)."""
    path = script(programs / "local/x")
    os.chown(path.parent, 0, 12345)
    path.parent.chmod(mode)
    (programs / "group").write_text(group)
    (programs / "passwd").write_text(passwd)
    monkeypatch.setattr(execution, "ACCOUNTS", (str(programs / "group"), str(programs / "passwd")))
    assert runs.run([str(path)], 5)["status"] == expected


def test_an_interpreter_is_a_program_too(programs: Path) -> None:
    interpreter = programs / "own/sh"
    interpreter.parent.mkdir()
    shutil.copy("/bin/sh", interpreter)
    chown(interpreter)
    found = said(script(programs / "x", interpreter=f"{interpreter} -e"))
    assert found["error"] == f"not executed: {interpreter} belongs to uid {OTHER}"
    os.chown(interpreter, 0, 0)
    assert said(programs / "x")["out"] == "ran\n"
    found = said(script(programs / "y", interpreter="own/sh"))
    assert found["error"] == "not executed: own/sh is no absolute path"


def test_a_name_is_looked_up_and_judged(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by what changes a host: operations have the same `run`."""
    mark = programs / "mark"
    chown(script(programs / "bin/gpumend-tool", f"touch {mark}"))
    monkeypatch.setattr(execution, "PATH", f"{programs}/bin:{execution.PATH}")
    found = runs.run(["gpumend-tool"], 5)
    assert found == {"status": "failed", "error": f"not executed: {programs}/bin/gpumend-tool belongs to uid {OTHER}"}  # fmt: skip
    assert execution.which("gpumend-tool") == f"{programs}/bin/gpumend-tool", "it is there all the same"
    assert not mark.exists()
    assert runs.run(["gpumend-no-such-tool"], 5)["status"] == "absent"


def test_what_a_program_calls_is_looked_up_where_root_alone_writes(
    programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`sh -c CHECK` and package managers call others by name; HOME is not a user's, whom sudo may have kept there."""
    chown(script(programs / "theirs/true").parent)
    monkeypatch.setattr(execution, "PATH", f"{programs}/theirs:{programs}:/usr/bin:/bin")
    monkeypatch.setenv("HOME", str(programs / "theirs"))
    found = runs.run(["sh", "-c", "echo $PATH $HOME"], 5)
    assert found["out"] == f"{programs}:/usr/bin:/bin /root\n"


def test_who_is_not_root_runs_what_he_may(tmp_path: Path) -> None:
    path = script(tmp_path / "x")
    for directory in (tmp_path, *tmp_path.parents[:-2]):
        directory.chmod(directory.stat().st_mode | 0o055)
    argv = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    assert run(*argv, commands={"x": {"argv": [str(path)]}})["commands"]["x"]["out"] == "ran\n"


# --- which process is the daemon that it calls itself

NAME = f"gpumend-daemon-{os.getpid()}"  # other workers' are not ours


@contextlib.contextmanager
def running(*argv: str, name: str = NAME, **more: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process, from when its command line begins with that name."""
    child = subprocess.Popen([*argv], **more)
    try:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                if any(argv[0].rpartition("/")[2] == name for argv in command_lines(child.pid)):
                    break
            time.sleep(0.01)
        else:
            assert child.poll() is not None, "it did not come up"
        yield child
    finally:
        child.kill()
        child.wait()


def command_lines(pid: int) -> Iterator[list[str]]:
    """Of a process and its children."""
    for each in (str(pid), *Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
        yield Path(f"/proc/{each}/cmdline").read_bytes().decode("utf-8", "replace").split("\0")


def seen(name: str = NAME) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(those that are what they call themselves, those that are not), through the whole program."""
    found = run(processes=[name])["processes"]
    return found["processes"], found.get("impostors", [])


@pytest.fixture
def daemon_file(programs: Path) -> Path:
    """A program of that name that root alone can change."""
    (programs / "sbin").mkdir()
    shutil.copy("/bin/sleep", programs / "sbin" / NAME)
    return programs / "sbin" / NAME


def test_the_hosts_own(daemon_file: Path) -> None:
    with running(str(daemon_file), "60") as child:
        (own,), impostors = seen()
    assert impostors == [] and own["pid"] == child.pid and own["uids"] == [0, 0, 0, 0]


def test_a_name_alone_is_no_identity() -> None:
    with running("bash", "-c", f"exec -a {NAME} sleep 60") as child:
        own, (impostor,) = seen()
    assert own == [] and impostor["pid"] == child.pid and impostor["name"] == NAME
    assert impostor["exe"] == os.path.realpath("/bin/sleep") and impostor["uids"] == [0, 0, 0, 0]
    assert impostor["why"] == f"it executes {impostor['exe']}"


def setuid(path: Path) -> Path:
    """A program as su is: whoever starts it, root's, and called like the daemon that it is not."""
    shutil.copy("/bin/sleep", path)
    path.chmod(0o4755)
    return path


def as_other(*argv: str) -> list[str]:
    return ["setpriv", f"--reuid={OTHER}", f"--regid={OTHER}", "--clear-groups", *argv]


def test_a_setuid_program_is_not_the_hosts_daemon(programs: Path) -> None:
    """The hole: `exec -a dockerd su root -- --config-file=PATH`, as any user."""
    program = setuid(programs / "su")
    script = f"exec -a {NAME} {program} 60"
    with running(*as_other("bash", "-c", script)):
        own, (impostor,) = seen()
    assert own == [] and impostor["exe"] == str(program)
    assert impostor["uids"] == [OTHER, 0, 0, 0]


def test_nor_is_one_of_the_right_name(programs: Path) -> None:
    program = setuid(programs / NAME)
    with running(*as_other(str(program), "60")):
        own, (impostor,) = seen()
    assert own == [] and impostor["why"] == f"its user ids are {OTHER}, 0, 0, 0"


@pytest.mark.parametrize("name", [".", "sbin", "sbin/DAEMON"])
def test_a_program_that_others_can_change_is_not_the_hosts_daemon(
    programs: Path, daemon_file: Path, name: str
) -> None:
    path = programs / name.replace("DAEMON", NAME)
    chown(path)
    with running(str(daemon_file), "60"):
        own, (impostor,) = seen()
    assert own == [] and impostor["why"] == f"{path} belongs to uid {OTHER}"


def test_a_daemon_whose_program_was_replaced_is_still_the_hosts(daemon_file: Path) -> None:
    """As after every upgrade of its package: /proc/PID/exe ends in ` (deleted)`."""
    with running(str(daemon_file), "60") as child:
        shutil.copy("/bin/sleep", daemon_file.with_suffix(".new"))
        daemon_file.with_suffix(".new").rename(daemon_file)
        (own,), impostors = seen()
        daemon_file.unlink()
        daemon_file.parent.rmdir()
        (gone,), none = seen()
    assert own["pid"] == gone["pid"] == child.pid and own["exe"] == f"{daemon_file} (deleted)"
    assert impostors == none == []


def test_a_replaced_program_that_others_could_have_written_is_not(daemon_file: Path) -> None:
    chown(daemon_file)
    with running(str(daemon_file), "60"):
        daemon_file.unlink()
        own, (impostor,) = seen()
    assert own == [] and f"belongs to uid {OTHER}" in impostor["why"]


def test_a_link_to_the_program_of_another_name(
    programs: Path, daemon_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Docker 18.09's dockerd is a link to dockerd-ce: what root's PATH calls so is that program."""
    daemon_file.rename(programs / "sbin/other-name")
    daemon_file.symlink_to("other-name")
    with running(str(daemon_file), "60"):
        assert processes.processes([NAME])["processes"] == [], "nobody calls it so but itself"
        monkeypatch.setattr(execution, "PATH", f"{programs}/sbin:{execution.PATH}")
        found = processes.processes([NAME])
    assert len(found["processes"]) == 1 and found["impostors"] == []


def test_a_program_of_many_names(programs: Path) -> None:
    """k3s' containerd, k3s-server and kubectl are links to k3s (k3s-io/k3s scripts/build)."""
    shutil.copy("/bin/sleep", programs / "k3s")
    (programs / "k3s-agent").symlink_to("k3s")
    with running(str(programs / "k3s-agent"), "60", name="k3s-agent"):
        (own,), impostors = seen("k3s-agent")
    assert impostors == [] and own["exe"] == str(programs / "k3s")


def test_a_users_own_is_that_users(programs: Path, daemon_file: Path) -> None:
    """Rootless Docker's dockerd lies in ~/bin: it is its user's, whoever owns it, and never the host's."""
    chown(daemon_file)
    with running(*as_other(str(daemon_file), "60")):
        (own,), impostors = seen()
    assert impostors == [] and own["uid"] == OTHER
    with running(*as_other("bash", "-c", f"exec -a {NAME} sleep 60")):
        own, (impostor,) = seen()
    assert own == [] and impostor["uids"] == [OTHER] * 4


def test_roots_of_a_user_name_space_are_its_users(daemon_file: Path) -> None:
    """Inside, all four are 0; the host sees whose they are."""
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    with running(*as_other(*unshare, str(daemon_file), "60")) as child:
        if child.poll() is not None:
            pytest.skip("no user namespaces for users here")
        (own,), impostors = seen()
    assert impostors == [] and own["uid"] == OTHER and own["uids"] == [OTHER] * 4


def test_a_mount_name_space_of_nobody(daemon_file: Path) -> None:
    """What lies at /usr/bin/dockerd in it may be anything. A unit may have one (snap, PrivateTmp=)."""
    with running("unshare", "--mount", str(daemon_file), "60") as child:
        own, impostors = seen()
        if processes.system_unit(child.pid):
            pytest.skip("these tests run in a unit")
    assert own == [] and "mount namespace" in impostors[0]["why"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("0::/system.slice/docker.service", True),
        ("1:name=systemd:/system.slice/docker.service", True),
        ("0::/system.slice/snap.docker.dockerd.service", True),
        ("0::/../../runtime.slice/kubelet.service/x", True),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/dockerd.service", False),
        ("0::/../user.slice/user-1000.slice/user@1000.service", False),
        ("0::/user.slice/user-1000.slice/session-1.scope", False),
        ("3:cpu:/system.slice/docker.service", False),
        ("0::/", False),
    ],
)
def test_the_cgroup_of_a_system_unit(line: str, expected: bool) -> None:
    assert bool(processes.SYSTEM_UNIT.search(f"12:pids:/x\n{line}\n")) is expected


def test_a_containers_own_is_judged_by_its_name_and_stays_a_containers(daemon_file: Path) -> None:
    unshare = ["unshare", "--pid", "--fork", "--kill-child"]
    chown(daemon_file.parent)  # of its own root anything may be
    with running(*unshare, str(daemon_file), "60"):
        (own,), impostors = seen()
        assert impostors == [] and processes.inner(own)
    with running(*unshare, "bash", "-c", f"exec -a {NAME} sleep 60"):
        own, (impostor,) = seen()
    assert own == [] and impostor["nested"] is True


def test_a_crowd_of_impostors_does_not_fill_the_answer() -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(processes.IMPOSTORS + 5):
            stack.enter_context(running("bash", "-c", f"exec -a {NAME} sleep 60 " + "0 " * 1000))
        found = output(program=asked(processes=[NAME]))
    assert len(json.loads(found)["processes"]["impostors"]) == processes.IMPOSTORS
    assert len(found) < 20_000


# --- what a dockerd that is none makes an audit do


@contextlib.contextmanager
def a_dockerd(monkeypatch: pytest.MonkeyPatch, *argv: str) -> Iterator[dict[str, Any]]:
    """What the probe's look makes of a process that calls itself dockerd, as if it was the only one. `asked`: whether one
    was said to run when Docker's socket was to be asked."""
    with running(*argv, name="dockerd", stdin=subprocess.PIPE) as child:
        real = processes.processes

        def one(names: list[str]) -> dict[str, Any]:
            found = real(names)
            for key in ("processes", "impostors"):
                found[key] = [entry for entry in found[key] if entry["pid"] == child.pid]
            return found

        up: list[bool] = []
        monkeypatch.setattr(look, "processes", one)
        monkeypatch.setattr(look, "docker", lambda path, running, *more: up.append(running) or dict(ABSENT))
        yield {**look.look({"processes": ["dockerd"]}), "asked": up}


ABSENT = {"status": "absent", "error": "no dockerd runs"}


def test_a_false_dockerd_is_no_reason_to_knock(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docker.socket would start a dockerd that was stopped; the directory in its arguments is a user's wish."""
    shutil.copy("/bin/bash", programs / "su")
    (programs / "su").chmod(0o4755)
    script = f"exec -a dockerd {programs}/su -p -c 'read x' x --data-root /root"
    with a_dockerd(monkeypatch, *as_other("bash", "-c", script)) as answer:
        assert answer["asked"] == [False] and "/root" not in answer["listings"]
    assert [found["uids"] for found in answer["processes"]["impostors"]] == [[OTHER, 0, 0, 0]]


def test_a_true_one_is_asked(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy("/bin/bash", programs / "dockerd")
    argv = [str(programs / "dockerd"), "-c", "read x", "x", "--data-root", "/root"]
    with a_dockerd(monkeypatch, *argv) as answer:
        assert answer["asked"] == [True] and "/root" in answer["listings"]


def test_a_users_dockerd_does_not_choose_what_root_lists(
    programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy("/bin/bash", programs / "dockerd")
    argv = as_other(str(programs / "dockerd"), "-c", "read x", "x", "--data-root=/root", "-g", "/root")
    with a_dockerd(monkeypatch, *argv) as answer:
        assert answer["asked"] == [False] and "/root" not in answer["listings"]
    assert [found["uid"] for found in answer["processes"]["processes"]] == [OTHER], "it is that user's"


def test_a_dockerd_of_which_root_is_not_sure_is_not_known(
    programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All its user ids are root's, and so is its name, but it lies where a user can change it: neither asked, nor absent."""
    shutil.copy("/bin/bash", programs / "dockerd")
    chown(programs)
    with a_dockerd(monkeypatch, str(programs / "dockerd"), "-c", "read x") as answer:
        assert answer["asked"] == [] and answer["docker"]["status"] == "failed"
        assert f"belongs to uid {OTHER}" in answer["docker"]["error"]


def test_a_file_is_opened_by_its_directory_as_by_its_path(tmp_path: Path) -> None:
    """opened_in takes a shorter way to the same: links, kinds, what a user put there, and limits."""
    place = tmp_path / "etc"
    place.mkdir()
    (place / "plain").write_text("words")
    (place / "large").write_text("x" * 100)
    (place / "directory").mkdir()
    os.mkfifo(place / "fifo")
    (place / "link").symlink_to("plain")
    (place / "astray").symlink_to("/etc/shadow")
    (place / "dangling").symlink_to("none")
    for name, mode in (("his", 0o644), ("his-alone", 0o600)):
        (place / name).write_text("his")
        (place / name).chmod(mode)
        os.chown(place / name, NOBODY, NOBODY)
    os.link(place / "his-alone", place / "his-too")
    handle = os.open(place, os.O_PATH | os.O_DIRECTORY)
    try:
        for path in [*map(str, sorted(place.iterdir())), str(place / "missing")]:
            for limit, largest in ((50, 0), (200, 50), (200, 0)):
                expected = files.opened(path, limit, largest=largest)
                assert files.opened_in(handle, path, limit, largest) == expected, path
        swapped = files.taken_in(handle, "fifo", {"status": "ok", "kind": "file", "size": 5}, 50)
        assert swapped[1] is None and swapped[0]["kind"] == "file"  # what root put there meanwhile
        assert swapped[0]["status"] == "failed" and "no regular file any more" in swapped[0]["error"]
        (place / "grew").write_text("x" * 20000)  # since its size was asked for
        assert files.taken_in(handle, "grew", {"size": 5}, 30000)[1] == b"x" * 20000
        assert files.taken_in(handle, "grew", {"size": 5}, 9000)[0]["error"] == "larger than 9000 bytes"
    finally:
        os.close(handle)
    assert files.opened_in(None, str(place / "plain"), 50)[1] == b"words"
