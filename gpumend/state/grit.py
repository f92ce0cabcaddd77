"""GRIT: grit.toml as containerd-shim-grit-v1 decodes it.

kaito-project/grit cmd/containerd-shim-grit-v1/runc/container.go readRuntimeOptions: the file is decoded into containerd's
runc Options (api/types/runc/options/oci.proto), not strictly: a key that is none of them is ignored without a word.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpumend.state.reading import Reading
from gpumend.state.request import Glob, Request
from gpumend.state.snapshot import FileContent, FileMeta, Snapshot
from gpumend.text.documents import toml
from gpumend.text.record import Record

CONFIG = "/etc/containerd/grit.toml"
ROOT = "/run/containerd/runc"  # where Root is not set: process/utils.go RuncRoot
# api/types/runc/options/oci.proto (containerd 2.0). CriuPath went in 2.0: the shim looks for criu in its PATH.
OPTIONS: Mapping[str, type] = {
    "NoPivotRoot": bool,
    "NoNewKeyring": bool,
    "ShimCgroup": str,
    "IoUid": int,
    "IoGid": int,
    "BinaryName": str,
    "Root": str,
    "SystemdCgroup": bool,
    "CriuImagePath": str,
    "CriuWorkPath": str,
    "TaskApiAddress": str,
    "TaskApiVersion": int,
}
REMOVED = {"CriuPath": "containerd 2.0 took it away: criu has to be in the shim's PATH"}
BINARIES = ("nvidia-container-runtime", "runc", "crun")

REQUEST = Request(files=(CONFIG,), globs=(Glob(CONFIG, mentioned=True),), programs=BINARIES)


class Grit(Record):
    """options: the keys that the decoder takes, under their own names. ignored: keys that it does not know, as they
    stand. wrong: keys whose type makes it fail. binaries: metadata of the absolute paths that the file names."""

    content: Reading[FileContent]
    raw: Reading[Mapping[str, Any]]
    paths: Mapping[str, Reading[FileMeta]]

    @property
    def options(self) -> dict[str, Any]:
        """Keys are case-insensitive, as go-toml v2 matches fields."""
        names = {name.lower(): name for name in OPTIONS}
        return {
            names[key.lower()]: value for key, value in (self.raw.get() or {}).items() if key.lower() in names
        }

    @property
    def ignored(self) -> tuple[str, ...]:
        known = {name.lower() for name in OPTIONS}
        return tuple(key for key in self.raw.get() or {} if key.lower() not in known)

    @property
    def wrong(self) -> dict[str, type]:
        return {
            name: OPTIONS[name]
            for name, value in self.options.items()
            if not isinstance(value, OPTIONS[name]) or (isinstance(value, bool) and OPTIONS[name] is int)
        }

    @property
    def binary(self) -> str:
        return str(self.options.get("BinaryName") or "")


def meant(key: str) -> str | None:
    """The option that an ignored key was meant to be: `binary_name` is BinaryName."""
    plain = key.replace("_", "").replace("-", "").lower()
    return next((name for name in (*OPTIONS, *REMOVED) if name.lower() == plain), None)


def parse(snapshot: Snapshot) -> Grit:
    content = snapshot.file(CONFIG)
    raw: Reading[Mapping[str, Any]] = content.map(lambda file: toml(file.text()))
    values = {
        value for value in (raw.value or {}).values() if isinstance(value, str) and value.startswith("/")
    }
    return Grit(content, raw, {path: snapshot.stat(path) for path in values})
