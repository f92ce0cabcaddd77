"""The programs that are measured: each reads, or changes, the same of the same hosts, its own way.

Stock pyinfra and Ansible read what our audit asks of every host by its name: FILES, the metadata of STATS, COMMANDS. Our
audit reads besides what it finds by pattern, processes, containers and images, and judges it all. What is changed is two
lines of the toolkit's config.toml.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from gpumend.state.host_state import request
from tests.bench.client import python
from tests.bench.farm import DELAYED, DRIFTED, OWN, PLAIN, REPLAYED, Farm, address, local
from tests.nodes import toolkit

ROOT = Path(__file__).resolve().parents[2]
PEERS = ROOT / ".venv-bench"  # ansible-core and what draws the plot

ASKED = request()
FILES: list[str] = ASKED["files"]
STATS: list[str] = ASKED["stats"]
# Where a command is asked for under a condition only, the farm's host fulfils the one of a driver and no other.
COMMANDS: list[list[str]] = [
    command["argv"]
    for command in ASKED["commands"].values()
    if not command["needs"] or "/proc/driver/nvidia/version" in command["needs"]
] + [["systemctl", "show", *ASKED["units"]], ["docker", "info"], ["docker", "ps", "--all", "--no-trunc"]]
LINES = {r"^\s*#?\s*ldconfig\s*=": 'ldconfig = "@/sbin/ldconfig"', r"^\s*mode\s*=": 'mode = "cdi"'}


@dataclass(frozen=True)
class Measured:
    """One run: wall and client CPU in seconds, peak memory of the largest client process in MB, SSH execs; CPU in seconds of all of
    the hosts: PID 1, dockerd and sshd with what they run."""

    wall: float
    cpu: float
    memory: float
    execs: int
    machine: float = 0.0


@dataclass(frozen=True)
class Task:
    """What is asked of a contestant. directory: scratch space of its own."""

    farm: Farm
    hosts: int
    delayed: bool
    directory: Path

    def port(self, plain: int) -> int:
        return plain + DELAYED if self.delayed else plain

    @property
    def addresses(self) -> list[str]:
        found = [address(number) for number in range(self.hosts)]
        return [local(host) for host in found] if self.delayed else found


def peak(pid: int) -> float:
    """The most memory that a process has had so far, in MB. (ru_maxrss of a child counts what it was forked from.)"""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0.0
    found = re.search(r"^VmHWM:\s+(\d+) kB", text, re.MULTILINE)
    return int(found.group(1)) / 1024 if found else 0.0


def measured(
    task: Task, argvs: list[list[str]], env: Mapping[str, str] | None = None, good: tuple[int, ...] = (0,)
) -> Measured:
    """Start all of `argvs` at once and wait for all. CPU is of these processes and all that they waited for, memory of
    the first one, looked at every 20 ms. Raises RuntimeError where one fails."""
    sessions, machine = task.farm.sessions(), task.farm.cpu()
    began = time.monotonic()
    with (task.directory / "output").open("ab") as log:
        children = [
            subprocess.Popen(
                argv, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**os.environ, **(env or {})},
            )
            for argv in argvs
        ]  # fmt: skip
        memory, done = 0.0, threading.Event()

        def watch() -> None:
            nonlocal memory
            while not done.wait(0.02):
                memory = max(memory, peak(children[0].pid))

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        cpu = 0.0
        for child in children:
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
            cpu += usage.ru_utime + usage.ru_stime
        wall = time.monotonic() - began
        done.set()
        watcher.join()
    for child in children:
        if child.returncode not in good:
            said = (task.directory / "output").read_text(errors="replace")[-3000:]
            raise RuntimeError(f"{child.args!r}: exit status {child.returncode}: {said}")
    return Measured(wall, cpu, memory, task.farm.sessions() - sessions, task.farm.cpu() - machine)


def ssh_true(task: Task) -> Measured:
    """The floor: `ssh host true` to all hosts at once, cold, with OpenSSH's default key exchange."""
    options = [
        "-F", "none", "-p", str(task.port(PLAIN)), "-i", str(task.farm.key), "-o", "BatchMode=yes",
        "-o", "IdentitiesOnly=yes", "-o", f"UserKnownHostsFile={task.farm.known_hosts}", "-o", "StrictHostKeyChecking=yes",
    ]  # fmt: skip
    return measured(task, [["ssh", *options, f"{task.farm.user}@{host}", "true"] for host in task.addresses])


