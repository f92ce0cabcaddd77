"""Version numbers as tuples of integers: 12.10 is newer than 12.9, and parts may be two or three."""

from __future__ import annotations

import re

Version = tuple[int, ...]
DOTTED_NUMBER = re.compile(r"(?<!\d)\d+(?:\.\d+)+")


def parse_version(text: str) -> Version:
    """The first dotted number in a text: '20.10.24+dfsg1' -> (20, 10, 24). Raises ValueError without one."""
    match = DOTTED_NUMBER.search(text)
    if match is None:
        raise ValueError(f"no version number in {text.strip()[:60]!r}")
    return tuple(map(int, match.group().split(".")))


def told_version(value: object) -> Version | None:
    """A version as our own documents or a program tell it, `29.2.1` or [29, 2, 1]; None of anything else."""
    if isinstance(value, list) and value and all(isinstance(part, int) for part in value):
        return tuple(value)
    try:
        return parse_version(value) if isinstance(value, str) else None
    except ValueError:
        return None


def show(version: Version) -> str:
    """The number as people write it. Driver parts keep their two digits (550.54.15, 580.65.06)."""
    if (
        len(version) == 3 and version[0] >= 300 and version[2]
    ):  # NVIDIA drivers: two digits; but Tegra's 540.4.0
        return f"{version[0]}.{version[1]:02d}.{version[2]:02d}"
    if len(version) == 2 and version[0] >= 300:  # Windows drivers: 576.02
        return f"{version[0]}.{version[1]:02d}"
    return ".".join(str(part) for part in version)


def upstream(version: str) -> str:
    """A package's version without epoch and revision: `1:1.17.8-1` -> `1.17.8`."""
    bare = version.rpartition(":")[2]
    return bare.rpartition("-")[0] or bare


def package_version(version: str) -> Version:
    """A package's version as a number: `1:1.17.8-1` -> (1, 17, 8). Raises ValueError where there is none in it."""
    return parse_version(upstream(version))
