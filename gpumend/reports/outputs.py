"""Where reports go: `FORMAT=PATH`, several at once; each file is whole or as it was."""

from __future__ import annotations

import errno
import os
import pkgutil
import stat
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from gpumend.reports import formats
from gpumend.reports.format import EVERY, FORMATS, JUDGED, Format

STDOUT = "-"


class OutputError(ValueError):
    """An output that is not one. The text says what is wrong, and what is allowed."""


@dataclass(frozen=True)
class Output:
    """A format, and the file that it is written to; `-` is standard output."""

    format: str
    path: str


@cache
def known() -> Mapping[str, Format]:
    """Every format by name. Their modules are loaded when the first report is written, and not for verbs that write none."""
    for found in pkgutil.iter_modules(formats.__path__, f"{formats.__name__}."):
        import_module(found.name)
    return dict(sorted(FORMATS.items()))


def parse(text: str) -> Output:
    """`junit=report.xml`. Raises OutputError."""
    name, equals, path = text.partition("=")
    if name not in known():
        raise OutputError(f"{text!r}: no format {name!r}; formats: {', '.join(known())}")
    if not equals or not path:
        raise OutputError(f"{text!r}: FORMAT=PATH is needed, as {name}=report.{name}; - is standard output")
    return Output(name, path)


def parse_all(texts: Iterable[str]) -> tuple[Output, ...]:
    """All outputs of a run. Raises OutputError, too, where two would go to one file."""
    found = tuple(map(parse, texts))
    paths = [output.path for output in found]
    for path in paths:
        if paths.count(path) > 1:
            raise OutputError(f"two formats for {'standard output' if path == STDOUT else path}")
    return found


def fits(outputs: Iterable[Output], kind: str) -> None:
    """Raises OutputError where a format does not show documents of this kind."""
    for output in outputs:
        if kind not in known()[output.format].kinds:
            able = ", ".join(name for name, found in known().items() if kind in found.kinds)
            raise OutputError(f"{output.format} does not show the report of {kind}; formats that do: {able}")


def _with_error(document: dict[str, Any]) -> dict[str, Any]:
    """A run that was not begun, as one with a host that gave no answer: no format shows it as a run without faults."""
    if not document.get("error") or document["kind"] not in JUDGED:
        return document
    host = {"status": "no answer", "exit": 1, "error": document["error"], "facts": {}, "findings": []}
    host |= {"passed": [], "skipped": [], "plan": [], "blocked": {}, "wanted": None}
    if document["kind"] == "mend":
        host |= {"found": [], "changes": [], "proof": None}
    return {**document, "hosts": {"(no host)": host}}


def write(document: dict[str, Any], output: Output) -> None:
    """The file holds the whole report, or what it held before; a new one is its owner's alone (0600: it names hosts and
    their weaknesses), but where a format's reader is another user. Raises OSError."""
    found = known()[output.format]
    text = found.render(_with_error(document) if found.kinds != EVERY else document)
    if output.path == STDOUT:
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    path = Path(output.path)
    if planted(path):
        raise PermissionError(
            errno.EACCES, "it is another user's, in a directory where anybody may write", str(path)
        )
    if path.exists() and not path.is_file():  # /dev/stderr, a pipe: nothing to replace
        path.write_text(text, "utf-8")
        return
    path = Path(os.path.realpath(path))  # a symlink stays one
    mode = 0o644 if found.public else 0o600
    if path.exists():
        mode = stat.S_IMODE(path.stat().st_mode)
    replaced(path, text.encode("utf-8"), mode)


def planted(path: Path) -> bool:
    """Whether another user has put there, for us to follow or to fill, a link, a pipe, a directory, or a file of a mode of his: in
    /tmp. As the kernel has it for links (proc(5), fs.protected_symlinks), which it cannot where the link is resolved here."""
    try:
        found, directory = os.lstat(path), os.stat(path.parent)
    except OSError:
        return False  # nothing is there
    open_to_all = directory.st_mode & stat.S_ISVTX and directory.st_mode & stat.S_IWOTH
    mine = found.st_uid in (os.geteuid(), directory.st_uid)
    return bool(open_to_all and not mine)


def replaced(path: Path, data: bytes | Iterable[bytes], mode: int) -> None:
    """The file holds this, with this mode, or is what it was. data: all of it, or its parts. Raises OSError."""
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as out:
            out.writelines((data,) if isinstance(data, bytes) else data)
            out.flush()
            os.fsync(out.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
