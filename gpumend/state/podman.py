"""podman: its version, and the spec directories that containers.conf gives it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gpumend.state.reading import Reading
from gpumend.state.request import Command, Glob, Request
from gpumend.state.snapshot import FileContent, Snapshot
from gpumend.text.documents import toml
from gpumend.text.version import Version, parse_version

CONFIG = "/etc/containers/containers.conf"
DROP_INS = "/etc/containers/containers.conf.d/*.conf"
VENDOR = "/usr/share/containers/containers.conf"

REQUEST = Request(
    files=(VENDOR, CONFIG),
    globs=(Glob(DROP_INS),),
    programs=("podman",),
    commands={"podman": Command(("podman", "--version"), timeout=5)},
)


@dataclass(frozen=True, slots=True)
class Podman:
    """files: in podman's order, the later over the earlier (containers.conf(5))."""

    version: Reading[Version]
    files: Mapping[str, Reading[FileContent]]

    def spec_dirs(self) -> tuple[str, ...] | None:
        """engine.cdi_spec_dirs of the last file that has it, or None where none has; raises Unread."""
        found = None
        for content in self.files.values():
            raw = content.map(lambda file: toml(file.text())).get() or {}
            engine = raw.get("engine")
            listed = engine.get("cdi_spec_dirs") if isinstance(engine, dict) else None
            if isinstance(listed, list):
                found = tuple(str(item) for item in listed)
        return found


def parse(snapshot: Snapshot) -> Podman:
    listed = snapshot.glob(DROP_INS)
    files = {path: snapshot.file(path) for path in (VENDOR, CONFIG, *(listed.value or ()))}
    if not listed.known:
        files[DROP_INS] = listed.without_value()
    return Podman(snapshot.succeeded("podman").map(lambda found: parse_version(found.out)), files)
