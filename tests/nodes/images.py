"""Container images for nodes, made from what is on the node: there is no registry to pull from."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import subprocess
import tarfile

from tests.nodes.base import base
from tests.nodes.lab import Node

BASE = "base:1"
PYTHON = "python:1"
PATH = "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Python with its standard library, and what it is linked with. Paths are made real: a file that dpkg lists
# below /lib lies below /usr/lib, and an archive that goes through the link /lib is one an engine may refuse.
PYTHON_TAR = r"""
import os, subprocess, sys, tarfile
wanted = ["libc6", "libc-bin", "libffi8", "zlib1g", "libexpat1", "base-files", "busybox-static"]
def output(*argv):
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split("\n")
installed = output("dpkg-query", "-W", "-f", "${Package}\n")
wanted += [p for p in installed if p.startswith(("python3", "libpython3")) and "yaml" not in p]
wanted = [p for p in wanted if p in installed]
paths = {"/bin", "/lib", "/lib64", "/sbin"}
for path in output("dpkg", "-L", *wanted):
    if not path.startswith("/") or "/share/" in path or "/gconv/" in path or not os.path.lexists(path):
        continue
    real = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    if os.path.islink(real) or not os.path.isdir(real):
        paths.add(real)
with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as tar:
    for path in sorted(paths):
        tar.add(path, path.lstrip("/"), recursive=False)
    for directory in ("tmp", "proc", "sys", "dev"):
        member = tarfile.TarInfo(directory)
        member.type, member.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(member)
"""


@functools.cache
def busybox_tar(suite: str) -> bytes:
    """A tiny root file system: busybox, its applets as links, and the directories that a runtime mounts on."""
    program = (base(suite) / "usr/bin/busybox").read_bytes()
    applets = subprocess.run(
        [base(suite) / "usr/bin/busybox", "--list"], capture_output=True, text=True, check=True
    ).stdout.split()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for directory in ("bin", "etc", "dev", "proc", "sys", "tmp", "usr", "usr/bin", "usr/lib"):
            member = tarfile.TarInfo(directory)
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(member)
        for path, data, mode in (
            ("bin/busybox", program, 0o755),
            ("etc/passwd", b"root:x:0:0::/:/bin/sh\n", 0o644),
        ):
            member = tarfile.TarInfo(path)
            member.size, member.mode = len(data), mode
            tar.addfile(member, io.BytesIO(data))
        for applet in applets:
            if applet != "busybox":
                member = tarfile.TarInfo(f"bin/{applet}")
                member.type, member.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(member)
    return buffer.getvalue()


def saved_image(suite: str, name: str = BASE) -> bytes:
    """The tiny image as `docker save` writes one (moby image/tarexport)."""
    layer = busybox_tar(suite)
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": [PATH[4:]]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, data in (
            ("layer.tar", layer),
            ("config.json", json.dumps(config).encode()),
            ("manifest.json", json.dumps(manifest).encode()),
        ):
            member = tarfile.TarInfo(path)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def has_image(node: Node, name: str) -> bool:
    """Whether the node's Docker has the image."""
    return node.run(["docker", "image", "inspect", name], check=False).returncode == 0


def starts(node: Node, *options: str) -> bool:
    """Whether the node's Docker starts a container of the tiny image, which it has."""
    return node.run(["docker", "run", "--rm", *options, BASE, "true"], check=False).returncode == 0


def import_image(node: Node, name: str = BASE) -> None:
    """The node's Docker has the tiny image (a shell and the usual tools, no libc)."""
    node.run_bytes(["docker", "import", "-c", PATH, "-", name], busybox_tar(node.suite))


def import_python_image(node: Node, name: str = PYTHON) -> None:
    """The node's Docker has an image with the suite's own python3 (3-5 s): for calling cuInit by ctypes."""
    script = 'python3 -c "$1" | docker import -c "$2" - "$3"'
    node.sh(script, PYTHON_TAR, PATH, name)


CUINIT = "import ctypes; print(ctypes.CDLL('libcuda.so.1').cuInit(0))"


def cuinit(node: Node, *docker_arguments: str) -> subprocess.CompletedProcess[str]:
    """`docker run ARGUMENTS python:1` of a call of cuInit(0), with its result on stdout (makes the image)."""
    if not has_image(node, PYTHON):
        import_python_image(node)
    return node.run(
        ["docker", "run", "--rm", *docker_arguments, PYTHON, "python3", "-c", CUINIT], check=False
    )
