"""A driver's packages by their names of rpm: NVIDIA's for dnf, in module streams or without them, and NVIDIA's and SUSE's for zypper;
what is in them are the stand-ins of driver_packages.py."""

from __future__ import annotations

from dataclasses import replace

from tests.nodes import yum
from tests.nodes.apt import Deb
from tests.nodes.driver_packages import BRANCH, KERNEL, NEWER, NEXT, PERSISTENCED, built, libraries

MODULE_FILE = "/etc/dnf/modules.d/nvidia-driver.module"
PLUGIN = (
    "python3-dnf-plugin-versionlock"  # what it brings is in the tree already, of Debian's dnf-plugins-core
)
KMP = f"nvidia-open-driver-G06-signed-cuda-kmp-{KERNEL.rpartition('-')[2]}"
EPOCH = "3:"  # NVIDIA/yum-packaging-nvidia-driver, nvidia-driver.spec
FLAVOURS = {"kmod-nvidia-open-dkms": "Dual MIT/GPL", "kmod-nvidia-latest-dkms": "NVIDIA"}


def persistenced(version: str) -> Deb:
    unit = "/usr/lib/systemd/system/nvidia-persistenced.service"
    return Deb("nvidia-persistenced", f"{version}-1", files={unit: (PERSISTENCED.encode(), 0o644)})


def headers() -> Deb:
    """kernel-devel-KERNEL by its name, version and release, wherever the dashes of this kernel's release are."""
    name, version, release = f"kernel-devel-{KERNEL}".rsplit("-", 2)
    path = f"/usr/lib/modules/{KERNEL}/build/Makefile"
    return Deb(name, f"{version}-{release}", files={path: (b"# STAND-IN for tests\n", 0o644)})


def of_dnf(version: str, fails: bool = False) -> list[Deb]:
    """What NVIDIA has of one version: nvidia-driver-cuda wants modules of either flavour."""
    kmods = [
        replace(
            built(name, version, licence, fails),
            version=f"{EPOCH}{version}-1",
            conflicts=next(each for each in FLAVOURS if each != name),
        )
        for name, licence in FLAVOURS.items()
    ]
    full = f"{EPOCH}{version}"
    depends = f"nvidia-kmod (= {full}), nvidia-persistenced (= {full})"
    cuda = replace(libraries(version), version=f"{full}-1", depends=depends)
    return [cuda, *kmods, replace(persistenced(version), version=f"{full}-1")]


def of_zypper(version: str, fails: bool = False) -> list[Deb]:
    """SUSE's prebuilt module, which has its kernel's version behind the driver's, and what NVIDIA has beside it."""
    kmp = replace(
        built(KMP, version, "Dual MIT/GPL", fails), version=f"{version}_k6.4.0_150600.21-1", conflicts=""
    )
    utils = replace(libraries(version), name="nvidia-compute-utils-G06", depends="")
    return [kmp, utils, persistenced(version)]


def debs(manager: str, fails: bool = False, beside: str = NEXT) -> list[Deb]:
    """All of it, of two branches; Fabric Manager is one version ahead."""
    of = of_dnf if manager == "dnf" else of_zypper
    found = [deb for version in (BRANCH, beside) for deb in of(version, fails)]
    found += [Deb("nvidia-fabricmanager", f"{version}-1") for version in (BRANCH, NEWER)]
    return [
        *found,
        Deb("nvlsm", "2025.06.11-1"),
        *([headers(), Deb(PLUGIN, "4.3.0-1")] if manager == "dnf" else []),
    ]


def streams() -> str:
    """NVIDIA's module, as far as two branches go: the default stream has the newest one alone."""
    return yum.modulemd(
        "nvidia-driver",
        "open-dkms",
        {"580-open": of_dnf(BRANCH), "590-open": of_dnf(NEXT), "open-dkms": of_dnf(NEXT)},
    )


def names(manager: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(deb.name for deb in debs(manager)))
