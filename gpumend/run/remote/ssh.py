"""How this controller's connections are made, for inventories of ours: what paramiko and pyinfra leave slow on a fleet."""

from __future__ import annotations

import base64
import os
import socket
from contextlib import suppress
from hmac import digest
from typing import Any

import paramiko
from paramiko.hostkeys import HostKeyEntry, InvalidHostKey
from pyinfra.connectors.sshuserclient import client

# Seconds of silence after which a host is gone (tcp(7)); without them a run waits for a dead one until its own timeout,
# 20 minutes for a transaction. A host that only computes answers the kernel's probes.
KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4, "TCP_USER_TIMEOUT": 30_000}
HASHED, REVOKED = (
    "|1|",
    "@revoked",
)  # how a name in the hashed form begins, and a line with a key to refuse (sshd(8))


def nodelay_transport(sock: Any, **kwargs: Any) -> paramiko.Transport:
    """A paramiko transport without Nagle's delay: one exec costs 5 ms instead of 49 (paramiko sets no TCP_NODELAY).
    A host that is gone ends it after half a minute. Of its ciphers the AES-GCM ones, which OpenSSH has by default, come
    first: the others' MAC is compared in Python, byte by byte (paramiko util.constant_time_bytes_eq)."""
    if isinstance(sock, socket.socket):  # a ProxyJump channel has no options
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in KEEPALIVE.items():
            if hasattr(socket, name):  # a controller that is not Linux has some of them
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    transport = paramiko.Transport(sock, **kwargs)
    options = transport.get_security_options()
    options.ciphers = sorted(options.ciphers, key=lambda name: "gcm" not in name)
    return transport


class KnownHosts(paramiko.HostKeys):
    """paramiko's known hosts, for a fleet. What a name finds is the same.

    A line becomes a key when a name of its is looked up: made before the first connection, the keys of eight thousand lines take
    a quarter of a second. A name is found by a table, a hashed one by its hash alone: paramiko goes through every entry, three
    times a host. A line that cannot be read is no key, as for OpenSSH (sshd(8)), and the rest of the file counts; nor is a key that
    a line marks as revoked, of whichever host."""

    def __init__(self, filename: str | None = None) -> None:
        self._forget()
        super().__init__(filename)

    def _forget(self) -> None:
        self._lines: dict[str, list[str]] = {}  # by each name of theirs, as it is written
        self._hashed: list[tuple[bytes, bytes, str]] = []  # salt, hash, name
        self._revoked: set[str] = set()

    def load(self, filename: str | int | bytes | os.PathLike[Any]) -> None:
        """What the file says is known, too. Raises OSError."""
        with open(filename, encoding="utf-8", errors="replace") as opened:  # noqa: PTH123  # whatever paramiko takes
            for line in opened:
                words = line.split(None, 1)
                if not words or words[0].startswith("#"):
                    continue
                if words[0] == REVOKED:
                    self._revoked.update(line.split()[3:4])
                    continue
                for name in words[0].split(","):
                    if name.startswith(HASHED) and name not in self._lines:
                        self._hash(name)
                    self._lines.setdefault(name, []).append(line)

    def _hash(self, name: str) -> None:
        with suppress(ValueError):
            salt, hashed = map(base64.b64decode, name[len(HASHED) :].split("|"))
            self._hashed.append((salt, hashed, name))

    def _names(self, hostname: str) -> list[str]:
        """The names by which the file knows a host."""
        host = hostname.encode()
        return [hostname] + [
            name for salt, hashed, name in self._hashed if digest(salt, host, "sha1") == hashed
        ]

    def lookup(self, hostname: str) -> Any:
        found = paramiko.HostKeys()
        entries = found._entries = list(self._entries)  # type: ignore[attr-defined]
        for name in self._names(hostname):
            for line in self._lines.get(name, ()):
                with suppress(paramiko.SSHException, InvalidHostKey, ValueError):
                    entry = HostKeyEntry.from_line(line.strip())
                    if entry and entry.key.get_base64() not in self._revoked:
                        entry.hostnames = [hostname]
                        entries.append(entry)
        return found.lookup(hostname)

    def keys(self) -> list[str]:  # type: ignore[override]  # paramiko's is a list, too
        return [name for name in {**self._lines, **dict.fromkeys(super().keys())} if self.lookup(name)]

    def __delitem__(self, hostname: str) -> None:
        if not self.lookup(hostname):
            raise KeyError(hostname)
        for name in self._names(hostname):
            self._lines.pop(name, None)
        added: list[Any] = self._entries  # type: ignore[attr-defined]  # private, and in every version
        added[:] = [each for each in added if hostname not in each.hostnames]

    def clear(self) -> None:
        self._forget()
        super().clear()


def use_known_hosts() -> None:
    """pyinfra's connections look hosts up in `KnownHosts`."""
    # What its memoized `get_host_keys` makes; there is no public place for it.
    client.HostKeys = KnownHosts  # type: ignore[attr-defined,assignment]
