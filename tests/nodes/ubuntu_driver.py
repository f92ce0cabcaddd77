"""Ubuntu's own driver packages, from its restricted archive, fetched once a machine; the kernel's module alone is a stand-in."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path

from tests.nodes.apt import Deb
from tests.nodes.base import (
    CACHE,
    UBUNTU,
    BaseError,
    ensure_tools,
    fetched,
    locked,
    ubuntu_keyring,
    ubuntu_mirror,
)
from tests.nodes.driver_packages import KERNEL, built
from tests.nodes.mirror import Package

BRANCH = "580"
MODULES, GONE = (f"linux-modules-nvidia-{branch}-server-open-{KERNEL}" for branch in (BRANCH, "570"))
ASKED = (f"nvidia-headless-no-dkms-{BRANCH}-server-open", f"nvidia-utils-{BRANCH}-server")
# What they are made of beyond that; the firmware's package is named by its version.
BELOW = (
    f"nvidia-kernel-common-{BRANCH}-server", f"nvidia-kernel-source-{BRANCH}-server-open",
    f"libnvidia-compute-{BRANCH}-server", f"nvidia-compute-utils-{BRANCH}-server", f"libnvidia-cfg1-{BRANCH}-server",
)  # fmt: skip
# A branch that is gone: its packages bear its own number and want the next one's.
TRANSITIONAL = ("nvidia-headless-no-dkms-570-server-open", "nvidia-utils-570-server")
BESIDES = ("libpciaccess0", "ocl-icd-libopencl1")


def control(deb: Path) -> str:
    """The package's fields, as an index has them."""
    shown = subprocess.run(["dpkg-deb", "-f", str(deb)], capture_output=True, text=True, check=True).stdout
    return re.sub(r"(?m)^Description: (.*)\n(?: .*\n)*", r"Description: \1\n", shown)


def files() -> tuple[Path, ...]:
    """The archive's packages."""
    ensure_tools()
    home = CACHE / "ubuntu-driver"
    home.mkdir(parents=True, exist_ok=True)
    with locked(CACHE / "ubuntu-driver.lock"):
        names = [*ASKED, *BELOW, *TRANSITIONAL, *BESIDES]
        if not all(list(home.glob(f"{name}_*.deb")) for name in (*names, "nvidia-firmware-*")):
            uri = ubuntu_mirror()
            if uri is None:
                raise BaseError("no archive of Ubuntu is known here")
            signed = f"deb [signed-by={ubuntu_keyring()}] {uri}"
            line = "".join(f"{signed} {UBUNTU[0]}{pocket} main restricted\n" for pocket in ("", "-updates"))
            fetched(home, line, names)
            [common] = home.glob(f"{BELOW[0]}_*.deb")
            [firmware] = re.findall(r"nvidia-firmware-[\w.-]+", control(common))
            fetched(home, line, [firmware])
    return tuple(sorted(home.glob("*.deb")))


def version() -> str:
    """The driver's, as the packages have it: 580.178.04."""
    [utils] = [path for path in files() if path.name.startswith(f"{ASKED[1]}_")]
    return utils.name.split("_")[1].split("-")[0]


def modules() -> list[Deb]:
    """The signed modules of this kernel, for which Ubuntu has none, with the relations that Ubuntu's have; and those of the branch
    that is gone."""
    common = BELOW[0]
    made = replace(
        built(MODULES, version(), "Dual MIT/GPL"),
        version=f"{KERNEL.split('-')[0]}-1",
        depends=f"{common} (<= {version()}-1), {common} (>= {version()})",
        conflicts="",
    )
    return [made, Deb(GONE, made.version, MODULES)]


def packages() -> list[Package]:
    return [Package(path.name, control(path), path.read_bytes()) for path in files()]
