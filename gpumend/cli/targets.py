"""Which hosts a command line means: names, groups and patterns of the hosts file, addresses, or an inventory of pyinfra's."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import click

from gpumend.deploy import hosts, hosts_file, trust
from gpumend.places import PROJECT
from gpumend.reports.names import nobody


class NoHostError(ValueError):
    """No host matches. The message says what there is."""


@dataclass(frozen=True)
class Targets:
    """inventory: what pyinfra is given. limit: its --limit, one each. directory: where it runs. call: what inventory.py is
    told (hosts.CALL). said: the first line."""

    inventory: str
    limit: tuple[str, ...]
    directory: Path
    call: dict[str, Any]
    said: str

    def environment(self, **more: Any) -> dict[str, str]:
        return {hosts.CALL: hosts.told({**self.call, **more})}


def read(words: tuple[str, ...], limit: tuple[str, ...], file: str | None) -> Targets:
    """The hosts that are meant. Raises click.UsageError for what cannot be meant, NoHostError where nothing matches; a file
    that nobody named is read only where nobody else could have written it."""
    if len(words) == 1 and (own := _inventory(words[0], file)):
        return Targets(str(own), limit, Path.cwd(), {"own": True}, f"{own}: pyinfra's inventory")
    names = [name for word in words for name in word.split(",") if name]
    for name in names:
        if (Path(name).suffix in (".py", ".toml") or "/" in name) and not name.startswith("@"):
            raise click.UsageError(f"{name}: give one inventory, or names of hosts")
    try:
        source = hosts_file.find(file)
        if names and all("@" in name for name in names) and not _all_known(names, source):
            return _addressed(names, limit)
        found = hosts.of(source)
    except hosts_file.HostsError as error:
        raise click.UsageError(str(error)) from None
    if source.path is None and names:
        for name in names:
            if "@" not in name and not _resolves(name):
                raise NoHostError(
                    f"no host matches {name!r}: there is no hosts file ({', '.join(map(str, hosts_file.places()))}), and no "
                    "address of this name is known here"
                )
        return _addressed(names, limit)
    chosen = tuple(_chosen(name, found, source) for name in names)
    if chosen and limit:
        raise click.UsageError("names of hosts and --limit: give one of them")
    for pattern in limit:
        _chosen(pattern, found, source)
    members = _members((*chosen, *limit), found)
    said = source.said(len(found.hosts))
    if len(members) < len(found.hosts):
        said += f", of them {len(members)}"
    return Targets(
        str(PROJECT / "inventory.py"),
        chosen or limit,
        PROJECT,
        {"file": str(source.path) if source.path else None, "kind": source.kind, "part": source.part},
        said,
    )


def known(file: str | None) -> list[str]:
    """The hosts and groups of the hosts file that counts; none where it cannot be read."""
    try:
        found = hosts.of(hosts_file.find(file))
    except hosts_file.HostsError:
        return []
    return [*(name for name, _ in found.hosts), *found.groups]


def _inventory(word: str, file: str | None) -> Path | None:
    """The inventory of pyinfra's that a word names; None where it names hosts."""
    path = Path(word).expanduser()
    looks = "/" in word or word in (".", "..") or path.suffix in (".py", ".toml")
    if word.startswith("@") or not (looks or path.is_file()):
        return None
    if not path.exists():
        raise click.UsageError(f"there is no such file: {word}")
    if path.is_dir():
        raise click.UsageError(f"{word} is a directory; an inventory of pyinfra's is a file, as inventory.py")
    if path.suffix == ".toml":
        raise click.UsageError(
            f"{word} is no inventory of pyinfra's; a hosts file is named by --hosts {word}"
        )
    if file:
        raise click.UsageError(f"{word} and --hosts {file}: give one of them")
    # pyinfra runs these as it starts, whoever wrote them (pyinfra_cli/cli.py _set_config, pyinfra_cli/inventory.py).
    here = Path.cwd()
    try:
        if (here / "config.py").exists():
            trust.check(here / "config.py")
        for directory in dict.fromkeys((here, path.resolve().parent)):
            trust.tree(directory / "group_data")
    except (trust.UntrustedError, OSError) as error:
        raise click.UsageError(f"pyinfra would run what is beside {word}: {error}") from None
    return path.resolve()


def _all_known(names: list[str], source: hosts_file.HostsFile) -> bool:
    """Whether the hosts file itself has hosts of these names."""
    known = {name for name, _ in hosts.of(source).hosts} if source.path else set()
    return all(name in known for name in names)


def _addressed(names: list[str], limit: tuple[str, ...]) -> Targets:
    """Hosts that stand in no file."""
    return Targets(
        str(PROJECT / "inventory.py"),
        limit,
        PROJECT,
        {"targets": names},
        f"{len(names)} host{'s' * (len(names) != 1)} of the command line: {', '.join(names)}",
    )


def _chosen(name: str, found: hosts.Hosts, source: hosts_file.HostsFile) -> str:
    """What pyinfra's --limit takes for a name, a group, a pattern or an address of the hosts file."""
    known = [host for host, _ in found.hosts]
    if name == "all" or name in found.groups or any(fnmatch(host, name) for host in known):
        return name if name != "all" else "*"
    for host, data in found.hosts:
        if data.get("ssh_hostname") == name:
            return host
    if "@" in name:
        raise click.UsageError(f"{name} is not of {source.path}: give addresses alone, or names of that file")
    raise NoHostError(
        f"{nobody(name, known, list(found.groups))} ({source.path or 'this machine'}); another host: USER@{name}"
    )


def _members(patterns: tuple[str, ...], found: hosts.Hosts) -> set[str]:
    """The hosts that the patterns name; all, where there is none."""
    known = {host for host, _ in found.hosts}
    if not patterns:
        return known
    return {
        host
        for pattern in patterns
        for host in (found.groups[pattern][0] if pattern in found.groups else known)
        if pattern in found.groups or fnmatch(host, pattern)
    }


def _resolves(name: str) -> bool:
    """Whether an address of this name is known: by the resolver, or as an alias of ssh_config's."""
    try:
        socket.getaddrinfo(name, None)
    except (OSError, UnicodeError):
        return name in _aliases()
    return True


def _aliases() -> set[str]:
    """The names after `Host` in ~/.ssh/config."""
    try:
        text = (Path.home() / ".ssh/config").read_text("utf-8", "replace")
    except (OSError, RuntimeError):
        return set()
    rows = (row.replace("=", " ", 1).split() for row in text.splitlines())
    return {name for row in rows if row and row[0].lower() == "host" for name in row[1:]}
