"""gpumend/payload/probe/ as hosts run it: a plain program over stdin, `python3 -I -S -B -`, on a tree made for the test."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gpumend.payload import source as programs_source
from gpumend.payload.probe import containers, docker, execution, files, http, look, processes, running
from gpumend.payload.source import probe_source, probe_text
from gpumend.run.programs import probe_program
from gpumend.state.gpu import EVERY_GPU
from gpumend.state.gpu import REQUEST as GPUS
from gpumend.state.host_state import request
from gpumend.state.machine import REQUEST as KERNEL
from gpumend.state.request import with_twins
from gpumend.state.snapshot import Snapshot, unpacked

ARGV = [sys.executable, "-I", "-S", "-B", "-"]  # facts.remote.PYTHON, with the interpreter of these tests
NOBODY = 65534
Answer = dict[str, Any]


def asked(**request_parts: Any) -> str:
    """The program with this request, put together as facts.host_state.probe_program does."""
    return f"{probe_source()}\nmain(json.loads({json.dumps(request_parts)!r}))\n"


def output(*argv: str, program: str, timeout: float = 60) -> str:
    found = subprocess.run(
        [*argv, *ARGV], input=program, capture_output=True, text=True, check=False, timeout=timeout, cwd="/"
    )
    assert (found.returncode, found.stderr) == (0, "")
    return found.stdout


def run(*argv: str, **request_parts: Any) -> Answer:
    answer: Answer = json.loads(output(*argv, program=asked(**request_parts)))
    return answer


def a_glob(pattern: str, read: bool = True, mentioned: bool = False) -> dict[str, Any]:
    return {"pattern": pattern, "read": read, "mentioned": mentioned}


def data(item: dict[str, Any]) -> bytes:
    found = files.content(item)
    assert found is not None
    return found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree that another user may enter: pytest makes its directories 0700."""
    for directory in (tmp_path, *tmp_path.parents):
        if directory.stat().st_uid == os.geteuid() and directory != Path("/"):
            directory.chmod(directory.stat().st_mode | 0o055)
    (tmp_path / "etc").mkdir()
    return tmp_path


# --- the program


def test_its_grammar_is_python_36s() -> None:
    """RHEL 8's and Ubuntu 18.04's python3 is 3.6."""
    ast.parse(probe_text(), feature_version=(3, 6))


def test_it_calls_nothing_newer_than_python_36() -> None:
    newer = {
        "removeprefix",
        "removesuffix",
        "capture_output",
        "text",
        "fromisoformat",
        "cache",
        "dirs_exist_ok",
    }
    tree = ast.parse(probe_text())
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    used |= {
        word.arg
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for word in node.keywords
        if word.arg
    }
    assert not used & newer


def test_it_imports_the_standard_library_alone() -> None:
    names = set()
    for node in ast.walk(ast.parse(probe_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module).partition(".")[0])
    assert (
        names and names - {"_sha2", "_sha256"} <= sys.stdlib_module_names
    )  # a newer Python has the one, an older the other


def test_it_imports_nothing_that_costs_and_is_not_used() -> None:
    """OpenSSL, e-mail, hints of types: 25 ms of CPU time on a host, for each audit."""
    told = f"{probe_source()}\nprint(*sys.modules)\n"
    loaded = set(output(program=told).split())
    assert {"json", "subprocess", "_socket"} <= loaded
    unused = {
        "socket",
        "typing",
        "http.client",
        "hashlib",
        "ssl",
        "email",
        "tempfile",
        "random",
        "urllib",
        "logging",
        "ctypes",
    }
    assert not loaded & unused


def test_it_is_ascii_and_runs_only_when_called() -> None:
    assert probe_source().isascii()
    assert output(program=probe_source()) == ""


def test_the_answer_is_one_line_of_ascii_json(root: Path) -> None:
    (root / "etc/ü").write_bytes(b"\xff\n\x00")
    found = output(
        program=asked(
            root=str(root), files=["/etc/ü"], commands={"x": {"argv": ["printf", "\\374\\n\\001é"]}}
        )
    )
    assert found.isascii() and found.count("\n") == 1 and found.endswith("}\n")
    answer = json.loads(found)
    assert data(answer["files"]["/etc/ü"]) == b"\xff\n\x00"
    assert answer["commands"]["x"]["out"] == "\ufffd\n\x01é"


def test_file_names_that_are_no_text_are_no_trouble(root: Path) -> None:
    (root / "etc/cdi").mkdir()
    Path(os.fsdecode(os.fsencode(root) + b"/etc/cdi/\xff.yaml")).write_bytes(b"x")
    found = output(program=asked(root=str(root), globs=[a_glob("/etc/cdi/*")]))
    assert found.isascii() and len(json.loads(found)["globs"]["/etc/cdi/*"]["paths"]) == 1


def test_the_whole_request_is_answered_here() -> None:
    """The real request on this machine: an item for each thing that was asked for."""
    answer: Answer = json.loads(unpacked(output(program=asked(**request()))))
    assert answer["gpumend"] == look.FORMAT
    for section in ("files", "stats", "programs", "commands"):
        assert set(request()[section]) <= set(answer[section])
    assert {spec["pattern"] for spec in request()["globs"]} == set(answer["globs"])
    statuses = {"ok", "absent", "denied", "timeout", "failed"}
    for section in ("files", "stats", "globs", "commands", "programs"):
        assert {item["status"] for item in answer[section].values()} <= statuses
    assert answer["system"]["uid"] == os.geteuid()


# --- it writes nothing

# What it tells goes into a file: readers keep no handle. A reader's name is no file.
HOOK = """
import os
import sys
import threading
TOLD = %r
def tell(text):
    with open(TOLD, "a") as handle:
        handle.write(text + "\\n")
def hook(event, arguments):
    if event == "open" and isinstance(arguments[2], int):
        writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
        if arguments[2] & writing and arguments[0] not in (os.devnull, "/proc/self/comm", TOLD):
            tell("WROTE %%r" %% (arguments[0],))
    elif event.split(".")[0] in ("shutil", "tempfile") or event in FORBIDDEN:
        tell("DID %%s %%r" %% (event, arguments))
FORBIDDEN = {"os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.link", "os.truncate", "os.chmod",
             "os.chown", "os.utime", "os.setxattr", "os.removexattr", "os.mknod", "os.mkfifo", "os.kill"}
sys.addaudithook(hook)
"""


