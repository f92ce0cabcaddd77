"""The keys of an inventory, as far as they can be judged before a connection: those that log in, and those of the hosts."""

from __future__ import annotations

import shlex
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyinfra.connectors.sshuserclient.client import get_ssh_config

from gpumend.run.remote.ssh import KnownHosts

if TYPE_CHECKING:
    from pyinfra.api.state import State

STRICT = ("yes", True)


def problems(state: State) -> list[str]:
    """What would keep hosts from being logged in to, a line each; hosts of one fault share it."""
    found: dict[str, list[str]] = {}
    hosts: dict[str, KnownHosts | str] = {}
    for host in state.inventory:
        if not state.is_host_in_limit(host) or host.connector.__class__.__name__ != "SSHConnector":
            continue
        for text in (*_login(host.data.get("ssh_key")), *_known(host, hosts)):
            found.setdefault(text, []).append(host.name)
    return [f"{', '.join(names)}: {text}" for text, names in found.items()]


def _login(key: Any) -> Iterator[str]:
    if not key:
        return
    path = Path(str(key)).expanduser()
    try:
        mode = path.stat().st_mode
        with path.open("rb") as opened:
            first = opened.readline(200)
    except OSError as error:
        yield f"the key {path}: {error.strerror}"
        return
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        yield f"the key {path}: others may read it (mode {stat.S_IMODE(mode):04o}), and ssh takes no such key: chmod 600 it"
    if b"PRIVATE KEY" not in first:
        yield f"the key {path}: it is no private key (it does not begin with -----BEGIN ... PRIVATE KEY-----)"


def _known(host: Any, read: dict[str, KnownHosts | str]) -> Iterator[str]:
    """Where host keys are checked strictly: whether this host's is known."""
    if host.data.get("ssh_strict_host_key_checking") not in STRICT:
        return
    address, port = str(host.data.get("ssh_hostname") or host.name), int(host.data.get("ssh_port") or 22)
    config = get_ssh_config()
    said = config.lookup(address) if config else {}
    address, port = said.get("hostname", address), int(said.get("port", port)) if port == 22 else port
    file = str(host.data.get("ssh_known_hosts_file") or "~/.ssh/known_hosts")
    if file not in read:
        try:
            read[file] = KnownHosts(str(Path(file).expanduser()))
        except OSError as error:
            read[file] = error.strerror or str(error)
    keys = read[file]
    if isinstance(keys, str):
        yield f'{file}: {keys}; the hosts\' keys are not known (ssh-keyscan, or strict_host_keys = "accept-new")'
    elif keys.lookup(address if port == 22 else f"[{address}]:{port}") is None:
        at = f"-p {port} " if port != 22 else ""
        yield (
            f"its key is not in {file}: compare it with the host's own, then "
            f'`ssh-keyscan {at}{shlex.quote(address)} >> {file}`; or strict_host_keys = "accept-new"'
        )
