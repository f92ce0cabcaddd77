"""Stand-in cuda-compat packages with the real one's ELF note, for a node's apt, and what CUDA says there."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.nodes import gpu
from tests.nodes.apt import Deb
from tests.nodes.lab import LabError, Node

DIRECTORY = "/usr/local/cuda-13.0/compat"
PACKAGE = "cuda-compat-13-0"
LIBRARY = "580.95.05"
BRANCHES = (535, 550, 565, 570, 575, 580)  # the real one's note, read on an H100


@dataclass(frozen=True)
class CompatDeb(Deb):
    """A cuda-compat package to be. library: it has a compat libcuda of this version; branches: of its note."""

    name: str = PACKAGE
    version: str = f"{LIBRARY}-0ubuntu1"
    library: str = ""
    branches: Sequence[int] = BRANCHES

    def fill(self, tree: Path) -> None:
        super().fill(tree)
        if self.library:
            directory = tree / DIRECTORY.lstrip("/")
            directory.mkdir(parents=True)
            (directory / f"libcuda.so.{self.library}").write_bytes(libcuda(self.library, self.branches))
            (directory / "libcuda.so.1").symlink_to(f"libcuda.so.{self.library}")
            (directory / "libcuda.so").symlink_to("libcuda.so.1")


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


def compat(**more: object) -> CompatDeb:
    """cuda-compat-13-0 as NVIDIA's is: one library and its note, no dependency."""
    return CompatDeb(library=LIBRARY, **more)  # type: ignore[arg-type]


CU_INIT = (
    "import ctypes; c = ctypes.CDLL('libcuda.so.1'); v = ctypes.c_int(); "
    "print(c.cuInit(0), c.cuDriverGetVersion(ctypes.byref(v)), v.value)"
)


def cu_init(node: Node, directory: str = "") -> str:
    """`CUINIT RC VERSION` of a program on the node, with a directory on its library path or none."""
    return node.run(["env", f"LD_LIBRARY_PATH={directory}", "python3", "-c", CU_INIT]).stdout.strip()
