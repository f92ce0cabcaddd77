"""gpumend/payload/cuda.py: CUDA is asked by a process of no rights, and only where that creates nothing."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from gpumend.payload import cuda
from gpumend.payload.cuda import ask_cuda, in_the_way
from gpumend.payload.probe import execution, running
from gpumend.payload.source import probe_source
from gpumend.state.host_state import request

# A libcuda that tells who asks it and tries to do harm: on its standard error, for the test alone.
TELLS = r"""
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <fcntl.h>
#include <unistd.h>
#include <grp.h>
extern char **environ;
static void said(const char *what, int ok) { fprintf(stderr, "%s=%s\n", what, ok ? "yes" : "no"); }
int cuInit(unsigned int flags) {
    uid_t r, e, s; gid_t a, b, c; gid_t more[64];
    getresuid(&r, &e, &s); getresgid(&a, &b, &c);
    fprintf(stderr, "uids=%d,%d,%d\ngids=%d,%d,%d\ngroups=%d\n", r, e, s, a, b, c, getgroups(64, more));
    fprintf(stderr, "nnp=%d\n", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
    struct rlimit core; getrlimit(RLIMIT_CORE, &core);
    fprintf(stderr, "core=%ld\n", (long)core.rlim_cur);
    for (char **at = environ; *at; at++) fprintf(stderr, "env:%s\n", *at);
    said("mknod", mknod(PLACE "/made", S_IFCHR | 0666, makedev(195, 9)) == 0);
    said("file", open(PLACE "/file", O_CREAT | O_WRONLY, 0666) >= 0);
    said("setuid", setuid(0) == 0);
    char pipe[512]; snprintf(pipe, sizeof pipe, "%s/control", getenv("CUDA_MPS_PIPE_DIRECTORY"));
    said("mps", access(pipe, F_OK) == 0);
    said("mps-made", mkdir(pipe, 0777) == 0);
    int out = system(PLACE "/setuid-program");
    fprintf(stderr, "helper=%d\n", out == -1 ? -1 : WEXITSTATUS(out));
    if (WAIT) for (;;) sleep(60);
    return NUMBER;
}
int cuDeviceGetCount(int *count) { *count = 2; return 0; }
"""
SMI = {
    "status": "ok",
    "rc": 0,
    "out": "GPU 00000000:00:06.0\n    MIG Mode\n        Current : Disabled\n        Pending : Disabled\n",
}
INFORMATION = "Model: \t NVIDIA H100\nDevice Minor: \t %d\nGPU Excluded:\t %s\n"


@pytest.fixture
def place(programs: Path) -> Path:
    """A directory of root's that everybody may read, with nothing of anybody else's above it."""
    return programs


def library(place: Path, number: int = 0, wait: int = 0) -> Path:
    """The libcuda of these tests, and a setuid program beside it that tells its effective uid."""
    source, found = place / "cuda.c", place / "libcuda.so.1"
    source.write_text(TELLS)
    flags = [
        f'-DPLACE="{place}"',
        f"-DNUMBER={number}",
        f"-DWAIT={wait}",
        "-w",
        "-include",
        "sys/wait.h",
        "-D_GNU_SOURCE",
    ]
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", found, *flags, source], check=True)
    found.chmod(0o755)
    program = place / "program.c"
    program.write_text("#include <unistd.h>\nint main(void) { return geteuid() == 0 ? 42 : 7; }\n")
    subprocess.run(["gcc", "-o", place / "setuid-program", program], check=True)
    (place / "setuid-program").chmod(0o4755)
    return found


def tree(
    place: Path, mode: int = 0o666, gid: int = 0, uvm: tuple[int, int] = (238, 0), excluded: str = "No"
) -> str:
    """A root directory with the nodes of a host with one GPU, and what the kernel says of them."""
    root = place / "root"
    gpu = root / "proc/driver/nvidia/gpus/0000:00:06.0"
    gpu.mkdir(parents=True)
    (gpu / "information").write_text(INFORMATION % (0, excluded))
    (root / "proc/devices").write_text(
        "Character devices:\n195 nvidia\n238 nvidia-uvm\n\nBlock devices:\n  8 sd\n"
    )
    (root / "dev").mkdir()
    for name, numbers in (("nvidiactl", (195, 255)), ("nvidia0", (195, 0)), ("nvidia-uvm", uvm)):
        path = root / "dev" / name
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(*numbers))
        os.chown(path, 0, gid)
        path.chmod(mode)
    return str(root)


def answers(path: Path | str, smi: dict[str, Any] | None = None) -> dict[str, Any]:
    cache = {"status": "ok", "rc": 0, "out": f"\tlibcuda.so.1 (libc6,x86-64) => {path}\n"}
    return {"nvidia-smi-query": smi or SMI, "ldconfig": cache}


def ask(place: Path, root: str, path: Path | str, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = ask_cuda(
        {"timeout": 20, **more}, answers(path), root, running.run, execution.resolved
    )
    return found


def lines(found: dict[str, Any]) -> list[str]:
    return list(found["err"].splitlines())


def test_it_is_asked_by_a_process_of_no_rights(place: Path) -> None:
    path = library(place)
    found = ask(place, tree(place), path)
    assert (found["status"], found["rc"], found["out"]) == ("ok", 0, f"0 2 {path}\n")
    told = lines(found)
    assert {"uids=65534,65534,65534", "gids=65534,65534,65534", "groups=0", "nnp=1", "core=0"} <= set(told)
    assert {"mknod=no", "file=no", "setuid=no", "mps=no", "mps-made=no"} <= set(told)
    assert "helper=7" in told, "a setuid program gains nothing: it could make a node or load a module"
    assert not (place / "made").exists() and not (place / "file").exists()


def test_its_environment_is_empty(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("LD_PRELOAD", "")
    found = ask(place, tree(place), library(place))
    assert sorted(line for line in lines(found) if line.startswith("env:")) == [
        "env:CUDA_CACHE_DISABLE=1",
        "env:CUDA_MPS_PIPE_DIRECTORY=/proc/tty/ldisc",
    ]


def test_a_planted_mps_directory_is_not_looked_into(place: Path) -> None:
    """libcuda's default is /tmp/nvidia-mps, which any user can make."""
    planted = Path("/tmp/nvidia-mps")
    mine = not planted.exists()
    planted.mkdir(exist_ok=True)
    try:
        assert "mps=no" in lines(ask(place, tree(place), library(place)))
    finally:
        if mine:
            planted.rmdir()


def test_where_no_process_can_make_anything() -> None:
    for path in cuda.EMPTY[:1]:
        assert list(Path(path).iterdir()) == []
        with pytest.raises(OSError, match=r"Operation not permitted|No such file|Permission denied"):
            Path(path, "control").mkdir()


def test_a_number_is_told_as_it_is(place: Path) -> None:
    path = library(place, number=999)
    assert ask(place, tree(place), path)["out"] == f"999 -1 {path}\n"


def test_no_answer_in_time_is_a_timeout(place: Path) -> None:
    began = time.monotonic()
    found = ask(place, tree(place), library(place, wait=1), timeout=1)
    assert found["status"] == "timeout" and time.monotonic() - began < 10


def test_nodes_of_a_group_are_opened_as_that_group(place: Path) -> None:
    found = ask(place, tree(place, 0o660, 44), library(place))
    assert "gids=44,44,44" in lines(found) and "uids=65534,65534,65534" in lines(found)


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        pytest.param({"mode": 0o600}, "only root may open", id="root-alone"),
        pytest.param({"mode": 0o660, "gid": 0}, "only root may open", id="root's-group"),
        pytest.param({"uvm": (510, 0)}, "has not the kernel's numbers", id="last-boot's-major"),
        pytest.param({"excluded": "Yes"}, "knows no GPU", id="excluded"),
    ],
)
def test_it_is_not_asked_of_nodes_that_are_not_right(place: Path, nodes: dict[str, Any], words: str) -> None:
    found = ask(place, tree(place, **nodes), library(place))
    assert found["status"] == "absent" and words in found["error"]


