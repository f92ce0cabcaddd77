"""A local apt repository on a node: real apt, real dpkg, packages of dpkg-deb, made by the test that needs them."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.nodes.lab import LabError, Node

REPOSITORY = "/srv/repository"  # on the node


@dataclass(frozen=True)
class Deb:
    """A package to be. files: path -> (bytes, mode); conffiles: those of them that are kept when it is removed; scripts:
    `postinst` and the like -> text."""

    name: str
    version: str = "1.0-1"
    depends: str = ""
    conflicts: str = ""
    files: Mapping[str, tuple[bytes, int]] = field(default_factory=dict)
    conffiles: tuple[str, ...] = ()
    scripts: Mapping[str, str] = field(default_factory=dict)

    def control(self) -> str:
        rows = [f"Package: {self.name}", f"Version: {self.version}", "Architecture: all"]
        rows += ["Maintainer: gpumend tests <none@example.org>", "Section: test", "Priority: optional"]
        rows += [f"Depends: {self.depends}"] if self.depends else []
        rows += [f"Conflicts: {self.conflicts}"] if self.conflicts else []
        return "\n".join([*rows, "Description: stand-in of gpumend's tests"]) + "\n"

    def fill(self, tree: Path) -> None:
        """The package's files lie in the tree."""
        for path, (data, mode) in self.files.items():
            target = tree / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
            target.chmod(mode)


def build(deb: Deb) -> bytes:
    """The bytes of the package."""
    with tempfile.TemporaryDirectory(prefix="gpumend-deb-") as scratch:
        tree = Path(scratch) / "tree"
        (tree / "DEBIAN").mkdir(parents=True)
        tree.chmod(0o755)
        (tree / "DEBIAN/control").write_text(deb.control())
        if deb.conffiles:
            (tree / "DEBIAN/conffiles").write_text("".join(f"{path}\n" for path in deb.conffiles))
        for name, text in deb.scripts.items():
            (tree / "DEBIAN" / name).write_text(text)
            (tree / "DEBIAN" / name).chmod(0o755)
        deb.fill(tree)
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


def installed(node: Node, name: str) -> bool:
    done = node.run(["dpkg-query", "-W", "-f=${db:Status-Abbrev}", name], check=False)
    return done.stdout[1:2] == "i"


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

    def __init__(self, node: Node, path: str = "/var/lib/dpkg/lock-frontend") -> None:
        self.node = node
        self.path = path

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
            self.path,
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
