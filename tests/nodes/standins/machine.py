"""STAND-IN for tests: what NVIDIA's tools read of the machine (driver, device nodes), and how they log."""

from __future__ import annotations

import json
import os
import platform
import re
import stat
import sys
import time
from pathlib import Path
from typing import NamedTuple

SETTINGS = Path("/etc/gpumend-standin.json")
LIBRARIES = Path(f"/usr/lib/{platform.machine()}-linux-gnu")
CONTROL_NODES = ("/dev/nvidia-modeset", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidiactl")


def settings() -> dict[str, object]:
    """What the test wants the stand-ins to be; the defaults where it said nothing."""
    try:
        return {"toolkit": "1.17.8", "faults": [], **json.loads(SETTINGS.read_bytes())}
    except FileNotFoundError:
        return {"toolkit": "1.17.8", "faults": []}


def toolkit_version() -> str:
    """The container toolkit's version that the stand-ins pretend to be."""
    return str(settings()["toolkit"])


def at_least(wanted: str) -> bool:
    """Whether the pretended toolkit is `wanted` or newer."""

    def key(version: str) -> list[int]:
        return [int(part) for part in re.findall(r"\d+", version.split("-")[0])]

    return key(toolkit_version()) >= key(wanted)


def faulty(name: str) -> bool:
    """Whether the test asked for this fault, such as "nvidia-ctk fails"."""
    faults = settings()["faults"]
    return isinstance(faults, list) and name in faults


def log(level: str, message: str) -> None:
    """One line on stderr in the format of logrus, which the Go tools log with."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    print(f'time="{now}" level={level} msg={json.dumps(message, ensure_ascii=False)}', file=sys.stderr)


class DriverError(Exception):
    """NVML could not be initialised; the message is NVML's own."""


class Device(NamedTuple):
    """One device node as it is now."""

    path: str
    major: int
    minor: int
    gid: int
    mode: int


def device(path: str) -> Device | None:
    """The character device at `path`, or None where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    if not stat.S_ISCHR(status.st_mode):
        return None
    return Device(
        path, os.major(status.st_rdev), os.minor(status.st_rdev), status.st_gid, stat.S_IMODE(status.st_mode)
    )


def loaded_driver() -> str | None:
    """The version of the loaded kernel module."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
    except OSError:
        return None
    match = re.search(r"(?:x86_64|aarch64|Kernel Module)  (\d+(?:\.\d+)+)", text)
    return match[1] if match else None


def library_driver() -> str | None:
    """The version of the installed libnvidia-ml."""
    for path in sorted(LIBRARIES.glob("libnvidia-ml.so.*.*")):
        return path.name.removeprefix("libnvidia-ml.so.")
    return None


def driver() -> str:
    """The driver's version where NVML would initialise; raises `DriverError` otherwise."""
    library = library_driver()
    if library is None or not (LIBRARIES / "libnvidia-ml.so.1").exists():
        raise DriverError("ERROR_LIBRARY_NOT_FOUND")
    loaded = loaded_driver()
    if loaded is None or device("/dev/nvidiactl") is None:
        raise DriverError("Driver Not Loaded")
    if loaded != library:
        raise DriverError("Driver/library version mismatch")
    return loaded


def gpus() -> list[tuple[int, str]]:
    """(minor number, UUID) of each GPU that the kernel module knows."""
    found = []
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        text = path.read_text(encoding="utf-8")
        uuid = re.search(r"^GPU UUID:\s*(\S+)", text, re.MULTILINE)
        minor = re.search(r"^Device Minor:\s*(\d+)", text, re.MULTILINE)
        if uuid and minor:
            found.append((int(minor[1]), uuid[1]))
    return found