def test_it_opens_no_file_for_writing(root: Path) -> None:
    """Promise 1, under an audit hook of the interpreter; the commands it runs are others' to answer for."""
    (root / "etc/a").write_text("x")
    told = root / "told"
    full = asked(**{**request(), "files": [*request()["files"], "/etc/a"]})
    here = asked(
        root=str(root),
        files=["/etc/a", "/etc/none"],
        stats=["/etc"],
        globs=[a_glob("/etc/*", mentioned=True)],
    )
    for program in (full, here):
        found = subprocess.run(
            ARGV, input=HOOK % str(told) + program, capture_output=True, text=True, check=True, cwd="/"
        )
        assert (found.stderr, told.exists() and told.read_text()) == ("", False)
        assert json.loads(unpacked(found.stdout))["gpumend"] == look.FORMAT


def test_the_audit_hook_would_tell(root: Path) -> None:
    writes = f"open({str(root / 'x')!r}, 'w').close()\nimport os\nos.remove({str(root / 'x')!r})\n"
    for source in (
        writes,
        f"{probe_source()}\nread_apart([lambda: exec({writes!r})], print, time.monotonic() + 9, {{}}, 9)\n",
    ):
        told = root / f"told{len(source)}"
        subprocess.run(ARGV, input=HOOK % str(told) + source, capture_output=True, text=True, check=True)
        assert "WROTE" in told.read_text() and "DID os.remove" in told.read_text()


def test_the_tree_is_as_it_was(root: Path) -> None:
    (root / "etc/a").write_text("/etc/b")

    def listing() -> list[tuple[str, int, int, int]]:
        return [
            (str(path), path.lstat().st_mode, path.lstat().st_mtime_ns, path.lstat().st_ctime_ns)
            for path in sorted(root.rglob("*"))
        ]

    before = listing()
    run(
        root=str(root),
        files=["/etc/a", "/etc"],
        globs=[a_glob("/etc/*", mentioned=True)],
        stats=["/nowhere/x"],
    )
    assert listing() == before


# --- files


def test_a_file(root: Path) -> None:
    path = root / "etc/config.toml"
    path.write_bytes(b"mode = 1\n")
    path.chmod(0o640)
    item = run(root=str(root), files=["/etc/config.toml"])["files"]["/etc/config.toml"]
    assert item["status"] == "ok" and item["kind"] == "file" and item["mode"] == 0o640
    assert data(item) == b"mode = 1\n" and item["size"] == 9 and item["uid"] == os.geteuid()
    assert item["sha256"] == hashlib.sha256(b"mode = 1\n").hexdigest()


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"\x00" * 100, "ü".encode("latin-1"), b"\r\n"])
def test_any_bytes_come_through(root: Path, content: bytes) -> None:
    (root / "etc/x").write_bytes(content)
    assert data(run(root=str(root), files=["/etc/x"])["files"]["/etc/x"]) == content


def test_a_file_of_the_limit_and_one_byte_more(root: Path) -> None:
    (root / "etc/full").write_bytes(b"x" * files.MAX_FILE_BYTES)
    (root / "etc/big").write_bytes(b"x" * (files.MAX_FILE_BYTES + 1))
    found = run(root=str(root), files=["/etc/full", "/etc/big"])["files"]
    assert found["/etc/full"]["status"] == "ok" and len(data(found["/etc/full"])) == files.MAX_FILE_BYTES
    assert found["/etc/big"]["status"] == "failed" and "data" not in found["/etc/big"]
    assert "larger than" in found["/etc/big"]["error"]


def test_what_is_no_regular_file_is_named_and_not_opened(root: Path) -> None:
    """A FIFO without a writer would block an open for ever."""
    os.mkfifo(root / "etc/fifo")
    (root / "etc/directory").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(root)  # a socket's path is short
        listener.bind("etc/socket")
        began = time.monotonic()
        files = run(root=str(root), files=["/etc/fifo", "/etc/directory", "/etc/socket"])["files"]
        os.chdir("/")
    assert time.monotonic() - began < 20
    assert {path: (item["status"], item["kind"]) for path, item in files.items()} == {
        "/etc/fifo": ("ok", "fifo"),
        "/etc/directory": ("ok", "dir"),
        "/etc/socket": ("ok", "socket"),
    }
    assert not [path for path, item in files.items() if "data" in item]


def test_a_device_is_told_by_its_numbers() -> None:
    item = run(stats=["/dev/null"], files=["/dev/zero"])
    assert item["stats"]["/dev/null"]["rdev"] == [1, 3] and item["stats"]["/dev/null"]["kind"] == "char"
    assert item["files"]["/dev/zero"]["rdev"] == [1, 5] and "data" not in item["files"]["/dev/zero"]


def test_links(root: Path) -> None:
    (root / "etc/real").write_text("x")
    (root / "etc/link").symlink_to("real")
    (root / "etc/dangling").symlink_to("/nowhere/at/all")
    (root / "etc/loop").symlink_to("loop")
    files = run(root=str(root), files=["/etc/link", "/etc/dangling", "/etc/loop"])["files"]
    assert data(files["/etc/link"]) == b"x" and files["/etc/link"]["link"] == "real"
    assert files["/etc/link"]["real"] == str(root / "etc/real")
    assert (
        files["/etc/dangling"]["status"] == "absent" and files["/etc/dangling"]["link"] == "/nowhere/at/all"
    )
    assert files["/etc/loop"]["status"] == "failed"


@pytest.mark.parametrize("path", ["/etc/none", "/none/none", "/etc/file/below"])
def test_absent(root: Path, path: str) -> None:
    (root / "etc/file").write_text("x")
    assert run(root=str(root), files=[path])["files"][path]["status"] == "absent"


def as_nobody() -> list[str]:
    """How to run as another user: root steps down, anybody else is one already."""
    return (
        ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"] if os.geteuid() == 0 else []
    )


