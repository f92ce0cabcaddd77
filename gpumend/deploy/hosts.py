"""hosts.toml: hosts, groups, SSH settings and wanted state, for inventory.py."""

from __future__ import annotations

import logging
import os
import re
import runpy
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from gpumend import schemas
from gpumend.rules import wanted
from gpumend.run.remote import ssh
from gpumend.run.remote.connection import AUDIT, SUDO
from gpumend.schemas.wanted import WantedError, check

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


class HostsError(ValueError):
    """hosts.toml is not valid. The text names file, line, and what is allowed."""


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


def parse(path: Path) -> Hosts:
    """The file's hosts; raises HostsError."""
    # only where there is a file: it takes 60 ms
    from jsonschema import Draft202012Validator

    try:
        text = path.read_text("utf-8")
        raw = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise HostsError(f"{path}: {error}") from None
    for problem in sorted(
        Draft202012Validator(schemas.load("hosts")).iter_errors(raw), key=lambda e: list(map(str, e.path))
    ):
        where = list(problem.absolute_path)
        if problem.validator == "unevaluatedProperties":
            where += re.findall(r"'([^']+)'", problem.message)[:1]
        dotted = ".".join(map(str, where)) or "the file"
        raise HostsError(f"{path}:{line_of(text, where)}: {dotted}: {problem.message}")
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
    defaults["ssh_paramiko_connect_kwargs"] = {"transport_factory": ssh.nodelay_transport}
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
        if user != "root" and not any("_sudo" in layer or SUDO in layer for layer in layers):
            data["_sudo"] = True


def load(directory: Path) -> Hosts:
    """The hosts of GPUMEND_HOSTS, else of hosts.toml in `directory`, else this machine. Ends with exit status 2 on a
    file that is not valid."""
    named = os.environ.get("GPUMEND_HOSTS")
    path = Path(named) if named else directory / "hosts.toml"
    if not named and not path.exists():
        return Hosts([("@local", {} if os.geteuid() == 0 else {"_sudo": True})])
    try:
        return parse(path)
    except HostsError as error:
        click.echo(f"gpumend: {error}", err=True)
        raise SystemExit(2) from None


def check_group_data(directories: list[Path]) -> None:
    """Every group_data file's wanted state is valid; ends with exit status 2 where one is not."""
    for directory in directories:
        for path in sorted(directory.glob("*.py")):
            try:
                check(runpy.run_path(str(path)).get("gpumend", {}))
            except WantedError as error:
                click.echo(f"gpumend: {path}: {error}", err=True)
                raise SystemExit(2) from None


def prepare(found: Hosts) -> None:
    """pyinfra is set for this inventory: all hosts at once as far as file descriptors go, no prompt without a
    terminal, wanted state checked. Called by inventory.py, before anything connects."""
    # tests read hosts.toml without pyinfra: only what connects to hosts needs it
    import resource

    from pyinfra.context import config, state

    from gpumend.deploy.session import without_prompts

    # What it logs are tracebacks of errors that pyinfra tells in one line.
    logging.getLogger("paramiko").addHandler(logging.NullHandler())
    ssh.use_known_hosts()
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    config.PARALLEL = max(1, min(len(found.hosts), (limit - 10) // DESCRIPTORS_A_HOST))
    without_prompts(state)
    root = Path(__file__).resolve().parent.parent
    check_group_data(list(dict.fromkeys(path / "group_data" for path in (root, Path.cwd()))))
