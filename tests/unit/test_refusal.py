"""Why a host could not be connected to, in words that say where to look."""

from __future__ import annotations

import errno
import socket
from types import SimpleNamespace
from typing import Any

import paramiko
import pytest
from paramiko.ssh_exception import NoValidConnectionsError
from pyinfra.api.exceptions import ConnectError

from gpumend.run.remote.refusal import why

KEY = paramiko.ECDSAKey.generate()
PORT = {"ssh_hostname": "gpu1.example.net", "ssh_port": 2222, "ssh_user": "ops"}
REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")


@pytest.mark.parametrize(
    ("cause", "data", "words"),
    [
        (NoValidConnectionsError({("192.0.2.9", 22): REFUSED}), {}, ["port 22 on 192.0.2.9: connection refused"]),
        (
            NoValidConnectionsError({("192.0.2.9", 22): REFUSED, ("2001:db8::9", 22): OSError(errno.ENETUNREACH, "Network is unreachable")}),
            {},
            ["port 22 on 192.0.2.9: connection refused; port 22 on 2001:db8::9: network is unreachable"],
        ),
        (TimeoutError("timed out"), PORT, ["port 2222 on gpu1.example.net: no answer in time"]),
        (socket.gaierror(-2, "Name or service not known"), PORT, ["gpu1.example.net: the name is not known here"]),
        (paramiko.AuthenticationException("Authentication failed."), PORT, ["port 2222 on gpu1.example.net", "user ops may not log in"]),
        (
            paramiko.SSHException("StrictPolicy: No host key for [gpu1.example.net]:2222 found in known_hosts"),
            PORT,
            ["the host key of [gpu1.example.net]:2222 is not known", "`ssh-keyscan -p 2222 gpu1.example.net >> ~/.ssh/known_hosts`", 'strict_host_keys = "accept-new"'],
        ),
        (paramiko.BadHostKeyException("gpu1.example.net", KEY, KEY), PORT, ["[gpu1.example.net]:2222", "somebody may be in between", "ssh-keygen -R"]),
        # in a container, with the uid of nobody there; OpenSSH's own: "No user exists for uid 12345"
        (KeyError("getpwuid(): uid not found: 12345"), {}, ["has no name on this machine (getent passwd)"]),
        (ValueError("something new"), {}, ["Could not connect (something new)"]),
    ],
)  # fmt: skip
def test_the_cause_is_said_and_what_to_do(cause: Exception, data: dict[str, Any], words: list[str]) -> None:
    host: Any = SimpleNamespace(name="gpu1", data=data)
    try:
        try:
            raise cause
        except Exception as inner:
            raise ConnectError(f"Could not connect ({inner})")  # noqa: B904  # as pyinfra's raise_connect_error does
    except ConnectError as error:
        said = why(host, error)
    for word in words:
        assert word in said
