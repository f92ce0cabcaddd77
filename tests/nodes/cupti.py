"""CUPTI's real packages: Debian's from non-free and NVIDIA's wheels, fetched once a machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.nodes.base import CACHE, KEYRING, BaseError, base, ensure_tools, locked, mirror

WHEELS = ("nvidia-cuda-cupti-cu12==12.9.79", "nvidia-cuda-cupti==13.5.25")


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BaseError(f"{' '.join(argv[:3])}: {(done.stderr or done.stdout)[-500:].strip()}")


def packages(suite: str, *names: str) -> tuple[Path, ...]:
    """The .deb of each package of a suite's non-free, which the machine's own sources do not have."""
    ensure_tools()
    home = CACHE / f"cupti-{suite}"
    home.mkdir(parents=True, exist_ok=True)
    with locked(CACHE / f"cupti-{suite}.lock"):
        if not all(list(home.glob(f"{name}_*.deb")) for name in names):
            _fetch(suite, home, names)
    return tuple(next(home.glob(f"{name}_*.deb")) for name in names)


def _fetch(suite: str, home: Path, names: tuple[str, ...]) -> None:
    for directory in ("lists/partial", "archives/partial"):
        (home / directory).mkdir(parents=True, exist_ok=True)
    sources = home / "sources.list"
    uri = mirror(base(suite) / "etc" / "apt")  # where the suite's base came from
    if uri is None:
        raise BaseError(f"the base of {suite} does not say where its packages are from")
    sources.write_text(f"deb [signed-by={KEYRING}] {uri} {suite} non-free\n", "utf-8")
    options = {
        "Dir::Etc::sourcelist": sources, "Dir::Etc::sourceparts": "-", "Dir::State::lists": home / "lists",
        "Dir::Cache": home, "Dir::State::status": "/dev/null", "APT::Sandbox::User": "root",
    }  # fmt: skip
    given = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
    _run("apt-get", *given, "-qq", "update")
    for name in names:
        _run(
            "sh",
            "-c",
            'cd "$1" && shift && exec apt-get "$@"',
            "sh",
            str(home),
            *given,
            "-qq",
            "download",
            name,
        )


def wheels() -> tuple[Path, ...]:
    home = CACHE / "cupti-wheels"
    home.mkdir(parents=True, exist_ok=True)
    with locked(CACHE / "cupti-wheels.lock"):
        if len(list(home.glob("*.whl"))) < len(WHEELS):
            _run(sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(home), *WHEELS)
    return tuple(sorted(home.glob("*.whl")))
