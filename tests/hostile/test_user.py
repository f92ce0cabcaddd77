"""What a user of a host, without any right, tries on whoever audits and mends it as root."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gpumend.state.host_state import request
from gpumend.state.snapshot import unpacked
from tests.hostile.attacks import (
    RESIDENT,
    UNGUARDED,
    Attack,
    Seen,
    add,
    as_user,
    attempt,
    both,
    probed,
    program,
    put,
)
from tests.nodes.conftest import Boot
from tests.nodes.lab import Node

SECRET = "gm-s3cr3t-of-root"
TOKEN = "gm-t0ken-of-another"
LINKS = add("walked = lambda path, named=None: os.open(path, os.O_PATH | os.O_CLOEXEC)")
NAMED = put(("named = named or written_by(path, item)", "named = None"))
COMPOSE = [f"/home/nosudo/{name}/compose.yml" for name in ("stack", "built")]  # which the desired state names
ASKED = {**request(), "compose": COMPOSE}
TRUST = add("distrust = lambda path: None")
PATIENT = add("HANGS = READS = 10**6")

# Root's part: files that nobody else may read, and links as people make them who have no place elsewhere.
ROOT = f"""
umask 077
mkdir -p /root/closed /root/runner
echo '{{"cuda": {{"version": "{SECRET}"}}}}' >/root/version.json
echo 'cdi_spec_dirs = ["/{SECRET}"]' >/root/containers.conf
echo '  gpus = "{SECRET}"' >/root/runner/config.toml
echo '{SECRET}: 1' >/root/keys.yml; echo 'FROM {SECRET}' >/root/phrase
cp /root/version.json /root/closed/version.json; chmod 644 /root/closed/version.json /root/runner/config.toml
umask 022
ln -sfn /home/nosudo/cuda /usr/local/cuda
for name in 12.1 12.2 12.3 12.4 12.5 12.6; do ln -sfn /home/nosudo/cuda-$name /usr/local/cuda-$name; done
for number in 1 2 3 4 5 6 7 8 9 10 11 12; do ln -sfn /home/nosudo/big-$number /usr/local/cuda-13.$number; done
groupadd -f staff; usermod -aG staff nosudo; chgrp staff /usr/local/bin; chmod 2775 /usr/local/bin
mkdir -p /var/spool/cron/crontabs
printf '#!/bin/sh\\ndocker run --gpus all x\\n' >/home/ops/good.sh; chown ops: /home/ops/good.sh
"""
USER = """
cd
mkdir -p cuda/bin cuda-12.1 cuda-12.3 cuda-12.4/compat .config/containers/containers.conf.d bin .local/bin
"""


def untouched(path: str) -> Callable[[Seen], bool]:
    return lambda seen: bool(seen.answer) and not seen.node.exists(path)


def silent(secret: str) -> Callable[[Seen], bool]:
    return lambda seen: bool(seen.answer) and secret not in seen.told


def asked(pattern: str) -> str:
    """A part of a regular expression as it stands in the program: in JSON, in a string of Python's."""
    return pattern.replace("\\", "\\" * 4)


def item(seen: Seen, path: str) -> dict[str, Any]:
    """What is said of a path."""
    found: dict[str, Any] = {**seen.answer["stats"], **seen.answer["files"]}.get(path, {})
    return found


def in_time(seen: Seen) -> bool:
    """It ended, and other users' files were read."""
    return bool(seen.answer) and "ok" in seen.answer["stats"].get("/home/ops/good.sh", {}).get("status", "")


