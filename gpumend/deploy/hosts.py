"""hosts.toml: hosts, groups, SSH settings and wanted state, for inventory.py."""

from __future__ import annotations

import getpass
import json
import os
import re
import runpy
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import click
import tomllib

from gpumend import schemas
from gpumend.deploy import host_sources, trust
from gpumend.deploy.hosts_file import HostsError, HostsFile, find
from gpumend.places import PROJECT
from gpumend.rules import wanted
from gpumend.run.audit_program import AUDIT, SUDO
from gpumend.schemas.wanted import WantedError, check, meant

DESCRIPTORS_A_HOST = 3  # pyinfra api/state.py MAX_PARALLEL
# hosts.toml's keys and pyinfra's names for them (pyinfra connectors/ssh.py)
SSH_KEYS = {
    "user": "ssh_user",
    "port": "ssh_port",
    "key": "ssh_key",
    "known_hosts": "ssh_known_hosts_file",
    "ssh_config": "ssh_config_file",
    "strict_host_keys": "ssh_strict_host_key_checking",
    "forward_agent": "ssh_forward_agent",
    "connect_timeout": "ssh_connect_timeout",
}
PATH_KEYS = ("key", "known_hosts", "ssh_config")


@dataclass(frozen=True)
class Hosts:
    """hosts: (name, data) pairs as pyinfra takes them; groups: name -> (hosts, data); data: of every host."""

    hosts: list[tuple[str, dict[str, Any]]]
    data: dict[str, Any] = field(default_factory=dict)
    groups: dict[str, tuple[list[str], dict[str, Any]]] = field(default_factory=dict)


def line_of(text: str, path: list[str | int]) -> int:
    """The line of hosts.toml where a path of keys stands, as near as headers and keys tell; 1 where they do not."""
    names = [str(part) for part in path if not isinstance(part, int)]
    best, depth = 1, 0
    header: list[str] = []
    for number, raw in enumerate(text.splitlines(), 1):
        row = raw.strip()
        match = re.match(r"\[\[?([^\]]+)\]", row)
        if match:
            header = [part.strip().strip("\"'") for part in match.group(1).split(".")]
            here = header
        else:
            key = re.match(r"([\w.\"'-]+)\s*=", row)
            if not key:
                continue
            here = [*header, *(part.strip("\"'") for part in key.group(1).split("."))]
        common = next(
            (n for n, (a, b) in enumerate(zip(here, names, strict=False)) if a != b),
            min(len(here), len(names)),
        )
        if common == len(here) and common > depth:
            best, depth = number, common
    return best


