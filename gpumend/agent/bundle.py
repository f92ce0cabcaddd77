"""The agent as one file: a zip that Python runs, of what judges a host and the three libraries that this needs."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import tomli
import tomlkit
import yaml

import gpumend
from gpumend.reports.document import tool_version

# What judges a host and what changes one; not what talks to other hosts.
ROOMS = ("agent", "payload", "plan", "reports", "rules", "run", "schemas", "state", "text")
APART = (
    "run/remote", "reports/formats", "reports/collected.py", "reports/history.py", "reports/scraped.py",
    "agent/bundle.py", "rules/sources.py",
)  # fmt: skip
FORMATS = ("__init__", "prometheus")
LIBRARIES = (tomli, tomlkit, yaml)  # their Python sources; what is compiled of them stays here
HEAD = b"#!/usr/bin/python3 -ISB\n"
MAIN = "import sys\n\nfrom gpumend.agent.main import main\n\nsys.exit(main())\n"
# The oldest date that a zip can have: the same files make the same bytes.
DATE = (1980, 1, 1, 0, 0, 0)


def _files() -> Iterator[tuple[str, bytes]]:
    package = Path(gpumend.__file__).parent
    yield "__main__.py", MAIN.encode("ascii")
    yield "gpumend/__init__.py", (package / "__init__.py").read_bytes()
    for room in ROOMS:
        for path in sorted((package / room).rglob("*")):
            name = path.relative_to(package).as_posix()
            if path.suffix in (".py", ".json") and not name.startswith(APART):
                yield f"gpumend/{name}", path.read_bytes()
    for name in FORMATS:
        yield f"gpumend/reports/formats/{name}.py", (package / f"reports/formats/{name}.py").read_bytes()
    for library in LIBRARIES:
        directory = Path(str(library.__file__)).parent
        for path in sorted(directory.glob("*.py")):
            yield f"{directory.name}/{path.name}", path.read_bytes()
    yield "gpumend/VERSION", tool_version().encode("ascii")


@cache
def bundle() -> bytes:
    """The file's bytes: the same for the same sources."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as made:
        for name, data in _files():
            made.writestr(zipfile.ZipInfo(name, DATE), data, zipfile.ZIP_DEFLATED, 9)
    return HEAD + out.getvalue()


@cache
def digest() -> str:
    """SHA-256 of the file, hex: which agent this is."""
    return hashlib.sha256(bundle()).hexdigest()
