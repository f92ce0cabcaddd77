"""The part of the program on a host that starts a container through each engine, and asks those beside Docker what they
have: stdlib only, Python 3.6 or newer.

Nothing is pulled: an engine that has no such image is not tried, unless its path was named.
"""

import json
import os
import random
from typing import Callable, Dict, Iterable, List, Optional, Tuple

from gpumend.payload.probe.execution import which
from gpumend.payload.probe.files import Json
from gpumend.payload.probe.running import run

TRIAL_TIMEOUT = 120  # seconds; the first cuInit after boot takes tens of them on hosts with eight GPUs
CONTAINERD_CRI = "unix:///run/containerd/containerd.sock"


class Untried(Exception):
    """There was nothing to start a container with. The text says what was missing."""


def last_words(found: Json) -> str:
    """The end of what a command said, on one line; never empty."""
    lines = (found.get("err", "") + found.get("out", "")).strip().splitlines()
    said = " / ".join(lines[-3:])[:500] or found.get("error", "")
    return said or "exit status %s" % found.get("rc")


def worked(found: Json) -> bool:
    return bool(found["status"] == "ok" and found["rc"] == 0)


def client(name: str) -> str:
    path = which(name)
    if path is None:
        raise Untried("there is no %s on this host" % name)
    return path


def try_docker(entry: Json) -> str:
    """Docker, by the argv that the plan made. Returns why it failed, or an empty text; raises Untried."""
    found = run([client("docker")] + entry["argv"], TRIAL_TIMEOUT)
    return "" if worked(found) else last_words(found)


def try_podman(entry: Json) -> str:
    """podman as root, without a network. Returns why it failed, or an empty text; raises Untried."""
    podman, command = client("podman"), entry["command"]
    there = run([podman, "image", "exists", entry["image"]], 30)
    if not worked(there):  # 1: it is not there, 125: an error (podman-image-exists(1))
        none = "podman has no image %s" % entry["image"]
        raise Untried(none if there.get("rc") == 1 else "podman image exists: %s" % last_words(there))
    # Without a limit of processes: the controller for it may not be delegated to us.
    argv = [podman, "run", "--rm", "--pull=never", "--network=none", "--pids-limit=0"] + entry["options"]
    found = run(argv + ["--entrypoint", command[0], entry["image"]] + command[1:], TRIAL_TIMEOUT)
    return "" if worked(found) else last_words(found)


def full_names(image: str) -> List[str]:
    """What containerd may call an image that a person calls `image`: containerd keeps whole references."""
    tagged = image if ":" in image.rpartition("/")[2] or "@" in image else image + ":latest"
    return [tagged, "docker.io/library/" + tagged, "docker.io/" + tagged, "localhost/" + tagged]


def image_in_containerd(ctr: str, image: str) -> Tuple[str, str]:
    """(namespace, reference) of an image in containerd: the kubelet's namespace first. Raises Untried."""
    listed = run([ctr, "namespaces", "ls", "-q"], 30).get("out", "").split()
    for space in sorted(listed, key=lambda name: (name != "k8s.io", name != "default", name)):
        have = run([ctr, "-n", space, "images", "ls", "-q"], 30).get("out", "").split()
        for name in full_names(image):
            if name in have:
                return space, name
    raise Untried("containerd has no image %s" % image)


def try_containerd(entry: Json) -> str:
    """containerd through ctr. Returns why it failed, or an empty text; raises Untried. Nothing is left of the container,
    also where it did not end in time. An entrypoint of the image stays before the command: ctr cannot set it."""
    ctr = client("ctr")
    space, image = image_in_containerd(ctr, entry["image"])
    ident = "gpumend-trial-%08x" % random.SystemRandom().getrandbits(32)
    # No CPU shares: the controller for it may not be delegated to us.
    argv = [ctr, "-n", space, "run", "--rm", "--cpu-shares", "0"] + entry["options"]
    found = run(argv + [image, ident] + entry["command"], TRIAL_TIMEOUT)
    if worked(found):
        return ""
    for words in (["tasks", "rm", "-f", ident], ["containers", "rm", ident]):
        run([ctr, "-n", space] + words, 30)
    return last_words(found)


TRIALS: Dict[str, Callable[[Json], str]] = {
    "docker": try_docker,
    "podman": try_podman,
    "containerd": try_containerd,
}


def try_all(entries: Iterable[Json]) -> Tuple[List[str], List[str], List[str]]:
    """(paths on which a container did what it should, why others did not, what was not tried)."""
    good: List[str] = []
    failures: List[str] = []
    untried: List[str] = []
    for entry in entries:
        try:
            why = TRIALS[entry["engine"]](entry)
        except Untried as reason:
            where = failures if entry["must"] else untried
            where.append("%s: %s" % (entry["path"], reason))
            continue
        if why:
            failures.append("%s: %s" % (entry["path"], why))
        else:
            good.append(entry["path"])
    return good, failures, untried


def can_ask_cri() -> bool:
    """Whether there is a crictl, and a containerd to ask with it."""
    return which("crictl") is not None and os.path.exists(CONTAINERD_CRI.partition("://")[2])


def cri_info() -> Optional[Json]:
    """What containerd's CRI says of itself, or None while it does not answer."""
    found = run(["crictl", "--runtime-endpoint", CONTAINERD_CRI, "info"], 20)
    try:
        return json.loads(found.get("out", "")) if worked(found) else None
    except ValueError:
        return None
