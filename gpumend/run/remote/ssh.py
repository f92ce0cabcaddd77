"""How this controller's connections are made, for inventories of ours: what paramiko and pyinfra leave slow on a fleet."""

from __future__ import annotations

import socket
from typing import Any

import paramiko
from pyinfra.connectors.sshuserclient import client

# Seconds of silence after which a host is gone (tcp(7)); without them a run waits for a dead one until its own timeout,
# 20 minutes for a transaction. A host that only computes answers the kernel's probes.
KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4, "TCP_USER_TIMEOUT": 30_000}


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
    """paramiko's known hosts, found by name: its own lookup goes through every entry, three times a host, which for a
    thousand hosts takes longer than connecting to them. What a name finds is the same; hashed entries are all tried."""

    def __init__(self, filename: str | None = None) -> None:
        self._forget()
        super().__init__(filename)

    def _forget(self) -> None:
        self._names: dict[str, list[Any]] = {}
        self._hashed: list[Any] = []
        self._counted = 0

    def lookup(self, hostname: str) -> Any:
        entries: list[Any] = self._entries  # type: ignore[attr-defined]  # private, and in every version
        for entry in entries[self._counted :]:
            for name in entry.hostnames:
                (self._hashed if name.startswith("|1|") else self._names.setdefault(name, [])).append(entry)
        self._counted = len(entries)
        few = paramiko.HostKeys()
        few._entries = [*self._names.get(hostname, ()), *self._hashed]  # type: ignore[attr-defined]
        return few.lookup(hostname)

    def __delitem__(self, hostname: str) -> None:
        self._forget()
        super().__delitem__(hostname)

    def clear(self) -> None:
        self._forget()
        super().clear()


def use_known_hosts() -> None:
    """pyinfra's connections look hosts up in `KnownHosts`."""
    # What its memoized `get_host_keys` makes; there is no public place for it.
    client.HostKeys = KnownHosts  # type: ignore[attr-defined,assignment]
