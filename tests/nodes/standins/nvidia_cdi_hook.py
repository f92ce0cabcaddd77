"""STAND-IN for tests, not NVIDIA's nvidia-cdi-hook: the createContainer hooks that a generated spec names
(captures/h100/cdi-h100.yaml). `create-symlinks` and `update-ldcache` do it; the others have nothing to do
here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from . import machine

NOTHING_TO_DO = (
    "enable-cuda-compat",
    "disable-device-node-modification",
    "update-application-profile",
    "chmod",
)


def container_root() -> Path:
    """The root directory of the container whose state the runtime gives on stdin."""
    state = json.load(sys.stdin)
    bundle = Path(state["bundle"])
    root = Path(json.loads((bundle / "config.json").read_bytes())["root"]["path"])
    return root if root.is_absolute() else bundle / root


def values(arguments: list[str], name: str) -> list[str]:
    """All values of a flag that may be repeated."""
    found = [argument.partition("=")[2] for argument in arguments if argument.startswith(f"{name}=")]
    return found + [arguments[i + 1] for i, argument in enumerate(arguments[:-1]) if argument == name]


def main() -> int:
    """Runs the hook's command line."""
    arguments = sys.argv[1:]
    if "--version" in arguments or "-v" in arguments:
        print(f"NVIDIA CDI Hook version {machine.toolkit_version()}\ncommit: {'0' * 40}")
        return 0
    command = arguments[0] if arguments else ""
    if command == "create-symlinks":
        root = container_root()
        for link in values(arguments, "--link"):
            target, _, path = link.partition("::")
            place = root / path.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            if place.is_symlink():
                place.unlink()
            if not place.exists():
                os.symlink(target, place)
    elif command == "update-ldcache":
        root = container_root()
        (root / "etc").mkdir(exist_ok=True)
        program = (values(arguments, "--ldconfig-path") or ["/sbin/ldconfig"])[0]
        program = f"{program}.real" if os.path.exists(f"{program}.real") else program
        # A container without a loader has no use for the cache: what ldconfig says of it is no failure here.
        directories = values(arguments, "--directory")
        subprocess.run([program, "-r", str(root), *directories], capture_output=True, check=False)
    elif command not in NOTHING_TO_DO:
        machine.log("error", f"no such hook: {command}")
        return 1
    return 0
