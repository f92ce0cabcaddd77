"""Fixtures for tests of the programs that run on hosts."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Path]:
    """A directory for stand-in programs that root may execute: pytest's own lie below /tmp, where anybody may write."""
    if os.geteuid() != 0:
        yield tmp_path
        return
    directory = Path(tempfile.mkdtemp(prefix="gpumend-test-", dir="/var/lib"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def daemon(programs: Path) -> Callable[[str], str]:
    """daemon(name): a program of that name which does nothing for as many seconds as it is told, and is what it seems."""

    def made(name: str) -> str:
        shutil.copy("/bin/sleep", programs / name)
        return str(programs / name)

    return made
