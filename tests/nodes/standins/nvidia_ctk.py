"""STAND-IN for tests, not NVIDIA's nvidia-ctk: follows
captures/toolkit/{cdi-generate,cdi-list,config-set,help}.txt and captures/h100/cdi-h100.yaml as far as
gpumend uses it: `--version`, `cdi generate`, `cdi list`, `config`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from . import config, machine, spec

MODES = ["auto", "csv", "gdrcopy", "gds", "imex", "management", "mofed", "nvml", "nvswitch", "wsl"]
COMMIT = "0000000000000000000000000000000000000000"


def _environment_list(name: str) -> list[str]:
    return [word for word in os.environ.get(name, "").split(",") if word]


def generate(arguments: argparse.Namespace) -> int:
    """`cdi generate`: the spec on stdout or, by temporary file and rename, in the output file."""
    mode = arguments.mode
    if (
        mode == "auto"
        and "NVIDIA_CTK_CDI_GENERATE_MODE" not in os.environ
        and machine.toolkit_version() == "1.18.0"
    ):
        # nct#1376: exactly this version takes the runtime's mode for its own.
        runtime_mode = str(config.get(config.read(), "nvidia-container-runtime.mode"))
        mode = runtime_mode if runtime_mode not in ("auto", "legacy", "jit-cdi") else mode
    if mode not in MODES:
        machine.log("error", f"invalid discovery mode: {mode}")
        return 1
    missing = "libnvidia-sandboxutils.so.1: not found\nlibnvidia-sandboxutils.so.1: not found"
    machine.log("warning", f"Ignoring error in locating libnvidia-sandboxutils.so.1: {missing}")
    machine.log("warning", "Failed to init nvsandboxutils: ERROR_LIBRARY_LOAD; ignoring")
    if mode not in ("auto", "nvml"):
        machine.log("error", f"failed to generate CDI spec: this stand-in has no mode {mode}")
        return 1
    if mode == "auto":
        machine.log("info", "Auto-detected mode as 'nvml'")
    try:
        made = spec.generate(tuple(arguments.feature_flag), tuple(arguments.device_name_strategy))
    except machine.DriverError as error:
        text = "failed to create device CDI specs: failed to construct device spec generators"
        machine.log("warning", f"Could not determine driver version: failed to initialize nvml: {error}")
        machine.log("error", f"failed to generate CDI spec: {text}: failed to initialize NVML: {error}")
        return 1
    machine.log("info", f"Using driver version {machine.driver()}")
    machine.log("info", f"Generated CDI spec with version {made['cdiVersion']}")
    as_json = arguments.format == "json" or (arguments.format is None and arguments.output.endswith(".json"))
    text = json.dumps(made, indent=2) + "\n" if as_json else spec.to_yaml(made)
    if not arguments.output:
        sys.stdout.write(text)
        return 0
    target = Path(arguments.output)
    if target.suffix not in (".yaml", ".json"):
        target = target.with_name(target.name + (".json" if as_json else ".yaml"))
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, scratch = tempfile.mkstemp(dir=target.parent, prefix="spec", suffix=".tmp")
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(text)
    os.chmod(scratch, 0o644)
    os.replace(scratch, target)
    return 0


def list_devices(arguments: argparse.Namespace) -> int:
    """`cdi list`: names on stdout, everything else as log lines; always rc 0."""
    registry = spec.Registry(arguments.spec_dir or list(spec.DEFAULT_DIRS))
    if registry.errors:
        machine.log("warning", "The following registry errors were reported:")
        for path, errors in registry.errors.items():
            for error in errors:
                machine.log("warning", f"{path}: [{error}]")
    machine.log("info", f"Found {len(registry.devices)} CDI devices")
    for name in sorted(registry.devices):
        print(name)
    return 0


def configure(arguments: argparse.Namespace) -> int:
    """`config`: the file with the wanted values, on stdout or written over the old one in place."""
    path = Path(arguments.config_file)
    try:
        values = {} if arguments.default else config.read(path)
        if not values and arguments.set:
            values = config.defaults()
        for option in arguments.set:
            config.set_value(values, option)
    except config.ConfigError as error:
        prefix = "unable to create config: " if "failed to load" in str(error) else ""
        machine.log("error", f"{prefix}{error}")
        return 1
    text = config.text(values)
    output = arguments.config_file if arguments.in_place else arguments.output
    if not output:
        sys.stdout.write(text)
        return 0
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    Path(output).write_text(text, encoding="utf-8")  # truncates and writes: the real one is not atomic either
    return 0


def create_links(arguments: argparse.Namespace) -> int:
    """`nvidia-ctk system create-dev-char-symlinks`: /dev/char/MAJOR:MINOR leads to each NVIDIA device node."""
    if arguments.create_all:  # 1.20.0 on a host whose /proc/devices has no NVIDIA major
        sys.stderr.write(
            "failed to create all possible device lister: failed reading device majors: no NVIDIA devices found\n"
        )
        return 1
    Path("/dev/char").mkdir(exist_ok=True)
    for node in sorted(Path("/dev").glob("nvidia*")):
        if node.is_char_device():
            number = node.stat().st_rdev
            link = Path(f"/dev/char/{os.major(number)}:{os.minor(number)}")
            link.unlink(missing_ok=True)
            link.symlink_to(f"../{node.name}")
    return 0


def parser() -> argparse.ArgumentParser:
    """The part of the real command line that is answered."""
    top = argparse.ArgumentParser(prog="nvidia-ctk", allow_abbrev=False)
    top.add_argument("--version", "-v", action="store_true")
    top.add_argument("--debug", "-d", action="store_true")
    top.add_argument("--quiet", action="store_true")
    commands = top.add_subparsers(dest="command")
    cdi = commands.add_parser("cdi").add_subparsers(dest="subcommand", required=True)
    make = cdi.add_parser("generate", allow_abbrev=False)
    make.add_argument("--output", default=os.environ.get("NVIDIA_CTK_CDI_OUTPUT_FILE_PATH", ""))
    make.add_argument("--format", choices=("json", "yaml"))
    make.add_argument(
        "--mode", "--discovery-mode", default=os.environ.get("NVIDIA_CTK_CDI_GENERATE_MODE", "auto")
    )
    flags = _environment_list("NVIDIA_CTK_CDI_GENERATE_FEATURE_FLAGS")
    make.add_argument("--feature-flag", "--feature-flags", action="append", default=flags)
    make.add_argument("--device-name-strategy", action="append", default=[])
    for ignored in ("--nvidia-cdi-hook-path", "--driver-root", "--dev-root", "--vendor", "--class"):
        make.add_argument(ignored)
    make.set_defaults(run=generate)
    show = cdi.add_parser("list", allow_abbrev=False)
    show.add_argument("--spec-dir", action="append", default=[])
    show.set_defaults(run=list_devices)
    system = commands.add_parser("system").add_subparsers(dest="subcommand", required=True)
    links = system.add_parser("create-dev-char-symlinks", allow_abbrev=False)
    links.add_argument("--create-all", action="store_true")
    links.set_defaults(run=create_links)
    change = commands.add_parser("config", allow_abbrev=False)
    change.add_argument("default", nargs="?", choices=("default", "create-default", "generate-default"))
    change.add_argument("--set", action="append", default=[])
    change.add_argument("--in-place", "-i", action="store_true")
    change.add_argument("--output", "-o", default="")
    change.add_argument("--config-file", "--config", "-c", default=str(config.PATH))
    change.set_defaults(run=configure)
    return top


def main() -> int:
    """Runs the stand-in's command line."""
    if machine.faulty("nvidia-ctk hangs"):
        time.sleep(3600)
    if machine.faulty("nvidia-ctk fails"):
        machine.log("error", "this stand-in was told to fail")
        return 1
    arguments = parser().parse_args()
    if arguments.version:
        print(f"NVIDIA Container Toolkit CLI version {machine.toolkit_version()}\ncommit: {COMMIT}")
        return 0
    if arguments.command is None:
        parser().print_help()
        return 0
    if (
        arguments.command == "cdi"
        and arguments.subcommand == "generate"
        and not arguments.device_name_strategy
    ):
        arguments.device_name_strategy = ["index", "uuid"]
    return int(arguments.run(arguments))
