"""The agent as Slurm's HealthCheckProgram (slurm.conf(5)): an audit now, and where that was asked for, a node with a finding takes
no more jobs.

slurmd calls it without arguments, as root, with SLURMD_NODENAME in its environment, ends it after 60 s, and does nothing with its
exit status but this: as it starts, it calls again until the status is 0, and registers only then (slurmd's run_script_health_check).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
from collections.abc import Iterable, Mapping
from typing import Any

from gpumend.agent import audit, journal
from gpumend.agent.config import Config, ConfigError
from gpumend.agent.files import written
from gpumend.agent.places import DRAINED, STATE
from gpumend.payload.probe.execution import resolved
from gpumend.rules.finding import Status
from gpumend.text.record import Record

LOOKS = 40  # seconds for the probe
ASKS = 6  # seconds for one call of scontrol; there are two at most
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
NODE_STATE = re.compile(r" State=(\S+)")
ANY = "fail"  # in `drain`: whatever fails
OURS = "gpumend: "


class SlurmError(Exception):
    """scontrol did not do it; the text says why."""


class Node(Record):
    """state: `IDLE+DRAIN`. reason: as somebody gave it; empty where nobody did."""

    state: str
    reason: str

    @property
    def draining(self) -> bool:
        return any(word.startswith(("DRAIN", "FAIL")) for word in re.split(r"[+*~#!%$@^-]", self.state))


def parse(text: str) -> Node:
    """Of `scontrol -o show node NAME`. Raises SlurmError."""
    line = " " + text.strip()
    state = NODE_STATE.search(line)
    if "\n" in line or state is None:
        raise SlurmError("scontrol says nothing of this node")
    _, _, told = line.partition(
        " Reason="
    )  # the last field, and then who gave it and when: ` [root@2026-11-29T05:48:12]`
    return Node(state.group(1), told.rpartition(" [")[0])


def drains(report: Mapping[str, Any], wanted: Iterable[str]) -> list[str]:
    """The codes for which this host has to be drained. What is not known drains nothing."""
    asked = set(wanted)
    [host] = report["hosts"].values()
    return sorted(
        {
            found["code"]
            for found in host["findings"]
            if (found["status"] == Status.FAIL and ANY in asked)
            or (found["status"] in (Status.FAIL, Status.WARN) and found["code"] in asked)
        }
    )


def roots(path: str) -> None:
    """Nobody but root decides what lies there, through links or not. Raises SlurmError."""
    _, why = resolved(path)
    if why:
        raise SlurmError(why)


def scontrol(program: str, *argv: str) -> str:
    """What it prints. Raises SlurmError."""
    roots(program)
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
    if "SLURM_CONF" in os.environ:  # slurmd's own environment
        environment["SLURM_CONF"] = os.environ["SLURM_CONF"]
    try:
        done = subprocess.run(
            [program, *argv],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=ASKS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SlurmError(str(error)) from None
    if done.returncode:
        last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or ["no word"]
        raise SlurmError(last[0])
    return done.stdout.decode("utf-8", "replace")


def remembered() -> str:
    """The reason that we gave when we drained; empty where we did not."""
    with (
        contextlib.suppress(OSError, ValueError, KeyError, TypeError),
        open(DRAINED, encoding="utf-8") as file,
    ):
        return str(json.load(file)["reason"])
    return ""


def forgotten() -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(DRAINED)


def settled(config: Config, name: str, report: Mapping[str, Any]) -> None:
    """The node is drained where a finding asks for it, and takes jobs again where we drained it, nothing asks any more and that
    was allowed. Who drained it otherwise keeps it so, with their reason. Raises SlurmError or OSError."""
    asked = dict(config.slurm or {})
    program = str(asked.get("scontrol", "/usr/bin/scontrol"))
    codes, ours = drains(report, asked.get("drain", ())), remembered()
    if not codes and not ours:
        return
    node = parse(scontrol(program, "-o", "show", "node", name))
    if codes and not node.draining:
        reason = f"{OURS}{' '.join(codes)}"
        # First what we remember: killed in between, a node that is not drained is drained by the next look.
        written(DRAINED, json.dumps({"reason": reason}).encode(), 0o600)
        scontrol(program, "update", f"NodeName={name}", "State=DRAIN", f"Reason={reason}")
        journal.told(f"drained: {reason}", "fail", codes[0], host=config.host, node=name)
    elif ours and (not node.draining or node.reason != ours):
        forgotten()  # somebody put it back into use, or drains it for a reason of theirs
    elif ours and not codes and asked.get("resume"):
        if report["exit"] == 1:
            return  # what is not known is no reason to take jobs again
        scontrol(program, "update", f"NodeName={name}", "State=RESUME")
        forgotten()
        journal.told("takes jobs again: what it was drained for is gone", "gone", host=config.host, node=name)


def run(config: Config) -> int:
    """0; 1 where the node has to be drained and cannot be: slurmd does not register it then, as it starts. Raises ConfigError or
    OSError."""
    name = os.environ.get("SLURMD_NODENAME", "")
    if not NAME.match(name):
        raise ConfigError(
            "SLURMD_NODENAME names no node: slurmd calls this program, as its HealthCheckProgram"
        )
    report = audit.audit(config, LOOKS)
    os.makedirs(STATE, 0o700, exist_ok=True)
    audit.published(config, report)
    try:
        settled(config, name, report)
    except SlurmError as error:
        journal.told(f"Slurm's node {name} stays as it is: {error}", "unknown", host=config.host, node=name)
        return 1
    return 0
