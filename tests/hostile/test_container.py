"""What a container tries that is looked into: what it answers in a Docker's place, and what lies at the paths that are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gpumend.state.host_state import request
from gpumend.state.snapshot import unpacked
from tests.hostile.attacks import RESIDENT, UNGUARDED, Attack, Seen, add, attempt, both, probed, program, put
from tests.nodes.conftest import Boot
from tests.nodes.images import BASE, import_image
from tests.nodes.lab import Node
from tests.nodes.slot import wait_for

HOST = "gm-s3cr3t-of-the-host"
NAME = "inner"
PATIENT = add(
    "BoundedSocket.hurry = lambda self: None\nReader.still = lambda self, seconds: False\nHANGS = BEYOND = 10**6"
)
HUNGRY = both(
    PATIENT,
    add("Budget.spend = lambda self, size: None\nMAX_ANSWER = 1 << 40\nMAX_READER_BYTES = 300 << 20"),
)
FOLLOWED = add("open_inside = lambda pid, path: os.open('/proc/%d/root%s' % (pid, path), os.O_PATH)")

# A privileged container's dockerd, by its name and what it executes: what it answers is what /fake/kind says.
SERVER = r"""
import os, socket, sys, threading, time
OK = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"
def body(text):
    return lambda to: to.sendall(OK + b"Content-Length: %d\r\n\r\n" % len(text) + text)
def trickle(to):
    to.sendall(OK + b"Content-Length: 100000\r\n\r\n")
    while True:
        to.sendall(b" ")
        time.sleep(0.05)
def endless(to):
    to.sendall(OK + b"\r\n")
    while True:
        to.sendall(b" " * 65536)
def chunks(to):
    to.sendall(OK + b"Transfer-Encoding: chunked\r\n\r\n")
    while True:
        to.sendall(b"10000\r\n" + b" " * 65536 + b"\r\n")
def going_on(to):
    while True:
        to.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)
KINDS = {
    "trickle": trickle,
    "endless": endless,
    "chunks": chunks,
    "continue": going_on,
    "lists": body(b"[" + b"[],[]," * 1000000 + b"0]"),
    "digits": body(b"9" * 4000000),
    "proxy": body(b'{"ServerVersion": "28.0", "HttpProxy": "http://u:gm-pr0xy@x"}'),
    "refuse": lambda to: None,
}
os.makedirs("/run", exist_ok=True)
server = socket.socket(socket.AF_UNIX)
server.bind("/run/docker.sock")
server.listen(8)
def serve(to):
    with to:
        asked = to.recv(65536)
        with open("/fake/kind") as handle:
            kind = handle.read().strip()
        if kind == "environment":
            texts = {b"/info": b'{"ServerVersion": "28.0", "Driver": "vfs"}', b"/version": b'{"Version": "28.0"}', b"/images/json": b"[]",
                     b"/containers/json?all=1": b'[{"Id": "abc"}]'}
            more = b'{"Id": "abc", "Config": {"Env": ["API_TOKEN=gm-env1ronment", "PATH=/bin"]}}'
            body(texts.get(asked.split()[1], more))(to)
        else:
            KINDS[kind](to)
print("deploy-token gm-l0g of a registry", flush=True)
print("failed to mount overlay gm-wanted", flush=True)
while True:
    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"""
SET_UP = """
mkdir -p /srv/fake /root/closed
echo '{"gm": "$1"}' >/root/gm.json; chmod 600 /root/gm.json
cp /root/gm.json /root/closed/daemon.json; chmod 644 /root/closed/daemon.json
cp "$(readlink -f /usr/bin/python3)" /srv/fake/dockerd
echo refuse >/srv/fake/kind
docker run -d --name inner --privileged --pid=host -e PYTHONHOME=/usr -e AWS_SECRET=gm-s3rvice -v /usr:/usr:ro -v /lib:/lib:ro \
  -v /lib64:/lib64:ro -v /srv/fake:/fake "$2" /fake/dockerd -S /fake/serve.py --data-root=/root/closed
"""
FILE = "/etc/docker/daemon.json"


def answers(kind: str) -> str:
    """A command of the container's: what it is to answer from now on."""
    return f"echo {kind} >/fake/kind"


def inside(seen: Seen) -> dict[str, Any]:
    """What was read in the container."""
    found: list[dict[str, Any]] = list(seen.answer["inside"].values())
    return found[0]


def refused(seen: Seen) -> bool:
    """What it answers is not taken, and cost neither time nor memory."""
    return inside(seen)["docker"]["status"] in ("failed", "timeout") and seen.peak < RESIDENT


def silent(secret: str) -> Callable[[Seen], bool]:
    return lambda seen: inside(seen)["docker"] != {} and secret not in seen.told


def at_the_file(command: str) -> str:
    return f"mkdir -p /etc/docker; rm -rf {FILE}; {command}"


