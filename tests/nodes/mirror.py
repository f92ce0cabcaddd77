"""A package repository on a node with a real signing key, made by the test: gpg signs, apt verifies. And real packages of what a
base has, packed again."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path
from typing import NamedTuple

from tests.nodes.apt import Deb, build
from tests.nodes.base import base
from tests.nodes.lab import LabError, Node
from tests.nodes.slot import wait_for

ROOT = "/srv/mirror"  # on the node
ADDRESS = "http://127.0.0.1:8080"
BY_NAME = "http://localhost:8080"
SILENT = "http://127.0.0.1:8081"
DOCKER = ("docker.io", "docker-cli", "containerd", "runc")
MERGED = ("/bin", "/lib", "/lib64", "/sbin")  # links in a tree whose /usr is merged
STALLS = """
import socket
made = socket.socket()
made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
made.bind(("127.0.0.1", 8081))
made.listen(16)
kept = []
while True:
    kept.append(made.accept())
"""


class Key(NamedTuple):
    """A signing key: its whole fingerprint, and its public half as text."""

    fingerprint: str
    public: str


class Signer:
    """gpg with a home of its own on this machine."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def gpg(self, *arguments: str, data: bytes = b"") -> bytes:
        argv = ["gpg", "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", "", *arguments]
        environment = {**os.environ, "GNUPGHOME": str(self.home)}
        return subprocess.run(argv, input=data, env=environment, capture_output=True, check=True).stdout

    def key(self, name: str, *options: str, lasts: str = "never") -> Key:
        """A new key. options: of gpg, as `--cert-digest-algo SHA1`."""
        who = f"{name} <{name}@example.org>"
        self.gpg(*options, "--quick-gen-key", who, "rsa2048", "sign", lasts)
        listed = self.gpg("--with-colons", "--fingerprint", who).decode()
        [fingerprint] = re.findall(r"(?m)^fpr:+([0-9A-F]{40}):", listed)
        return Key(fingerprint, self.gpg("--armor", "--export", fingerprint).decode())

    def sign(self, data: bytes, key: Key, *options: str) -> bytes:
        return self.gpg(*options, "--local-user", key.fingerprint, "--clearsign", data=data)


@contextmanager
def signer() -> Iterator[Signer]:
    """A signer, which is gone afterwards, its agent too."""
    if shutil.which("gpg") is None:
        raise LabError("gpg is needed on the outer machine")
    with tempfile.TemporaryDirectory(prefix="gpumend-gpg-") as home:
        made = Signer(Path(home))
        yield made
        environment = {**os.environ, "GNUPGHOME": home}
        subprocess.run(["gpgconf", "--kill", "all"], env=environment, check=False, capture_output=True)


class Package(NamedTuple):
    """A package as an index has it. name: of its file."""

    name: str
    control: str
    data: bytes


def packed(debs: Iterable[Deb]) -> list[Package]:
    return [Package(f"{deb.name}_{deb.version}_all.deb", deb.control(), build(deb)) for deb in debs]


def packed_again(suite: str, names: Iterable[str] = DOCKER) -> list[Package]:
    """Packages of a base with all their files and scripts, as their own archives have them."""
    root = base(suite)
    status = (root / "var/lib/dpkg/status").read_text("utf-8")
    return [_packed_again(root, name, status) for name in names if f"Package: {name}\n" in status]


def _packed_again(root: Path, name: str, status: str) -> Package:
    [stanza] = [each for each in status.split("\n\n") if each.startswith(f"Package: {name}\n")]
    # What the status alone has (dpkg-query(1)), and fields of more than one line.
    control = re.sub(r"(?m)^(?:Status: .*|Conffiles:\n(?: .*\n?)*)\n?", "", stanza).strip() + "\n"
    control = re.sub(r"(?m)^Description: (.*)\n(?: .*\n)*", r"Description: \1\n", control)
    [version] = re.findall(r"(?m)^Version: (\S+)$", control)
    with tempfile.TemporaryDirectory(prefix="gpumend-deb-") as scratch:
        tree, target = Path(scratch) / "tree", Path(scratch) / "package.deb"
        (tree / "DEBIAN").mkdir(parents=True)
        tree.chmod(0o755)
        (tree / "DEBIAN/control").write_text(control)
        for part in ("preinst", "postinst", "prerm", "postrm", "conffiles", "config", "templates"):
            source = root / f"var/lib/dpkg/info/{name}.{part}"
            if source.exists():
                shutil.copy(source, tree / "DEBIAN" / part)
        for path in (root / f"var/lib/dpkg/info/{name}.list").read_text().split("\n"):
            source, to = root / path.lstrip("/"), tree / path.lstrip("/")
            if path not in MERGED and (source.is_symlink() or source.is_file()):
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, to, follow_symlinks=False)
        argv = ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(tree), str(target)]
        subprocess.run(argv, check=True, capture_output=True)
        return Package(f"{name}_{version.replace(':', '%3a')}_amd64.deb", control, target.read_bytes())


def index(packages: Iterable[Package]) -> bytes:
    rows = []
    for each in packages:
        digest = hashlib.sha256(each.data).hexdigest()
        rows.append(f"{each.control}Filename: ./{each.name}\nSize: {len(each.data)}\nSHA256: {digest}\n")
    return "\n".join(rows).encode()


def release(listed: bytes, label: str = "tests") -> bytes:
    digest = hashlib.sha256(listed).hexdigest()
    rows = [f"Origin: {label}", f"Label: {label}", f"Date: {formatdate(usegmt=True)}", "SHA256:"]
    return ("\n".join([*rows, f" {digest} {len(listed)} Packages"]) + "\n").encode()


def publish(
    node: Node,
    path: str,
    packages: Iterable[Package],
    by: Signer,
    key: Key,
    *options: str,
    label: str = "tests",
) -> None:
    """A signed repository lies in a directory of the mirror's."""
    packages = list(packages)
    listed = index(packages)
    node.sh('rm -rf "$1"; mkdir -p "$1"', f"{ROOT}/{path}")
    for each in packages:
        node.run_bytes(["dd", "status=none", "bs=1M", f"of={ROOT}/{path}/{each.name}"], each.data)
    node.write(f"{ROOT}/{path}/Packages", listed)
    node.write(f"{ROOT}/{path}/InRelease", by.sign(release(listed, label), key, *options))


def serve(node: Node) -> None:
    """The mirror answers on ADDRESS, and SILENT takes connections and says nothing."""
    node.run(["mkdir", "-p", ROOT])
    run = ["systemd-run", "--quiet", "--collect"]
    node.run(
        [
            *run,
            "--unit=mirror",
            "python3",
            "-m",
            "http.server",
            "8080",
            "--bind",
            "127.0.0.1",
            "--directory",
            ROOT,
        ]
    )
    node.run([*run, "--unit=silent", "python3", "-c", STALLS])
    probe = "import socket; [socket.create_connection(('127.0.0.1', port)) for port in (8080, 8081)]"
    wait_for(
        "the mirror answers", lambda: node.run(["python3", "-c", probe], check=False).returncode == 0, 30.0
    )
