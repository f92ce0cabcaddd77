"""What an agent was told when it was installed."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from typing import Any

from gpumend.agent.places import CONFIG
from gpumend.text.record import Record

MOST = 1 << 20


class ConfigError(ValueError):
    """There is no configuration, or not one that root alone could have written."""


class Config(Record):
    """host: its name in the inventory. wanted: the desired state, as its layers came together on the controller.
    digest: SHA-256 of the agent's file as the controller made it. interval: minutes between two audits. textfile: the
    directory for metrics; empty: none. mend: the components that the agent may change (units.WRITES). slurm: what it does as
    HealthCheckProgram (agent/slurm.py); None: it is none."""

    host: str
    wanted: Mapping[str, Any]
    digest: str
    interval: int = 15
    textfile: str = ""
    mend: tuple[str, ...] = ()
    slurm: Mapping[str, Any] | None = None

    def text(self) -> str:
        return json.dumps({**self._asdict(), "wanted": dict(self.wanted)}, indent=1, sort_keys=True) + "\n"


def parse(text: str, host: str = "") -> Config:
    """host: its name, where the text does not say it. Raises ConfigError."""
    try:
        raw = json.loads(text)
        found = Config(
            host=host or str(raw["host"]),
            wanted=dict(raw["wanted"]),
            digest=str(raw.get("digest", "")),
            interval=int(raw.get("interval", 15)),
            textfile=str(raw.get("textfile", "")),
            mend=tuple(map(str, raw.get("mend", ()))),
            slurm=dict(raw["slurm"]) if raw.get("slurm") is not None else None,
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{CONFIG} is not one of ours: {error}") from None
    if found.textfile and not os.path.isabs(found.textfile):
        raise ConfigError(f"{CONFIG}: textfile {found.textfile!r} is not an absolute path")
    return found


def read(path: str = CONFIG, host: str = "") -> Config:
    """Raises ConfigError, too, where somebody but root could have written it."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_uid != 0 or found.st_mode & 0o022:
            raise ConfigError(f"{path} is not a file that root alone can change")
        return parse(file.read(MOST).decode("utf-8", "replace"), host)
