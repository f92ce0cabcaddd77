"""Many hosts on one machine: a real sshd on every address of 127.0.0.0/8, with delay added where it is asked for.

All these hosts share this machine's files: only what reads them may be measured here.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from tests.nodes.slot import wait_for

PORT = 22022
DELAYED_PORT = 22023


def address(number: int) -> str:
    """The address of host `number`, from 0; 127.1.0.0/16 holds 65,000 of them."""
    return f"127.1.{number // 250}.{number % 250 + 1}"


class Farm:
    """A running sshd and what is needed to reach it. log: sshd's own, at VERBOSE."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = folder / "client"
        self.host_key = folder / "host"
        self.log = folder / "sshd.log"
        self.known_hosts = folder / "known_hosts"

    def start(self) -> subprocess.Popen[bytes]:
        """sshd serves this user with this key on every loopback address, key exchange as it comes."""
        for key in (self.key, self.host_key):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        keys = self.folder / "authorized_keys"
        keys.write_text(self.key.with_suffix(".pub").read_text())
        config = self.folder / "sshd_config"
        config.write_text(
            f"ListenAddress 0.0.0.0:{PORT}\nHostKey {self.host_key}\nAuthorizedKeysFile {keys}\n"
            "StrictModes no\nUsePAM no\nPermitRootLogin yes\nMaxStartups 2000\nLogLevel VERBOSE\nUseDNS no\n"
            f"PidFile {self.folder / 'sshd.pid'}\n"
        )
        sshd = shutil.which("sshd") or "/usr/sbin/sshd"
        Path("/run/sshd").mkdir(exist_ok=True)
        process = subprocess.Popen([sshd, "-D", "-f", str(config), "-E", str(self.log)])
        wait_for("sshd", lambda: self.log.exists() and "Server listening" in self.log.read_text(), 10)
        return process

    def write_known_hosts(self, count: int) -> None:
        """Unhashed, one line a host, for both ports."""
        kind, public = self.host_key.with_suffix(".pub").read_text().split()[:2]
        rows = [
            f"[{address(number)}]:{port} {kind} {public}"
            for number in range(count)
            for port in (PORT, DELAYED_PORT)
        ]
        self.known_hosts.write_text("\n".join(rows) + "\n")

    def sessions(self) -> int:
        """Commands executed over SSH so far."""
        return self.log.read_text(errors="replace").count("Starting session")

    @property
    def user(self) -> str:
        return getpass.getuser()


@contextlib.contextmanager
def running() -> Iterator[Farm]:
    """A farm; it and all it left are gone at the end."""
    with tempfile.TemporaryDirectory(prefix="gpumend-bench-") as folder:
        farm = Farm(Path(folder))
        process = farm.start()
        try:
            yield farm
        finally:
            process.terminate()
            process.wait()


class Delay:
    """A TCP relay that holds every byte back by half the round trip, each way. (This kernel may lack netem.)"""

    def __init__(self, milliseconds: float) -> None:
        self.seconds = milliseconds / 2000
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Delay:
        self.ready = threading.Event()
        self.thread.start()
        if not self.ready.wait(10):
            raise RuntimeError("the relay does not listen")
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        server = self.loop.run_until_complete(asyncio.start_server(self._relay, "0.0.0.0", DELAYED_PORT))
        self.ready.set()
        self.loop.run_forever()
        server.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host = writer.get_extra_info("sockname")[0]
        with contextlib.suppress(OSError):
            far_reader, far_writer = await asyncio.open_connection(host, PORT)
            await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                loop.call_later(self.seconds, writer.write, data)
        loop.call_later(self.seconds, writer.close)
