"""The agent's files are on the host, or none of them; and what is there."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import json
import marshal
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from typing import Any

from gpumend.agent import units
from gpumend.agent.config import Config, ConfigError, read
from gpumend.agent.files import written
from gpumend.agent.places import CONFIG, CRON, METRICS, PROGRAM, REPORT, SLURM, STATE, UNITS

OLDEST = (3, 9)
UNCHECKED = 0b01  # PEP 552: by hash, and the source is not looked at: it is in the same file


class InstallError(Exception):
    """Nothing was installed; the text says why."""


def compiled(data: bytes) -> bytes:
    """The same file with the bytecode of this Python beside each source: an audit compiles nothing. Another Python takes the
    sources (zipimport passes over bytecode of another magic number)."""
    out = io.BytesIO()
    begins = data.index(b"PK\x03\x04")
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for item in old.infolist():
            text = old.read(item)
            new.writestr(item, text, zipfile.ZIP_DEFLATED)
            if item.filename.endswith(".py"):
                code = compile(text, f"{PROGRAM}/{item.filename}", "exec", dont_inherit=True, optimize=2)
                head = importlib.util.MAGIC_NUMBER + UNCHECKED.to_bytes(4, "little")
                pyc = head + importlib.util.source_hash(text) + marshal.dumps(code)
                new.writestr(zipfile.ZipInfo(item.filename + "c", item.date_time), pyc, zipfile.ZIP_DEFLATED)
    return data[:begins] + out.getvalue()


def _own(directory: str, mode: int = 0o755) -> None:
    """The directory is there, with this mode where it was not, and root's alone to change, as is every one above it. Raises
    InstallError."""
    os.makedirs(directory, mode, exist_ok=True)
    above = directory
    while True:
        found = os.lstat(above)
        if found.st_uid != 0 or found.st_mode & 0o022 or not stat.S_ISDIR(found.st_mode):
            raise InstallError(f"{above} can be changed by others than root, or is a symbolic link")
        if above == "/":
            return
        above = os.path.dirname(above)


def _systemctl(*argv: str) -> None:
    done = subprocess.run(
        ["systemctl", *argv], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, check=False
    )
    if done.returncode:
        last = done.stdout.decode("utf-8", "replace").strip().splitlines()[-1:] or ["no word"]
        raise InstallError(f"systemctl {' '.join(argv)}: {last[0]}")


def _files(config: Config, program: bytes) -> dict[str, tuple[bytes, int]]:
    """What is written, in order: the program, what it was told, then what starts it."""
    found = {PROGRAM: (program, 0o755), CONFIG: (config.text().encode(), 0o600)}
    if config.slurm is not None:
        found[SLURM] = (units.slurm(sys.executable).encode("ascii"), 0o755)
    if not systemd():
        found[CRON] = (units.cron(config, sys.executable).encode("ascii"), 0o644)
        return found
    for name, text in units.texts(config, sys.executable).items():
        found[f"{UNITS}/{name}"] = (text.encode("ascii"), 0o644)
    return found


def systemd() -> bool:
    """Whether systemd runs here (sd_booted(3))."""
    return os.path.isdir("/run/systemd/system")


def _holds(path: str) -> bytes | None:
    with contextlib.suppress(OSError), open(path, "rb") as file:
        return file.read()
    return None


def installed(config: Config, data: bytes) -> list[str]:
    """The agent runs as `config` says; returns the paths that were not as they are now. Killed anywhere, and run again, it
    ends the same. Raises InstallError or OSError."""
    if sys.version_info < OLDEST:
        version = ".".join(map(str, sys.version_info[:3]))
        raise InstallError(f"the agent needs Python {'.'.join(map(str, OLDEST))}; this host has {version}")
    if not systemd() and not os.path.isdir(os.path.dirname(CRON)):
        raise InstallError("neither systemd nor cron is on this host: nothing would start the agent")
    if hashlib.sha256(data).hexdigest() != config.digest:
        raise InstallError("the agent's file did not come whole")
    for path in (PROGRAM, CONFIG):
        _own(os.path.dirname(path))
    for directory in (os.path.dirname(STATE), STATE):
        _own(directory, 0o700)  # as a transaction makes gpumend's own
    before = _textfile()
    changed = [] if before == config.textfile else _gone(_metrics(before))
    for path, (text, mode) in _files(config, compiled(data)).items():
        if _holds(path) != text:
            written(path, text, mode)
            changed.append(path)
    changed += [
        path for name in (units.AUDIT, units.MEND) if name not in units.names(config) for path in _away(name)
    ]
    changed += _gone((SLURM,)) if config.slurm is None else []
    if not systemd():
        return changed
    if changed:
        _systemctl("daemon-reload")
    for name in units.names(config):
        for unit in units.started(name):
            _systemctl("enable", "--quiet", unit)
            # a timer that is restarted counts from now with its new text
            _systemctl("restart" if changed else "start", unit)
    return changed


def _away(name: str) -> list[str]:
    """The units of an audit or a mend do not run, and their files are gone; returns those. Raises InstallError."""
    gone = []
    for unit in (*units.started(name), f"{name}.service"):
        path = f"{UNITS}/{unit}"
        if os.path.lexists(path):
            if not unit.endswith(".service"):
                _systemctl("disable", "--quiet", "--now", unit)
            elif name == units.AUDIT:  # a mend that is at work ends by itself
                _systemctl("stop", unit)
            os.unlink(path)
            gone.append(path)
    return gone


def _textfile() -> str:
    """Where the agent that is installed writes its metrics; empty where it writes none."""
    try:
        return read().textfile
    except ConfigError:
        return ""


def _metrics(textfile: str) -> tuple[str, ...]:
    return (f"{textfile}/{METRICS}",) if textfile else ()


def _gone(paths: Iterable[str]) -> list[str]:
    """Those of the paths that were there, and are not any more. Raises OSError."""
    gone = []
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
            gone.append(path)
    return gone


def uninstalled() -> list[str]:
    """No file of the agent is left, and nothing of it runs; returns the paths that are gone. Raises InstallError."""
    textfile = _textfile()
    gone = _away(units.MEND) + _away(units.AUDIT)
    gone += _gone((*_metrics(textfile), CRON, SLURM, CONFIG, PROGRAM))
    if os.path.isdir(STATE):
        shutil.rmtree(STATE)
        gone.append(STATE)
    for path in (PROGRAM, CONFIG, STATE):
        with contextlib.suppress(
            OSError
        ):  # others' files are in it: gpumend's runs, the audit rule's program
            os.rmdir(os.path.dirname(path))
    if systemd():
        _systemctl("daemon-reload")
        with contextlib.suppress(InstallError):
            _systemctl("reset-failed", "gpumend-*")
    return gone


def status() -> dict[str, Any]:
    """What is there: installed, digest and interval as configured, config: SHA-256 of the
    configuration, what of the units runs, sound: whether all is as it was installed, the last report's words."""
    try:
        config = read()
    except ConfigError as error:
        return {"installed": False, "why": str(error)}
    found: dict[str, Any] = {"installed": True, **config._asdict()}
    del found["wanted"]
    found["config"] = hashlib.sha256(config.text().encode()).hexdigest()
    starting = [unit for name in units.names(config) for unit in units.started(name)] if systemd() else []
    for unit in starting:
        done = subprocess.run(
            ["systemctl", "is-active", unit], stdout=subprocess.PIPE, timeout=60, check=False
        )
        found[unit] = done.stdout.decode("ascii", "replace").strip()
    wanted = _files(config, b"")
    del wanted[PROGRAM]
    found["sound"] = all(_holds(path) == text for path, (text, _) in wanted.items()) and all(
        found[unit] == "active" for unit in starting
    )
    with contextlib.suppress(OSError, ValueError, KeyError), open(REPORT, encoding="utf-8") as file:
        report = json.load(file)
        found["last"] = {key: report[key] for key in ("started", "seconds", "exit", "version")}
        found["last"]["status"] = report["hosts"][config.host]["status"]
    return found
