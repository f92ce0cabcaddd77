"""Names and numbers of the driver's packages, for the host and for who judges it: stdlib only, Python 3.6 or newer."""

import re
from typing import Mapping, Tuple


def has_driver_number(name: str) -> bool:
    """Whether a package's version is the driver's own, on Debian and Ubuntu, whoever packs it. The pinning packages are none:
    they are preferences of apt's (NVIDIA driver installation guide, Version Locking)."""
    found = re.fullmatch(
        r"(?:nvidia-(?:driver(?!-pinning)|headless|dkms|open|kernel-dkms|kernel-open-dkms|compute-utils|utils|smi|fabricmanager|imex)"
        r"|libnvidia-compute|libcuda1|cuda-drivers)(?:-[a-z0-9.-]*)?",
        name,
    )
    return found is not None


def is_driver_package(name: str) -> bool:
    """Whether it is held, and left alone by unattended-upgrades: all of the driver's, and not the container toolkit, whose
    upgrades close holes (`libnvidia-container1`)."""
    found = re.fullmatch(
        r"nvidia-(?!container|docker|cuda-)[a-z0-9.-]*|libnvidia-(?!container|ml-dev)[a-z0-9.-]*|libcuda1|libnvcuvid1|libnvsdm\S*"
        r"|cuda-drivers\S*|firmware-nvidia-\S*|linux-(?:modules|objects|signatures)-nvidia-\S*|nvlsm",
        name,
    )
    return found is not None


def is_kernel_package(name: str) -> bool:
    """Whether it brings another kernel at the next boot."""
    found = re.fullmatch(
        r"linux-image-\S*|linux-modules-(?!nvidia-)\S*|linux-(?:generic|virtual|aws|azure|gcp|oracle)\S*",
        name,
    )
    return found is not None


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