def test_denied(root: Path) -> None:
    for name in ("secret", "closed/file", "listed/x"):
        (root / "etc" / name).parent.mkdir(exist_ok=True)
        (root / "etc" / name).write_text("x")
    (root / "etc/secret").chmod(0)
    (root / "etc/closed").chmod(0)
    try:
        answer = run(
            *as_nobody(),
            root=str(root),
            files=["/etc/secret", "/etc/closed/file"],
            stats=["/etc/secret", "/etc/closed/file"],
            globs=[a_glob("/etc/closed/*"), a_glob("/etc/listed/*")],
        )
    finally:
        (root / "etc/closed").chmod(0o755)
    assert (
        answer["files"]["/etc/secret"]["status"] == "denied" and "data" not in answer["files"]["/etc/secret"]
    )
    assert answer["files"]["/etc/closed/file"]["status"] == "denied"
    assert answer["stats"]["/etc/secret"]["status"] == "ok", "its metadata may be seen"
    assert answer["stats"]["/etc/closed/file"]["status"] == "denied"
    assert answer["globs"]["/etc/closed/*"]["status"] == "denied", "glob.glob alone would say: empty"
    assert answer["globs"]["/etc/listed/*"] == {"status": "ok", "paths": ["/etc/listed/x"]}
    assert answer["system"]["uid"] != 0


# --- globs


def test_globs(root: Path) -> None:
    (root / "etc/cdi").mkdir()
    (root / "etc/cdi/b.yaml").write_text("hostPath: /etc/real\npath: /etc/none\nargs: [a::/etc/linked]\n")
    (root / "etc/cdi/a.json").write_text("{}")
    (root / "etc/real").write_text("x")
    answer = run(
        root=str(root),
        globs=[a_glob("/etc/cdi/*", mentioned=True), a_glob("/no/*"), a_glob("/etc/re*", read=False)],
    )
    assert answer["globs"]["/etc/cdi/*"] == {"status": "ok", "paths": ["/etc/cdi/a.json", "/etc/cdi/b.yaml"]}
    assert answer["globs"]["/no/*"] == {"status": "absent"}  # it says all: most patterns of a host are that
    assert data(answer["files"]["/etc/cdi/a.json"]) == b"{}"
    assert answer["stats"]["/etc/real"]["status"] == "ok" and "data" not in answer["stats"]["/etc/real"]
    assert answer["stats"]["/etc/none"]["status"] == "absent"
    assert "/etc/linked" not in answer["stats"]  # what a hook makes in the container; no path of the host's
    assert "/etc/real" not in answer["files"]


def test_all_that_is_asked_of_one_pattern_is_read_at_once(root: Path) -> None:
    """What one search finds is there beside what another finds; none is lost."""
    (root / "etc/cdi").mkdir()
    for name, text in (("a", "one\ntwo\n"), ("b", "two\n"), ("c", "nil\n"), ("d", "nil /etc/hit.sh\n")):
        (root / "etc/cdi" / name).write_text(text)
    (root / "etc/hit.sh").write_text("#!/bin/sh\ntwo\n")
    first = {**a_glob("/etc/cdi/*", read=False), "search": "one"}
    second = {**a_glob("/etc/cdi/*", read=False), "search": "two", "limit": 99, "follow": r"(/etc/[\w.]+)"}
    large = {**a_glob("/etc/cdi/*", read=False), "search": "nil", "limit": 5}
    answer = run(root=str(root), globs=[first, second, large])
    assert answer["globs"]["/etc/cdi/*"]["paths"] == ["/etc/cdi/a", "/etc/cdi/b", "/etc/cdi/c", "/etc/hit.sh"]
    one, two, nil = (files.search_key(word) for word in ("one", "two", "nil"))
    assert answer["stats"]["/etc/cdi/a"]["found"] == {one: ["one"], two: ["two"]}
    assert answer["stats"]["/etc/cdi/b"]["found"] == {two: ["two"]}
    assert answer["stats"]["/etc/cdi/c"]["found"] == {nil: ["nil"]}
    assert answer["stats"]["/etc/hit.sh"]["found"] == {two: ["two"]}
    both = run(root=str(root), globs=[a_glob("/etc/cdi/*"), first, a_glob("/etc/cdi/*", read=False)])
    assert len(both["files"]) == 4 and set(both["stats"]) == set(both["files"])
    assert (
        both["stats"]["/etc/cdi/a"]["found"] == {one: ["one"]} and "found" not in both["stats"]["/etc/cdi/b"]
    )


def test_a_script_that_is_also_searched_loses_nothing(root: Path) -> None:
    """One that a file of the same pattern names, or that names itself."""
    (root / "etc/a").write_text("#!/bin/sh\none\ntwo /etc/a\n")
    (root / "etc/b").write_text("/etc/a\n")
    follows = {**a_glob("/etc/?", read=False), "search": "two", "follow": r"(/etc/\w)"}
    answer = run(root=str(root), globs=[{**a_glob("/etc/?", read=False), "search": "one"}, follows])
    assert sorted(answer["stats"]["/etc/a"]["found"].values()) == [["one"], ["two"]]
    assert answer["globs"]["/etc/?"]["paths"] == ["/etc/a"]


def test_a_search_that_failed_is_not_made_good_by_a_look_at_the_file(root: Path) -> None:
    (root / "etc/large").write_bytes(b"x" * (files.MAX_SEARCHED_BYTES + 1))
    spec = {**a_glob("/etc/large", read=False), "search": "one"}
    answer = run(root=str(root), globs=[spec], stats=["/etc/large"])
    item = answer["stats"]["/etc/large"]
    assert item["status"] == "failed" and item["kind"] == "file" and item["found"] == {}
    snapshot = Snapshot(answer)
    assert snapshot.stat("/etc/large").ok and snapshot.found("/etc/large", "one").value is None


@pytest.mark.parametrize(
    ("text", "packed"),
    [
        (b'mode = "cdi"\n', False),
        (b'"' * 99, True),
        (b"\\\n" * 99, True),
        (b"a\n" * 99, True),
        (b"abc\n" * 99, False),
        (b"\0", True),
        (b"\x1b[0m", True),
        ("caf\u00e9".encode(), True),
        (b"", False),
    ],
)
def test_a_file_is_sent_as_what_is_shorter(text: bytes, packed: bool) -> None:
    item = files.sent(text)
    assert item.get("base64", False) is packed and files.content(item) == text
    assert len(json.dumps(item["data"])) <= 2 + 4 * (len(text) + 2) // 3


def test_what_is_read_again_is_read_after_what_stands_before_it(root: Path) -> None:
    spec = {**a_glob("/etc/*", read=False), "search": "x"}
    (root / "etc/a").write_text("x")
    tree = look.Tree({"globs": [spec, a_glob("/etc/b"), {**spec, "search": "y", "again": True}]}, str(root))
    reads = [source for section, _, source in tree.sources if section == "globs"]
    tree.keep(reads[0]())
    (root / "etc/a").write_text("y")
    for read in reads[1:]:
        tree.keep(read())
    assert len(reads) == 3
    assert sorted(tree.answer["stats"]["/etc/a"]["found"].values()) == [["x"], ["y"]]


