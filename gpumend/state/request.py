"""What a subsystem wants read. Each module of `facts/` has a `REQUEST`; the probe gets all of them at once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gpumend.text.record import Record


class Glob(Record):
    """Files by pattern. `read` takes their bytes; `mentioned` stats every absolute path named in them, too.

    search: a regular expression; only what it finds leaves the host, and only files in which it finds something are
    listed. section: the ELF section of this name is read besides. Both go with `read=False`.
    limit: bytes beyond which a file is not searched, but passed over; begins: only files that begin so are.
    follow: a regular expression for paths in what is searched: scripts (`#!`) at those are searched, too, and listed with it.
    One of those that search the same files may follow.
    holds: what all that the search finds stands beside, so that it costs nothing where that is not in a file.
    again: its files are opened once more, after all that stands before it. Else all that is asked of one pattern is asked at once.
    where: a path or a pattern of the request that stands before it, without which it is not looked at.
    """

    pattern: str
    read: bool = True
    mentioned: bool = False
    search: str = ""
    section: str = ""
    limit: int = 0
    begins: str = ""
    follow: str = ""
    holds: str = ""
    again: bool = False
    where: str = ""

    def entry(self) -> dict[str, Any]:
        """The files as the probe's JSON has them."""
        more = {key: value for key, value in self._asdict().items() if value}
        return {"pattern": self.pattern, "read": self.read, **more}


def with_twins(globs: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each pattern below /lib is told which one below /usr/lib asks for all the same: where the two are one directory, as
    distributions have it since 2012 (systemd.io, The Case for the /usr Merge), it is not looked at twice."""
    asked: dict[str, list[dict[str, Any]]] = {}
    for spec in globs:
        asked.setdefault(spec["pattern"], []).append({**spec, "pattern": ""})
    found = []
    for spec in globs:
        twin = f"/usr{spec['pattern']}"
        same = spec["pattern"].startswith("/lib/") and twin in asked
        same = same and all(each in asked[twin] for each in asked[spec["pattern"]])
        found.append({**spec, "twin": twin} if same else spec)
    return found


class Command(Record):
    """A command that only reads. `needs`: paths without which it is not run (it would write, or hang).
    needs_one: paths of which one has to be there that it is run.
    `spares`: paths of which one suffices that it is not run: what it would say is of no use there, and it costs.
    without_docker: run only where dockerd has not answered, whose answer says as much.
    asks_cuda: no command, but CUDA itself is asked, where that creates nothing (gpumend/payload/cuda.py).
    keep: a regular expression; of what the command prints only what it finds leaves the host, one match a line.
    What the probe has read before spares a command (gpumend/payload/probe/planned.py); what could not be read does not:
    where_one: names of processes, and paths or patterns of the request, of which one has to be there.
    told_by: patterns of files that are searched, and the regular expression that has to match something found there.
    mounted: types of file systems of which one has to be mounted.
    taken_by: a daemon, and the file with which it has not started as it is.
    said_by: another command, and the regular expression that has to find nothing in what that printed.
    listed_by: another command, the regular expression of one thing that it lists, and what it has to list: patterns of the
    request, whose directories each stand for one, and what a search has to have found in a file that counts ("": all count).
    It is run but where that has ended well, said nothing else, and listed as many.
    by_docker: run only where dockerd has not told of the same program.
    by_systemd: run only where systemd has not said the same by itself (gpumend/payload/probe/systemd.py); units_of: the
    pattern of the files of those units of which it is asked what is done where one fails."""

    argv: tuple[str, ...]
    timeout: float = 10
    needs: tuple[str, ...] = ()
    needs_one: tuple[str, ...] = ()
    keep: str = ""
    spares: tuple[str, ...] = ()
    without_docker: bool = False
    asks_cuda: bool = False
    where_one: tuple[str, ...] = ()
    told_by: tuple[tuple[str, ...], str] | None = None
    mounted: tuple[str, ...] = ()
    taken_by: tuple[str, str] | None = None
    said_by: tuple[str, str] | None = None
    listed_by: tuple[str, str, tuple[tuple[str, str], ...]] | None = None
    by_docker: bool = False
    by_systemd: bool = False
    units_of: str = ""

    def entry(self) -> dict[str, Any]:
        """The command as the probe's JSON has it."""
        found: dict[str, Any] = {
            "argv": list(self.argv),
            "timeout": self.timeout,
            "needs": list(self.needs),
            "needs_one": list(self.needs_one),
            "spares": list(self.spares),
            "keep": self.keep,
            "without_docker": self.without_docker,
            "asks_cuda": self.asks_cuda,
        }
        for key in ("where_one", "mounted", "taken_by", "said_by", "listed_by"):
            if getattr(self, key):
                found[key] = list(getattr(self, key))
        for key in ("by_docker", "by_systemd", "units_of"):
            if getattr(self, key):
                found[key] = getattr(self, key)
        if self.told_by:
            found["told_by"] = {"globs": list(self.told_by[0]), "pattern": self.told_by[1]}
        return found


class Inside(Record):
    """What is read in each container that is privileged or runs a dockerd: files, metadata, its dockerd's socket.
    Paths are of the container's own root, and must not lead through a link."""

    files: tuple[str, ...] = ()
    stats: tuple[str, ...] = ()
    socket: str = "/run/docker.sock"


class Request(Record):
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
                entry = item.entry() if isinstance(item, Glob) else item
                if entry not in seen:
                    seen.append(entry)
        if request.inside:
            single["inside"] = request.inside._asdict()
        if request.beside_compose:
            names, pattern = request.beside_compose
            single["beside_compose"] = {"names": list(names), "search": pattern}
        single["log_keep"] = request.log_keep or single["log_keep"]
        for name, command in request.commands.items():
            entry = command.entry()
            if commands.setdefault(name, entry) != entry:
                raise ValueError(f"two subsystems ask for different commands under the name {name!r}")
    return {**merged, **single, "commands": commands}
