"""Every state of CUPTI on real trees: Debian's packages, NVIDIA's wheels, and toolkits that are made of their files.

No node is booted: the probe runs in a Debian of the suite, in a namespace of its own, and its own ldconfig made the cache.
"""

from __future__ import annotations

import datetime
import json
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from gpumend.payload.source import probe_source
from gpumend.rules import judge  # noqa: F401 - registers every rule
from gpumend.rules.finding import Finding
from gpumend.rules.rule import RULES, Context
from gpumend.rules.wanted import Wanted
from gpumend.state import cuda
from gpumend.state.host_state import HostState
from gpumend.state.request import merge
from gpumend.state.snapshot import Snapshot, unpacked
from tests.nodes.base import base
from tests.nodes.cupti import packages, wheels
from tests.unit.build import healthy

MULTIARCH = "usr/lib/x86_64-linux-gnu"
TREE = "usr/local/cuda-12.4"
SITE = "usr/local/lib/python3.13/dist-packages"

ENTER = """
set -eu
mount -t tmpfs none "$2"
mkdir "$2/upper" "$2/work" "$2/root"
mount -t overlay -o lowerdir="$3:$1",upperdir="$2/upper",workdir="$2/work" overlay "$2/root"
mount -t proc proc "$2/root/proc"
chroot "$2/root" /sbin/ldconfig
exec chroot "$2/root" /usr/bin/python3 -I -S -B -
"""


def looked(tree: Path, scratch: Path) -> cuda.Cuda:
    """CUDA as the probe sees it on a Debian with the tree's files on top."""
    request = json.dumps(merge([cuda.REQUEST]))
    program = f"{probe_source()}\nmain(json.loads({request!r}))\n"
    lower = base("trixie")
    done = subprocess.run(
        (
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            ENTER,
            "sh",
            str(lower),
            str(scratch),
            str(tree),
        ),
        input=program,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return cuda.parse(Snapshot(json.loads(unpacked(done.stdout))))


def judged(found: cuda.Cuda) -> list[Finding]:
    """GM605 on a healthy host with this CUDA."""
    state: HostState = healthy().state()._replace(cuda=found)
    context = Context(state, Wanted(), "gpu1", datetime.date(2026, 11, 29))
    return list(RULES["GM605"].check(context))


Make = Callable[[Path], None]


def deb(*names: str, suite: str = "trixie") -> Make:
    def make(root: Path) -> None:
        for package in packages(suite, *names):
            subprocess.run(("dpkg-deb", "-x", str(package), str(root)), check=True)

    return make


def wheel(number: int) -> Make:
    def make(root: Path) -> None:
        with zipfile.ZipFile(wheels()[number]) as opened:
            opened.extractall(root / SITE)

    return make


def toolkit(header: str, library: str, linker: str = "", dev: str = "", version: str = "12.4") -> Make:
    """A toolkit's directory of Debian's own files: header and library at these places below it. linker: a directory that a file of
    the linker's names, as NVIDIA's packages do. dev: a link to a library that is not there."""

    def make(root: Path) -> None:
        parts = root / "parts"
        deb("libcupti-dev", "libcupti12")(parts)
        tree = root / f"usr/local/cuda-{version}"
        (tree / "bin").mkdir(parents=True)
        (tree / "bin/nvcc").touch()
        for name, source in ((header, "usr/include/cupti.h"), (library, f"{MULTIARCH}/libcupti.so.2024.1.1")):
            if name:
                (tree / name).parent.mkdir(parents=True, exist_ok=True)
                (parts / source).rename(tree / name)
        if dev:
            (tree / dev).parent.mkdir(parents=True, exist_ok=True)
            (tree / dev).symlink_to("libcupti.so.12")
        shutil.rmtree(parts)
        if linker:
            (root / "etc/ld.so.conf.d").mkdir(parents=True)
            (root / "etc/ld.so.conf.d/000_cuda.conf").write_text(f"/usr/local/cuda-{version}/{linker}\n")

    return make


def nothing(root: Path) -> None:
    """No CUPTI anywhere."""


TARGETS, EXTRAS = "targets/x86_64-linux", "extras/CUPTI"
CASES: list[tuple[str, Make, list[tuple[str, str]], list[str]]] = [
    ("absent", nothing, [], []),
    ("Debian's library alone", deb("libcupti12"), [("distribution", "runtime_only")], []),
    ("Debian's headers alone", deb("libcupti-dev"), [("distribution", "dangling")], ["warn"]),
    ("Debian's, both", deb("libcupti-dev", "libcupti12"), [("distribution", "complete")], []),
    ("Debian 12's, both", deb("libcupti-dev", "libcupti11.8", suite="bookworm"), [("distribution", "complete")], []),
    ("the wheel of CUDA 12", wheel(1), [("wheel", "complete")], []),
    ("the wheel of CUDA 13", wheel(0), [("wheel", "complete")], []),
    ("a toolkit by packages", toolkit(f"{TARGETS}/include/cupti.h", f"{TARGETS}/lib/libcupti.so.12", f"{TARGETS}/lib"), [("toolkit", "complete")], []),
    ("a toolkit's runtime", toolkit("", f"{TARGETS}/lib/libcupti.so.12", f"{TARGETS}/lib"), [("toolkit", "runtime_only")], []),
    ("a toolkit's header", toolkit(f"{EXTRAS}/include/cupti.h", ""), [("toolkit", "header_only")], ["warn"]),
    ("a toolkit by the runfile", toolkit(f"{EXTRAS}/include/cupti.h", f"{EXTRAS}/lib64/libcupti.so.12"), [("toolkit", "not_in_loader_path")], ["note"]),
    ("a toolkit's link to nowhere", toolkit(f"{EXTRAS}/include/cupti.h", "", dev=f"{EXTRAS}/lib64/libcupti.so"), [("toolkit", "dangling")], ["warn"]),
    ("another CUDA's library", toolkit(f"{TARGETS}/include/cupti.h", f"{TARGETS}/lib/libcupti.so.12", f"{TARGETS}/lib", version="13.0"), [("toolkit", "wrong_version")], ["warn"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("make", "states", "statuses"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_a_state_is_told_from_real_files(
    make: Make, states: list[tuple[str, str]], statuses: list[str], tmp_path: Path
) -> None:
    root, scratch = tmp_path / "tree", tmp_path / "scratch"
    scratch.mkdir()
    root.mkdir(mode=0o755)
    make(root)
    found = looked(root, scratch)
    releases = {one.path: one.version for one in found.trees}
    majors = {path: version[0] for path, version in releases.items() if version}
    assert [(one.kind, one.state(majors.get(one.tree))) for one in found.cupti] == states
    assert [str(one.status) for one in judged(found)] == statuses
