"""The part of the program on a host that gives a Docker inside a container its storage: stdlib only, Python 3.6 or newer.

It goes to the host between the probe's text and the transaction's. Nothing here deletes or formats anything: a folder
that was made is taken away again only while it is empty, and the trial mount is made in a mount name space of its own.
"""

import os
import re
import shutil
import stat
import tempfile
import time

from facts.probe import UnixConnection, docker_get, inner, open_inside, processes, run

SOCKET_INSIDE = "/run/docker.sock"
INNER_TIMEOUT = 60  # seconds; an inner dockerd answers 2 to 6 s after its container has started (measured)
FUSE = "/dev/fuse"
FUSE_NUMBER = (10, 229)  # linux Documentation/admin-guide/devices.txt
# The folder is in the mount's own terms, so that no name in it can be taken for an option.
TRIAL = 'cd "$1" && mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work overlay merged && echo 1 >merged/file && test -f upper/file'


class Unmet(Exception):
    """It cannot be done, or it did not come true. The text says what."""


def try_overlay(folder):
    """An overlay whose upper layer lies in this very folder can be mounted and written to. Raises Unmet with the kernel's
    word. The mount lives in a name space of its own and ends with it; what was made for it is gone afterwards."""
    trial = tempfile.mkdtemp(prefix=".gpumend-trial-", dir=folder)
    try:
        for name in ("lower", "upper", "work", "merged"):
            os.mkdir(os.path.join(trial, name))
        found = run(["unshare", "-m", "--propagation", "private", "sh", "-c", TRIAL, "sh", trial], 30)
        if found["status"] != "ok" or found["rc"] != 0:
            reason = (found.get("err", "").strip() or found.get("error", "")).splitlines()
            raise Unmet(
                "an overlay cannot be mounted in %s: %s" % (folder, reason[0] if reason else found["status"])
            )
    finally:
        # work/work is the kernel's and has no permission bits; rmtree as root needs none. Only our own folder goes.
        shutil.rmtree(trial, ignore_errors=True)


def fuse_ready():
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


def with_options(text, options):
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


def drop_in(unit, container, options):
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


def ask_outer(path, url):
    """The outer daemon's answer. Raises Unmet."""
    connection = UnixConnection(path, 10)
    try:
        return docker_get(connection, url)
    except (OSError, ValueError) as error:
        raise Unmet(str(error))
    finally:
        connection.close()


def runs_now(path, container):
    """Whether a container runs. One that is not there does not; raises Unmet where dockerd does not answer."""
    for entry in ask_outer(path, "/containers/json"):
        if "/" + container in entry["Names"]:
            return entry["State"] == "running"
    return False


def identity(path, container):
    """The id of the container of this name, or an empty text where there is none."""
    try:
        return ask_outer(path, "/containers/%s/json" % container)["Id"][:12]
    except Unmet:
        return ""  # it is being made, or not there


def inner_driver(path, container, old):
    """The storage driver of the dockerd in a container, by its own word; an empty text while it does not answer, or while
    its container is still the `old` one: that of a stopped unit may outlive it for a moment, and would answer, too."""
    ident = identity(path, container)
    if ident in ("", old):
        return ""
    for process in processes(["dockerd"]).get("processes", ()):
        if not inner(process) or process["container"] != ident:
            continue
        try:
            handle = open_inside(process["pid"], SOCKET_INSIDE)
        except OSError:
            return ""
        connection = UnixConnection("/proc/self/fd/%d" % handle, 10)
        try:
            return docker_get(connection, "/info").get("Driver") or ""
        except (OSError, ValueError):
            return ""
        finally:
            connection.close()
            os.close(handle)
    return ""


def prove_inner(path, entry, old):
    """The inner daemon answers and has one of the drivers that the remedy gives it. Raises Unmet with what it has."""
    deadline = time.monotonic() + INNER_TIMEOUT
    while True:
        driver = inner_driver(path, entry["container"], old)
        if driver in entry["drivers"]:
            return driver
        if time.monotonic() > deadline:
            raise Unmet(
                "the dockerd in %s %s"
                % (
                    entry["container"],
                    "has the driver %s" % driver
                    if driver
                    else "gives no answer %d s after its restart" % INNER_TIMEOUT,
                )
            )
        time.sleep(0.3)
