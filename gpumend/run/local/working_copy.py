"""A working copy on this machine: its Dockerfiles, and the context of each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from gpumend.rules.dockerfile.context import Files
from gpumend.text import dockerignore
from gpumend.text.dockerfile import LARGEST, DockerfileError, parse

MANY = 200_000  # files of a context; beyond that nothing is told from what is not there
NOT_ENTERED = (".git", ".hg", ".svn", "node_modules", "__pycache__", ".venv", ".tox", ".mypy_cache")
UP = 8  # directories above a Dockerfile in which its context is looked for


class WorkingCopyError(ValueError):
    """A path that is no Dockerfile and has none. The text says which, and why."""


def is_dockerfile(name: str) -> bool:
    """`Dockerfile`, `Dockerfile.gpu`, `gpu.Dockerfile`, and the same with Containerfile."""
    low = name.lower()
    if low.endswith(
        (
            ".dockerignore",
            ".md",
            ".py",
            ".sh",
            ".yml",
            ".yaml",
            ".j2",
            ".jinja",
            ".jinja2",
            ".tmpl",
            ".template",
            ".in",
            ".orig",
            ".rej",
        )
    ):
        return False
    return (
        low.startswith(("dockerfile.", "containerfile."))
        or low in ("dockerfile", "containerfile")
        or low.endswith((".dockerfile", ".containerfile"))
    )


def dockerfiles(path: Path) -> tuple[Path, ...]:
    """A Dockerfile itself, or all that lie in a directory. Raises WorkingCopyError where there is none."""
    if path.is_file():
        return (path,)
    if not path.is_dir():
        raise WorkingCopyError(f"{path} is not there")
    found = [
        Path(directory, name)
        for directory, names, entries in os.walk(path)
        if names.sort() is None and _prune(names)
        for name in sorted(entries)
        if is_dockerfile(name)
    ]
    if not found:
        raise WorkingCopyError(f"{path} has no Dockerfile")
    return tuple(found)


def _prune(names: list[str]) -> bool:
    names[:] = [name for name in names if name not in NOT_ENTERED]
    return True


def text_of(path: Path) -> str:
    """Raises OSError."""
    with path.open("rb") as opened:
        return opened.read(LARGEST + 1).decode("utf-8", "replace")


def _names(root: Path) -> Iterator[str]:
    for directory, names, entries in os.walk(root):
        names[:] = sorted(name for name in names if name not in NOT_ENTERED)
        start = os.path.relpath(directory, root)
        for name in (*entries, *(found for found in names if Path(directory, found).is_symlink())):
            yield name if start == "." else f"{start}/{name}".replace(os.sep, "/")


def context(root: Path, dockerfile: Path) -> Files:
    """The files of a context. Raises WorkingCopyError for a .dockerignore that no build accepts."""
    names = set()
    whole = True
    for name in _names(root):
        names.add(name)
        if len(names) >= MANY:
            whole = False
            break
    real = root.resolve()

    def read(name: str) -> str | None:
        path = root / name
        try:  # a link may lead anywhere; what is outside of the context is not read for its sake
            if not path.is_file() or real not in path.resolve().parents or path.stat().st_size > LARGEST:
                return None
            return text_of(path)
        except OSError:
            return None

    return Files(frozenset(names), read, _ignore(root, dockerfile), whole)


def _ignore(root: Path, dockerfile: Path) -> dockerignore.Ignore:
    """The Dockerfile's own .dockerignore counts before the context's (docs.docker.com/build/concepts/context)."""
    own = dockerfile.with_name(f"{dockerfile.name}.dockerignore")
    for path in (own, root / ".dockerignore"):
        if path.is_file():
            try:
                return dockerignore.parse(text_of(path), os.path.relpath(path, root))
            except (OSError, ValueError) as error:
                raise WorkingCopyError(f"{path}: {error}") from None
    return dockerignore.Ignore()


def root_of(dockerfile: Path) -> Path:
    """The context that a Dockerfile is likely built in: its own directory, or the nearest above, within the same working copy,
    that has what it copies."""
    try:
        wanted = _sources(text_of(dockerfile))
    except (OSError, DockerfileError):
        wanted = ()
    own = dockerfile.absolute().parent
    best, most = own, _present(own, wanted)
    directory = own
    for _ in range(UP):
        if most == len(wanted) or (directory / ".git").exists() or directory.parent == directory:
            break
        directory = directory.parent
        found = _present(directory, wanted)
        if found > most:
            best, most = directory, found
    return best


def _sources(text: str) -> tuple[str, ...]:
    return tuple(
        word
        for found in parse(text).instructions
        if found.name in ("COPY", "ADD") and found.flag("from") is None
        for word in found.words()[:-1]
        if not any(char in word for char in "$*?[<:") and word not in (".", "./", "/")
    )


def _present(directory: Path, wanted: tuple[str, ...]) -> int:
    return sum((directory / name.lstrip("/")).exists() for name in wanted)
