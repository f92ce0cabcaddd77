"""The part of the program on a host that starts a container through each engine, and asks those beside Docker what they
have: stdlib only, Python 3.6 or newer.

Nothing is pulled: an engine that has no such image takes it out of the archive that the desired state names, or is not tried,
unless its path was named. One that came in the same run has none yet: then nothing failed, and nothing is proven.
"""

import json
import os
import random
from typing import Callable, Dict, Iterable, List, Optional, Tuple

from gpumend.payload.probe.execution import resolved, which
from gpumend.payload.probe.files import Json
from gpumend.payload.probe.running import run

TRIAL_TIMEOUT = 120  # seconds; the first cuInit after boot takes tens of them on hosts with eight GPUs
LOAD_TIMEOUT = 600  # seconds; an image of CUDA's with its compiler has 5 GB
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


def have_image(entry: Json, there: Callable[[], bool], load: List[str]) -> None:
    """The engine has the image, out of its archive where it had it not; `load` takes in what is named after it. Raises Untried."""
    engine, image, archive = entry["engine"], entry["image"], entry["archive"]
    if there():
        return
    if not archive:
        pull = {"containerd": "ctr -n default images pull %s" % full_names(image)[1]}
        told = (engine, image, pull.get(engine, "%s pull %s" % (engine, image)))
        raise Untried("%s has no image %s: `%s` there, or name its archive in prove.archive" % told)
    try:
        real, others = resolved(archive)
    except OSError as error:
        raise Untried("%s: %s" % (archive, error.strerror))
    if real is None:
        raise Untried("the archive is not taken in: %s" % others)
    found = run(load + [real], LOAD_TIMEOUT)
    if not worked(found):
        raise Untried("%s cannot take in %s: %s" % (engine, archive, last_words(found)))
    if not there():
        raise Untried("%s has no image %s, nor is it in %s" % (engine, image, archive))


def try_docker(entry: Json) -> str:
    """Docker, by the argv that the plan made. Returns why it failed, or an empty text; raises Untried."""
    docker = client("docker")

    def there() -> bool:
        found = run([docker, "image", "inspect", "--format={{.Id}}", entry["image"]], 30)
        return worked(found) or "no such image" not in found.get("err", "").lower()

    have_image(entry, there, [docker, "load", "--quiet", "--input"])
    found = run([docker] + entry["argv"], TRIAL_TIMEOUT)
    return "" if worked(found) else last_words(found)


def try_podman(entry: Json) -> str:
    """podman as root, without a network. Returns why it failed, or an empty text; raises Untried."""
    podman, command = client("podman"), entry["command"]

    def there() -> bool:
        found = run([podman, "image", "exists", entry["image"]], 30)
        if (
            worked(found) or found.get("rc") == 1
        ):  # 1: it is not there, 125: an error (podman-image-exists(1))
            return worked(found)
        raise Untried("podman image exists: %s" % last_words(found))

    have_image(entry, there, [podman, "load", "--quiet", "--input"])
    # Without a limit of processes: the controller for it may not be delegated to us.
    argv = [podman, "run", "--rm", "--pull=never", "--network=none", "--pids-limit=0"] + entry["options"]
    found = run(argv + ["--entrypoint", command[0], entry["image"]] + command[1:], TRIAL_TIMEOUT)
    return "" if worked(found) else last_words(found)


def full_names(image: str) -> List[str]:
    """What containerd may call an image that a person calls `image`: containerd keeps whole references."""
    tagged = image if ":" in image.rpartition("/")[2] or "@" in image else image + ":latest"
    return [tagged, "docker.io/library/" + tagged, "docker.io/" + tagged, "localhost/" + tagged]


def image_in_containerd(ctr: str, image: str) -> Optional[Tuple[str, str]]:
    """(namespace, reference) of an image in containerd: the kubelet's namespace first. None where it is in none."""
    listed = run([ctr, "namespaces", "ls", "-q"], 30).get("out", "").split()
    for space in sorted(listed, key=lambda name: (name != "k8s.io", name != "default", name)):
        have = run([ctr, "-n", space, "images", "ls", "-q"], 30).get("out", "").split()
        for name in full_names(image):
            if name in have:
                return space, name
    return None


def try_containerd(entry: Json) -> str:
    """containerd through ctr. Returns why it failed, or an empty text; raises Untried. Nothing is left of the container,
    also where it did not end in time. An entrypoint of the image stays before the command: ctr cannot set it."""
    ctr = client("ctr")
    load = [ctr, "-n", "default", "images", "import"]
    have_image(entry, lambda: image_in_containerd(ctr, entry["image"]) is not None, load)
    space, image = image_in_containerd(ctr, entry["image"]) or ("default", entry["image"])
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
            where = failures if entry["must"] and not entry["fresh"] else untried
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
