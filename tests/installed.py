"""gpumend as it is installed: the sdist, the wheel that is made of it, and an environment that has the wheel and no checkout."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tarfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-cache-dir")


def built(where: Path) -> tuple[Path, Path]:
    """The sdist, by the build backend as a build frontend calls it, and the wheel that pip makes of the unpacked sdist: neither
    has anything of the checkout that the sdist does not bring."""
    call = "import sys; from hatchling.build import build_sdist; build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", call, str(where)], cwd=ROOT, check=True, capture_output=True)
    [sdist] = where.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(where / "source", filter="data")
    [source] = (where / "source").iterdir()
    return sdist, wheel_of(source, where)


def wheel_of(source: Path, where: Path) -> Path:
    """The wheel that pip makes of this source."""
    words = ["--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(where), str(source)]
    subprocess.run([*PIP, "wheel", *words], cwd=where, check=True, capture_output=True)
    [wheel] = where.glob("*.whl")
    return wheel


def installed(wheel: Path, where: Path) -> Path:
    """The programs' directory of a virtual environment that has the wheel, and the dependencies of this one without gpumend:
    its editable installation is a .pth file, which counts in this environment's own site directory alone."""
    venv.create(where, with_pip=False)
    words = ["install", "--no-deps", "--no-index", "--ignore-installed", str(wheel)]
    subprocess.run(
        [*PIP, "--python", str(where / "bin/python"), *words], check=True, capture_output=True, cwd=where
    )
    site = Path(sysconfig.get_path("purelib", vars={"base": str(where)}))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return where / "bin"
