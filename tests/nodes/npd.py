"""A stand-in for node-problem-detector, by what its custom plugin monitor does (kubernetes/node-problem-detector at 6632ca6,
pkg/custompluginmonitor): a rule's program with a time limit, its exit status, its first bytes, and the condition that this sets."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from typing import Any

OUTPUT = 4096  # bytes that it reads (maxCustomPluginBufferBytes)
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
Start = Callable[[Sequence[str], float], "subprocess.CompletedProcess[bytes]"]


def seconds(text: str) -> float:
    """A duration of one unit, as Go writes it."""
    return float(text[:-1]) * UNITS[text[-1]]


class Detector:
    """condition: type, status, reason and message, as the node has them; None before the first result. events: what was told."""

    def __init__(self, config: str, start: Start) -> None:
        self.config: dict[str, Any] = json.loads(config)
        self.start = start
        self.events: list[str] = []
        self.condition: dict[str, str] | None = None
        [self.rule] = self.config["rules"]
        [self.preset] = self.config["conditions"]
        limits = self.config["pluginConfig"]
        assert self.config["plugin"] == "custom" and self.rule["type"] == "permanent"
        assert self.rule["condition"] == self.preset["type"]
        assert seconds(self.rule["timeout"]) <= seconds(limits["timeout"]), "NPD refuses such a rule"
        assert limits["skip_initial_status"], "else the node is said to be well before anybody looked"
        self.limits = limits
        self.state = {"status": "False", "reason": self.preset["reason"], "message": self.preset["message"]}

    def look(self) -> None:
        """One run of the rule, and what it makes of the condition (generateStatus)."""
        argv = [self.rule["path"], *self.rule.get("args", ())]
        try:
            done = self.start(argv, seconds(self.rule["timeout"]))
            code, output = done.returncode, done.stdout
        except subprocess.TimeoutExpired:
            code, output = -1, b"Timeout when running plugin"
        message = output[:OUTPUT].strip()[: self.limits["max_output_length"]].decode("utf-8", "replace")
        status = {0: "False", 1: "True"}.get(code, "Unknown")
        was = self.state
        if status == "True":
            another = (
                was["message"] != message and self.limits["enable_message_change_based_condition_update"]
            )
            if was["status"] != "True" or another:
                self.change(status, self.rule["reason"], message)
        elif was["status"] != status:
            self.change(
                status, self.preset["reason"], self.preset["message"] if status == "False" else message
            )
        self.condition = {"type": self.rule["condition"], **self.state}

    def change(self, status: str, reason: str, message: str) -> None:
        self.state = {"status": status, "reason": reason, "message": message}
        self.events.append(
            f"{self.rule['condition']} is now {status}, reason: {reason}, message: {message!r}"
        )
