"""Which files of a working copy are compose projects, and how they are opened: links of other users lead nowhere."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterable
from pathlib import Path

import click

from gpumend.deploy import trust
from gpumend.reports.outputs import replaced
from gpumend.state.compose_files import DEFAULTS, OVERRIDES
from gpumend.text.interpolate import dotenv
from gpumend.text.yaml_nodes import LARGEST

PATTERN = "*compose*.y*ml"


def opened(path: str) -> bytes:
    """The file's bytes, one more than the largest at most. Raises OSError."""
    try:
        trust.links(Path(path), trust.owners())
    except trust.UntrustedError as error:
        raise PermissionError(13, str(error)) from None
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(22, "not a regular file")
        with os.fdopen(handle, "rb", closefd=False) as file:
            return file.read(LARGEST + 1)
    finally:
        os.close(handle)


def projects(paths: Iterable[str], together: Iterable[str]) -> list[tuple[str, ...]]:
    """The files of each project: all of -f are one; a file is one by itself; of a directory what Compose would take, else each
    file with compose in its name. Raises click.UsageError where there is none."""
    found = [tuple(together)] if together else []
    for path in paths or (() if together else (".",)):
        if Path(path).is_dir():
            found += _of_directory(path)
        elif Path(path).exists() or Path(path).is_symlink():
            found.append((path,))
        else:
            raise click.UsageError(f"{path}: no such file or directory")
    for name in together:
        if not os.path.lexists(name):
            raise click.UsageError(f"{name}: no such file")
    return found


def _of_directory(directory: str) -> list[tuple[str, ...]]:
    prefix = "" if directory in (".", "./") else f"{directory.rstrip('/')}/"
    if named := _of_env(prefix):
        return [named]
    for name in DEFAULTS:
        if os.path.lexists(f"{prefix}{name}"):
            more = [found for over in OVERRIDES if os.path.lexists(found := f"{prefix}{over}")]
            return [(f"{prefix}{name}", *more[:1])]
    names = sorted(path.name for path in Path(directory).glob(PATTERN))
    if not names:
        raise click.UsageError(f"{directory}: no compose file here ({', '.join(DEFAULTS)}, {PATTERN})")
    return [(f"{prefix}{name}",) for name in names]


def _of_env(prefix: str) -> tuple[str, ...]:
    """The files that .env's COMPOSE_FILE names, as Compose takes them where no -f is given. Nothing else of it counts here: whatever
    the profiles every service is judged, and no Docker is asked."""
    try:
        known = dotenv(opened(f"{prefix}.env").decode("utf-8", "replace"))
    except OSError:
        return ()
    listed = (known.get("COMPOSE_FILE") or "").split(known.get("COMPOSE_PATH_SEPARATOR") or os.pathsep)
    return tuple(str(Path(prefix, name)) for name in listed if name)


def uncommitted(path: str) -> str:
    """Why git could not give the file back as it is now; empty where it could."""
    file = Path(path).absolute()
    # A repository's own configuration may name programs for git to run: none of them is.
    command = [
        "git",
        "-c",
        "core.fsmonitor=false",
        "-c",
        "core.hooksPath=/dev/null",
        "status",
        "--porcelain",
        "--ignored",
        "--",
        file.name,
    ]
    try:
        done = subprocess.run(
            command, cwd=file.parent, capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"git does not answer: {error}"
    if done.returncode:
        return "it is in no git repository"
    mark = done.stdout[:2]
    return {"": "", "??": "git does not have it", "!!": "git ignores it"}.get(
        mark, "it has uncommitted changes"
    )


def write(path: str, before: bytes, after: bytes) -> None:
    """The file is whole, old or new; mode kept. Raises OSError, too, where it is not what was read any more, or another user's."""
    if opened(path) != before:
        raise OSError(5, "it changed meanwhile")
    real = Path(os.path.realpath(path))
    status = real.stat()
    if status.st_uid != os.geteuid():
        raise PermissionError(13, f"it belongs to uid {status.st_uid}: run this as that user")
    replaced(real, after, stat.S_IMODE(status.st_mode))