@pytest.mark.parametrize("there", [True, False])
def test_what_is_only_read_where_something_else_is_there(root: Path, there: bool) -> None:
    (root / "etc/costly").write_text("x")
    if there:
        (root / "etc/lock").write_text("")
    answer = run(root=str(root), globs=[a_glob("/etc/lock"), {**a_glob("/etc/costly"), "where": "/etc/lock"}])
    assert ("/etc/costly" in answer["files"]) == there
    assert answer["globs"]["/etc/costly"] == (
        {"status": "ok", "paths": ["/etc/costly"]} if there else {"status": "absent"}
    )


@pytest.mark.parametrize("merged", [True, False])
def test_a_directory_under_two_names_is_looked_into_once(root: Path, merged: bool) -> None:
    (root / "usr/lib/units/a.d").mkdir(parents=True)
    (root / "usr/lib/units/a.d/x.conf").write_text("x")
    if merged:
        (root / "lib").symlink_to("usr/lib")
    else:
        (root / "lib/units/a.d").mkdir(parents=True)
        (root / "lib/units/a.d/y.conf").write_text("x")
    patterns = ["/usr/lib/units/*.d/*.conf", "/lib/units/*.d/*.conf"]
    answer = run(root=str(root), globs=with_twins([a_glob(pattern) for pattern in patterns]))
    assert answer["globs"][patterns[0]]["paths"] == ["/usr/lib/units/a.d/x.conf"]
    assert answer["globs"][patterns[1]].get("paths") == (None if merged else ["/lib/units/a.d/y.conf"])
    assert len(answer["files"]) == 2 - merged


def test_a_search_follows_the_scripts_that_a_file_names(root: Path) -> None:
    """Those alone that begin `#!` and in which something is found; what names them need not be listed itself."""
    texts = {
        "etc/cron.d/a": "* * * * * root /data/hit.sh\n* * * * * root /data/none.sh; /data/plain; /data/away.sh\n",
        "etc/cron.d/b": "* * * * * root /data/none.sh found\n",
        "data/hit.sh": "#!/bin/sh\nfound\n",
        "data/none.sh": "#!/bin/sh\n",
        "data/plain": "found\n",
        "data/unnamed.sh": "#!/bin/sh\nfound\n",
    }
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    spec = {**a_glob("/etc/cron.d/*", read=False), "search": "found", "limit": 999}
    answer = run(root=str(root), globs=[{**spec, "follow": r"(/data/[\w.]+)"}])
    assert answer["globs"]["/etc/cron.d/*"]["paths"] == ["/data/hit.sh", "/etc/cron.d/b"]
    assert list(answer["stats"]["/data/hit.sh"]["found"].values()) == [["found"]]
    assert "/data/none.sh" not in answer["stats"] and "/data/unnamed.sh" not in answer["stats"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to have files of other users")
@pytest.mark.parametrize(("owner", "followed"), [(0, True), (1234, False), (4321, True)])
def test_a_users_file_has_no_script_of_others_read(root: Path, owner: int, followed: bool) -> None:
    for name, text in (("cron.d/a", "* * * * * /data/hit.sh\n"), ("hit.sh", "#!/bin/sh\nfound\n")):
        path = root / ("etc" if name.startswith("cron") else "data") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    os.chown(root / "etc/cron.d/a", owner, 0)
    os.chown(root / "data/hit.sh", 4321, 0)
    spec = {**a_glob("/etc/cron.d/*", read=False), "search": "found", "limit": 999}
    answer = run(root=str(root), globs=[{**spec, "follow": r"(/data/[\w.]+)"}])
    assert ("/data/hit.sh" in answer["stats"]) == followed


def test_a_search_passes_over_what_is_too_large_or_begins_otherwise(root: Path) -> None:
    (root / "etc/cdi").mkdir()
    texts = {
        "a.sh": "#!/bin/sh\nfound\n",
        "large.sh": "#!/bin/sh\n" + "x" * 64 + "found\n",
        "binary": "ELF found\n",
    }
    for name, text in texts.items():
        (root / "etc/cdi" / name).write_text(text)
    spec = {**a_glob("/etc/cdi/*", read=False), "search": "found", "limit": 64, "begins": "#!"}
    answer = run(root=str(root), globs=[spec])
    assert answer["globs"]["/etc/cdi/*"] == {"status": "ok", "paths": ["/etc/cdi/a.sh"]}
    assert list(answer["stats"]["/etc/cdi/a.sh"]["found"].values()) == [["found"]]


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("hostPath: /usr/lib/libcuda.so.580.159.04", {"/usr/lib/libcuda.so.580.159.04"}),
        ('"path": "/usr/bin/nvidia-cdi-hook",', {"/usr/bin/nvidia-cdi-hook"}),
        ("- --link\n- libcuda.so.1::/usr/lib/libcuda.so\n", set()),
        ("kind: nvidia.com/gpu\n- ../lib/a::/usr/lib/b\n- LIBRARIES=/usr/lib\n", set()),
        ('ldconfig = "@/sbin/ldconfig"', {"/sbin/ldconfig"}),
        ("{hostPath: /dev/nvidia0,path:\n/dev/nvidia1}", {"/dev/nvidia0", "/dev/nvidia1"}),
        ('{"hostPath":"/dev/nvidia0","options":["/a","/b"]}', {"/dev/nvidia0", "/a", "/b"}),
        ("/dev/dri/by-path/pci-0000:00:06.0-card", {"/dev/dri/by-path/pci-0000:00:06.0-card"}),
        ("/a/b: c", {"/a/b"}),
        ("no path", set()),
    ],
)
def test_mentioned(text: str, paths: set[str]) -> None:
    assert files.mentioned(text.encode()) == paths


# --- commands


def command(*argv: str, **more: Any) -> dict[str, Any]:
    return {"x": {"argv": list(argv), **more}}


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (
            ["sh", "-c", "echo out; echo err >&2; exit 3"],
            {"status": "ok", "rc": 3, "out": "out\n", "err": "err\n"},
        ),
        (["true"], {"status": "ok", "rc": 0, "out": "", "err": ""}),
        (["sh", "-c", "kill -9 $$"], {"status": "ok", "rc": -9, "out": "", "err": ""}),
        (["cat"], {"status": "ok", "rc": 0, "out": "", "err": ""}),
        (["sh", "-c", "echo $LC_ALL $LANG"], {"status": "ok", "rc": 0, "out": "C C\n", "err": ""}),
    ],
    ids=["both-outputs", "nothing", "killed", "no-input", "c-locale"],
)
def test_commands(argv: list[str], expected: dict[str, Any]) -> None:
    assert run(commands=command(*argv))["commands"]["x"] == expected