def _ours(task: Task, port: int, *arguments: str, good: tuple[int, ...] = (0,)) -> Measured:
    path, report = task.directory / "hosts.toml", task.directory / "report.json"
    rows = [
        f'[defaults]\nuser = "{task.farm.user}"\nkey = "{task.farm.key}"\n'
        f'known_hosts = "{task.farm.known_hosts}"\nport = {task.port(port)}\n'
    ]
    path.write_text("".join(rows + [f'[hosts."{host}"]\n' for host in task.addresses]))
    argv = [python(), "-m", "pyinfra", "inventory.py", *arguments, "--data", f"report={report}"]
    done = measured(task, [argv], {"GPUMEND_HOSTS": str(path), "PYINFRA_PROGRESS": "off"}, good)
    if report.exists():
        hosts = json.loads(report.read_text())["hosts"]
        if wrong := {name: host["status"] for name, host in hosts.items() if host["error"]}:
            raise RuntimeError(f"no answer: {wrong}")
    return done


def bare_paramiko(task: Task) -> Measured:
    """The floor of anything on paramiko: one exec of `true` a host, all at once on gevent, as pyinfra has them."""
    names = {f"[{host}]:{task.port(PLAIN)}" for host in task.addresses}
    known = (
        task.directory / "known_hosts"
    )  # no more than it needs: paramiko compares each entry with all before it
    rows = task.farm.known_hosts.read_text(encoding="utf-8").splitlines(keepends=True)
    known.write_text("".join(row for row in rows if row.split(" ", 1)[0] in names))
    program = task.directory / "bare_paramiko.py"
    program.write_text(
        "from gevent import monkey\nmonkey.patch_all()\nimport gevent.pool, paramiko\n"
        f"entries = paramiko.HostKeys({str(known)!r})._entries\n"
        "known = {name: each for each in entries for name in each.hostnames}\n"
        "def one(host):\n"
        "    client = paramiko.SSHClient()\n"
        "    client.set_missing_host_key_policy(paramiko.RejectPolicy())\n"
        f"    client.get_host_keys()._entries.append(known[f'[{{host}}]:{task.port(PLAIN)}'])\n"
        f"    client.connect(host, {task.port(PLAIN)}, {task.farm.user!r}, key_filename={str(task.farm.key)!r},"
        " look_for_keys=False, allow_agent=False, timeout=60, banner_timeout=60, auth_timeout=60)\n"
        "    _, out, _ = client.exec_command('true')\n"
        "    assert out.channel.recv_exit_status() == 0\n"
        "    client.close()\n"
        f"jobs = [gevent.spawn(one, host) for host in {task.addresses!r}]\n"
        "gevent.joinall(jobs, raise_error=True)\n"
    )
    return measured(task, [[python(), str(program)]])


def bare(task: Task) -> Measured:
    """The floor of anything on pyinfra: our inventory, and one exec of `true` a host."""
    deploy = task.directory / "bare.py"
    deploy.write_text(
        "from pyinfra.api.command import StringCommand\nfrom pyinfra.context import host\n"
        "host.run_shell_command(StringCommand('true'))\n"
    )
    return _ours(task, PLAIN, str(deploy), "--dry")


def audit(task: Task) -> Measured:
    """Ours, as README gives it."""
    # 1: on two busy processors one of many hosts' commands may run into its time limit, and is then not known.
    return _ours(task, PLAIN, "deploys/gpu_host.py", "--dry", good=(0, 1))


def replayed(task: Task) -> Measured:
    """Ours, to hosts that do not compute on the controller's own processors."""
    return _ours(task, REPLAYED, "deploys/gpu_host.py", "--dry")


def drifted(task: Task) -> Measured:
    """The same, to hosts of which each has two values to set, shown as a diff."""
    return _ours(task, DRIFTED, "deploys/gpu_host.py", "--dry", good=(3,))


def mend(task: Task) -> Measured:
    """Ours, as README gives it: read, change with journal and backup, read again."""
    return _ours(task, OWN, "deploys/gpu_host.py", "-y", good=(0, 1))


