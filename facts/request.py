"""What a subsystem wants read. Each module of `facts/` has a `REQUEST`; the probe gets all of them at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Glob:
    """Files by pattern. `read` takes their bytes; `mentioned` stats every absolute path named in them, too.

    search: a regular expression; only what it finds leaves the host, and only files in which it finds something are
    listed. section: the ELF section of this name is read besides. Both go with `read=False`.
    """

    pattern: str
    read: bool = True
    mentioned: bool = False
    search: str = ""
    section: str = ""


@dataclass(frozen=True)
class Command:
    """A command that only reads. `needs`: paths without which it is not run (it would write, or hang).
    keep: a regular expression; of what the command prints only what it finds leaves the host, one match a line."""

    argv: tuple[str, ...]
    timeout: float = 10
    needs: tuple[str, ...] = ()
    keep: str = ""


@dataclass(frozen=True)
class Request:
    """Files (bytes), stats (metadata), globs, programs (looked up in root's PATH), commands by name,
    processes by program name, systemd units and their properties."""

    files: tuple[str, ...] = ()
    stats: tuple[str, ...] = ()
    globs: tuple[Glob, ...] = ()
    programs: tuple[str, ...] = ()
    commands: dict[str, Command] = field(default_factory=dict)
    processes: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    unit_properties: tuple[str, ...] = ()


def merge(requests: Iterable[Request]) -> dict[str, Any]:
    """All requests as the probe's JSON, each thing once, in a stable order.

    Raises ValueError when two subsystems give one command name to different commands.
    """
    merged: dict[str, Any] = {
        key: [] for key in ("files", "stats", "globs", "programs", "processes", "units", "unit_properties")
    }
    commands: dict[str, Any] = {}
    for request in requests:
        for key, seen in merged.items():
            for item in getattr(request, key):
                entry = vars(item) if isinstance(item, Glob) else item
                if entry not in seen:
                    seen.append(entry)
        for name, command in request.commands.items():
            entry = {
                "argv": list(command.argv),
                "timeout": command.timeout,
                "needs": list(command.needs),
                "keep": command.keep,
            }
            if commands.setdefault(name, entry) != entry:
                raise ValueError(f"two subsystems ask for different commands under the name {name!r}")
    return {**merged, "commands": commands}
