"""The part of the program on a host that gives a Docker inside a container its storage: stdlib only, Python 3.6 or newer.

It goes to the host between the probe's text and the transaction's. Nothing here deletes or formats anything: a directory
that was made is taken away again only while it is empty, and the trial mount is made in a mount namespace of its own.
"""

import calendar
import glob
import os
import re
import shutil
import stat
import tempfile
import time
from typing import Any, Dict, Iterable, Optional

from gpumend.payload.change.engine import Absent, docker_call
from gpumend.payload.probe.containers import INNER_SECONDS
from gpumend.payload.probe.docker import MAX_ANSWERS_INSIDE, docker_get
from gpumend.payload.probe.files import Json, open_inside
from gpumend.payload.probe.http import Budget, UnixConnection
from gpumend.payload.probe.processes import inner, processes
from gpumend.payload.probe.reader import read_apart
from gpumend.payload.probe.running import run

RETURN_TIMEOUT = 20  # seconds for a unit's `docker run` to make its container: it copies the image under vfs
# Restarts by systemd, and seconds, after which a daemon that still gives no answer is not waited for.
IN_VAIN, IN_VAIN_TIMEOUT = 5, 15
SOCKET_INSIDE = "/run/docker.sock"
INNER_TIMEOUT = 60  # seconds; an inner dockerd answers 2 to 6 s after its container has started (measured)
FUSE = "/dev/fuse"
FUSE_NUMBER = (10, 229)  # linux Documentation/admin-guide/devices.txt
# The directory is in the mount's own terms, so that no name in it can be taken for an option.
TRIAL_NAME = ".gpumend-trial-"
TRIAL = 'cd "$1" && mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work overlay merged && echo 1 >merged/file && test -f upper/file'


class Unmet(Exception):
    """It cannot be done, or it did not come true. The text says what."""


def try_overlay(directory: str) -> None:
    """An overlay whose upper layer lies in this very directory can be mounted and written to. Raises Unmet with the kernel's
    word. The mount lives in a namespace of its own and ends with it; what was made for it is gone afterwards."""
    trial = tempfile.mkdtemp(prefix=TRIAL_NAME, dir=directory)
    try:
        for name in ("lower", "upper", "work", "merged"):
            os.mkdir(os.path.join(trial, name))
        found = run(["unshare", "-m", "--propagation", "private", "sh", "-c", TRIAL, "sh", trial], 30)
        if found["status"] != "ok" or found["rc"] != 0:
            reason = (found.get("err", "").strip() or found.get("error", "")).splitlines()
            raise Unmet(
                "an overlay cannot be mounted in %s: %s"
                % (directory, reason[0] if reason else found["status"])
            )
    finally:
        # work/work is the kernel's and has no permission bits; rmtree as root needs none. Only our own directory goes.
        shutil.rmtree(trial, ignore_errors=True)


def forget_trials(directory: str) -> None:
    """What a trial left in a directory when it was killed is gone."""
    for path in glob.glob(os.path.join(glob.escape(directory), TRIAL_NAME + "*")):
        shutil.rmtree(path, ignore_errors=True)


def fuse_ready() -> None:
    """/dev/fuse is there: the module is loaded, and where no udev makes its node, the node is made. Raises Unmet."""
    with open("/proc/filesystems") as handle:
        known = "\tfuse\n" in handle.read()
    if not known:
        found = run(["modprobe", "fuse"], 30)
        if found["status"] != "ok" or found["rc"] != 0:
            raise Unmet("modprobe fuse: %s" % (found.get("err", "").strip() or found.get("error", "")))
    deadline = time.monotonic() + 2
    while not os.path.exists(FUSE) and not known and time.monotonic() < deadline:
        time.sleep(0.05)  # udev is about to make it
    if not os.path.exists(FUSE):
        os.mknod(FUSE, 0o666 | stat.S_IFCHR, os.makedev(*FUSE_NUMBER))
        os.chmod(FUSE, 0o666)


def with_options(text: str, options: Iterable[str]) -> str:
    """The drop-in that has a unit's `docker run` with these options: its ExecStart anew, every other word as it was.

    An option `-e NAME=VALUE` replaces a value that the command names already: of two the later one counts. Raises Unmet
    where the unit does not have exactly one ExecStart with one `docker run`.
    """
    text = re.sub(r"(?m)^[ \t]*[#;].*\n", "", text)
    lines = re.findall(r"(?m)^ExecStart[ \t]*=[ \t]*((?:.*\\\n)*.*)$", text)
    starts = (
        re.findall(r"\b(?:docker|podman)(?:[ \t]+container)?[ \t]+run\b", lines[0]) if len(lines) == 1 else []
    )
    if len(starts) != 1:
        raise Unmet("it has no single ExecStart with a single `docker run`")
    line, added = lines[0], []
    words = list(options)
    while words:
        flag, value = words.pop(0), words.pop(0)
        name = value.partition("=")[0]
        if flag == "-e" and re.search(r"[ \t=\"']%s=" % re.escape(name), line):
            line = re.sub(r"([ \t=\"'])%s=[^\s\"']*" % re.escape(name), r"\g<1>" + value, line)
        elif value not in line.split():
            added.extend([flag, value])
    head, sign, tail = line.partition(starts[0])
    return "[Service]\nExecStart=\nExecStart=%s\n" % (head + " ".join([sign] + added) + tail)


