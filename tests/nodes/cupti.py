"""CUPTI's real packages: Debian's from non-free and NVIDIA's wheels, fetched once a machine."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.nodes.base import (
    CACHE,
    KEYRING,
    BaseError,
    base,
    called,
    ensure_tools,
    fetched,
    locked,
    mirror,
)

WHEELS = ("nvidia-cuda-cupti-cu12==12.9.79", "nvidia-cuda-cupti==13.5.25")


def packages(suite: str, *names: str) -> tuple[Path, ...]:
    """The .deb of each package of a suite's non-free, which the machine's own sources do not have."""
    ensure_tools()
    home = CACHE / f"cupti-{suite}"
    home.mkdir(parents=True, exist_ok=True)
    with locked(CACHE / f"cupti-{suite}.lock"):
        if not all(list(home.glob(f"{name}_*.deb")) for name in names):
            uri = mirror(base(suite) / "etc" / "apt")  # where the suite's base came from
            if uri is None:
                raise BaseError(f"the base of {suite} does not say where its packages are from")
            fetched(home, f"deb [signed-by={KEYRING}] {uri} {suite} non-free\n", names)
    return tuple(next(home.glob(f"{name}_*.deb")) for name in names)


def wheels() -> tuple[Path, ...]:
    home = CACHE / "cupti-wheels"
    home.mkdir(parents=True, exist_ok=True)
    with locked(CACHE / "cupti-wheels.lock"):
        if len(list(home.glob("*.whl"))) < len(WHEELS):
            called(
                [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(home), *WHEELS], home
            )
    return tuple(sorted(home.glob("*.whl")))
