"""STAND-IN for tests, not NVIDIA's nvidia-container-runtime-hook: the prestart hook of legacy mode and of
`docker run --gpus` (captures/toolkit/hook.txt), with what nvidia-container-cli would do then, much
simplified: it makes the device nodes in the container, binds the driver's libraries and opens the
container's device cgroup.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from . import config, machine
from .nvidia_container_runtime import requested

REFUSAL = (
    "invoking the NVIDIA Container Runtime Hook directly (e.g. specifying the docker --gpus flag) is not"
    " supported. Please use the NVIDIA Container Runtime (e.g. specify the --runtime=nvidia flag) instead"
)
CLI = "nvidia-container-cli: "


class HookError(Exception):
    """The container must not start; the message is the real hook's."""


def ldconfig(settings: dict[str, Any]) -> str:
    """The ldconfig to run; from 1.15 the hook itself finds the right one of the two names."""
    value = str(config.get(settings, "nvidia-container-cli.ldconfig"))
    path = value.removeprefix("@")
    if machine.at_least("1.15.0") and value.startswith("@"):
        plain = path.removesuffix(".real")
        path = f"{plain}.real" if os.path.exists(f"{plain}.real") else plain
    if not os.path.exists(path):
        raise HookError(f"{CLI}ldcache error: open failed: {path}: no such file or directory")
    return path


def version() -> str:
    """The driver's version, or the text of nvidia-container-cli where there is no usable one."""
    try:
        return machine.driver()
    except machine.DriverError as error:
        reason = {
            "ERROR_LIBRARY_NOT_FOUND": "load library failed: libnvidia-ml.so.1:"
            " cannot open shared object file: no such file or directory",
            "Driver Not Loaded": "nvml error: driver not loaded",
            "Driver/library version mismatch": "nvml error: driver/library version mismatch",
        }[str(error)]
        raise HookError(f"{CLI}initialization error: {reason}") from error


def minors(names: list[str]) -> list[int]:
    """The GPUs' minor numbers for indices, UUIDs or "all"."""
    known = machine.gpus()
    found: list[int] = []
    for name in names:
        short = name.partition("=")[2] or name
        chosen = [minor for index, (minor, uuid) in enumerate(known) if short in ("all", str(index), uuid)]
        if not chosen:
            raise HookError(f"{CLI}device error: {name}: unknown device")
        found += chosen
    return found


class _Attr(ctypes.Structure):
    """The part of `union bpf_attr` that the three calls below use."""

    _fields_ = (("words", ctypes.c_uint32 * 4), ("pointer", ctypes.c_uint64), ("count", ctypes.c_uint32),
                ("rest", ctypes.c_uint32 * 25))  # fmt: skip


def open_device_cgroup(pid: int) -> None:
    """The container may use every device: the kernel's device filters of its cgroup are taken off.

    The real tool adds rules to the filter; for a test it is enough that the GPU's nodes can be opened, behind
    runc's back just as there.
    """
    number = {"x86_64": 321, "aarch64": 280}[platform.machine()]
    libc = ctypes.CDLL(None, use_errno=True)
    lines = Path(f"/proc/{pid}/cgroup").read_text(encoding="ascii").splitlines()
    group = next((line[3:] for line in lines if line.startswith("0::")), None)
    if group is None:
        return
    query, get_fd, detach, device_type = 16, 13, 9, 6

    def bpf(command: int, attr: _Attr) -> int:
        return int(libc.syscall(number, command, ctypes.byref(attr), ctypes.sizeof(attr)))

    directory = os.open(f"/sys/fs/cgroup{group}", os.O_RDONLY | os.O_DIRECTORY)
    try:
        programs = (ctypes.c_uint32 * 16)()
        attr = _Attr(words=(directory, device_type, 0, 0), pointer=ctypes.addressof(programs), count=16)
        if bpf(query, attr) != 0:
            return
        for identifier in programs[: attr.count]:
            handle = bpf(get_fd, _Attr(words=(identifier, 0, 0, 0)))
            if handle >= 0:
                bpf(detach, _Attr(words=(directory, handle, device_type, 0)))
                os.close(handle)
    finally:
        os.close(directory)


# Runs in the container's mount namespace before its root is switched: there the host's files are still seen.
INJECT = """
set -eu
root=$1 ldconfig=$2 libraries=$3 version=$4
shift 4
for entry; do
  IFS=: read -r path major minor <<END
$entry
END
  [ -e "$root$path" ] || mknod -m 666 "$root$path" c "$major" "$minor"
done
mkdir -p "$root$libraries" "$root/usr/bin"
for file in "$libraries/libcuda.so.$version" "$libraries/libnvidia-ml.so.$version" /usr/bin/nvidia-smi; do
  [ -e "$file" ] || continue
  : >>"$root$file"
  mount --bind "$file" "$root$file"
done
for name in libcuda.so libnvidia-ml.so; do
  ln -sf "$name.$version" "$root$libraries/$name.1"
done
mkdir -p "$root/etc"
"$ldconfig" -r "$root" "$libraries" 2>/dev/null || true
"""


def prestart(settings: dict[str, Any]) -> None:
    """The container of the state on stdin has the GPUs that its environment asks for."""
    state = json.load(sys.stdin)
    bundle = Path(state.get("bundle") or state.get("bundlePath"))
    oci = json.loads((bundle / "config.json").read_bytes())
    names = requested(oci)
    if not names:
        return
    mode = str(config.get(settings, "nvidia-container-runtime.mode"))
    if not config.get(settings, "nvidia-container-runtime-hook.skip-mode-detection"):
        if mode == "auto":
            print("Auto-detected mode as 'legacy'", file=sys.stderr)
            mode = "legacy"
        else:
            print(f"Using requested mode '{mode}'", file=sys.stderr)
        if mode != "legacy":
            raise HookError(REFUSAL)
    driver = version()
    program = ldconfig(settings)
    paths = [f"/dev/nvidia{minor}" for minor in minors(names)]
    nodes = [found for path in [*paths, *machine.CONTROL_NODES] if (found := machine.device(path))]
    root = Path(oci["root"]["path"])
    if not root.is_absolute():
        root = bundle / root
    entries = [f"{node.path}:{node.major}:{node.minor}" for node in nodes]
    argv = ["nsenter", "-t", str(state["pid"]), "-m", "--", "sh", "-c", INJECT, "sh"]
    argv += [str(root), program, str(machine.LIBRARIES), driver, *entries]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise HookError(f"{CLI}container error: stand-in could not inject: {done.stderr.strip()}")
    if config.get(settings, "nvidia-container-cli.no-cgroups") is not True:
        open_device_cgroup(int(state["pid"]))


def main() -> int:
    """Runs the hook's command line."""
    words = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    if "--version" in sys.argv or "-version" in sys.argv or words == ["version"]:
        print(f"NVIDIA Container Runtime Hook version {machine.toolkit_version()}\ncommit: {'0' * 40}")
        return 0
    if words != ["prestart"]:
        print("Usage of nvidia-container-runtime-hook: prestart, poststart, poststop", file=sys.stderr)
        return 0 if words in (["poststart"], ["poststop"]) else 2
    try:
        settings = config.checked()
    except config.ConfigError as error:
        print(f"error getting hook config: failed to load config: {error}", file=sys.stderr)
        return 1
    try:
        prestart(settings)
    except HookError as failure:
        print(failure, file=sys.stderr)
        return 1
    return 0
