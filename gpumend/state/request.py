"""What a subsystem wants read. Each module of `facts/` has a `REQUEST`; the probe gets all of them at once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple


class Glob(NamedTuple):
    """Files by pattern. `read` takes their bytes; `mentioned` stats every absolute path named in them, too.

    search: a regular expression; only what it finds leaves the host, and only files in which it finds something are
    listed. section: the ELF section of this name is read besides. Both go with `read=False`.
    limit: bytes beyond which a file is not searched, but passed over; begins: only files that begin so are.
    follow: a regular expression for paths in what is searched: scripts (`#!`) at those are searched, too, and listed with it.
    """

    pattern: str
    read: bool = True
    mentioned: bool = False
    search: str = ""
    section: str = ""
    limit: int = 0
    begins: str = ""
    follow: str = ""


class Command(NamedTuple):
    """A command that only reads. `needs`: paths without which it is not run (it would write, or hang).
    needs_one: paths of which one has to be there that it is run.
    `spares`: paths of which one suffices that it is not run: what it would say is of no use there, and it costs.
    without_docker: run only where dockerd has not answered, whose answer says as much.
    asks_cuda: no command, but CUDA itself is asked, where that creates nothing (gpumend/payload/cuda.py).
    keep: a regular expression; of what the command prints only what it finds leaves the host, one match a line."""

    argv: tuple[str, ...]
    timeout: float = 10
    needs: tuple[str, ...] = ()
    needs_one: tuple[str, ...] = ()
    keep: str = ""
    spares: tuple[str, ...] = ()
    without_docker: bool = False
    asks_cuda: bool = False


class Inside(NamedTuple):
    """What is read in each container that is privileged or runs a dockerd: files, metadata, its dockerd's socket.
    Paths are of the container's own root, and must not lead through a link."""

    files: tuple[str, ...] = ()
    stats: tuple[str, ...] = ()
    socket: str = "/run/docker.sock"


class Request(NamedTuple):
    """Files (bytes), stats (metadata), globs, programs (looked up in root's PATH), commands by name,
    processes by program name, systemd units and their properties.

    spaces: types of file systems whose free space is read. listings: directories whose names are listed, besides Docker's
    own. inside: one subsystem's. beside_compose: one subsystem's, of the compose projects of privileged containers: files
    by name, and the regular expression that says what of them leaves the host. log_keep: one subsystem's regular expression; of the log of privileged containers only
    the lines that it matches leave the host.
    """

    files: tuple[str, ...] = ()
    stats: tuple[str, ...] = ()
    globs: tuple[Glob, ...] = ()
    programs: tuple[str, ...] = ()
    commands: dict[str, Command] = {}
    processes: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    unit_properties: tuple[str, ...] = ()
    spaces: tuple[str, ...] = ()
    listings: tuple[str, ...] = ()
    inside: Inside | None = None
    beside_compose: tuple[tuple[str, ...], str] | None = None
    log_keep: str = ""


def merge(requests: Iterable[Request]) -> dict[str, Any]:
    """All requests as the probe's JSON, each thing once, in a stable order.

    Raises ValueError when two subsystems give one command name to different commands.
    """
    merged: dict[str, Any] = {
        key: []
        for key in (
            "files", "stats", "globs", "programs", "processes", "units", "unit_properties", "spaces", "listings",
        )
    }  # fmt: skip
    single: dict[str, Any] = {"inside": None, "beside_compose": None, "log_keep": "", "compose": []}
    commands: dict[str, Any] = {}
    for request in requests:
        for key, seen in merged.items():
            for item in getattr(request, key):
                entry = item._asdict() if isinstance(item, Glob) else item
                if entry not in seen:
                    seen.append(entry)
        if request.inside:
            single["inside"] = request.inside._asdict()
        if request.beside_compose:
            names, pattern = request.beside_compose
            single["beside_compose"] = {"names": list(names), "search": pattern}
        single["log_keep"] = request.log_keep or single["log_keep"]
        for name, command in request.commands.items():
            entry = {
                "argv": list(command.argv),
                "timeout": command.timeout,
                "needs": list(command.needs),
                "needs_one": list(command.needs_one),
                "spares": list(command.spares),
                "keep": command.keep,
                "without_docker": command.without_docker,
                "asks_cuda": command.asks_cuda,
            }
            if commands.setdefault(name, entry) != entry:
                raise ValueError(f"two subsystems ask for different commands under the name {name!r}")
    return {**merged, **single, "commands": commands}
