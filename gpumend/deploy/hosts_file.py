"""Which hosts file counts: the one that is named, or the first that is found; never one that somebody else could have put there."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_config_path

from gpumend.deploy import host_sources, trust
from gpumend.places import INSTALLED, PROJECT

NAME = "hosts.toml"
VARIABLE = "GPUMEND_HOSTS"


class HostsError(ValueError):
    """The hosts file is not valid, not there, or not to be trusted. The text names file, line, and what is allowed."""


@dataclass(frozen=True)
class HostsFile:
    """path: None where there is no file, and this machine is meant. kind: whose words it is in (host_sources.py), empty for
    hosts.toml's; part: what of it, for a format that has several."""

    path: Path | None
    kind: str = ""
    part: str = ""

    @property
    def group_data(self) -> Path | None:
        """The directory beside the file that holds more of its hosts' and groups' data."""
        return self.path.parent / "group_data" if self.path else None

    def said(self, count: int) -> str:
        """The first line of a run: which hosts these are."""
        if self.path is None:
            return f"this machine (no {NAME}: gpumend looks in {', '.join(map(str, places()))})"
        return f"{self.path}: {count} host{'s' * (count != 1)}"


def places() -> list[Path]:
    """Where a hosts file is looked for, in order."""
    found = [user_config_path("gpumend") / NAME]
    with suppress(OSError):  # a current directory that is no more
        found.insert(0, Path.cwd() / NAME)
    if not INSTALLED:
        found.append(PROJECT / NAME)
    return list(dict.fromkeys(found))


def find(named: str | None = None) -> HostsFile:
    """The file of `--hosts`, of GPUMEND_HOSTS, or the first of places(). Raises HostsError for one that is named and not
    there, and for one that was found and that somebody else could have written."""
    variable = os.environ.get(VARIABLE)
    said = named or variable
    if said:
        kind, _, rest = said.partition(":")
        kind, rest = (kind, rest) if kind in host_sources.FORMATS else ("", said)
        part = ""
        if kind == "terraform":
            rest, _, part = rest.partition("#")
        path = Path(rest).expanduser().absolute()
        if not path.exists() or path.is_dir():
            why = "which is a directory" if path.is_dir() else "which is not there"
            if not kind and ":" in said:
                why += f"; formats: {', '.join(host_sources.FORMATS)}"
            raise HostsError(f"{'--hosts' if named else VARIABLE} names {said}, {why}")
        return HostsFile(path, kind, part)
    for path in places():
        if os.path.lexists(path):
            try:
                trust.check(path)
            except (trust.UntrustedError, OSError) as error:
                raise HostsError(
                    f"{path} was found, and is not used: {error}; name it by --hosts if it is yours"
                ) from None
            return HostsFile(path)
    return HostsFile(None)
