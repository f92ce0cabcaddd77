"""A local apt repository of stand-in cuda-compat packages on a node: real apt, real dpkg, packages of dpkg-deb."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.nodes import gpu
from tests.nodes.lab import LabError, Node

REPOSITORY = "/srv/cuda-repo"  # on the node
FOLDER = "/usr/local/cuda-13.0/compat"
PACKAGE = "cuda-compat-13-0"
LIBRARY = "580.95.05"
BRANCHES = (535, 550, 565, 570, 575, 580)  # the real one's note, read on an H100


@dataclass(frozen=True)
class Deb:
    """A package to be. library: it has a compat libcuda of this version; branches: of its note."""

    name: str = PACKAGE
    version: str = f"{LIBRARY}-0ubuntu1"
    depends: str = ""
    conflicts: str = ""
    library: str = ""
    branches: Sequence[int] = BRANCHES

    def control(self) -> str:
        rows = [f"Package: {self.name}", f"Version: {self.version}", "Architecture: all"]
        rows += ["Maintainer: gpumend tests <none@example.org>", "Section: test", "Priority: optional"]
        rows += [f"Depends: {self.depends}"] if self.depends else []
        rows += [f"Conflicts: {self.conflicts}"] if self.conflicts else []
        return "\n".join([*rows, "Description: stand-in of gpumend's tests"]) + "\n"


def libcuda(version: str, branches: Sequence[int], cuda: str = "13.0") -> bytes:
    """A stand-in compat libcuda of that version, whose note lists these branches."""
    listed = ",".join(map(str, branches))
    note = f'{{"format":1,"CUDA version":"{cuda}","driver":[{listed}],"device":[1,2,7,8,9,10,11,12,13,14]}}'
    major, minor = cuda.split(".")
    escaped = note.replace('"', '\\\\\\"')  # once for the assembler, once for C
    with tempfile.TemporaryDirectory(prefix="gpumend-compat-") as scratch:
        target = Path(scratch) / "libcuda.so"
        argv = [
            "gcc", "-O1", "-Wall", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1",
            f"-DCUDA_VERSION={int(major) * 1000 + int(minor) * 10}", f'-DDRIVER_VERSION="{version}"',
            f'-DNOTE="{escaped}"', f"-DUVM_MAJOR={gpu.DEVICE_NODES['nvidia-uvm'][0]}",
            str(gpu.STANDINS / "cuda_compat.c"), "-o", str(target),
        ]  # fmt: skip
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise LabError(f"the compat stand-in does not compile:\n{done.stderr}")
        return target.read_bytes()


def build(deb: Deb) -> bytes:
    """The bytes of the package."""
    with tempfile.TemporaryDirectory(prefix="gpumend-deb-") as scratch:
        tree = Path(scratch) / "tree"
        (tree / "DEBIAN").mkdir(parents=True)
        tree.chmod(0o755)
        (tree / "DEBIAN/control").write_text(deb.control())
        if deb.library:
            folder = tree / FOLDER.lstrip("/")
            folder.mkdir(parents=True)
            (folder / f"libcuda.so.{deb.library}").write_bytes(libcuda(deb.library, deb.branches))
            (folder / "libcuda.so.1").symlink_to(f"libcuda.so.{deb.library}")
            (folder / "libcuda.so").symlink_to("libcuda.so.1")
        target = Path(scratch) / "package.deb"
        argv = ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(tree), str(target)]
        subprocess.run(argv, check=True, capture_output=True)
        return target.read_bytes()


def serve(node: Node, *debs: Deb, update: bool = True) -> None:
    """apt on the node knows these packages and no others."""
    if shutil.which("dpkg-deb") is None:
        raise LabError("dpkg-deb is needed on the outer machine")
    node.sh(
        'rm -rf "$1" /etc/apt/sources.list /etc/apt/sources.list.d /var/lib/apt/lists; mkdir -p "$1" '
        "/etc/apt/sources.list.d /var/lib/apt/lists/partial",
        REPOSITORY,
    )
    index = []
    for deb in debs:
        data = build(deb)
        name = f"{deb.name}_{deb.version}_all.deb"
        node.write(f"{REPOSITORY}/{name}", data)
        digest = hashlib.sha256(data).hexdigest()
        index.append(deb.control() + f"Filename: ./{name}\nSize: {len(data)}\nSHA256: {digest}\n")
    node.write(f"{REPOSITORY}/Packages", "\n".join(index))
    node.write("/etc/apt/sources.list", f"deb [trusted=yes] file:{REPOSITORY} ./\n")
    if update:
        node.run(["apt-get", "update", "-qq"])


def compat(**more: object) -> Deb:
    """cuda-compat-13-0 as NVIDIA's is: one library and its note, no dependency."""
    return Deb(library=LIBRARY, **more)  # type: ignore[arg-type]


def installed(node: Node, name: str = PACKAGE) -> bool:
    done = node.run(["dpkg-query", "-W", "-f=${db:Status-Abbrev}", name], check=False)
    return done.stdout[1:2] == "i"


CU_INIT = (
    "import ctypes; c = ctypes.CDLL('libcuda.so.1'); v = ctypes.c_int(); "
    "print(c.cuInit(0), c.cuDriverGetVersion(ctypes.byref(v)), v.value)"
)


def cu_init(node: Node, folder: str = "") -> str:
    """`CUINIT RC VERSION` of a program on the node, with a folder on its library path or none."""
    return node.run(["env", f"LD_LIBRARY_PATH={folder}", "python3", "-c", CU_INIT]).stdout.strip()


HOLD = """
import fcntl, sys
handles = [open(path, "w") for path in sys.argv[1:]]
for handle in handles:
    fcntl.lockf(handle, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.readline()
"""


class AptLock:
    """apt's lock on a node, held by another process from entering until `release` or leaving."""

    def __init__(self, node: Node) -> None:
        self.node = node

    def __enter__(self) -> AptLock:
        argv = [
            "nsenter",
            "-t",
            str(self.node.leader),
            "-a",
            "--",
            "python3",
            "-c",
            HOLD,
            "/var/lib/dpkg/lock-frontend",
        ]
        self.process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert self.process.stdout is not None
        if self.process.stdout.readline() != "held\n":
            raise LabError("apt's lock could not be taken")
        return self

    def release(self) -> None:
        if self.process.stdin is not None and not self.process.stdin.closed:
            self.process.stdin.close()
        self.process.wait(30)

    def __exit__(self, *_: object) -> None:
        self.release()