ATTACKS = (
    Attack("an answer that trickles", 9, refused, PATIENT, answers("trickle"), limit=9),
    Attack("an answer without end", 9, refused, HUNGRY, answers("endless"), limit=4),
    Attack("an answer of chunks without end", 9, refused, HUNGRY, answers("chunks"), limit=4),
    Attack("one that will go on, without end", 9, refused, HUNGRY, answers("continue"), limit=9),
    Attack("six megabytes of lists", 9, refused, HUNGRY, answers("lists")),
    Attack(
        "a number of four million digits",
        9,
        refused,
        both(PATIENT, add("number = int\nsys.set_int_max_str_digits(0)\nMAX_READER_SECONDS = 10**6")),
        answers("digits"),
        limit=9,
    ),
    Attack(
        "a proxy's password in what it says of itself",
        10,
        silent("gm-pr0xy"),
        add("docker_info_of = lambda info: info\ndocker_get.__defaults__ = None\nreal = docker_get\n"
            "def docker_get(connection, url):\n"
            "    if url == '/info' or not connection.path.startswith('/proc/'):\n        return real(connection, url)\n"
            "    return [] if 'json' in url else {}"),
        answers("proxy"),
    ),
    Attack(
        "the environment of its own containers",
        10,
        lambda seen: silent("gm-env1ronment")(seen) and inside(seen)["docker"]["status"] == "ok",
        add("allowed_env = lambda pairs: dict(pair.partition('=')[::2] for pair in pairs or ())"),
        answers("environment"),
    ),
    Attack(
        "the environment of its dockerd",
        10,
        silent("gm-s3rvice"),
        add("allowed_env = lambda pairs: dict(pair.partition('=')[::2] for pair in pairs or ())"),
        answers("refuse"),
    ),
    Attack(
        "the lines of its log that nobody asked for",
        10,
        lambda seen: "gm-l0g" not in seen.told and "gm-wanted" in seen.told,
        add("matches = lambda pattern, text: text.splitlines()"),
        answers("refuse"),
    ),
    Attack(
        "a link to the host's file",
        10,
        silent(HOST),
        FOLLOWED,
        at_the_file(f"ln -s /root/gm.json {FILE}"),
        clean=at_the_file(":"),
    ),
    Attack(
        "a link to the host's directory",
        10,
        silent(HOST),
        FOLLOWED,
        "rm -rf /etc/docker; ln -s /root/closed /etc/docker",
        clean="rm -f /etc/docker; mkdir /etc/docker",
    ),
    Attack(
        "a link to the host's own Docker",
        14,
        lambda seen: inside(seen)["docker"]["status"] != "ok",
        FOLLOWED,
        "mv /run/docker.sock /run/own.sock; ln -s /var/run/docker.sock.host /run/docker.sock",
        root="ln -sfn /run/docker.sock /var/run/docker.sock.host",
        clean="mv /run/own.sock /run/docker.sock",
    ),
    Attack(
        "a FIFO where its daemon.json is read",
        9,
        lambda seen: inside(seen)["files"][FILE]["status"] in ("ok", "failed") and seen.seconds < 8,
        both(
            PATIENT,
            add("opened = lambda path, limit, inside=None, named=None: (meta(path), open(path, 'rb').read(limit))"),
        ),
        at_the_file(f"mkfifo {FILE}"),
        clean=at_the_file(":"),
        limit=9,
    ),
    Attack(
        "a daemon.json of 60 MB",
        9,
        lambda seen: inside(seen)["files"][FILE]["status"] == "failed" and seen.peak < RESIDENT,
        both(PATIENT, put(("limit: int = MAX_FILE_BYTES", "limit: int = 1 << 27")), add("MAX_READER_BYTES = 1 << 40")),
        at_the_file(f"truncate -s 60M {FILE}"),
        clean=at_the_file(":"),
    ),
    Attack(
        "a dockerd in the host's own process namespace, with root's directory for its data",
        14,
        lambda seen: "/root/closed" not in seen.answer["listings"],
        add("inner = lambda process: False\nimpostor = lambda name, entry: None"),
        answers("refuse"),
    ),
)  # fmt: skip


def in_container(node: Node, script: str) -> None:
    node.run(["docker", "exec", NAME, "/bin/sh", "-c", script])


@pytest.fixture(scope="module")
def host(shared_boot: Boot) -> Iterator[Node]:
    """A host with a privileged container that calls what it runs a dockerd."""
    node = shared_boot("trixie", "healthy")
    import_image(node)
    node.write("/srv/fake/serve.py", SERVER)
    node.sh(SET_UP.replace("$1", HOST).replace('"$2"', BASE))
    wait_for("it listens", lambda: "gm-wanted" in node.run(["docker", "logs", NAME]).stdout, 20)
    yield node
    node.run(["docker", "rm", "-f", NAME])


ASKED = {
    key: value
    for key, value in request().items()
    if key in ("processes", "inside", "log_keep", "packed", "listings")
}


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_a_container_gains_nothing(host: Node, attack: Attack) -> None:
    with attempt("a container", attack.name):
        host.sh(attack.root or ":")
        in_container(host, attack.user)
        try:
            if UNGUARDED:
                seen = probed(host, program({**ASKED, "timeout": 3}, attack.without), attack.limit)
                assert attack.succeeds(seen), (seen.rc, seen.seconds, seen.peak, inside(seen))
            else:
                seen = probed(host, program({**ASKED, "timeout": 3}))
                seen.bounds()
                assert attack.held(seen), (attack.promise, unpacked(seen.out)[:2000], seen.seconds, seen.peak)
        finally:
            in_container(host, attack.clean or ":")
