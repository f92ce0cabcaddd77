"""STAND-IN for tests: /etc/nvidia-container-runtime/config.toml as NVIDIA's tools read it and `nvidia-ctk
config` rewrites it (captures/toolkit/config-set.txt: comments go, keys are sorted, unknown keys stay).
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any

from . import machine

PATH = Path(os.environ.get("NVIDIA_CTK_CONFIG_FILE_PATH") or "/etc/nvidia-container-runtime/config.toml")
NOT_RELATIVE = "nvidia-container-cli.ldconfig value %s is not host-relative (does not start with a '@')"
INVALID = "\ninvalid config value"

# {table: {key: default}}; a default that is a Commented is only a comment in a written file.


class Commented(str):
    """A default that is written as a comment."""


DEFAULTS: dict[str, dict[str, Any]] = {
    "": {
        "accept-nvidia-visible-devices-as-volume-mounts": Commented("false"),
        "accept-nvidia-visible-devices-envvar-when-unprivileged": Commented("true"),
        "disable-require": False,
        "supported-driver-capabilities": "compat32,compute,display,graphics,ngx,utility,video",
        "swarm-resource": Commented('"DOCKER_RESOURCE_GPU"'),
    },
    "nvidia-container-cli": {
        "debug": Commented('"/var/log/nvidia-container-toolkit.log"'),
        "environment": [],
        "ldcache": Commented('"/etc/ld.so.cache"'),
        "ldconfig": "@/sbin/ldconfig.real" if os.path.exists("/sbin/ldconfig.real") else "@/sbin/ldconfig",
        "load-kmods": True,
        "no-cgroups": Commented("false"),
        "path": Commented('"/usr/bin/nvidia-container-cli"'),
        "root": Commented('"/run/nvidia/driver"'),
        "user": Commented('"root:video"'),
    },
    "nvidia-container-runtime": {
        "debug": Commented('"/var/log/nvidia-container-runtime.log"'),
        "log-level": "info",
        "mode": "auto",
        "runtimes": ["runc", "crun"],
    },
    "nvidia-container-runtime.modes": {},
    "nvidia-container-runtime.modes.cdi": {
        "annotation-prefixes": ["cdi.k8s.io/"],
        "default-kind": "nvidia.com/gpu",
        "spec-dirs": ["/etc/cdi", "/var/run/cdi"],
    },
    "nvidia-container-runtime.modes.csv": {
        "mount-spec-path": "/etc/nvidia-container-runtime/host-files-for-container.d"
    },
    "nvidia-container-runtime.modes.legacy": {"cuda-compat-mode": "ldconfig"},
    "nvidia-container-runtime-hook": {"path": "nvidia-container-runtime-hook", "skip-mode-detection": False},
    "nvidia-ctk": {"path": "nvidia-ctk"},
}
FEATURES = [
    "allow-cuda-compat-libs-from-container",
    "allow-ldconfig-from-container",
    "disable-cuda-compat-lib-hook",
    "disable-imex-channel-creation",
    "ignore-imex-channel-requests",
]
BOOLEANS = {
    "disable-require",
    "accept-nvidia-visible-devices-as-volume-mounts",
    "accept-nvidia-visible-devices-envvar-when-unprivileged",
    "nvidia-container-cli.load-kmods",
    "nvidia-container-cli.no-cgroups",
    "nvidia-container-runtime-hook.skip-mode-detection",
    *(f"features.{name}" for name in FEATURES),
}


class ConfigError(Exception):
    """The file cannot be used; the message is the tools' own."""