ATTACKS = (
    Attack(
        "a link to root's file where a version is read",
        10,
        silent(SECRET),
        LINKS,
        "ln -sfn /root/version.json cuda-12.1/version.json",
    ),
    Attack(
        "a directory of root's under a name of the user's",
        10,
        silent(SECRET),
        LINKS,
        "ln -sfn /root/closed cuda-12.2",
    ),
    Attack(
        "a name more for root's file, where the kernel lets users make them",
        10,
        silent(SECRET),
        LINKS,
        root="ln -f /root/version.json /home/nosudo/cuda-12.3/version.json",
    ),
    Attack(
        "a link to root's file where a pattern is looked for",
        10,
        silent(SECRET),
        LINKS,
        "ln -sfn /root/containers.conf .config/containers/containers.conf",
    ),
    Attack(
        "a link to a closed directory where a pattern is looked for",
        10,
        silent(SECRET),
        LINKS,
        "ln -sfn /root/runner .gitlab-runner",
    ),
    Attack(
        "what the kernel shows to root alone, whatever its mode says",
        10,
        lambda seen: "data" not in item(seen, "/usr/local/cuda-12.1/version.txt"),
        LINKS,
        "ln -sfn /proc/1/maps cuda-12.1/version.txt",
    ),
    Attack(
        "a compose file that includes root's",
        10,
        silent(SECRET),
        NAMED,
        "mkdir -p stack; echo 'include: [/root/keys.yml]' >stack/compose.yml",
    ),
    Attack(
        "a compose file that has root's file for a Dockerfile",
        10,
        silent(SECRET),
        NAMED,
        "mkdir -p built; echo 'services: {x: {build: {context: /root, dockerfile: phrase}}}' >built/compose.yml",
    ),
    Attack(
        "a FIFO where a library is looked for",
        9,
        lambda seen: in_time(seen)
        and "its kind is fifo"
        in item(seen, "/usr/local/cuda-12.4/compat/libcuda.so.999.1")["section"]["error"],
        both(add("open_file = lambda path, inside=None, named=None: open(path, 'rb')"), PATIENT),
        "mkfifo cuda-12.4/compat/libcuda.so.999.1",
    ),
    Attack(
        "an ELF file that says that its headers are half a gigabyte",
        9,
        lambda seen: in_time(seen) and seen.peak < RESIDENT,
        both(
            put(("min(size * count, MAX_SEARCHED_BYTES)", "size * count")),
            add("MAX_READER_BYTES = 1 << 40"),
        ),
        "python3 -c 'import struct; print(end=\"\"); head = b\"\\x7fELF\\2\\1\".ljust(40, b\"\\0\")"
        " + struct.pack(\"<Q\", 64) + b\"\\0\" * 10 + struct.pack(\"<HHH\", 8192, 65535, 1);"
        " open(\"cuda-12.4/compat/libcuda.so.998.1\", \"wb\").write(head)'; truncate -s 600M cuda-12.4/compat/libcuda.so.998.1",
    ),
    Attack(
        "a crontab line of 300,000 slashes",
        9,
        in_time,
        both(
            put(
                (asked(r"*?(?<![\w./@-])[\w.@-]*(/["), asked(r"*?(/[")),
                ("LONG_LINE.sub(r", "(lambda _, text: text)(r"),
            ),
            PATIENT,
        ),
        root="python3 -c 'print(\"/\" * 300000)' >/var/spool/cron/crontabs/nosudo; chown nosudo: /var/spool/cron/crontabs/nosudo",
    ),
    Attack(
        "a file of 20 MB where a pattern is looked for",
        9,
        lambda seen: item(seen, "/home/nosudo/.config/containers/containers.conf.d/big.conf")["status"] == "failed",
        add("MAX_SEARCHED_BYTES = 1 << 40"),
        "(echo 'cdi_spec_dirs = [\"/x\"]'; head -c 20M /dev/zero) >.config/containers/containers.conf.d/big.conf",
    ),
    Attack(
        "twelve files of a megabyte that are read whole",
        9,
        lambda seen: 0 < len(unpacked(seen.out)) < 12_000_000,
        add("MAX_USER_BYTES = MAX_USERS_BYTES = 1 << 40"),
        "for n in 1 2 3 4 5 6 7 8 9 10 11 12; do mkdir -p big-$n; head -c 1000000 /dev/zero >big-$n/version.json; done",
    ),
    Attack(
        "names of files that are no text, with line breaks and escape sequences",
        9,
        lambda seen: bool(seen.answer) and seen.out.isascii() and seen.out.count("\n") == 1 and "\33" not in unpacked(seen.out),
        put(("ensure_ascii=True", "ensure_ascii=False")),
        "printf '#!/bin/sh\\ndocker run --gpus all x\\n' >bin/$'a\\nb\\33[31m\\xff'",
    ),
    Attack(
        "a mount that does not answer, and links into it",
        9,
        in_time,
        both(add("dead_mounts = lambda text, wait: {}"), PATIENT),
        "ln -sfn /srv/dead/x dead.sh; ln -sfn /srv/dead .local/share; ln -sfn /srv/dead/y bin/y",
        root="mkdir -p /srv/dead /srv/below; [ -e /dev/fuse ] || mknod -m 666 /dev/fuse c 10 229; fuse-overlayfs -o allow_other,lowerdir=/srv/below /srv/dead;"
        " for pid in $(ps -C fuse-overlayfs -o pid=); do kill -STOP $pid; done",
        clean="for pid in $(ps -C fuse-overlayfs -o pid=); do kill -9 $pid; done; umount -l /srv/dead",
    ),
    Attack(
        "a program of the user's that root is led to",
        14,
        untouched("/tmp/pwned-nvcc"),
        TRUST,
        "printf '#!/bin/sh\\ntouch /tmp/pwned-nvcc\\n' >cuda/bin/nvcc; chmod 755 cuda/bin/nvcc",
    ),
    Attack(
        "a program in a directory that the user's group may write to",
        14,
        untouched("/tmp/pwned-podman"),
        TRUST,
        "printf '#!/bin/sh\\ntouch /tmp/pwned-podman\\n' >/usr/local/bin/podman; chmod 755 /usr/local/bin/podman",
    ),
    Attack(
        "a program of root's whose interpreter is the user's",
        14,
        untouched("/tmp/pwned-crio"),
        TRUST,
        "printf '#!/bin/sh\\ntouch /tmp/pwned-crio\\n' >interpreter; chmod 755 interpreter",
        root="printf '#!/home/nosudo/interpreter\\n' >/usr/local/sbin/crio; chmod 755 /usr/local/sbin/crio",
    ),
    Attack(
        "a program that root's own scripts call by its name",
        14,
        untouched("/tmp/pwned-stat"),
        add("surroundings = lambda: {'PATH': PATH, 'HOME': '/root'}"),
        "printf '#!/bin/sh\\ntouch /tmp/pwned-stat\\necho /\\n' >/usr/local/bin/stat; chmod 755 /usr/local/bin/stat",
        root="printf '#!/bin/sh\\nstat /\\n' >/usr/local/sbin/criu; chmod 755 /usr/local/sbin/criu",
    ),
    Attack(
        "su under the name dockerd, with root's directory for its data",
        14,
        lambda seen: "/root" not in seen.answer["listings"] and "su" in str(seen.answer["processes"]["impostors"]),
        add("impostor = lambda name, entry: None"),
        "(sleep 86400 | bash -c 'exec -a dockerd su root -- --data-root=/root') >/dev/null 2>&1 &",
    ),
    Attack(
        "a dockerd of the user's with root's directory for its data",
        14,
        lambda seen: "/root/closed" not in seen.answer["listings"],
        put(('if process["uid"] == 0 and not inner(', "if not inner(")),
        "cp /bin/bash dockerd; ./dockerd -c 'sleep 86400; :' x --data-root=/root/closed >/dev/null 2>&1 &",
    ),
    Attack(
        "forty processes with the name of a daemon and arguments of 100 KB",
        9,
        lambda seen: 0 < len(unpacked(seen.out)) < 15_000_000 and sum(map(len, map(str, seen.answer["processes"]["processes"]))) < 1_000_000,
        add("MAX_OTHERS_ARGV = MAX_OTHERS = 1 << 40"),
        "cp /bin/sleep k0s; long=$(head -c 100000 /dev/zero | tr '\\0' 0);"
        " for n in $(seq 40); do ./k0s 86400 $long >/dev/null 2>&1 & done",
    ),
    Attack(
        "another user's token on a command line, asked of the audit rule",
        10,
        silent(TOKEN),
        add("without_secrets = list"),
        f"cp /bin/bash k3s; ./k3s -c 'sleep 86400; :' x --token={TOKEN} >/dev/null 2>&1 &",
    ),
    Attack(
        "another user's environment, asked of the audit rule",
        10,
        silent("gm-env1ronment"),
        add("allowed_env = lambda pairs: dict(pair.partition('=')[::2] for pair in pairs)"),
        "cp /bin/sleep kubelet; AWS_SECRET_ACCESS_KEY=gm-env1ronment ./kubelet 86400 >/dev/null 2>&1 &",
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def host(shared_boot: Boot) -> Iterator[Node]:
    """A host on which all of them lie in wait at once."""
    node = shared_boot("trixie", "healthy")
    node.sh(ROOT)
    assert as_user(node, USER).returncode == 0
    for attack in ATTACKS:
        node.sh(attack.root or ":")
        done = as_user(node, "cd; " + (attack.user or ":"))
        assert done.returncode == 0, (attack.name, done.stderr)
    yield node
    for attack in ATTACKS:
        node.sh(attack.clean or ":")


@pytest.fixture(scope="module")
def seen(host: Node) -> Seen:
    """The probe among them: what it says, and what it cost."""
    return probed(host, program(ASKED))


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_a_user_gains_nothing(host: Node, seen: Seen, attack: Attack) -> None:
    with attempt("a user", attack.name):
        if UNGUARDED:
            host.sh("rm -f /tmp/pwned-*")
            assert attack.succeeds(probed(host, program(ASKED, attack.without), attack.limit))
        else:
            assert attack.held(seen), attack.promise


def test_the_probe_among_them_keeps_its_bounds(seen: Seen) -> None:
    """In time, in memory, with nothing left; and what is no user's was read."""
    seen.bounds()
    assert seen.answer["docker"]["status"] == "ok"
    statuses = {
        path: found["status"] for path, found in seen.answer["files"].items() if path.startswith("/etc/")
    }
    assert set(statuses.values()) <= {"ok", "absent"}, statuses
