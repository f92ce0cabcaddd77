"""Why a connection was not made, in words that say where to look: what pyinfra and paramiko say of it is for their authors."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from socket import gaierror
from typing import TYPE_CHECKING

from paramiko import AuthenticationException, BadHostKeyException, SSHException
from paramiko.ssh_exception import NoValidConnectionsError

if TYPE_CHECKING:
    from pyinfra.api.host import Host

# pyinfra/connectors/sshuserclient/client.py StrictPolicy, AskPolicy
NO_KEY = re.compile(r"No host key for (\S+) found in known_hosts")


def why(host: Host, error: BaseException) -> str:
    """One sentence: what was tried, and what came of it."""
    data = host.data
    address = str(data.get("ssh_hostname") or host.name)
    port = int(data.get("ssh_port") or 22)
    for cause in _causes(error):
        if isinstance(cause, NoValidConnectionsError):
            return "; ".join(
                f"port {tried[1]} on {tried[0]}: {_words(each)}" for tried, each in cause.errors.items()
            )
        if isinstance(cause, gaierror):
            return f"{address}: the name is not known here ({cause.strerror or cause})"
        if isinstance(cause, BadHostKeyException):
            entry = address if port == 22 else f"[{address}]:{port}"
            return (
                f"the host key of {entry} is another than the one in known_hosts: somebody may be in between, or the host "
                f"was installed anew; only then: `ssh-keygen -R '{entry}'`"
            )
        if isinstance(cause, AuthenticationException):
            user = data.get("ssh_user")
            key = f" with the key {data.get('ssh_key')}" if data.get("ssh_key") else ""
            return f"port {port} on {address}: {f'user {user}' if user else 'the user'} may not log in{key} ({cause})"
        unknown = NO_KEY.search(str(cause)) if isinstance(cause, SSHException) else None
        if unknown:
            named = data.get("ssh_known_hosts_file") or "~/.ssh/known_hosts"
            at = f"-p {port} " if port != 22 else ""
            return (
                f"the host key of {unknown.group(1)} is not known: compare it with the host's own, then "
                f'`ssh-keyscan {at}{address} >> {named}`; or strict_host_keys = "accept-new" in hosts.toml'
            )
        if isinstance(cause, KeyError) and "getpwuid" in str(cause):
            return f"uid {os.geteuid()}, which gpumend runs as, has no name on this machine (getent passwd): SSH needs one"
    for cause in _causes(error):
        if isinstance(cause, (TimeoutError, OSError)) and not isinstance(cause, NoValidConnectionsError):
            return f"port {port} on {address}: {_words(cause)}"
    return str(error)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it was raised for."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or found.__context__


def _words(error: BaseException) -> str:
    if isinstance(error, TimeoutError) or getattr(error, "errno", None) == errno.ETIMEDOUT:
        return "no answer in time"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return f"{text[:1].lower()}{text[1:]}"