def test_an_absent_program() -> None:
    answer = run(commands=command("no-such-program-here"), programs=["no-such-program-here", "sh"])
    assert answer["commands"]["x"] == {"status": "absent", "error": "no-such-program-here is not here"}
    assert answer["programs"]["no-such-program-here"] == {"status": "absent"}
    assert answer["programs"]["sh"]["status"] == "ok" and answer["programs"]["sh"]["path"].endswith("/sh")


def test_a_file_that_cannot_be_run_is_no_program() -> None:
    assert execution.which("/etc/passwd") is None


def test_a_command_is_not_run_where_what_it_needs_is_missing(root: Path) -> None:
    (root / "etc/here").write_text("")
    writes = f"touch {root}/etc/ran"
    answer = run(
        root=str(root),
        commands={
            "no": {"argv": ["sh", "-c", writes], "needs": ["/etc/here", "/etc/missing"]},
            "yes": {"argv": ["sh", "-c", "echo ran"], "needs": ["/etc/here"]},
        },
    )
    assert answer["commands"]["no"]["status"] == "absent" and not (root / "etc/ran").exists()
    assert answer["commands"]["yes"]["out"] == "ran\n"


def test_a_command_that_needs_one_of_some_paths(root: Path) -> None:
    """`rpm -qa` makes a database where there is none."""
    (root / "etc/here").write_text("")
    (root / "etc/loop").symlink_to("loop")
    echo = ["sh", "-c", "echo ran"]
    answer = run(
        root=str(root),
        commands={
            "no": {"argv": echo, "needs_one": ["/etc/missing", "/etc/gone"]},
            "yes": {"argv": echo, "needs_one": ["/etc/missing", "/etc/here"]},
            "unknown": {"argv": echo, "needs_one": ["/etc/missing", "/etc/loop"]},
        },
    )["commands"]
    assert answer["no"]["status"] == "absent" and answer["yes"]["out"] == "ran\n"
    assert answer["unknown"]["status"] == "failed"


def test_xfs_info_is_asked_about_a_mount_point(
    root: Path, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a directory below one it says `cannot open`: xfsprogs 7.2 on a file system of its own mkfs."""
    (programs / "xfs_info").write_text('#!/bin/sh\necho "$# $1"\n')
    (programs / "xfs_info").chmod(0o755)
    monkeypatch.setattr(execution, "PATH", f"{programs}:{execution.PATH}")
    argv = request()["commands"]["xfs-info"]["argv"]
    assert argv[-1] == "/var/lib/docker"
    said = running.execute({"argv": [*argv[:-1], str(root / "etc")]}, "", 5)["out"]
    count, _, point = said.rstrip("\n").partition(" ")
    assert count == "1" and os.path.ismount(point) and str(root).startswith(point)


def test_a_command_is_spared_where_one_of_its_paths_is_there(root: Path) -> None:
    (root / "etc/here").write_text("")
    echo = ["sh", "-c", "echo ran"]
    answer = run(
        root=str(root),
        commands={
            "no": {"argv": echo, "spares": ["/etc/missing", "/etc/here"]},
            "yes": {"argv": echo, "spares": ["/etc/missing"]},
        },
    )
    assert answer["commands"]["no"]["status"] == "absent" and answer["commands"]["yes"]["out"] == "ran\n"


@pytest.mark.parametrize(
    ("said", "read"),
    [
        pytest.param("echo 'GPU 0: NVIDIA L4 (UUID: GPU-5c)'; echo 'GPU 1: NVIDIA L4 (UUID: GPU-5d)'", False, id="all"),
        pytest.param("echo 'GPU 0: NVIDIA L4 (UUID: GPU-5c)'", True, id="one-is-away"),
        pytest.param("echo 'No devices were found'; exit 6", True, id="none"),
        pytest.param("sleep 60", True, id="it-hangs"),
    ],
)  # fmt: skip
def test_the_kernels_log_is_read_where_a_gpu_does_not_answer(root: Path, said: str, read: bool) -> None:
    """After nvidia-smi, and also where that hangs. On the bus are two GPUs and one's sound; the module knows one."""
    for number, kind in enumerate(("30200", "30200", "40300")):
        device = root / f"sys/bus/pci/devices/0000:0{number}:00.0"
        device.mkdir(parents=True)
        (device / "uevent").write_text(f"DRIVER=nvidia\nPCI_CLASS={kind}\nPCI_ID=10DE:27B8\n")
    known = root / "proc/driver/nvidia/gpus/0000:00:00.0"
    known.mkdir(parents=True)
    (known / "information").write_text("Model: \t\t NVIDIA L4\n")
    globs = [glob.entry() for glob in GPUS.globs if glob.pattern in dict(EVERY_GPU[2])]
    asked = KERNEL.commands["kernel-log"].entry()
    answer = run(
        root=str(root),
        globs=globs,
        commands={
            "nvidia-smi": {"argv": ["sh", "-c", said], "timeout": 1},
            "kernel-log": {
                **asked,
                "needs_one": [],
                "argv": ["sh", "-c", "echo 'NVRM: Xid (PCI:0000:01:00): 79'"],
            },
        },
    )
    found = answer["commands"]["kernel-log"]
    assert found["status"] == ("ok" if read else "absent")
    assert found.get("out", "") == ("NVRM: Xid (PCI:0000:01:00): 79\n" if read else "")


@pytest.mark.parametrize(("docker", "expected"), [("ok", "absent"), ("absent", "ok"), ("timeout", "ok")])
def test_a_command_for_want_of_dockerds_answer(docker: str, expected: str) -> None:
    asked = {"commands": {"dockerd": {"argv": ["sh", "-c", "echo ran"], "without_docker": True}}}
    answer: dict[str, Any] = {"docker": {"status": docker}, "commands": {}}
    made: dict[str, Any] = {}
    running.run_all(asked["commands"], look.yet_to_ask(asked["commands"], answer), 5, made)
    assert {**answer["commands"], **made}["dockerd"]["status"] == expected


def test_it_runs_where_no_dockerd_does(root: Path) -> None:
    asked = {"argv": ["sh", "-c", "echo ran"], "without_docker": True}
    assert run(root=str(root), commands={"dockerd": asked})["commands"]["dockerd"]["out"] == "ran\n"


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    "script",
    [
        pytest.param("echo $$; sleep 60", id="hangs"),
        pytest.param("trap '' TERM; echo $$; sleep 60 & wait; sleep 60", id="ignores-terminate"),
        pytest.param("echo $$; exec >&- 2>&-; sleep 60", id="closes-its-output"),
        pytest.param("echo $$; while :; do echo yes; done", id="never-stops-talking"),
    ],
)
def test_a_command_that_hangs_is_ended(script: str) -> None:
    began = time.monotonic()
    item = run(commands=command("sh", "-c", script, timeout=0.5))["commands"]["x"]
    assert time.monotonic() - began < 15
    assert item["status"] == "timeout" and "0.5 s" in item["error"] and "rc" not in item
    pid = int(item["out"].split()[0])
    deadline = time.monotonic() + 5
    while alive(pid) and time.monotonic() < deadline:
        os.sched_yield()
    assert not alive(pid), "it was left running"


