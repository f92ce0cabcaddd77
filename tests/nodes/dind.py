"""A Docker in a container on a node, as site software runs one: privileged, with a dockerd of its own, in a systemd unit.

The image is the node's own packages: a real dockerd, containerd and runc of the suite, with fuse-overlayfs beside.
"""

from __future__ import annotations

import json
from typing import Any

from tests.nodes.images import PATH, busybox_tar
from tests.nodes.lab import Node
from tests.nodes.slot import wait_for

IMAGE = "dind:1"
READY_SECONDS = 60.0

# What the image holds: these packages and all that they need, as installed. Paths are made real (images.py says why).
IMAGE_TAR = r"""
import os, re, subprocess, sys, tarfile
# vfs copies all of the image for each container: what no test starts is left out.
UNUSED = "/share/(doc|man|locale|bash-completion)|/gconv/|/perl|/systemd/|/containerd-(stress|shim|shim-runc-v1)$|/ctr$"
def output(*argv):
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout
needs = {}
for line in output("dpkg-query", "-W", "-f", "${Package}\t${Provides}\t${Pre-Depends}, ${Depends}\n").splitlines():
    name, provides, depends = line.split("\t")
    words = [re.split(r"[ (:]", part.strip())[0] for part in re.split(r"[,|]", depends) if part.strip()]
    needs[name] = words
    for part in provides.split(","):
        if part.strip():
            needs.setdefault(re.split(r"[ (]", part.strip())[0], []).append(name)
wanted, left = set(), ["docker.io", "docker-cli", "fuse-overlayfs", "busybox-static", "base-files", "iptables", "dash", "coreutils"]
while left:
    name = left.pop()
    if name in needs and name not in wanted:
        wanted.add(name)
        left.extend(needs[name])
installed = set(output("dpkg-query", "-W", "-f", "${Package}\n").split())
paths = {"/bin", "/lib", "/lib64", "/sbin"}
for top in ("/etc/alternatives",):
    paths.update(os.path.join(top, name) for name in os.listdir(top))
for path in output("dpkg", "-L", *sorted(wanted & installed)).splitlines():
    if not path.startswith("/") or re.search(UNUSED, path) or not os.path.lexists(path):
        continue
    found = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    if os.path.islink(found) or not os.path.isdir(found):
        paths.add(found)
for name in ("iptables", "ip6tables", "iptables-save", "iptables-restore"):
    if os.path.lexists("/usr/sbin/" + name):
        paths.add("/usr/sbin/" + name)
with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as tar:
    for path in sorted(paths):
        if os.path.lexists(path):
            tar.add(path, path.lstrip("/"), recursive=False)
    for directory in ("tmp", "proc", "sys", "dev", "run", "var", "var/lib", "etc/docker", "root"):
        if "/" + directory in paths:
            continue
        member = tarfile.TarInfo(directory)
        member.type, member.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(member)
"""


def import_dind_image(node: Node, name: str = IMAGE) -> None:
    """The node's Docker has the image."""
    node.sh('python3 -c "$1" | docker import -c "$2" - "$3"', IMAGE_TAR, PATH, name, timeout=240.0)


def inner(node: Node, container: str, *argv: str, data: bytes | None = None, check: bool = True) -> str:
    """What a command in the container printed, errors included."""
    done = node.run_bytes(["docker", "exec", *(["-i"] if data else []), container, *argv], data, check)
    return (done.stdout + done.stderr).decode("utf-8", "replace")


def inner_info(node: Node, container: str) -> dict[str, Any]:
    """The inner daemon's `docker info`; empty while it does not answer."""
    text = inner(node, container, "docker", "info", "-f", "{{json .}}", check=False)
    try:
        found: dict[str, Any] = json.loads(text.splitlines()[0]) if text else {}
    except ValueError:
        return {}
    return found if found.get("ServerVersion") else {}


def wait_inner(node: Node, container: str) -> dict[str, Any]:
    """The inner daemon answers."""
    wait_for(f"{container}: dockerd answers", lambda: bool(inner_info(node, container)), READY_SECONDS)
    return inner_info(node, container)


def runs_a_container(node: Node, container: str) -> tuple[bool, str]:
    """Whether the inner daemon runs a container, and what was said. The image is loaded into it first. It is told by an
    exit status that only a program in it can give: of a short life Docker may lose the output."""
    inner(
        node,
        container,
        "docker",
        "import",
        "-c",
        PATH,
        "-",
        "base:1",
        data=busybox_tar(node.suite),
        check=False,
    )
    argv = ["docker", "run", "--rm", "--network=none", "base:1", "sh", "-c", "echo hello; exit 42"]
    done = node.run(["docker", "exec", container, *argv], check=False)
    return done.returncode == 42, f"rc {done.returncode}\n{done.stdout}{done.stderr}"
