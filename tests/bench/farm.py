"""Many hosts on one machine: one booted GPU host of tests/nodes, reached over a thousand addresses by a real sshd.

PLAIN    the host as it is: for what only reads.
REPLAYED the same, but a program of ours is answered with what the host answered to it before, after the time that this
         took while nothing else ran. What a fleet's hosts do on processors of their own would otherwise be done by the
         two that the controller has.
DRIFTED  the same, with what the host answered while it was as `broken` has it.
OWN      each address has an /etc, a gpumend state and a lock of its own: for what writes.

The delayed ports are the same behind a relay that holds every byte back by half the round trip, each way (this kernel
may lack netem).
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from gpumend.run.programs import probe_program
from tests.nodes import scenarios, toolkit
from tests.nodes.lab import Lab, Node
from tests.nodes.slot import ONLY_CGROUP2, wait_for

PLAIN, REPLAYED, OWN, DRIFTED = 2200, 2201, 2202, 2203
PORTS = (PLAIN, REPLAYED, OWN, DRIFTED)
DELAYED = 100  # a delayed port's number above the plain one's
ADDRESSES = 1000
REPLAY = "/usr/local/lib/bench-replay"
OWN_FILES = "/usr/local/lib/bench-own"
LOG = "/var/log/bench-sshd.log"

# STAND-IN: NVIDIA's nvidia-ctk is a program of Go, which says its version in some milliseconds; the lab's is one of Python, which takes
# 60. And a daemon.json is older than the daemon that reads it.
PREPARE = r"""
said=$(nvidia-ctk --version)
mv /usr/bin/nvidia-ctk /usr/bin/nvidia-ctk.standin
printf '#!/bin/sh\n[ "$*" = --version ] && { echo "%s"; exit; }\nexec /usr/bin/nvidia-ctk.standin "$@"\n' "$said" >/usr/bin/nvidia-ctk
chmod 755 /usr/bin/nvidia-ctk
while [ "$(date +%s)" -le "$(($(stat -c %Z /etc/docker/daemon.json) + 1))" ]; do sleep 0.1; done
"""
# STAND-INS: what an address does besides running the command that it is given.
REPLAY_TEXT = """#!/usr/bin/perl
# One process, and no shell with three below it: what it takes is taken from the controller's cores.
exec '/bin/sh', '-c', $ENV{{SSH_ORIGINAL_COMMAND}} unless $ENV{{SSH_ORIGINAL_COMMAND}} =~ /python3 -I -S -B/;
1 while sysread STDIN, $program, 65536;
select undef, undef, undef, {seconds};
open $answer, '<', '/var/lib/bench-answer.' . (split ' ', $ENV{{SSH_CONNECTION}})[3] or die $!;
print <$answer>;
"""
OWN_TEXT = """#!/bin/sh
set -- $SSH_CONNECTION
directory=/run/bench/$3
mkdir -p "$directory/etc" "$directory/work" "$directory/state" /var/lib/gpumend
touch "$directory/lock" /run/gpumend.lock
exec unshare -m sh -c '
mount -t overlay overlay -o "lowerdir=/etc,upperdir=$0/etc,workdir=$0/work" /etc &&
mount --bind "$0/state" /var/lib/gpumend && mount --bind "$0/lock" /run/gpumend.lock &&
exec sh -c "$SSH_ORIGINAL_COMMAND"' "$directory"
"""
SSHD = f"""Port {PLAIN}
Port {REPLAYED}
Port {OWN}
Port {DRIFTED}
MaxStartups 4000
MaxSessions 100
LogLevel VERBOSE
UseDNS no
PidFile none
Subsystem sftp internal-sftp
Match LocalPort {REPLAYED}
    ForceCommand {REPLAY}
Match LocalPort {DRIFTED}
    ForceCommand {REPLAY}
Match LocalPort {OWN}
    ForceCommand {OWN_FILES}
"""


def address(number: int) -> str:
    """The address of host `number`, from 0."""
    return f"198.19.{number // 250}.{number % 250 + 1}"


def local(host: str) -> str:
    """The address at which the relay stands for a host's."""
    return host.replace("198.19.", "127.19.", 1)


def as_in_the_field(node: Node) -> None:
    """A host of the lab whose programs take the time that they take elsewhere."""
    node.sh(PREPARE)
    node.restart("docker")


