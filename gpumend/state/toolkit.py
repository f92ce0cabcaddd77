"""The NVIDIA Container Toolkit: its programs, its config.toml, and the host's ldconfig that it calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpumend.state.reading import Reading
from gpumend.state.request import Command, Glob, Request
from gpumend.state.snapshot import FileContent, FileMeta, Snapshot
from gpumend.text.documents import toml
from gpumend.text.record import Record
from gpumend.text.version import Version, parse_version

CONFIG = "/etc/nvidia-container-runtime/config.toml"
PROGRAMS = (
    "nvidia-ctk",
    "nvidia-cdi-hook",
    "nvidia-container-runtime",
    "nvidia-container-runtime-hook",
    "nvidia-container-cli",
    "nvidia-modprobe",
)

# Keys of config.toml that name a place on this host, and where the GPU Operator's own toolkit lies, which its files name.
PROGRAM_PATHS = (
    ("nvidia-container-cli", "root"),
    ("nvidia-container-cli", "path"),
    ("nvidia-container-runtime-hook", "path"),
    ("nvidia-ctk", "path"),
)
OPERATOR_ROOT = "/usr/local/nvidia/toolkit"
LDCONFIG, SCRIPT = "/sbin/ldconfig", r"\A#!"

REQUEST = Request(
    files=(CONFIG, "/etc/ld.so.conf"),
    stats=(LDCONFIG, "/sbin/ldconfig.real", "/usr/sbin/ldconfig"),
    globs=(
        Glob(CONFIG, mentioned=True),
        Glob("/etc/apt/sources.list.d/*.list"),
        Glob("/etc/apt/sources.list.d/*.sources"),
        Glob(LDCONFIG, read=False, search=SCRIPT, limit=1 << 16, begins="#!"),
    ),
    programs=PROGRAMS,
    commands={"nvidia-ctk": Command(("nvidia-ctk", "--version"), timeout=10)},
)


class Toolkit(Record):
    """version: of nvidia-ctk. config: the parsed config.toml; content: its bytes; unread: we could not read it. A missing config.toml is
    `absent`: the programs then use their built-in defaults (api/config/v1/config.go).

    ldconfig_wrapper: /sbin/ldconfig is a script, as on Ubuntu. ldconfig_real: /sbin/ldconfig.real exists.
    ldconfig_there: /sbin/ldconfig exists. merged_sbin: /sbin is /usr/sbin under another name.
    sources: APT source files that name NVIDIA's repositories. named: metadata of the paths that PROGRAM_PATHS' keys have.
    """

    version: Reading[Version]
    programs: Mapping[str, Reading[FileMeta]]
    content: Reading[FileContent]
    unread: bool
    config: Reading[Mapping[str, Any]]
    dangling: str | None
    ldconfig_wrapper: Reading[bool]
    ldconfig_real: Reading[bool]
    ldconfig_there: Reading[bool]
    merged_sbin: bool
    sources: Reading[Mapping[str, FileContent]]
    named: Mapping[str, Reading[FileMeta]] = {}

    @property
    def installed(self) -> bool:
        return any(self.programs[name].ok for name in ("nvidia-ctk", "nvidia-container-runtime"))

    def value(self, *keys: str) -> Any:
        """A value of config.toml by its path of keys, or None where the file or the key is not there.

        Raises Unread where the file could not be read or parsed.
        """
        found: Any = self.config.get() or {}
        for key in keys:
            if not isinstance(found, dict) or key not in found:
                return None
            found = found[key]
        return found

    def mode(self) -> str:
        """The configured mode of nvidia-container-runtime; `auto` is the built-in default."""
        mode = self.value("nvidia-container-runtime", "mode")
        return "auto" if mode in (None, "") else str(mode)

    def ldconfig(self) -> str | None:
        """The configured nvidia-container-cli.ldconfig, or None where the built-in default holds."""
        value = self.value("nvidia-container-cli", "ldconfig")
        return None if value in (None, "") else str(value)


def _exists(reading: Reading[FileMeta]) -> Reading[bool]:
    if reading.absent:
        return Reading.of(False, reading.source)
    return reading.map(lambda _: True)


def _sources(snapshot: Snapshot) -> Reading[Mapping[str, FileContent]]:
    found: dict[str, FileContent] = {}
    for pattern in ("/etc/apt/sources.list.d/*.list", "/etc/apt/sources.list.d/*.sources"):
        listed = snapshot.glob(pattern)
        if not listed.ok:
            return listed.without_value()
        for path in listed.value or ():
            content = snapshot.file(path)
            if not content.known:
                return Reading(content.status, None, path, content.detail)
            if content.value is not None and b"nvidia.github.io" in content.value.data:
                found[path] = content.value
    return Reading.of(found, "/etc/apt/sources.list.d")


def _named(snapshot: Snapshot, config: Reading[Mapping[str, Any]]) -> dict[str, Reading[FileMeta]]:
    found: dict[str, Reading[FileMeta]] = {}
    for section, key in PROGRAM_PATHS:
        table = (config.value or {}).get(section)
        path = table.get(key) if isinstance(table, dict) else None
        if isinstance(path, str) and path.startswith("/"):
            found[path] = snapshot.stat(path)
    return found


def _config(content: Reading[FileContent], dangling: str | None) -> Reading[Mapping[str, Any]]:
    """config.toml as the programs read it: a link to nowhere is no file, and a byte order mark is skipped (run with 1.20)."""
    if dangling is not None:
        return Reading.none(CONFIG, f"a link to {dangling}, which does not exist")
    return content.map(lambda found: toml(found.text().removeprefix("\ufeff")))


def parse(snapshot: Snapshot) -> Toolkit:
    content, dangling = snapshot.file(CONFIG), snapshot.dangling(CONFIG)
    config = _config(content, dangling)
    return Toolkit(
        version=snapshot.succeeded("nvidia-ctk").map(lambda found: parse_version(found.out)),
        programs={name: snapshot.program(name) for name in PROGRAMS},
        content=content,
        unread=snapshot.unread(CONFIG),
        config=config,
        dangling=dangling,
        ldconfig_wrapper=snapshot.found(LDCONFIG, SCRIPT).map(bool),
        ldconfig_real=_exists(snapshot.stat("/sbin/ldconfig.real")),
        ldconfig_there=_exists(snapshot.stat(LDCONFIG)),
        merged_sbin=snapshot.stat("/usr/sbin/ldconfig").ok,
        sources=_sources(snapshot),
        named=_named(snapshot, config),
    )