def test_a_child_that_keeps_the_pipe_open_does_not_hold_the_probe() -> None:
    """A daemon that a command leaves behind inherits its output."""
    began = time.monotonic()
    item = run(commands=command("sh", "-c", "sleep 30 & echo done", timeout=0.5))["commands"]["x"]
    assert time.monotonic() - began < 15 and item["out"] == "done\n"
    assert item["status"] in ("ok", "timeout")


def test_endless_output_is_cut() -> None:
    item = run(
        commands=command(
            "sh", "-c", "head -c 5000000 /dev/zero | tr '\\0' x; head -c 100000 /dev/zero | tr '\\0' y >&2"
        )
    )
    found = item["commands"]["x"]
    assert found["rc"] == 0
    # Half a list of packages or libraries is no list.
    assert found["status"] == "failed" and "1048576 bytes" in found["error"]
    assert (
        running.MAX_OUTPUT_BYTES <= len(found["out"]) <= running.MAX_OUTPUT_BYTES + 65536
        and len(found["err"]) <= 8192
    )


# --- processes


@pytest.fixture
def dockerd(daemon: Callable[[str], str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that calls itself dockerd, with secrets in its environment."""
    env = {
        "PATH": "/usr/bin:/bin",
        "HTTP_PROXY": "http://user:hunter2@proxy",
        "DOCKER_RAMDISK": "true",
        "TOKEN": "hunter2",
    }
    found = subprocess.Popen([daemon("gpumend-test-daemon"), "60"], env=env)
    wait_for(found.pid, "gpumend-test-daemon")
    yield found
    found.kill()
    found.wait()


def wait_for(pid: int, word: str) -> None:
    deadline = time.monotonic() + 10
    while word not in Path(f"/proc/{pid}/cmdline").read_text() and time.monotonic() < deadline:
        os.sched_yield()


def test_processes_leave_their_secrets_at_home(dockerd: subprocess.Popen[bytes]) -> None:
    found = output(program=asked(processes=["gpumend-test-daemon"]))
    answer = json.loads(found)
    assert "hunter2" not in found
    (entry,) = answer["processes"]["processes"]
    assert entry["pid"] == dockerd.pid and entry["uid"] == os.geteuid() and entry["ppid"] == os.getpid()
    assert entry["env"] == {"PATH": "/usr/bin:/bin", "DOCKER_RAMDISK": "true"}
    assert entry["argv"] == dockerd.args and entry["exe"] == entry["argv"][0]
    assert abs(entry["start"] - time.time()) < 120


def test_no_process_is_an_empty_list() -> None:
    assert run(processes=["no-such-daemon"])["processes"] == {
        "status": "ok",
        "processes": [],
        "impostors": [],
    }


def test_a_daemon_in_a_container_is_told_from_the_hosts(daemon: Callable[[str], str]) -> None:
    """A dockerd in a container (Docker in Docker) stands in the host's /proc, too, as uid 0. Taken for the host's own, its
    flags and start time are judged, and Docker's socket is asked although the host's dockerd does not run, which starts it.
    """
    unshare = ["unshare", "--pid", "--fork", "--kill-child"]
    unshare += [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    name = daemon("gpumend-inner-daemon")
    inner = subprocess.Popen([*unshare, name, "60"])
    try:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and not named(name):
            os.sched_yield()
        (entry,) = run(processes=["gpumend-inner-daemon"])["processes"]["processes"]
        assert entry["nested"] is True and processes.inner(entry)
    finally:
        inner.kill()
        inner.wait()


def test_an_own_daemon_is_no_containers(dockerd: subprocess.Popen[bytes]) -> None:
    (entry,) = run(processes=["gpumend-test-daemon"])["processes"]["processes"]
    assert entry["pid"] == dockerd.pid and not processes.inner(entry)


def named(name: str) -> list[int]:
    """Processes of this name, looked up without the probe."""
    found = []
    for directory in Path("/proc").iterdir():
        try:
            if (
                directory.name.isdigit()
                and (directory / "cmdline").read_bytes().split(b"\0")[0].decode() == name
            ):
                found.append(int(directory.name))
        except OSError:
            continue
    return found


# --- secrets


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        (["PATH=/bin", "HTTP_PROXY=http://u:p@h", "https_proxy=x"], {"PATH": "/bin"}),
        (["NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_REQUIRE_CUDA=cuda>=12.8", "NVIDIA_API_KEY=s"], {"NVIDIA_VISIBLE_DEVICES": "all", "NVIDIA_REQUIRE_CUDA": "cuda>=12.8"}),
        (["AWS_SECRET_ACCESS_KEY=s", "HF_TOKEN=s", "PATHX=s", "XPATH=s", "path=s"], {}),
        (["PATH=/bin\nTOKEN=s"], {"PATH": "/bin\nTOKEN=s"}),
        (["CUDA_VISIBLE_DEVICES=0=1"], {"CUDA_VISIBLE_DEVICES": "0=1"}),
        (["PATH", ""], {"PATH": ""}),
        (None, {}),
    ],
)  # fmt: skip
def test_allowed_env(pairs: list[str] | None, expected: dict[str, str]) -> None:
    assert processes.allowed_env(pairs) == expected


INSPECTED = {
    "Id": "0123456789abcdef",
    "Name": "/web",
    "State": {"Pid": 7, "Running": True, "StartedAt": "2026-11-23T00:00:00Z"},
    "Config": {
        "Image": "cuda:13",
        "Env": ["DB_PASSWORD=hunter2", "NVIDIA_VISIBLE_DEVICES=all"],
        "Labels": {"com.docker.compose.project": "shop", "secret.label": "hunter2"},
        "Cmd": ["--token=hunter2"],
    },
    "HostConfig": {
        "Runtime": "nvidia",
        "DeviceRequests": [
            {
                "Driver": "",
                "Count": -1,
                "DeviceIDs": None,
                "Capabilities": [["gpu"]],
                "Options": {"x": "hunter2"},
            }
        ],
        "Devices": [{"PathOnHost": "/dev/nvidia0"}],
        "RestartPolicy": {"Name": "always"},
    },
    "Mounts": [{"Source": "/srv", "Destination": "/data", "Type": "bind", "Options": "hunter2"}],
}


def test_a_container_shows_no_secret() -> None:
    found = docker.container(INSPECTED)
    assert "hunter2" not in json.dumps(found)
    assert found["env"] == {"NVIDIA_VISIBLE_DEVICES": "all"}
    assert found["labels"] == {"com.docker.compose.project": "shop"}
    assert found["device_requests"] == [
        {"Driver": "", "Count": -1, "DeviceIDs": None, "Capabilities": [["gpu"]]}
    ]
    assert found["name"] == "web" and found["id"] == "0123456789ab" and found["restart"] == "always"


@pytest.mark.parametrize("raw", [{}, {"Config": None, "HostConfig": None, "State": None, "Mounts": None}])
def test_a_container_without_anything(raw: dict[str, Any]) -> None:
    assert docker.container(raw)["running"] is False


@pytest.mark.parametrize(
    "key", ["HttpProxy", "HttpsProxy", "NoProxy", "RegistryConfig", "Labels", "ID", "Name", "Plugins"]
)
def test_dockers_info_leaves_secrets_out(key: str) -> None:
    assert key not in docker.DOCKER_INFO_KEYS


# --- Docker's socket


def test_docker_is_not_asked_while_no_dockerd_runs(root: Path) -> None:
    """docker.socket would start a stopped daemon. The path is not even connected to."""
    assert docker.docker(str(root / "none.sock"), False, 1) == {
        "status": "absent",
        "error": "no dockerd runs",
    }


def test_a_dockerd_that_dies_while_it_is_asked(root: Path) -> None:
    """As one in a restart loop does. Of a container that ended, nothing that was read is told: its root was empty by then."""
    path = root / "etc/d.sock"
    spec = {"files": ["/etc/passwd"], "stats": ["/dev/null"], "socket": str(path)}
    with socket.socket(socket.AF_UNIX) as server, subprocess.Popen(["sleep", "60"]) as child:
        server.bind(str(path))
        server.listen()

        def die() -> None:
            accepted = server.accept()[0]
            child.kill()
            child.wait()
            accepted.close()

        thread = threading.Thread(target=die)
        thread.start()
        found = containers.inside(child.pid, spec, 5, True)
        thread.join()
    assert found["ended"] and found["docker"]["status"] == "failed" and not {"files", "stats"} & set(found)
    again = containers.inside(child.pid, spec, 5, False)
    assert again == {"pid": child.pid, "ended": True}


def test_a_dockerd_that_has_just_begun_is_looked_at_again(root: Path) -> None:
    """It will answer or die within seconds. One that has not answered for long is told as it is."""
    spec = {"files": [], "stats": [], "socket": str(root / "none.sock")}
    with subprocess.Popen(["sleep", "60"]) as child:
        found = containers.inside(child.pid, spec, 1, True)
        child.kill()
    assert found["docker"]["status"] == "absent" and found["starts"] is True
    old = containers.inside(1, spec, 1, True)  # as old as the machine: older than STARTING wherever tests run
    assert old["starts"] is False
    assert containers.unsettled({"inside": {"a": old, "b": found}}) and not containers.unsettled(
        {"inside": {"a": old}}
    )
    young = {"pid": 9, "starts": True}
    assert containers.unsettled({"inside": {"a": young}}), "no dockerd was seen in it yet"
    assert containers.unsettled({"inside": {"a": {"pid": 9, "ended": True}}}) and not containers.unsettled(
        {"inside": {}}
    )


def test_a_dockerd_that_closes_and_lives_on_is_not_known(root: Path) -> None:
    path = root / "etc/d.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        thread = threading.Thread(target=lambda: server.accept()[0].close())
        thread.start()
        found = containers.inside(os.getpid(), {"files": [], "stats": [], "socket": str(path)}, 5, True)
        thread.join()
    assert "ended" not in found and found["docker"]["status"] == "failed"


def test_docker_without_socket(root: Path) -> None:
    assert docker.docker(str(root / "none.sock"), True, 1)["status"] == "failed"


def test_docker_that_does_not_answer(root: Path) -> None:
    os.chdir(root)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("d.sock")
        listener.listen(1)
        assert docker.docker("d.sock", True, 0.3)["status"] == "timeout"
    os.chdir("/")


@contextlib.contextmanager
def answering(directory: Path, *parts: bytes) -> Iterator[http.UnixConnection]:
    """A connection to who answers a request with these bytes, and hangs up."""
    path = directory / "answering.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        asked: list[bytes] = []

        def answer() -> None:
            peer, _ = listener.accept()
            with peer:
                asked.append(peer.recv(65536))
                for part in parts:
                    peer.sendall(part)

        thread = threading.Thread(target=answer)
        thread.start()
        connection = http.UnixConnection(str(path), 5)
        try:
            yield connection
        finally:
            connection.close()
            thread.join(5)
            path.unlink()
        assert asked[0] == b"GET /info HTTP/1.1\r\nHost: localhost\r\n\r\n"


def canned(status: int, body: bytes) -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


def test_docker_get(tmp_path: Path) -> None:
    with answering(tmp_path, canned(200, b'{"a": 1}')) as connection:
        assert docker.docker_get(connection, "/info") == {"a": 1}
    with (
        answering(tmp_path, canned(500, b"broken")) as connection,
        pytest.raises(ValueError, match="GET /info: HTTP 500 broken") as raised,
    ):
        docker.docker_get(connection, "/info")
    assert not isinstance(raised.value, docker.Gone)
    with answering(tmp_path, canned(404, b"no such container")) as connection, pytest.raises(docker.Gone):
        docker.docker_get(connection, "/info")


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("parts", "body"),
    [
        ((canned(200, b"whole"),), b"whole"),
        ((b"HTTP/1.1 200 OK\r\nConte", b"nt-LENGTH:  5 \r\n\r\nwh", b"ole"), b"whole"),
        ((b"HTTP/1.1 200 OK\r\n\r\nto the ", b"end"), b"to the end"),
        ((b"HTTP/1.0 200 OK\r\n\r\nold",), b"old"),
        ((b"HTTP/1.1 100 Continue\r\n\r\n" + canned(200, b"later"),), b"later"),
        ((b"HTTP/1.1 204 No Content\r\n\r\n",), b""),
        ((CHUNKED, b"3\r\nabc\r\n", b"2;name=value\r\nde\r\n0\r\nTrailer: 1\r\n\r\n"), b"abcde"),
        ((CHUNKED, b"A\r\n012345", b"6789\r", b"\n0\r\n\r\n"), b"0123456789"),
        ((CHUNKED, b"0\r\n\r\n"), b""),
    ],
)
def test_a_body_comes_whole_however_it_is_sent(tmp_path: Path, parts: tuple[bytes, ...], body: bytes) -> None:
    with answering(tmp_path, *parts) as connection:
        assert connection.ask("/info")[1] == body


@pytest.mark.parametrize(
    ("parts", "error", "said"),
    [
        ((), ConnectionResetError, "without an answer"),
        ((b"SSH-2.0-x\r\n",), http.BadAnswer, "none of HTTP"),
        ((b"HTTP/1.1 20",), http.BadAnswer, "broke off"),
        ((b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf",), http.BadAnswer, "broke off at byte 4 of 9"),
        ((b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",), http.BadAnswer, "no number"),
        ((b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",), http.BadAnswer, "head"),
        ((b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",), http.BadAnswer, "encoding"),
        ((b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 101,), http.BadAnswer, "more than 100 lines"),
        ((b"HTTP/1.1 200 OK\r\na: " + b"b" * 70000 + b"\r\n",), http.BadAnswer, "a line of more"),
        ((CHUNKED, b"3\r\nabcd\r\n"), http.BadAnswer, "longer than it says"),
        ((CHUNKED, b"-3\r\nabc\r\n"), http.BadAnswer, "no length"),
        ((CHUNKED, b"3\r\nab"), http.BadAnswer, "broke off at byte 2 of 3"),
        ((b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",), http.Excess, "more than"),
        ((CHUNKED, b"fffffffffff\r\n"), http.Excess, "more than"),
    ],
)
def test_what_is_no_whole_answer_is_none(
    tmp_path: Path, parts: tuple[bytes, ...], error: type[Exception], said: str
) -> None:
    with answering(tmp_path, *parts) as connection, pytest.raises(error, match=said):
        connection.ask("/info")


def test_nothing_of_a_name_becomes_a_line_of_a_request(tmp_path: Path) -> None:
    with pytest.raises(http.BadAnswer):
        http.UnixConnection(str(tmp_path / "s"), 1).ask("/containers/a HTTP/1.1\r\nX: y")


# --- units


def test_units_without_systemd() -> None:
    if Path("/run/systemd/system").is_dir():
        found = run(units=["gpumend-none.service"], unit_properties=["LoadState"])["units"]
        assert found["units"]["gpumend-none.service"]["LoadState"] == "not-found"
    else:
        assert run(units=["x.service"], unit_properties=["LoadState"])["units"]["status"] == "absent"


# --- odds


@pytest.mark.parametrize(
    ("mode", "word"),
    [
        (stat.S_IFREG, "file"),
        (stat.S_IFDIR, "dir"),
        (stat.S_IFCHR, "char"),
        (stat.S_IFBLK, "block"),
        (stat.S_IFIFO, "fifo"),
        (0, "other"),
    ],
)
def test_kind_of(mode: int, word: str) -> None:
    assert files.kind_of(mode) == word


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (2, "absent"),
        (20, "absent"),
        (13, "denied"),
        (1, "denied"),
        (5, "failed"),
        (40, "failed"),
        (116, "failed"),
    ],
)
def test_failure(number: int, status: str) -> None:
    found = files.failure(OSError(number, "x"))
    assert found["status"] == status and found["error"]


def test_an_empty_request_has_every_section() -> None:
    assert set(run()) >= {
        "gpumend", "system", "files", "stats", "globs", "commands", "programs", "processes", "docker", "units", "seconds",
    }  # fmt: skip


def test_what_reads_compose_files_is_compiled_where_it_is_called() -> None:
    called = """
print("masked_compose" in globals(), compose_project(("/no/such.yml",), "/no", ()) and "masked_compose" in globals())
"""
    assert output(program=probe_source() + called) == "False True\n"


def test_a_text_that_would_end_its_own_quotes_makes_no_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs_source, "_texts", lambda modules: {"probe/x.py": "X = '''y'''\n"})
    with pytest.raises(ValueError, match=r"probe/x\.py"):
        programs_source._program(("probe.x",))


def test_a_sites_allocations_are_read_by_the_program_that_is_asked_to() -> None:
    assert "def ledger(" in probe_source() and "def ledger(" not in probe_source(False)
    assert "def ledger(" not in probe_program()
    assert "def ledger(" in probe_program(besides=json.dumps({"allocations": {}}))


@pytest.mark.parametrize(
    ("path", "points", "far"),
    [
        ("/mnt/tools/bin/x", ["/mnt/tools"], True),
        ("/mnt/tools", ["/mnt/tools"], False),
        ("/mnt/tools-here/x", ["/mnt/tools"], False),
        ("/usr/bin/env", [], False),
        ("/usr/bin/env", ["/"], True),
    ],
)
def test_a_program_beyond_a_network_is_started_by_a_fork(path: str, points: list[str], far: bool) -> None:
    """vfork(2) would have the whole probe wait with it."""
    assert running.on_any(path, points) is far


def test_how_a_program_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    class Popen(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *words: Any, **named: Any) -> None:
            seen.append(named["preexec_fn"])
            super().__init__(*words, **named)

    monkeypatch.setattr(running.subprocess, "Popen", Popen)
    for points in ([], ["/"]):
        monkeypatch.setattr(running, "far_away", lambda points=points: points)
        assert running.run(["sh", "-c", "echo said"], 5)["out"] == "said\n"
    assert seen == [None, running.by_fork]