def parse(path: Path, kind: str = "", part: str = "") -> Hosts:
    """The file's hosts; kind, part: as HostsFile has them. Raises HostsError."""
    # only where there is a file: it takes 60 ms
    from jsonschema import Draft202012Validator

    text = ""
    try:
        text = path.read_text("utf-8")
        raw = host_sources.convert(kind, json.loads(text), part) if kind else tomllib.loads(text)
    except host_sources.SourceError as error:
        raise HostsError(f"{path}: {error}") from None
    except json.JSONDecodeError as error:
        empty = "empty: did what should have written it fail?"
        raise HostsError(
            f"{path}: {empty if not text.strip() else f'not JSON, as {kind} has it: {error}'}"
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise HostsError(f"{path}{_twice(text, error) or f': {error}'}") from None
    _shape(path, text, raw)
    for problem in sorted(
        Draft202012Validator(schemas.load("hosts")).iter_errors(raw), key=lambda e: list(map(str, e.path))
    ):
        where = list(problem.absolute_path)
        said = problem.message
        if problem.validator in ("unevaluatedProperties", "additionalProperties"):
            unknown = re.findall(r"'([^']+)'", problem.message)[:1]
            where, said = where + unknown, _unknown(where, unknown)
        elif problem.validator == "uniqueItems":
            twice = {str(item) for item in problem.instance if problem.instance.count(item) > 1}
            said = f"{', '.join(sorted(twice))}: named twice"
        dotted = ".".join(map(str, where)) or "the file"
        raise HostsError(f"{path}:{line_of(text, where)}: {dotted}: {said}")
    for kind in ("defaults", "groups", "hosts"):
        entries = {"": raw[kind]} if kind == "defaults" and kind in raw else raw.get(kind, {})
        for name, entry in entries.items():
            where = [kind, name, "gpumend"] if name else [kind, "gpumend"]
            try:
                check(entry.get("gpumend", {}))
            except WantedError as error:
                raise HostsError(f"{path}:{line_of(text, where)}: {'.'.join(where[:-1])}: {error}") from None
            # pyinfra ends the whole run over one host's key that is not there (connectors/ssh_util.py PyinfraError).
            if "key" in entry and not (path.parent / Path(entry["key"]).expanduser()).is_file():
                where[-1] = "key"
                raise HostsError(
                    f"{path}:{line_of(text, where)}: {'.'.join(where)}: there is no such file: {entry['key']!r}"
                )
    for name, group in raw.get("groups", {}).items():
        for host in group["hosts"]:
            if host not in raw["hosts"]:
                number = line_of(text, ["groups", name, "hosts"])
                raise HostsError(
                    f"{path}:{number}: groups.{name}: there is no host {host!r}; known are {', '.join(raw['hosts'])}"
                )
    base = path.parent
    defaults = _data(raw.get("defaults", {}), base)
    defaults.setdefault("ssh_strict_host_key_checking", "yes")
    hosts = []
    for name, entry in raw["hosts"].items():
        data = _data(entry, base)
        data.setdefault("ssh_hostname", entry.get("address", name))
        hosts.append((name, data))
    groups = {
        name: (list(group["hosts"]), _data(group, base)) for name, group in raw.get("groups", {}).items()
    }
    _sudo(hosts, groups, defaults)
    return Hosts(hosts, defaults, groups)


def _twice(text: str, error: Exception) -> str:
    """`:5: hosts.a: ...` where the file has a table twice, which TOML does not allow; else nothing."""
    match = re.match(r"Cannot declare \((.*)\) twice \(at line (\d+)", str(error))
    if not match:
        return ""
    dotted = ".".join(re.findall(r"'([^']*)'", match.group(1)))
    first = next(
        (number for number, row in enumerate(text.splitlines(), 1) if row.strip().startswith(f"[{dotted}]")),
        0,
    )
    return f":{match.group(2)}: {dotted}: named twice{f', first in line {first}' if first else ''}"


# pyinfra's own group of every host, and names that it leaves out or that its --limit could not tell from a pattern
# (pyinfra_cli/inventory.py _is_inventory_group, pyinfra_cli/cli.py _get_inventory_pattern_matches)
UNFIT = re.compile(r"^_|^@|[\s,*?\[\]/]|^$")


def _shape(path: Path, text: str, raw: dict[str, Any]) -> None:
    """Raises HostsError, in words, for what a schema could only call a wrong type."""
    hosts, groups = raw.get("hosts", {}), raw.get("groups", {})

    def refuse(where: list[str | int], said: str) -> None:
        raise HostsError(f"{path}:{line_of(text, where)}: {said}")

    if hosts == {}:
        refuse(["hosts"], "no hosts: add [hosts.NAME]")
    if not isinstance(hosts, dict):
        example = str(hosts[0]) if isinstance(hosts, list) and hosts and isinstance(hosts[0], str) else "NAME"
        refuse(["hosts"], f"each host is a table: [hosts.{_key(example)}]")
    for name, entry in hosts.items():
        if not isinstance(entry, dict):
            address = f', and in it address = "{entry}"' if isinstance(entry, str) else ""
            refuse(["hosts", name], f"each host is a table: [hosts.{_key(name)}]{address}")
        if not name or "," in name:
            refuse(["hosts", name], f"hosts.{name!r}: a host's name is not empty, and has no comma")
    if not isinstance(groups, dict):
        refuse(["groups"], "each group is a table: [groups.NAME]")
    for name, entry in groups.items():
        if not isinstance(entry, dict):
            refuse(["groups", name], f"each group is a table: [groups.{_key(name)}], and in it hosts = [...]")
        if name == "all":
            refuse(
                ["groups", name],
                "groups.all: `all` is every host already: write what is for all of them in [defaults]",
            )
        if UNFIT.search(name):
            refuse(
                ["groups", name],
                f"groups.{name!r}: a group's name does not begin with _ or @, and has no space, comma, slash, *, ? or bracket",
            )


def _key(name: str) -> str:
    """A name as it stands in a header of TOML."""
    return name if re.fullmatch(r"[\w-]+", name, re.ASCII) else json.dumps(name)


def _unknown(where: list[str | int], names: list[str]) -> str:
    """What to say of a key that hosts.toml does not have there."""
    schema = schemas.load("hosts")
    if not where:
        allowed = set(schema["properties"])
    else:
        own = {"hosts": {"address"}, "groups": {"hosts"}}.get(str(where[0]), set())
        allowed = {*schema["$defs"]["settings"]["properties"], *own}
    return f"unknown key{meant(names[0] if names else '', allowed)}; allowed: {', '.join(sorted(allowed))}"


def twins(path: Path, found: Hosts) -> list[str]:
    """A line for each host of the file that is the machine of another: a mend's second part there waits for the first, and
    finds nothing left to do."""
    seen: dict[tuple[Any, ...], str] = {}
    lines = []
    for name, data in found.hosts:
        layers = [data, *(group for members, group in found.groups.values() if name in members), found.data]
        port, config = (
            next((layer[key] for layer in layers if key in layer), None)
            for key in ("ssh_port", "ssh_config_file")
        )
        machine = (str(data["ssh_hostname"]).lower(), port or 22, config)
        if machine in seen and not name.startswith("@"):
            number = line_of(path.read_text("utf-8"), ["hosts", name, "address"])
            lines.append(
                f"{path}:{number}: hosts.{name}: the machine of hosts.{seen[machine]}: address {machine[0]}, port {machine[1]}"
            )
        seen.setdefault(machine, name)
    return lines


def _data(entry: dict[str, Any], base: Path) -> dict[str, Any]:
    """An entry's settings under pyinfra's names; relative paths are relative to hosts.toml."""
    data = dict(entry.get("data", {}))
    for key, name in SSH_KEYS.items():
        if key in entry:
            value = entry[key]
            data[name] = str(base / Path(value).expanduser()) if key in PATH_KEYS else value
    if "sudo" in entry:
        data[SUDO] = entry["sudo"] if entry["sudo"] == AUDIT else ""
        if entry["sudo"] != AUDIT:
            data["_sudo"] = entry["sudo"]
    if "gpumend" in entry:
        data["gpumend"] = data[wanted.HOSTS_KEY] = entry["gpumend"]
    return data


def _sudo(
    hosts: list[tuple[str, dict[str, Any]]],
    groups: dict[str, tuple[list[str], dict[str, Any]]],
    defaults: dict[str, Any],
) -> None:
    """Everyone but root uses sudo, unless the file says otherwise somewhere."""
    for name, data in hosts:
        layers = [data, *(found for members, found in groups.values() if name in members), defaults]
        user = next((layer["ssh_user"] for layer in layers if "ssh_user" in layer), None)
        if name == "@local" and os.geteuid() == 0:
            continue
        if user != "root" and not any("_sudo" in layer or SUDO in layer for layer in layers):
            data["_sudo"] = True


# What `gpumend` has found out already, for inventory.py in the process that it starts: {"file": path or null, "targets": [...],
# "ask": true}; or `fd NUMBER` of an open file that has it. Nobody else sets it.
CALL = "GPUMEND_CALL"
LONGEST = 100_000  # characters: execve(2) takes 128 KiB of a string, and an approved plan of a thousand hosts has more


def told(call: Mapping[str, Any]) -> str:
    """What is put into CALL for a process that this one becomes or starts, and that has our open files."""
    text = json.dumps(call)
    if len(text) <= LONGEST:
        return text
    with tempfile.TemporaryFile() as out:
        out.write(text.encode("ascii"))
        out.flush()
        handle = os.dup(out.fileno())
    os.set_inheritable(handle, True)
    return f"fd {handle}"


@cache
def _call(text: str) -> dict[str, Any]:
    if text.startswith("fd "):
        handle = int(text[3:])
        text = os.pread(handle, os.fstat(handle).st_size, 0).decode("ascii")
    found: dict[str, Any] = json.loads(text or "{}")
    return found


def call() -> dict[str, Any]:
    """What `gpumend` says of this run; empty where pyinfra was started by somebody else."""
    return _call(os.environ.get(CALL, ""))


def load() -> Hosts:
    """The hosts of this run: those that `gpumend` was given by address, those of the hosts file that counts (hosts_file.py)
    with the group_data beside it, or this machine. The first line of standard error says which. Ends with exit status 2 on
    a file that is not valid or not to be trusted."""
    given = call()
    try:
        if given.get("targets"):
            return Hosts([addressed(target) for target in given["targets"]], dict(STRICT))
        path = given.get("file")
        if "file" in given:
            source = HostsFile(Path(path) if path else None, given.get("kind", ""), given.get("part", ""))
        else:
            source = find()
        found = of(source)
        for line in twins(source.path, found) if source.path and not source.kind else ():
            click.echo(f"gpumend: {line}", err=True)
        directory = source.group_data
        if directory is not None:
            found = with_group_data(found, directory)
    except (HostsError, trust.UntrustedError) as error:
        click.echo(f"gpumend: {error}", err=True)
        raise SystemExit(2) from None
    if "file" not in given:
        click.echo(f"gpumend: {source.said(len(found.hosts))}", err=True)
    return found


STRICT = {"ssh_strict_host_key_checking": "yes"}


def of(source: HostsFile) -> Hosts:
    """The hosts of a hosts file, or this machine. Raises HostsError."""
    if source.path is None:
        return Hosts([addressed("@local")])
    return parse(source.path, source.kind, source.part)


def addressed(target: str) -> tuple[str, dict[str, Any]]:
    """A host that stands in no file: @local, another connector of pyinfra's, HOST or USER@HOST. sudo for everyone but root."""
    if target == "@local":
        return target, {} if os.geteuid() == 0 else {"_sudo": True}
    if target.startswith("@"):
        return target, {}
    user, _, address = target.rpartition("@")
    data: dict[str, Any] = {"ssh_hostname": address, "_sudo": (user or _login(address)) != "root"}
    return target, {**data, "ssh_user": user} if user else data


def _login(address: str) -> str:
    """Who logs in where nobody is named: ssh_config's User, or whoever runs this."""
    # the command line reads hosts without pyinfra
    from pyinfra.connectors.sshuserclient.client import get_ssh_config

    config = get_ssh_config()
    said = config.lookup(address).get("user") if config else None
    return said or getpass.getuser()


def with_group_data(found: Hosts, directory: Path) -> Hosts:
    """The hosts with the data of the files in `directory`, checked and run as pyinfra runs its own. What hosts.toml itself
    says of the key `gpumend` counts more than the file of the same level. Raises UntrustedError."""
    every, groups = (
        dict(found.data),
        {name: (members, dict(data)) for name, (members, data) in found.groups.items()},
    )
    for path in trust.tree(directory):
        layer = every if path.stem == "all" else groups[path.stem][1] if path.stem in groups else None
        values = _values(path)
        if layer is None:
            click.echo(
                f"gpumend: {path}: there is no group {path.stem!r}{meant(path.stem, {'all', *groups})}",
                err=True,
            )
            continue
        ours, theirs = values.pop("gpumend", None), layer.pop("gpumend", None)
        layer.update(values)
        if ours is not None or theirs is not None:
            layer[wanted.HOSTS_KEY] = wanted.merge(part for part in (ours, theirs) if part is not None)
    return Hosts(found.hosts, every, groups)


def _values(path: Path) -> dict[str, Any]:
    """What a file of group data sets; ends with exit status 2 where its wanted state is not valid, or it does not run."""
    try:
        values = runpy.run_path(str(path))
        check(values.get("gpumend", {}))
    except WantedError as error:
        click.echo(f"gpumend: {path}: {error}", err=True)
        raise SystemExit(2) from None
    except Exception as error:
        click.echo(f"gpumend: {path}: {type(error).__name__}: {error}", err=True)
        raise SystemExit(2) from None
    public = {key: value for key, value in values.items() if not key.startswith("_")}
    return {key: value for key, value in public.items() if not isinstance(value, type(os))}


def check_group_data() -> None:
    """The wanted state in the files of group data that pyinfra itself is about to run is valid, and those of the current
    directory are the caller's or root's; ends with exit status 2 where one is not. Those beside inventory.py belong to the
    code that runs here, whoever owns that."""
    here = Path.cwd()
    files = sorted((PROJECT / "group_data").glob("*.py"))
    if here != PROJECT:
        try:
            files += trust.tree(here / "group_data")
        except (trust.UntrustedError, OSError) as error:
            click.echo(f"gpumend: {here / 'group_data'} is not used: {error}", err=True)
            raise SystemExit(2) from None
    for path in files:
        _values(path)