def drop_in(unit: str, container: str, options: Iterable[str]) -> bytes:
    """The drop-in's bytes for a unit file. It may hold what the unit holds, so it is made here and leaves the host never."""
    try:
        with open(unit, "rb") as handle:
            text = handle.read().decode("utf-8")
    except (OSError, ValueError) as error:
        raise Unmet("%s: %s" % (unit, error))
    try:
        body = with_options(text, options)
    except Unmet as reason:
        raise Unmet("%s: %s" % (unit, reason))
    return ("# gpumend: %s\n%s" % (container, body)).encode("utf-8")


def runs_now(container: str) -> bool:
    """Whether a container runs. One that is not there does not; raises Unmet where dockerd does not answer."""
    try:
        return any("/" + container in entry["Names"] for entry in docker_call("/containers/json"))
    except (OSError, ValueError) as error:
        raise Unmet(str(error))


def main_start(unit: str) -> float:
    """When systemd started a unit's main process, in seconds of CLOCK_MONOTONIC; 0 where it never did."""
    found = run(["systemctl", "show", "--value", "-p", "ExecMainStartTimestampMonotonic", unit], 20)
    return int(found.get("out", "").strip() or 0) / 1e6


def own_container(unit: str, container: str) -> Optional[Json]:
    """What Docker says of the container of this name, or None while the unit's `docker run` has not made it.

    A `docker run` that is killed, as by a restart of its unit, does not take its request back: dockerd goes on to make the
    container, then its directories, and starts it (moby daemon/start.go). Such a container is older than the unit's main
    process. It is ended here, for it holds the name: one that runs is stopped, and one that was only made, for
    `docker run --rm`, is removed. An inspect waits for the lock that a start holds. Raises OSError or ValueError.
    """
    began = main_start(unit)
    if not began:  # it is between two starts
        return None
    try:
        found: Json = docker_call("/containers/%s/json" % container)
        made: Any = re.match(r"(\d+-\d+-\d+T\d+:\d+:\d+)(\.\d{1,9})?", found["Created"])
        wall = calendar.timegm(time.strptime(made.group(1), "%Y-%m-%dT%H:%M:%S")) + float(made.group(2) or 0)
        if wall - time.time() + time.monotonic() >= began:
            return found
        if found["State"]["Running"]:
            docker_call("/containers/%s/stop" % found["Id"], "POST", INNER_TIMEOUT)
        elif found["State"]["Status"] == "created" and found["HostConfig"].get("AutoRemove"):
            docker_call("/containers/%s?v=1" % found["Id"], "DELETE", INNER_TIMEOUT)
    except Absent:
        pass
    return None


def runs_again(unit: str, container: str) -> None:
    """The unit's own `docker run` has made its container after a restart: no other of that name can be under way. One that
    does not come in time is not waited for any longer: it may be what the unit was like before."""
    deadline = time.monotonic() + RETURN_TIMEOUT
    while time.monotonic() < deadline:
        try:
            if own_container(unit, container) is not None:
                return
        except (OSError, ValueError):
            pass  # dockerd is busy, or was restarted
        time.sleep(0.1)


def inner_driver(unit: str, container: str) -> str:
    """The storage driver of the dockerd in a unit's container, by its own word; an empty text while it does not answer."""
    try:
        found = own_container(unit, container)
    except (OSError, ValueError):
        return ""
    if not found:
        return ""
    for process in processes(["dockerd"]).get("processes", ()):
        if inner(process) and process["container"] == found["Id"][:12]:
            return driver_inside(process["pid"])
    return ""


def driver_inside(pid: int, path: str = SOCKET_INSIDE, seconds: float = INNER_SECONDS) -> str:
    """What a dockerd in a container says of its driver, or an empty text where it does not within some seconds. Whatever
    answers there is the container's: a reader asks it, for the host's lock is held meanwhile."""
    said: Dict[int, Json] = {}

    def ask() -> Json:
        handle = open_inside(pid, path)
        connection = UnixConnection(
            "/proc/self/fd/%d" % handle, seconds, None, Budget(MAX_ANSWERS_INSIDE, False)
        )
        return {"driver": docker_get(connection, "/info").get("Driver")}

    read_apart([ask], said.__setitem__, time.monotonic() + 2 * seconds, {}, seconds + 1)
    return str(said[0].get("driver") or "")[:100]


def restarts(unit: str) -> int:
    """How often systemd has restarted a unit by itself since it was last told to (NRestarts, systemd 235 and newer)."""
    found = run(["systemctl", "show", "--value", "-p", "NRestarts", unit], 20)
    return int(found.get("out", "").strip() or 0)


def prove_inner(entry: Json) -> str:
    """The inner daemon answers and has one of the drivers that the remedy gives it. Raises Unmet with what it has. A unit
    that systemd has restarted time and again since is not waited for to the end."""
    began = time.monotonic()
    while True:
        driver = inner_driver(entry["unit"], entry["container"])
        if driver in entry["drivers"]:
            return driver
        waited = time.monotonic() - began
        if waited > INNER_TIMEOUT or (waited > IN_VAIN_TIMEOUT and restarts(entry["unit"]) >= IN_VAIN):
            raise Unmet(
                "the dockerd in %s %s"
                % (
                    entry["container"],
                    "has the driver %s" % driver
                    if driver
                    else "gives no answer %d s after its restart" % waited,
                )
            )
        time.sleep(0.3)