@pytest.mark.parametrize("kind", ["missing", "file", "directory"])
def test_it_is_not_asked_where_a_node_would_be_created(place: Path, kind: str) -> None:
    root = tree(place)
    node = Path(root) / "dev/nvidia-uvm"
    node.unlink()
    if kind == "file":
        node.write_text("")
    elif kind == "directory":
        node.mkdir()
    assert ask(place, root, library(place))["status"] == "absent"


def test_a_planted_libcuda_is_not_loaded(place: Path) -> None:
    good, root = library(place), tree(place)
    writable = place / "writable"
    writable.mkdir()
    writable.chmod(0o777)
    theirs = place / "theirs.so"
    shutil.copy(good, theirs)
    os.chown(theirs, 1000, 1000)
    shutil.copy(good, writable / "libcuda.so.1")
    (place / "link.so").symlink_to(writable / "libcuda.so.1")
    for path in (writable / "libcuda.so.1", theirs, place / "link.so", "/tmp/libcuda.so.1"):
        found = ask(place, root, path)
        assert found["status"] == "absent" and found["error"].startswith("not asked: "), path
    assert ask(place, root, good)["status"] == "ok"


@pytest.mark.parametrize(
    ("smi", "words"),
    [
        ({"status": "timeout", "error": "no answer within 20 s"}, "no answer"),
        ({"status": "ok", "rc": 6, "out": "No devices were found\n"}, "no answer"),
        ({"status": "absent", "error": "not here"}, "no answer"),
        ({**SMI, "out": SMI["out"] + "        Reset Required                    : Yes\n"}, "a reset"),
        ({**SMI, "out": SMI["out"] + "    GPU Recovery Action                   : Reset\n"}, "a reset"),
        ({**SMI, "out": str(SMI["out"]).replace("Pending : Disabled", "Pending : Enabled")}, "MIG mode"),
        (None, "no answer"),
    ],
)
def test_it_is_not_asked_while_something_is_in_the_way(smi: dict[str, Any] | None, words: str) -> None:
    assert words in str(in_the_way(smi))