def _stock(task: Task, port: int, body: str, flag: str) -> Measured:
    (task.directory / "stock_inventory.py").write_text(
        f"hosts = ({task.addresses!r}, dict(ssh_user={task.farm.user!r}, ssh_port={task.port(port)}, ssh_key={str(task.farm.key)!r},"
        f" ssh_known_hosts_file={str(task.farm.known_hosts)!r}, ssh_strict_host_key_checking='yes'))\n"
    )
    facts = [f"cat {path} 2>/dev/null || true" for path in FILES]
    facts += [f"stat {path} 2>/dev/null || true" for path in STATS]
    facts += [f"{shlex.join(argv)} 2>/dev/null || true" for argv in COMMANDS]
    (task.directory / "stock.py").write_text(
        "from pyinfra import host\nfrom pyinfra.facts.server import Command\nfrom pyinfra.operations import files\n"
        f"for command in {facts!r}:\n    host.get_fact(Command, command=command)\n{body}"
    )
    inventory, deploy = str(task.directory / "stock_inventory.py"), str(task.directory / "stock.py")
    argv = [python(), "-m", "pyinfra", inventory, deploy, flag]
    return measured(task, [argv], {"PYINFRA_PROGRESS": "off"})


def stock_audit(task: Task) -> Measured:
    """pyinfra's own facts over the same: what one would write without gpumend."""
    return _stock(task, PLAIN, "", "--dry")


def stock_mend(task: Task) -> Measured:
    """The same, and two `files.line`."""
    body = "".join(
        f"files.line(path={toolkit.CONFIG!r}, line={pattern + '.*$'!r}, replace={line!r})\n"
        for pattern, line in LINES.items()
    )
    return _stock(task, OWN, body, "-y")


def _ansible(task: Task, port: int, tasks: list[dict[str, object]], *flags: str) -> Measured:
    rows = [f"{host} ansible_port={task.port(port)}" for host in task.addresses]
    (task.directory / "hosts.ini").write_text("[all]\n" + "\n".join(rows) + "\n")
    reads: list[dict[str, object]] = [
        {"ansible.builtin.slurp": {"src": path}, "failed_when": False} for path in FILES
    ]
    reads += [
        {"ansible.builtin.stat": {"path": path, "get_checksum": False}, "failed_when": False}
        for path in STATS
    ]
    reads += [
        {"ansible.builtin.command": {"argv": argv}, "check_mode": False, "changed_when": False, "failed_when": False}
        for argv in COMMANDS
    ]  # fmt: skip
    play = [{"hosts": "all", "gather_facts": False, "tasks": reads + tasks}]
    (task.directory / "play.yml").write_text(json.dumps(play))
    (task.directory / "ansible.cfg").write_text(
        f"[defaults]\nforks = {task.hosts}\nhost_key_checking = True\nremote_user = {task.farm.user}\n"
        f"private_key_file = {task.farm.key}\ninterpreter_python = /usr/bin/python3\n"
        "[ssh_connection]\npipelining = True\ntransfer_method = piped\n"
        f"ssh_args = -F none -o ControlMaster=auto -o ControlPersist=60s -o UserKnownHostsFile={task.farm.known_hosts}\n"
        f"control_path_dir = {task.directory / 'cp'}\n"
    )
    playbook = str(PEERS / "bin" / "ansible-playbook")
    argv = [playbook, "-i", str(task.directory / "hosts.ini"), *flags, str(task.directory / "play.yml")]
    try:
        return measured(
            task, [argv], {"ANSIBLE_CONFIG": str(task.directory / "ansible.cfg"), "LC_ALL": "C.UTF-8"}
        )
    finally:
        subprocess.run(["pkill", "-f", f"ssh: {task.directory}"], check=False)  # ControlPersist's masters


def ansible_audit(task: Task) -> Measured:
    """ansible-core in check mode over the same: pipelining, ControlPersist, forks = hosts."""
    return _ansible(task, PLAIN, [], "--check")


def ansible_mend(task: Task) -> Measured:
    """The same, and two `lineinfile`, applied."""
    tasks: list[dict[str, object]] = [
        {"ansible.builtin.lineinfile": {"path": toolkit.CONFIG, "regexp": pattern, "line": line}}
        for pattern, line in LINES.items()
    ]
    return _ansible(task, OWN, tasks)


Contestant = Callable[[Task], Measured]
AUDITS: dict[str, Contestant] = {
    "ssh host true": ssh_true,
    "paramiko, one exec": bare_paramiko,
    "pyinfra, one exec": bare,
    "gpumend audit, replayed": replayed,
    "gpumend audit, drifted, replayed": drifted,
    "gpumend audit": audit,
    "stock pyinfra facts": stock_audit,
    "Ansible --check": ansible_audit,
}
MENDS: dict[str, Contestant] = {
    "gpumend mend": mend,
    "stock pyinfra": stock_mend,
    "Ansible": ansible_mend,
}
