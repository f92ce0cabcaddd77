"""podman: its version, and the spec directories that containers.conf gives it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from gpumend.state.reading import Reading
from gpumend.state.request import Command, Glob, Request
from gpumend.state.snapshot import FileContent, Snapshot
from gpumend.text.documents import toml
from gpumend.text.version import Version, parse_version

CONFIG = "/etc/containers/containers.conf"
DROP_INS = "/etc/containers/containers.conf.d/*.conf"
VENDOR = "/usr/share/containers/containers.conf"

# A user's own: where rootless containers lie, and what of the settings says where specs are looked for (containers.conf(5)).
USER_STORAGE = "/home/*/.local/share/containers/storage"
USER_CONFIGS = (
    "/home/*/.config/containers/containers.conf",
    "/home/*/.config/containers/containers.conf.d/*.conf",
)
USER_DIRS = r"(?m)^[ \t]*cdi_spec_dirs[ \t]*=[ \t]*(\[[^\]\n]{0,500}\])"
SUBUID = "/etc/subuid"

REQUEST = Request(
    files=(VENDOR, CONFIG, SUBUID),
    globs=(
        Glob(DROP_INS),
        Glob(USER_STORAGE, read=False),
        *(Glob(pattern, read=False, search=USER_DIRS) for pattern in USER_CONFIGS),
    ),
    programs=("podman",),
    commands={"podman": Command(("podman", "--version"), timeout=5)},
)


class Podman(NamedTuple):
    """files: in podman's order, the later over the earlier (containers.conf(5)). users: name and uid of those who have
    rootless containers here. user_dirs: of a user's containers.conf that sets cdi_spec_dirs, what it sets. subordinate: names
    and uids that subuid(5) gives user ids to."""

    version: Reading[Version]
    files: Mapping[str, Reading[FileContent]]
    users: Mapping[str, int] = {}
    user_dirs: Mapping[str, tuple[str, ...]] = {}
    subordinate: Reading[frozenset[str]] = Reading.none(SUBUID)

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
    users: dict[str, int] = {}
    for path in snapshot.glob(USER_STORAGE).value or ():
        if (meta := snapshot.stat(path).value) is not None and meta.uid:
            users[path.split("/")[2]] = meta.uid
    return Podman(
        snapshot.succeeded("podman").map(lambda found: parse_version(found.out)),
        files,
        users,
        {
            path: tuple(re.findall(r"[\"']([^\"']+)[\"']", text))
            for pattern in USER_CONFIGS
            for path in snapshot.glob(pattern).value or ()
            for text in (snapshot.found(path, USER_DIRS).value or ())[-1:]
        },
        snapshot.text(SUBUID).map(
            lambda text: frozenset(line.partition(":")[0] for line in text.splitlines() if ":" in line)
        ),
    )
