"""The programs that are measured: each does the same reading of the same hosts, its own way."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from facts.host_state import request
from tests.bench.farm import DELAYED_PORT, PORT, Farm, address

ROOT = Path(__file__).resolve().parents[2]
ANSIBLE = ROOT / ".venv-bench"


@dataclass(frozen=True)
class Measured:
    """One run: wall and client CPU in seconds, peak memory of the largest client process in MB, SSH execs."""

    wall: float
    cpu: float
    memory: float
    execs: int


@dataclass(frozen=True)
class Task:
    """What is asked of a contestant. folder: scratch space of its own."""

    farm: Farm
    hosts: int
    delayed: bool
    folder: Path

    @property
    def port(self) -> int:
        return DELAYED_PORT if self.delayed else PORT

    @property
    def addresses(self) -> list[str]:
        return [address(number) for number in range(self.hosts)]


def measured(task: Task, argvs: list[list[str]], env: dict[str, str] | None = None) -> Measured:
    """Start all of `argvs` at once and wait for all; raises RuntimeError where one fails in a way that counts."""
    before, sessions = resource.getrusage(resource.RUSAGE_CHILDREN), task.farm.sessions()
    began = time.monotonic()
    log = (task.folder / "output").open("ab")
    children = [
        subprocess.Popen(
            argv,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **(env or {})},
        )
        for argv in argvs
    ]
    memory = 0.0
    for child in children:
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        memory = max(memory, usage.ru_maxrss / 1024)
        if child.returncode not in (0, 3):
            raise RuntimeError(
                f"{child.args!r}: exit status {child.returncode}: {(task.folder / 'output').read_text()[-2000:]}"
            )
    wall = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)
    return Measured(wall, cpu, memory, task.farm.sessions() - sessions)


def ssh_true(task: Task) -> Measured:
    """The floor: `ssh host true` to all hosts at once, cold, with OpenSSH's default key exchange."""
    options = [
        "-F", "none", "-p", str(task.port), "-i", str(task.farm.key), "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes",
        "-o", f"UserKnownHostsFile={task.farm.known_hosts}", "-o", "StrictHostKeyChecking=yes",
    ]  # fmt: skip
    return measured(task, [["ssh", *options, f"{task.farm.user}@{host}", "true"] for host in task.addresses])


def _hosts_toml(task: Task) -> Path:
    path = task.folder / "hosts.toml"
    rows = [
        f'[defaults]\nuser = "{task.farm.user}"\nkey = "{task.farm.key}"\nknown_hosts = "{task.farm.known_hosts}"\nport = {task.port}\n'
    ]
    rows += [f'[hosts."{host}"]\n' for host in task.addresses]
    path.write_text("".join(rows))
    return path


def gpumend_audit(task: Task) -> Measured:
    """Ours, as README gives it."""
    argv = [sys.executable, "-m", "pyinfra", "inventory.py", "deploys/gpu_host.py", "--dry"]
    argv += ["--data", f"report={task.folder / 'report.json'}"]
    done = measured(task, [argv], {"GPUMEND_HOSTS": str(_hosts_toml(task)), "PYINFRA_PROGRESS": "off"})
    report = json.loads((task.folder / "report.json").read_text())
    answered = [host for host in report["hosts"].values() if not host["error"]]
    if len(answered) != task.hosts:
        raise RuntimeError(f"{task.hosts - len(answered)} of {task.hosts} hosts gave no answer")
    return done


def stock_pyinfra(task: Task) -> Measured:
    """pyinfra's own facts over the same files and commands: what one would write without gpumend."""
    (task.folder / "stock_inventory.py").write_text(
        f"hosts = ({task.addresses!r}, dict(ssh_user={task.farm.user!r}, ssh_port={task.port}, ssh_key={str(task.farm.key)!r},"
        f" ssh_known_hosts_file={str(task.farm.known_hosts)!r}, ssh_strict_host_key_checking='yes'))\n"
    )
    asked = request()
    (task.folder / "stock.py").write_text(
        "from pyinfra import host\nfrom pyinfra.facts.files import File, FindFiles\nfrom pyinfra.facts.server import Command\n"
        f"for path in {[*asked['files'], *asked['stats']]!r}:\n    host.get_fact(File, path=path)\n"
        f"for path in {asked['files']!r}:\n    host.get_fact(Command, command='cat ' + path + ' 2>/dev/null || true')\n"
        f"for argv in {[c['argv'] for c in asked['commands'].values()]!r}:\n"
        "    import shlex\n    host.get_fact(Command, command=shlex.join(argv) + ' 2>/dev/null || true')\n"
    )
    argv = [
        sys.executable,
        "-m",
        "pyinfra",
        str(task.folder / "stock_inventory.py"),
        str(task.folder / "stock.py"),
        "--dry",
    ]
    return measured(task, [argv], {"PYINFRA_PROGRESS": "off"})


def ansible(task: Task) -> Measured:
    """ansible-core in check mode over the same files and commands: pipelining, ControlPersist, forks = hosts."""
    rows = [f"{host} ansible_port={task.port}" for host in task.addresses]
    (task.folder / "hosts.ini").write_text("[all]\n" + "\n".join(rows) + "\n")
    asked = request()
    tasks: list[dict[str, object]] = [
        {"ansible.builtin.stat": {"path": path}} for path in [*asked["files"], *asked["stats"]]
    ]
    tasks += [
        {
            "ansible.builtin.command": {"argv": command["argv"]},
            "check_mode": False,
            "changed_when": False,
            "failed_when": False,
        }
        for command in asked["commands"].values()
    ]
    play = [{"hosts": "all", "gather_facts": False, "tasks": tasks}]
    (task.folder / "play.yml").write_text(json.dumps(play))
    (task.folder / "ansible.cfg").write_text(
        f"[defaults]\nforks = {task.hosts}\nhost_key_checking = True\nremote_user = {task.farm.user}\n"
        f"private_key_file = {task.farm.key}\ninterpreter_python = /usr/bin/python3\n[ssh_connection]\npipelining = True\n"
        f"ssh_args = -F none -o ControlMaster=auto -o ControlPersist=60s -o UserKnownHostsFile={task.farm.known_hosts}\n"
        f"control_path_dir = {task.folder / 'cp'}\n"
    )
    argv = [
        str(ANSIBLE / "bin" / "ansible-playbook"),
        "-i",
        str(task.folder / "hosts.ini"),
        "--check",
        str(task.folder / "play.yml"),
    ]
    return measured(task, [argv], {"ANSIBLE_CONFIG": str(task.folder / "ansible.cfg"), "LC_ALL": "C.UTF-8"})


CONTESTANTS: dict[str, Callable[[Task], Measured]] = {
    "ssh host true": ssh_true,
    "gpumend audit": gpumend_audit,
    "stock pyinfra": stock_pyinfra,
    "Ansible check": ansible,
}
