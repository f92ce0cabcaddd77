"""Names and numbers of the driver's packages, for the host and for who judges it: stdlib only, Python 3.6 or newer."""

import re
from typing import Mapping, Tuple


def has_driver_number(name: str) -> bool:
    """Whether a package's version is the driver's own, whoever packs it. The pinning packages are none: they are preferences of
    apt's (NVIDIA driver installation guide, Version Locking). By rpm: NVIDIA's yum-packaging-nvidia-driver and -dkms-nvidia, SUSE's
    G06 and G07, RPM Fusion's."""
    found = re.fullmatch(
        r"(?:nvidia-(?:driver(?!-pinning|-assistant)|headless|dkms|open|kernel-dkms|kernel-open-dkms|compute-utils|utils|smi"
        r"|fabric-?manager|imex|compute-G0\d|kmod-common)"
        r"|libnvidia-compute|libcuda1|cuda-drivers|kmod-nvidia|akmod-nvidia|xorg-x11-drv-nvidia)(?:-[A-Za-z0-9._-]*)?",
        name,
    )
    return found is not None


def is_driver_package(name: str) -> bool:
    """Whether it is held, and left alone by unattended-upgrades: all of the driver's, and not the container toolkit, whose
    upgrades close holes (`libnvidia-container1`), nor Fedora's nouveau firmware, which wants linux-firmware's very version."""
    found = re.fullmatch(
        r"nvidia-(?!container|docker|cuda-|gpu-firmware$)[A-Za-z0-9._-]*|libnvidia-(?!container|ml-dev)[a-z0-9.-]*|libcuda1|libnvcuvid1|libnvsdm\S*"
        r"|cuda-drivers\S*|firmware-nvidia-\S*|linux-(?:modules|objects|signatures)-nvidia-\S*|nvlsm"
        r"|a?kmod-nvidia\S*|xorg-x11-(?:drv-)?nvidia\S*",
        name,
    )
    return found is not None


def is_kernel_package(name: str) -> bool:
    """Whether it brings another kernel at the next boot."""
    found = re.fullmatch(
        r"linux-image-\S*|linux-modules-(?!nvidia-)\S*|linux-(?:generic|virtual|aws|azure|gcp|oracle)\S*",
        name,
    )
    return found is not None or is_rpm_kernel(name)


def is_rpm_kernel(name: str) -> bool:
    """kernel, kernel-core, kernel-uek, kernel6.12, kernel-default and what is theirs; not what modules are built with, nor tools."""
    if not re.match(r"kernel(?:[0-9.]*)(?:-|$)", name):
        return False
    beside = ("devel", "headers", "macros", "firmware", "syms", "tools", "source", "doc", "abi", "livepatch")
    return not any(word in name for word in beside)


def driver_number(version: str) -> Tuple[int, ...]:
    """A package's version as the driver's: `1:580.95.05-0ubuntu1` -> (580, 95, 5); () for one that is none."""
    match = re.match(r"(?:\d+:)?(\d{3})\.(\d{1,3})(?:\.(\d{1,3}))?(?![\d.])", version)
    if not match or int(match.group(1)) < 300:
        return ()
    return tuple(int(part) for part in match.groups() if part)


def driver_numbers(versions: Mapping[str, str]) -> Mapping[str, Tuple[int, ...]]:
    """Of these packages (name -> version) those that have the driver's own number."""
    found = ((name, driver_number(version)) for name, version in versions.items())
    return dict((name, number) for name, number in found if number and has_driver_number(name))


def shown_number(number: Tuple[int, ...]) -> str:
    """(580, 95, 5) -> `580.95.05`, as NVIDIA writes it."""
    return ".".join([str(number[0])] + ["%02d" % part for part in number[1:]])
