"""`make demo`: the main job on a throwaway host. A real Debian with real Docker boots, is broken as in incident report
002, is audited, mended, proven and audited again. Where nodes cannot boot, this machine is audited instead.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

from tests.nodes import scenarios
from tests.nodes.lab import Lab, Node, why_not

ROOT = Path(__file__).resolve().parents[2]
SUITE, TOOLKIT, DRIVER = "trixie", "1.17.8", "550.163.01"
PATHS = (
    ("--runtime=nvidia", "-e", "NVIDIA_VISIBLE_DEVICES=all"),
    ("--device", "nvidia.com/gpu=0"),
)


def say(text: str) -> None:
    """A heading of the demo, in order with what its programs print."""
    sys.stdout.write(f"\n\033[1m== {text}\033[0m\n" if sys.stdout.isatty() else f"\n== {text}\n")
    sys.stdout.flush()


def gpumend(hosts: Path | None, *arguments: str) -> int:
    """Run pyinfra as an operator would, and return its exit status. Its commentary is left out unless it failed."""
    shown = ["pyinfra", "inventory.py", "deploys/gpu_host.py", *arguments]
    sys.stdout.write(f"$ {shlex.join(shown)}\n")
    sys.stdout.flush()
    environment = dict(os.environ)
    if hosts is not None:
        environment["GPUMEND_HOSTS"] = str(hosts)
    done = subprocess.run(
        [sys.executable, "-m", *shown],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    if done.returncode not in (0, 3):
        sys.stderr.write(done.stderr)
    sys.stdout.write(f"exit status {done.returncode}\n")
    sys.stdout.flush()
    return done.returncode


def containers(node: Node) -> list[bool]:
    """Start a container on each engine path, show what it says, and return whether it saw the GPU."""
    seen = []
    for options in PATHS:
        argv = ["docker", "run", "--rm", *options, "base:1", "ls", "/dev/nvidia0"]
        done = node.run(argv, check=False)
        sys.stdout.write(f"$ {shlex.join(argv)}\n{(done.stdout + done.stderr).strip()}\n")
        seen.append(done.returncode == 0)
    sys.stdout.flush()
    return seen


def on_a_node() -> int:
    """The whole story on a booted host. 0 when each part of it went as it should."""
    say(f"A throwaway host boots: Debian {SUITE}, systemd, sshd, Docker; broken as in incident report 002")
    sys.stdout.write("(The first time builds its root file system: about half a minute.)\n")
    sys.stdout.write(
        "Its GPU and NVIDIA's programs are stand-ins (tests/nodes/standins); all else is real.\n"
    )
    sys.stdout.flush()
    with Lab() as lab:
        node = lab.boot(SUITE)
        scenarios.apply(node, "report_002", TOOLKIT, DRIVER)
        hosts = Path(lab.slot.directory) / "hosts.toml"
        hosts.write_text(
            f'[defaults]\nuser = "root"\nkey = "{lab.key}"\nknown_hosts = "{lab.known_hosts}"\n\n'
            f'[hosts.broken]\naddress = "{node.address}"\n'
        )
        say("Containers cannot use the GPU")
        before = containers(node)
        etc = node.tree("/etc")
        say("Audit: why, and what would be changed")
        audit = gpumend(hosts, "--dry")
        untouched = node.tree("/etc") == etc
        sys.stdout.write(f"Nothing under /etc was touched: {untouched}\n")
        say("Mend")
        mend = gpumend(hosts)
        say("Containers can use the GPU")
        after = containers(node)
        etc = node.tree("/etc")
        say("A second mend changes nothing; the audit agrees")
        again, last = gpumend(hosts), gpumend(hosts, "--dry")
        still = node.tree("/etc") == etc
        good = (
            not any(before)
            and audit == 3
            and untouched
            and mend == 0
            and all(after)
            and again == last == 0
            and still
        )
        say("All as it should be" if good else "Something is not as it should be: see above")
        return 0 if good else 1


def main() -> int:
    reason = why_not()
    if reason is None:
        return on_a_node()
    sys.stdout.write(f"No throwaway host can boot here ({reason}): this machine is audited instead.\n")
    sys.stdout.flush()
    status = gpumend(None, "--dry")
    return 0 if status in (0, 1, 3) else status


if __name__ == "__main__":
    sys.exit(main())
