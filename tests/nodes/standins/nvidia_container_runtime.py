"""STAND-IN for tests, not NVIDIA's nvidia-container-runtime: an OCI runtime that hands everything to runc
and, on `create`, first edits the bundle's config.json (captures/toolkit/runtime.txt; container-toolkit.md
2.4).
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

from . import config, machine, spec

HOOK = "/usr/bin/nvidia-container-runtime-hook"
NOT_MADE = "failed to create NVIDIA Container Runtime: "
MODES = ("auto", "legacy", "csv", "cdi")
VALUE_FLAGS = {"--root", "--log", "--log-format", "--criu", "--rootless", "--bundle", "-b"}

Json = dict[str, Any]


class ShimError(Exception):
    """The container cannot be created; the message is the real runtime's."""


def _flag(arguments: list[str], *names: str) -> str | None:
    for position, argument in enumerate(arguments):
        for name in names:
            if argument == name and position + 1 < len(arguments):
                return arguments[position + 1]
            if argument.startswith(f"{name}="):
                return argument.partition("=")[2]
    return None


def subcommand(arguments: list[str]) -> str | None:
    """runc's subcommand: the first word that is neither a flag nor a flag's value."""
    skip = False
    for argument in arguments:
        if skip:
            skip = False
        elif argument in VALUE_FLAGS:
            skip = True
        elif not argument.startswith("-"):
            return argument
    return None


def low_level(settings: Json) -> str:
    """The path of the runtime that does the work."""
    default = ["runc", "crun"] if machine.at_least("1.18.0") else ["docker-runc", "runc", "crun"]
    names = settings.get("nvidia-container-runtime", {}).get("runtimes") or default
    for name in names:
        if path := shutil.which(name):
            return path
    raise ShimError(
        f"{NOT_MADE}error constructing low-level runtime: error locating runtime: "
        f"no runtime binary found from candidate list: [{' '.join(names)}]"
    )


def requested(oci: Json) -> list[str]:
    """The devices that NVIDIA_VISIBLE_DEVICES asks for."""
    value = ""
    for entry in (oci.get("process") or {}).get("env") or []:
        if entry.startswith("NVIDIA_VISIBLE_DEVICES="):
            value = entry.partition("=")[2]
    return [] if value in ("", "void", "none") else value.split(",")


def add_env(oci: Json, entries: list[str]) -> None:
    """The process has these variables, once each."""
    env = oci.setdefault("process", {}).setdefault("env", [])
    for entry in entries:
        name = entry.partition("=")[0]
        env[:] = [old for old in env if old.partition("=")[0] != name] + [entry]


def add_device(oci: Json, node: Json) -> None:
    """The container has this device node and may use it."""
    path = str(node.get("hostPath") or node["path"])
    try:
        status = os.stat(path)
    except OSError as error:
        text = (error.strerror or "").lower()
        raise ShimError(
            f'failed to inject devices: failed to stat CDI host device "{path}": {text}'
        ) from error
    if not stat.S_ISCHR(status.st_mode):
        raise ShimError(f'failed to inject devices: "{path}" is not a device node')
    # A number in the spec wins over the node's own: that is how a stale spec breaks CUDA.
    major = int(node["major"]) if "major" in node else os.major(status.st_rdev)
    minor = int(node.get("minor", 0)) if "major" in node else os.minor(status.st_rdev)
    linux = oci.setdefault("linux", {})
    devices = linux.setdefault("devices", [])
    devices[:] = [old for old in devices if old["path"] != node["path"]]
    devices.append(
        {
            "path": node["path"],
            "type": "c",
            "major": major,
            "minor": minor,
            "fileMode": 0o666,
            "uid": 0,
            "gid": 0,
        }
    )
    access = str(node.get("permissions") or "rwm")
    rules = linux.setdefault("resources", {}).setdefault("devices", [])
    rules.append({"allow": True, "type": "c", "major": major, "minor": minor, "access": access})


def apply_edits(oci: Json, edits: Json) -> None:
    """The container has everything that one set of CDI edits names."""
    add_env(oci, [str(entry) for entry in edits.get("env") or []])
    for node in edits.get("deviceNodes") or []:
        add_device(oci, node)
    for mount in edits.get("mounts") or []:
        oci.setdefault("mounts", []).append(
            {
                "destination": mount["containerPath"],
                "source": mount["hostPath"],
                "type": mount.get("type") or "bind",
                "options": mount.get("options") or [],
            }
        )
    for hook in edits.get("hooks") or []:
        entry = {key: hook[key] for key in ("path", "args", "env", "timeout") if key in hook}
        oci.setdefault("hooks", {}).setdefault(hook["hookName"], []).append(entry)
    if gids := edits.get("additionalGids"):
        user = oci.setdefault("process", {}).setdefault("user", {})
        user["additionalGids"] = sorted({*user.get("additionalGids", []), *gids})


