"""Running gpumend over SSH against nodes, as its users do: pyinfra, an inventory, a hosts.toml, no terminal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpumend.payload.source import change_source as program_source
from gpumend.plan.wire import as_data
from gpumend.rules import wanted as wanted_state
from gpumend.rules.finding import Component
from gpumend.run.programs import probe_program, who
from gpumend.run.record import judged
from gpumend.state.host_state import besides_of, parse
from gpumend.state.snapshot import Snapshot
from tests.nodes.lab import Lab, Node

ROOT = Path(__file__).resolve().parents[2]
RUN_SECONDS = 240.0


@dataclass(frozen=True)
class Target:
    """How one node is reached, and what is wanted of it."""

    node: Node
    user: str = "root"
    sudo: bool | str | None = None
    wanted: Mapping[str, Any] = field(default_factory=dict)
    connect_timeout: int = 10

    def toml(self) -> str:
        """Its entry of hosts.toml."""
        rows = [f"[hosts.{self.node.name}]", f'address = "{self.node.address}"', f'user = "{self.user}"']
        rows.append(f"connect_timeout = {self.connect_timeout}")
        if self.sudo is not None:
            rows.append(f"sudo = {inline(self.sudo)}")
        if self.wanted:
            rows.append(f"gpumend = {inline(self.wanted)}")
        return "\n".join(rows) + "\n"


def inline(value: Any) -> str:
    """A value as TOML writes it on one line."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {inline(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(inline, value)) + "]"
    return json.dumps(value)


@dataclass(frozen=True)
class Ran:
    """One run: what it said, and what it cost. sessions: of SSH, by node; report: the JSON document."""

    rc: int
    stdout: str
    stderr: str
    report: dict[str, Any]
    sessions: dict[str, int]
    seconds: float

    @property
    def said(self) -> str:
        return f"rc {self.rc}\n{self.stdout}\n{self.stderr[-6000:]}"

    def host(self, node: Node) -> dict[str, Any]:
        """A host's part of the report."""
        found: dict[str, Any] = self.report["hosts"][node.name]
        return found

    def codes(self, node: Node, *statuses: str) -> list[str]:
        """Codes of a host's findings that are left, those of these statuses where any are named; else all but notes."""
        findings = self.host(node)["findings"]
        return [
            f["code"] for f in findings if (f["status"] in statuses if statuses else f["status"] != "note")
        ]

    def finding(self, node: Node, code: str) -> dict[str, Any]:
        """The one finding of that code on a host."""
        [found] = [f for f in self.host(node)["findings"] if f["code"] == code]
        return dict(found)

    def change(self, node: Node, component: Component) -> dict[str, Any]:
        """What became of the one transaction of a component on a host."""
        [found] = [c for c in self.host(node)["changes"] if c["component"] == component]
        return dict(found)

    def statuses(self, node: Node) -> dict[str, str]:
        """How each transaction ended, by component."""
        return {change["component"]: change["status"] for change in self.host(node)["changes"]}


class Running:
    """A run that was started and not yet waited for."""

    def __init__(
        self,
        lab: Lab,
        targets: tuple[Node | Target, ...],
        arguments: tuple[str, ...],
        keys: str | None = None,
    ) -> None:
        self.targets = [target if isinstance(target, Target) else Target(target) for target in targets]
        self.before = self.sessions()
        self._directory = tempfile.TemporaryDirectory(prefix="gpumend-drive-")
        directory = Path(self._directory.name)
        known = directory / "known_hosts"  # of its own: the lab's changes while nodes come and go
        known.write_text(lab.known_hosts.read_text() if keys is None else keys)
        (directory / "hosts.toml").write_text(
            f'[defaults]\nkey = "{lab.key}"\nknown_hosts = "{known}"\n'
            # Seconds after each restart that tests of other things do without.
            "gpumend = { restart_watch = 0 }\n" + "".join(target.toml() for target in self.targets)
        )
        self.report = directory / "report.json"
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pyinfra", "inventory.py", *arguments, "--data", f"report={self.report}"],
            cwd=ROOT,
            env={**os.environ, "GPUMEND_HOSTS": str(directory / "hosts.toml"), "PYINFRA_PROGRESS": "off"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # no terminal to ask at either
        )

    def sessions(self) -> dict[str, int]:
        """SSH sessions so far, of the nodes that run."""
        return {t.node.name: t.node.ssh_sessions() for t in self.targets if t.node.leader}

    def finish(self) -> Ran:
        """The run has ended by itself."""
        try:
            out, err = self.process.communicate(timeout=RUN_SECONDS)
            seconds = time.monotonic() - self.began
            report = json.loads(self.report.read_text()) if self.report.exists() else {}
        finally:
            self.process.kill()
            self.process.wait()
            self._directory.cleanup()
        after = self.sessions()
        spent = {name: count - self.before.get(name, 0) for name, count in after.items()}
        return Ran(self.process.returncode, out, err, report, spent, seconds)


def start(
    lab: Lab,
    *targets: Node | Target,
    deploy: str = "gpu_host",
    dry: bool = False,
    more: tuple[str, ...] = (),
    keys: str | None = None,
) -> Running:
    """A run over these hosts has begun. more: further arguments of pyinfra; keys: known_hosts, other than the lab's."""
    arguments = (f"deploys/{deploy}.py", *(("--dry",) if dry else ()), *more)
    return Running(lab, targets, arguments, keys)


def audit(lab: Lab, *targets: Node | Target) -> Ran:
    """An audit over these hosts, to its end."""
    return start(lab, *targets, dry=True).finish()


def mend(lab: Lab, *targets: Node | Target) -> Ran:
    """A mend over these hosts, to its end."""
    return start(lab, *targets).finish()


# -- the program on a host, without SSH: for what only the program itself can show ------------------------------


def planned(
    node: Node, component: Component, run: str, wanted: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The transaction of one component, as `gpumend/run/remote/exchange.py` would send it to the node as it is now."""
    wants = wanted_state.parse(dict(wanted or {}))
    program = probe_program(besides=besides_of(dict(wanted or {})))
    for _ in range(5):
        answer = node.run(["python3", "-I", "-S", "-B", "-"], input=program).stdout
        found = judged(parse(Snapshot.from_output(answer)), wants, node.name)
        transaction = found.plan.get(component)
        if transaction is not None or not found.verdict.unknown:
            break  # where something is not known, a command ran into its time limit: this machine is busy
    if transaction is None:
        raise LookupError(f"nothing is planned for {component} on {node.name}")
    return as_data(transaction, run, wants.restarts, who(), watch=dict(wanted or {}).get("restart_watch", 0))


# What is put in another's place would itself be replaced where that is compiled later (gpumend/payload/source.py, LATER).
WHOLE = "for _group in list(NOT_YET): function_of(_group, 'NOT_YET')"


def carry_out(
    node: Node, data: Mapping[str, Any], extra: str = "", arguments: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """The product's program on the node, with `extra` between its definitions and its call: what it prints is its
    result alone, without the host's state after it. `arguments` are its sys.argv[1:]."""
    call = f"main_transaction(json.loads({json.dumps(data)!r}), lambda: None)"
    extra = f"{WHOLE}\n{extra}" if extra else ""
    text = f"{program_source()}\n{extra}\n{call}\n"
    return node.run(["python3", "-I", "-S", "-B", "-", *arguments], input=text, check=False)


def result_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The result that the program printed."""
    if done.returncode != 0:
        raise AssertionError(f"rc {done.returncode}\n{done.stdout}\n{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout)["result"]
    return result
