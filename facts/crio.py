"""CRI-O: its version and its configuration, crio.conf and every file of crio.conf.d over it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from facts.fact import StateFact
from facts.reading import Reading
from facts.request import Command, Glob, Request
from facts.snapshot import FileContent, Process, Snapshot
from facts.version import Version, parse_version

if TYPE_CHECKING:
    from facts.host_state import HostState

CONFIG = "/etc/crio/crio.conf"
DROP_INS = "/etc/crio/crio.conf.d/*"  # any ending counts (cri-o pkg/config UpdateFromPath)

REQUEST = Request(
    files=(CONFIG,),
    globs=(Glob(DROP_INS),),
    programs=("crio",),
    commands={"crio": Command(("crio", "--version"), timeout=5)},
    processes=("crio",),
    units=("crio.service",),
)


@dataclass(frozen=True)
class Crio:
    """files: in the order in which CRI-O takes them, the later over the earlier, key by key."""

    version: Reading[Version]
    process: Reading[tuple[Process, ...]]
    files: Mapping[str, Reading[FileContent]]
    unit: Reading[Mapping[str, str]]

    @property
    def installed(self) -> bool:
        return self.version.ok or bool(self.process.value)

    def runtimes(self) -> dict[str, Mapping[str, Any]]:
        """[crio.runtime.runtimes] of all files, a later file's entry over an earlier one's; raises Unread."""
        found: dict[str, Mapping[str, Any]] = {}
        for content in self.files.values():
            raw = content.map(lambda file: tomllib.loads(file.text())).get() or {}
            found.update(raw.get("crio", {}).get("runtime", {}).get("runtimes", {}))
        return found


def parse(snapshot: Snapshot) -> Crio:
    listed = snapshot.glob(DROP_INS)
    files = {path: snapshot.file(path) for path in (CONFIG, *(listed.value or ()))}
    if not listed.known:
        files[DROP_INS] = Reading(listed.status, None, listed.source, listed.detail)
    return Crio(
        version=snapshot.succeeded("crio").map(lambda found: parse_version(found.out)),
        process=snapshot.processes("crio"),
        files=files,
        unit=snapshot.unit("crio.service"),
    )


class CrioVersion(StateFact[str]):
    """CRI-O's version; None where it is not installed."""

    def read(self, state: HostState) -> str | None:
        version = state.crio.version.get()
        return ".".join(map(str, version)) if version else None