def test_nothing_is_in_the_way_of_a_gpu_at_work() -> None:
    assert in_the_way(SMI) is None
    calm = (
        str(SMI["out"])
        + "        Reset Required                    : No\n    GPU Recovery Action                   : None\n"
    )
    assert in_the_way({**SMI, "out": calm}) is None


def test_it_waits_for_what_nvidia_smi_says(place: Path) -> None:
    """The commands run side by side: their answers come while this one has begun."""
    path, known = library(place), answers("/x")
    late, known["ldconfig"] = known.pop("nvidia-smi-query"), answers(path)["ldconfig"]
    timer = threading.Timer(0.2, lambda: known.update({"nvidia-smi-query": late}))
    timer.start()
    found = ask_cuda({"timeout": 20}, known, tree(place), running.run, execution.resolved)
    timer.join()
    assert found["status"] == "ok"


def test_the_whole_program_asks(place: Path) -> None:
    """As it goes to a host: over stdin, with the answers of other commands of the same request."""
    path, root = library(place, number=802), tree(place)
    said = {"nvidia-smi-query": SMI["out"], "ldconfig": answers(path)["ldconfig"]["out"]}
    commands: dict[str, Any] = {}
    for name, text in said.items():
        (place / name).write_text(str(text))
        commands[name] = {"argv": ["cat", str(place / name)], "timeout": 5}
    asked = {
        "root": root,
        "commands": {**commands, "cuinit": {"argv": ["cuInit"], "timeout": 20, "asks_cuda": True}},
    }
    program = f"{probe_source()}\nmain(json.loads({json.dumps(asked)!r}))\n"
    found = subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-"], input=program, capture_output=True, text=True, check=True
    )
    answer = json.loads(found.stdout)["commands"]["cuinit"]
    assert (answer["status"], answer["out"]) == ("ok", f"802 -1 {path}\n")


def test_never_is_never(place: Path) -> None:
    command = request(False)["commands"]["cuinit"]
    found = ask_cuda(command, answers("/x"), tree(place), running.run, execution.resolved)
    assert found == {"status": "absent", "error": "not asked: ask_cuda is never"}
    assert "never" not in request()["commands"]["cuinit"]