def inject(oci: Json, names: list[str], devices: dict[str, tuple[spec.Json, spec.Json]]) -> None:
    """The container has the named devices; one that cannot be resolved fails them all."""
    unresolved = [name for name in names if name not in devices]
    if unresolved:
        raise ShimError(f"failed to inject CDI devices: unresolvable CDI devices {', '.join(unresolved)}")
    done: list[int] = []
    try:
        for name in names:
            found, device = devices[name]
            if id(found) not in done:
                apply_edits(oci, found.get("containerEdits") or {})
                done.append(id(found))
            apply_edits(oci, device.get("containerEdits") or {})
    except ShimError as failure:
        raise ShimError(f"failed to inject CDI devices: {failure}") from failure


def modify(oci: Json, settings: Json) -> bool:
    """Whether the container asked for GPUs, which it then has."""
    mode = str(config.get(settings, "nvidia-container-runtime.mode"))
    modes = (*MODES, "jit-cdi") if machine.at_least("1.18.0") else MODES
    if mode not in modes:
        raise ShimError(f'{NOT_MADE}failed to construct OCI spec modifier: invalid mode "{mode}"')
    wanted = requested(oci)
    if not wanted:
        return False
    if mode == "auto":
        if all("=" in name and "/" in name for name in wanted):
            mode = "cdi"
        else:
            mode = "jit-cdi" if machine.at_least("1.18.0") else "legacy"
    if mode in ("legacy", "csv"):
        hooks = oci.setdefault("hooks", {}).setdefault("prestart", [])
        if not any(os.path.basename(hook["path"]) == os.path.basename(HOOK) for hook in hooks):
            hooks.append({"path": HOOK, "args": [os.path.basename(HOOK), "prestart"]})
        return True
    failed = "could not apply required modification to OCI specification: error modifying OCI spec: "
    kind = str(config.get(settings, "nvidia-container-runtime.modes.cdi.default-kind"))
    names = [name if "=" in name else f"{kind}={name}" for name in wanted]
    try:
        if mode == "cdi":
            directories = config.get(settings, "nvidia-container-runtime.modes.cdi.spec-dirs")
            inject(oci, names, spec.Registry([str(directory) for directory in directories]).devices)
            return True
        try:
            made = spec.generate()
        except machine.DriverError as error:
            raise ShimError(
                'failed to create the automatic CDI modifier: failed to generate CDI spec for mode "auto": '
                f"failed to construct device spec generators: failed to initialize NVML: {error}"
            ) from error
        inject(oci, names, {f"{spec.KIND}={device['name']}": (made, device) for device in made["devices"]})
        return True
    except ShimError as failure:
        raise ShimError(failed + str(failure)) from failure


def fail(arguments: list[str], message: str) -> NoReturn:
    """Ends with rc 1 and the message on stderr and, as the engine reads it there, in runc's log file."""
    machine.log("error", message)
    path = _flag(arguments, "--log")
    if path:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        with open(path, "a", encoding="utf-8") as stream:
            if _flag(arguments, "--log-format") == "json":
                stream.write(json.dumps({"level": "error", "msg": message, "time": now}) + "\n")
            else:
                stream.write(f'time="{now}" level=error msg={json.dumps(message)}\n')
    sys.exit(1)


def main() -> int:
    """Runs runc with the same arguments, after the edit where a container is created."""
    arguments = sys.argv[1:]
    try:
        settings = config.checked()
    except config.ConfigError as error:
        fail(arguments, f"error loading config: {error}")
    try:
        runtime = low_level(settings)
        if subcommand(arguments) == "create":
            path = Path(_flag(arguments, "--bundle", "-b") or ".") / "config.json"
            oci = json.loads(path.read_bytes())
            if modify(oci, settings):
                path.write_text(json.dumps(oci), encoding="utf-8")
    except ShimError as failure:
        fail(arguments, str(failure))
    if "--version" in arguments or "-v" in arguments:
        print(
            f"NVIDIA Container Runtime version {machine.toolkit_version()}\ncommit: {'0' * 40}\n"
            "spec: 1.2.0\n",
            flush=True,
        )
    os.execv(runtime, [runtime, *arguments])