def read(path: Path = PATH) -> dict[str, Any]:
    """What the file says, {} where there is none."""
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        text = (error.strerror or "").lower()
        raise ConfigError(f"failed to load specified config file: read {path}: {text}") from error
    except UnicodeDecodeError as error:
        raise ConfigError("failed to load specified config file: (1, 1): invalid UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        match = re.search(r"^(.*) \(at line (\d+), column (\d+)\)", str(error))
        where = f"({match[2]}, {match[3]}): {match[1].lower()}" if match else str(error)
        raise ConfigError(f"failed to load specified config file: {where}") from error


def get(config: dict[str, Any], key: str) -> Any:
    """The value of a dotted key, from the file or the default."""
    value: Any = config
    *tables, name = key.split(".")
    for table in tables:
        value = value.get(table, {}) if isinstance(value, dict) else {}
    if isinstance(value, dict) and name in value:
        return value[name]
    default = DEFAULTS.get(".".join(tables), {}).get(name)
    return json.loads(default) if isinstance(default, Commented) else default


def checked(path: Path = PATH) -> dict[str, Any]:
    """`read`, refused as runtime and hook refuse it at every container."""
    config = read(path)
    for key in sorted(BOOLEANS):
        value = get(config, key)
        if value is not None and not isinstance(value, bool):
            raise ConfigError(
                f"failed to unmarshal config: (1, 1): Can't convert {value}({_kind(value)}) to bool"
            )
    ldconfig = str(get(config, "nvidia-container-cli.ldconfig"))
    allowed = get(config, "features.allow-ldconfig-from-container") is True
    if machine.at_least("1.17.3") and not ldconfig.startswith("@") and not allowed:
        raise ConfigError(NOT_RELATIVE % json.dumps(ldconfig) + INVALID)
    return config


def _kind(value: object) -> str:
    return {str: "string", int: "int64", float: "float64"}.get(type(value), type(value).__name__)


def set_value(config: dict[str, Any], option: str) -> None:
    """`config` has `option` ("key=value", or "key" for true); raises `ConfigError` as `--set` fails."""
    key, has_value, text = option.partition("=")
    *tables, name = key.split(".")
    known = name in DEFAULTS.get(".".join(tables), {}) or (tables == ["features"] and name in FEATURES)
    failed = f"invalid --set option {option}: "
    if not known:
        raise ConfigError(f'{failed}invalid config option: undefined field: "{key.split(".")[0]}"')
    value: Any = text
    if key in BOOLEANS:
        if not has_value:
            text = "true"
        if text.lower() not in ("true", "false", "1", "0", "t", "f"):
            raise ConfigError(f'{failed}invalid format: strconv.ParseBool: parsing "{text}": invalid syntax')
        value = text.lower() in ("true", "1", "t")
    elif not has_value:
        raise ConfigError(f"{failed}invalid format: expected key=value; got {key}")
    elif isinstance(DEFAULTS.get(".".join(tables), {}).get(name), list):
        value = text.split(":")
    table = config
    for part in tables:
        table = table.setdefault(part, {})
    table[name] = value


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)


def defaults() -> dict[str, Any]:
    """The values of a file that `nvidia-ctk config` writes where there is none."""
    whole: dict[str, Any] = {}
    for table, values in DEFAULTS.items():
        inner = whole
        for part in table.split(".") if table else []:
            inner = inner.setdefault(part, {})
        inner.update({key: value for key, value in values.items() if not isinstance(value, Commented)})
    return whole


def text(config: dict[str, Any]) -> str:
    """`config` as the real tool writes it; an empty one becomes the whole default file."""
    blocks: list[str] = []

    def write(table: dict[str, Any], name: str) -> None:
        lines = {k: f"{k} = {_value(v)}" for k, v in table.items() if not isinstance(v, dict)}
        for key, default in DEFAULTS.get(name, {}).items():
            if isinstance(default, Commented) and key not in lines:
                lines[key] = f"#{key} = {default}"
        block = [f"[{name}]"] if name else []
        blocks.append("\n".join(block + [lines[key] for key in sorted(lines)]))
        for key in sorted(k for k, v in table.items() if isinstance(v, dict)):
            write(table[key], f"{name}.{key}" if name else key)

    write(config or defaults(), "")
    return "\n\n".join(blocks) + "\n"