class Farm:
    """A booted host that is ADDRESSES hosts. quiet: seconds that its probe takes while nothing else runs."""

    user = "root"

    def __init__(self, lab: Lab, node: Node, directory: Path) -> None:
        self.node, self.key, self.directory = node, lab.key, directory
        self.known_hosts = directory / "known_hosts"
        public = lab.known_hosts.read_text(encoding="utf-8").split()[1:3]
        rows = [
            f"[{host}]:{port + extra} {' '.join(public)}"
            for number in range(ADDRESSES)
            for extra, host in ((0, address(number)), (DELAYED, local(address(number))))
            for port in PORTS
        ]
        self.known_hosts.write_text("\n".join(rows) + "\n", encoding="utf-8")
        self.quiet = 0.0

    def start(self) -> None:
        """The host answers on every address."""
        commands = [f"addr add {address(number)}/32 dev host0" for number in range(ADDRESSES)]
        subprocess.run(
            ["nsenter", "-t", str(self.node.leader), "-n", "ip", "-batch", "-"],
            input="\n".join(commands) + "\n", text=True, check=True,
        )  # fmt: skip
        subprocess.run(["ip", "route", "replace", "198.19.0.0/16", "via", self.node.address], check=True)
        self.quiet = self.answer(REPLAYED)
        with self.broken():
            self.answer(DRIFTED)
        self.node.write(REPLAY, REPLAY_TEXT.format(seconds=round(self.quiet, 3)), 0o755)
        self.node.write(OWN_FILES, OWN_TEXT, 0o755)
        self.node.write("/etc/ssh/bench_config", SSHD)
        unit = ["systemd-run", "--unit=bench-sshd", "-p", "TasksMax=infinity", "-p", "LimitNOFILE=65536"]
        self.node.run([*unit, "/usr/sbin/sshd", "-D", "-f", "/etc/ssh/bench_config", "-E", LOG])
        wait_for("the farm's sshd", lambda: "Server listening" in self.log(), 20.0)

    def flush(self) -> None:
        """The addresses are gone: with a thousand the kernel takes its time to let the interface go."""
        subprocess.run(
            ["nsenter", "-t", str(self.node.leader), "-n", "ip", "addr", "flush", "dev", "host0", "to", "198.19.0.0/16"],
            check=False,
        )  # fmt: skip

    def answer(self, port: int) -> float:
        """What the host answers to our probe now is kept on it for that port; the seconds that it took."""
        times = []
        for _ in range(5):
            began = time.monotonic()
            found = self.node.run(["python3", "-I", "-S", "-B", "-"], input=probe_program()).stdout
            times.append(time.monotonic() - began)
        self.node.write(f"/var/lib/bench-answer.{port}", found)
        return min(times)

    def cpu(self) -> float:
        """Seconds of CPU time that all of the host has had: PID 1, dockerd and sshd with what runs in its sessions."""
        read = f'{ONLY_CGROUP2}; exec cat "/sys/fs/cgroup/$1/cpu.stat"'
        argv = ["unshare", "-m", "sh", "-euc", read, "sh", self.node.cgroup]
        told = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
        return int(dict(line.split() for line in told.splitlines())["usage_usec"]) / 1e6

    def log(self) -> str:
        return self.node.read(LOG).decode("utf-8", "replace") if self.node.exists(LOG) else ""

    def sessions(self) -> int:
        """Commands executed over SSH so far."""
        return self.log().count("Starting session")

    def anew(self) -> None:
        """Every address's own files are as they were."""
        self.node.sh("rm -rf /run/bench")

    @contextlib.contextmanager
    def broken(self) -> Iterator[None]:
        """config.toml has the wrong ldconfig and the wrong mode, on every address."""
        right = self.node.read(toolkit.CONFIG)
        text = right.decode().replace('mode = "cdi"', 'mode = "auto"')
        wrong = "\n".join(
            'ldconfig = "@/sbin/ldconfig.real"' if line.lstrip("#").startswith("ldconfig") else line
            for line in text.split("\n")
        )
        if wrong.encode() in (right, text.encode()):
            raise RuntimeError(f"{toolkit.CONFIG} could not be broken:\n{text}")
        self.node.write(toolkit.CONFIG, wrong)
        try:
            yield
        finally:
            self.node.write(toolkit.CONFIG, right)


@contextlib.contextmanager
def running(directory: Path) -> Iterator[Farm]:
    """A farm over a healthy host; it and all it left are gone at the end."""
    with Lab() as lab:
        node = lab.boot("trixie")
        scenarios.apply(node, "healthy")
        as_in_the_field(node)
        farm = Farm(lab, node, directory)
        farm.start()
        try:
            yield farm
        finally:
            subprocess.run(["ip", "route", "del", "198.19.0.0/16"], check=False)
            farm.flush()


class Delay:
    """A TCP relay that holds every byte back by half the round trip, each way."""

    def __init__(self, milliseconds: float, ports: Sequence[int] = PORTS) -> None:
        self.seconds = milliseconds / 2000
        self.ports = ports
        self.loop = asyncio.new_event_loop()
        self.ready = threading.Event()
        self.thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Delay:
        self.thread.start()
        if not self.ready.wait(10):
            raise RuntimeError("the relay does not listen")
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        servers = [
            self.loop.run_until_complete(
                asyncio.start_server(self._relay, "0.0.0.0", port + DELAYED, backlog=4096)
            )
            for port in self.ports
        ]
        self.ready.set()
        self.loop.run_forever()
        for server in servers:
            server.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = writer.get_extra_info("sockname")[:2]
        with contextlib.suppress(OSError):
            far_reader, far_writer = await asyncio.open_connection(
                host.replace("127.19.", "198.19.", 1), port - DELAYED
            )
            await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                loop.call_later(self.seconds, writer.write, data)
        loop.call_later(self.seconds, writer.close)
