"""CRI-O: its version, its files as it merges them, and what the running one says that it has.

What a version makes of its files was measured with CRI-O 1.34.11 and 1.28.0: pkg/config/config.go UpdateFromDropInFile.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpumend.state.cdi import DEFAULT_DIRS
from gpumend.state.containerd import ConfigError, flag, loads
from gpumend.state.reading import Reading
from gpumend.state.request import Command, Glob, Request
from gpumend.state.snapshot import FileContent, FileMeta, Process, Snapshot
from gpumend.text.documents import toml
from gpumend.text.record import Record
from gpumend.text.version import Version, parse_version

CONFIG = "/etc/crio/crio.conf"
DIRECTORY = "/etc/crio/crio.conf.d"
DROP_INS = (
    f"{DIRECTORY}/*",
    f"{DIRECTORY}/.*",
)  # any name counts, in their order (pkg/config UpdateFromPath)
SOCKET = "/var/run/crio/crio.sock"
# Where the project's own packages put what Debian has in /usr/bin (cri-o packaging templates/latest).
LIBEXEC = "/usr/libexec/crio"
BUILT_IN: tuple[tuple[Version, str], ...] = (((0,), "runc"), ((1, 31), "crun"))  # pkg/config DefaultRuntime
# Of the live configuration only this leaves the host: default_env and monitor_env may hold secrets.
KEEP = r"(?m)^[ \t]*(?:\[crio\.runtime[^\]\n]*\]|(?:default_runtime|cdi_spec_dirs|conmon|runtime_path|runtime_type|monitor_path) = .*)$"

REQUEST = Request(
    files=(CONFIG,),
    globs=tuple(map(Glob, DROP_INS)),
    stats=(SOCKET, *(f"{LIBEXEC}/{name}" for name in ("conmon", "crun", "runc"))),
    programs=("crio", "conmon", "runc", "crun"),
    commands={
        "crio": Command(("crio", "--version"), timeout=5),
        # From 1.29 on; a program of its own, crio-status, before. An HTTP GET at the socket: it writes nothing.
        "crio-live": Command(("crio", "status", "config"), timeout=5, needs=(SOCKET,), keep=KEEP),
        "crio-status": Command(("crio-status", "config"), timeout=5, needs=(SOCKET,), keep=KEEP),
    },
    processes=("crio",),
    units=("crio.service",),
)


class Settings(Record):
    """What matters here of a whole configuration. runtimes: [crio.runtime.runtimes] by name. default: as named or built
    in. conmon: `[crio.runtime] conmon`, the old place of every runtime's monitor_path."""

    runtimes: Mapping[str, Mapping[str, Any]]
    default: str
    cdi_spec_dirs: tuple[str, ...]
    conmon: str = ""


def settings_of(raw: Mapping[str, Any], built_in: str) -> Settings:
    """The settings in a configuration as TOML; raises ValueError for a value of the wrong type, as CRI-O does."""
    runtime = _table(_table(raw, "crio"), "runtime")
    dirs = runtime.get("cdi_spec_dirs", list(DEFAULT_DIRS))
    if not isinstance(dirs, list):
        raise ValueError("crio.runtime.cdi_spec_dirs is no list")
    runtimes = _table(runtime, "runtimes")
    for name in runtimes:
        _table(runtimes, name)
    for key in ("default_runtime", "conmon"):
        if not isinstance(runtime.get(key, ""), str):
            raise ValueError(f"crio.runtime.{key} is no text")
    return Settings(
        runtimes,
        runtime.get("default_runtime") or built_in,
        tuple(map(str, dirs)),
        runtime.get("conmon") or "",
    )


def _table(above: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = above.get(name, {})
    if not isinstance(found, Mapping):
        raise ValueError(f"{name} is no table")
    return found


class Crio(Record):
    """files: in the order in which CRI-O takes them, the later over the earlier, key by key; a runtime's table counts
    whole. live: what the running one has, by its own word. programs: conmon and the OCI runtimes, in PATH or in the
    directory of CRI-O's own packages."""

    version: Reading[Version]
    process: Reading[tuple[Process, ...]]
    files: Mapping[str, Reading[FileContent]]
    unit: Reading[Mapping[str, str]]
    live: Reading[Mapping[str, Any]]
    programs: Mapping[str, Reading[FileMeta]] = {}
    libexec: Mapping[str, Reading[FileMeta]] = {}

    @property
    def installed(self) -> bool:
        return not self.version.absent or bool(self.process.value)

    @property
    def running(self) -> Process | None:
        """Raises Unread where nobody could look."""
        return next(iter(self.process.get() or ()), None)

    @property
    def elsewhere(self) -> str:
        """The flag that has the running CRI-O read other files than these; empty where none does."""
        for names, path in ((("--config", "-c"), CONFIG), (("--config-dir", "-d"), DIRECTORY)):
            found = flag(self.running, *names)
            if found and found.rstrip("/") != path:
                return f"{names[0]} {found}"
        return ""

    def parsed(self) -> dict[str, Mapping[str, Any]]:
        """Each file that is there as TOML; raises ConfigError for one that is none, Unread for one nobody could read."""
        found = {}
        for path, content in self.files.items():
            if content.get() is None:
                continue
            found[path] = loads(path, content)
            try:
                settings_of(found[path], "")
            except ValueError as error:
                raise ConfigError(path, str(error)) from None
        return found

    def built_in(self) -> str:
        """The default runtime where no file names one; raises Unread."""
        version = self.version.need()
        return next(name for since, name in reversed(BUILT_IN) if version >= since)

    def settings(self) -> Settings:
        """What its files say, merged as it merges them; raises Unread, and ConfigError where it would not start."""
        merged: dict[str, Any] = {"runtimes": {}}
        for raw in self.parsed().values():
            runtime = raw.get("crio", {}).get("runtime", {})
            runtimes = {**merged["runtimes"], **runtime.get("runtimes", {})}
            merged = {**merged, **runtime, "runtimes": runtimes}
        merged["runtimes"].setdefault(self.built_in(), {})
        return settings_of({"crio": {"runtime": merged}}, self.built_in())

    def live_settings(self) -> Settings | None:
        """What the running one has; None where none runs. Raises Unread."""
        raw = self.live.get()
        return settings_of(raw, self.built_in()) if raw is not None else None


def _live(snapshot: Snapshot) -> Reading[Mapping[str, Any]]:
    socket = snapshot.stat(SOCKET)
    if socket.absent:
        return Reading.none(SOCKET, "no CRI-O answers")
    if not socket.ok:
        return Reading(socket.status, None, SOCKET, socket.detail)
    first, second = snapshot.succeeded("crio-live"), snapshot.succeeded("crio-status")
    return (first if first.ok or second.absent else second).map(lambda found: toml(found.out))


def parse(snapshot: Snapshot) -> Crio:
    listed = [snapshot.glob(pattern) for pattern in DROP_INS]
    names = sorted(path for each in listed for path in each.value or ())
    files = {path: snapshot.file(path) for path in (CONFIG, *names)}
    for unknown in (each for each in listed if not each.known):
        files[unknown.source] = unknown.without_value()
    return Crio(
        version=snapshot.succeeded("crio").map(lambda found: parse_version(found.out)),
        process=snapshot.daemons("crio"),
        files=files,
        unit=snapshot.unit("crio.service"),
        live=_live(snapshot),
        programs={name: snapshot.program(name) for name in ("conmon", "runc", "crun")},
        libexec={name: snapshot.stat(f"{LIBEXEC}/{name}") for name in ("conmon", "crun", "runc")},
    )
