"""Named states of a GPU host, healthy or broken in one way. Numbers are those of the failure catalogue
(reference/container-toolkit.md section 6); `report_002` is the incident report 002.

A scenario is a function that brings a freshly booted node into its state and returns when the state is there:
Docker has been restarted where its configuration says so, and runs unless that is what is broken.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.nodes import gpu, images, toolkit
from tests.nodes.lab import LabError, Node
from tests.nodes.toolkit import CONFIG, numbers

DAEMON = "/etc/docker/daemon.json"
SPEC = "/etc/cdi/nvidia.yaml"
RUNTIME: dict[str, Any] = {"path": "/usr/bin/nvidia-container-runtime", "args": []}
OLDER_DRIVER = "535.183.01"

Function = Callable[[Node, str, str], None]


@dataclass(frozen=True)
class Scenario:
    """A state, and what brings a node into it. over: the scenario that it begins with; lasting: all of the state lies on
    the disk, so that a node which boots with a copy of that disk is in it, too."""

    bring: Function
    over: str = ""
    lasting: bool = False


SCENARIOS: dict[str, Scenario] = {}

REPORT_002_CONFIG = """\
# written by the previous admin, see ticket 4711
disable-require = false
site-note = "keep me"  # a key that no tool knows

[nvidia-container-cli]
environment = []
# the Ubuntu hosts have ldconfig.real
ldconfig = "@/sbin/ldconfig.real"   # copied from another host
load-kmods = true

[nvidia-container-runtime]
log-level = "info"
mode = "auto"
runtimes = ["docker-runc", "runc", "crun"]

[nvidia-container-runtime.modes.cdi]
spec-dirs = ["/etc/cdi", "/var/run/cdi"]
"""
# Foreign keys, tabs, an odd order and no newline at the end: all of it must outlive the mending.
# A daemon.json with neither the runtime nor CDI, also where CDI is on by itself (28.2): calls for a restart.
UNTOLD = '{\n  "log-driver": "json-file",\n  "features": {"cdi": false}\n}\n'
REPORT_002_DAEMON = (
    '{\n\t"log-driver": "json-file",\n\t"log-opts": {"max-size": "10m",   "max-file": "3"},\n'
    '\t"features": {"buildkit": true},\n\t"runtimes": {\n\t\t"other": {"path": "/usr/bin/runc"}\n\t}\n}'
)


def scenario(over: str = "", lasting: bool = False) -> Callable[[Function], Function]:
    """Registers a scenario under its function's name."""

    def register(function: Function) -> Function:
        SCENARIOS[function.__name__] = Scenario(function, over, lasting)
        return function

    return register


def equip(node: Node, version: str, driver: str) -> None:
    """The node has a GPU, the toolkit's programs and the image base:1; nothing is configured."""
    gpu.install(node, driver)
    toolkit.install(node, version)
    images.import_image(node)


def daemon_settings(node: Node, **more: Any) -> dict[str, Any]:
    """What daemon.json needs for that generation of Docker: the runtime, and CDI where it is off."""
    settings: dict[str, Any] = {"runtimes": {"nvidia": RUNTIME}}
    if (
        node.suite == "trixie"
    ):  # 25.0 to 28.1 know CDI and keep it off; 20.10 does not know it, 28.2 has it on
        settings["features"] = {"cdi": True}
    return settings | more


def cdi_by_default(node: Node) -> bool:
    """Whether the suite's Docker has CDI on where its file says nothing (28.2 and newer)."""
    return node.suite in ("sid", "noble")


def write_daemon(node: Node, settings: dict[str, Any] | str) -> None:
    """daemon.json says this, and the running Docker has read it."""
    text = settings if isinstance(settings, str) else json.dumps(settings, indent=4) + "\n"
    node.write(DAEMON, text)
    node.restart("docker")


def runtime_mode(version: str) -> str:
    """The runtime's mode that is right for a toolkit: from 1.18 "auto" needs no spec, before it is legacy."""
    return "auto" if numbers(version) >= (1, 18) else "cdi"


@scenario(lasting=True)
def healthy(node: Node, version: str, driver: str) -> None:
    """Everything right for that generation: runtime registered, CDI on, a fresh spec, the right mode.

    With a toolkit before 1.18 the spec is /etc/cdi/nvidia.yaml and the mode is "cdi"; from 1.18 the refresh
    units keep it in /var/run/cdi and the mode is "auto".
    """
    equip(node, version, driver)
    toolkit.write_config(node, mode=runtime_mode(version))
    if numbers(version) >= (1, 18):
        toolkit.install_refresh_units(node, version)
    else:
        toolkit.generate_spec(node, SPEC)
    write_daemon(node, daemon_settings(node))


@scenario(lasting=True)
def report_002(node: Node, version: str, driver: str) -> None:
    """Incident 002 (#1, #14, #17): ldconfig.real configured but absent, mode auto, no spec, no runtime."""
    equip(node, version, driver)
    node.write(CONFIG, REPORT_002_CONFIG)
    write_daemon(node, REPORT_002_DAEMON)


@scenario(lasting=True)
def stale_spec(node: Node, version: str, driver: str) -> None:
    """#21: the driver was upgraded, /etc/cdi/nvidia.yaml still names the libraries of the one before."""
    equip(node, version, OLDER_DRIVER)
    toolkit.write_config(node, mode="cdi")
    toolkit.generate_spec(node, SPEC)
    gpu.set_driver(node, driver)
    write_daemon(node, daemon_settings(node))


@scenario(lasting=True)
def duplicate_spec(node: Node, version: str, driver: str) -> None:
    """#17 and fact 10: two files in /etc/cdi define the same devices, so nobody has them."""
    equip(node, version, driver)
    toolkit.write_config(node, mode="cdi")
    toolkit.generate_spec(node, SPEC)
    toolkit.generate_spec(node, "/etc/cdi/nvidia-container-toolkit.json")
    write_daemon(node, daemon_settings(node))


@scenario(lasting=True)
def wrong_uvm_major(node: Node, version: str, driver: str) -> None:
    """#22: the spec carries another boot's major number of nvidia-uvm; nvidia-smi works, cuInit does not."""
    equip(node, version, driver)
    toolkit.write_config(node, mode="cdi")
    toolkit.generate_spec(node, SPEC)
    text = node.read(SPEC).decode()

    def renumbered(match: re.Match[str]) -> str:
        indent, path = match[1], match[2]
        minor = f"{indent}  minor: 1\n" if path.endswith("-tools") else ""
        return f"{indent}- path: {path}\n{indent}  major: 511\n{minor}"

    # A toolkit before 1.19 writes no numbers, so there may be none to replace.
    numbered = r"( *)- path: (/dev/nvidia-uvm(?:-tools)?)\n(?: *m(?:aj|in)or: \d+\n)*"
    wrong, count = re.subn(numbered, renumbered, text)
    if count != 2:
        raise LabError("the generated spec does not name nvidia-uvm and nvidia-uvm-tools")
    node.write(SPEC, wrong)
    write_daemon(node, daemon_settings(node))


@scenario(lasting=True)
def leftover_static_spec(node: Node, version: str, driver: str) -> None:
    """Section 4.4 (h): refresh units keep /var/run/cdi fresh, and an older driver's file lies in /etc/cdi."""
    version = version if numbers(version) >= (1, 18) else "1.18.2"
    equip(node, version, OLDER_DRIVER)
    toolkit.write_config(node)
    toolkit.generate_spec(node, SPEC)
    gpu.set_driver(node, driver)
    toolkit.install_refresh_units(node, version)
    write_daemon(node, daemon_settings(node))


@scenario(over="healthy")
def docker_down(node: Node, version: str, driver: str) -> None:
    """Docker is installed, rightly configured, and stopped."""
    node.sh("systemctl stop docker.socket docker.service")


@scenario(over="healthy")
def invalid_daemon_json(node: Node, version: str, driver: str) -> None:
    """#15: a hand edit left daemon.json without its closing braces; dockerd still runs with the old text."""
    node.write(DAEMON, '{\n  "log-driver": "json-file",\n  "runtimes": {\n')


@scenario(over="healthy")
def invalid_config_toml(node: Node, version: str, driver: str) -> None:
    """config.toml is not TOML (an array is not closed): every GPU container fails."""
    node.write(CONFIG, "disable-require = false\n[nvidia-container-cli]\nenvironment = [\n")


@scenario()
def no_gpu(node: Node, version: str, driver: str) -> None:
    """A host without a GPU or a driver on which the toolkit is installed and Docker knows the runtime."""
    toolkit.install(node, version)
    images.import_image(node)
    toolkit.write_config(node)
    write_daemon(node, daemon_settings(node))


@scenario()
def no_docker(node: Node, version: str, driver: str) -> None:
    """A GPU and the toolkit, but no Docker: its packages have been purged."""
    gpu.install(node, driver)
    toolkit.install(node, version)
    toolkit.write_config(node)
    packages = "docker.io docker-cli" if node.suite != "bookworm" else "docker.io"
    node.sh(f"systemctl stop docker.socket docker.service; dpkg --purge {packages} >/dev/null 2>&1")
    node.sh("rm -rf /etc/docker; systemctl daemon-reload; systemctl reset-failed")


@scenario()
def daemon_json_is_directory(node: Node, version: str, driver: str) -> None:
    """daemon.json is a directory, as `docker run -v` of a file that is not there leaves one."""
    equip(node, version, driver)
    toolkit.write_config(node, mode=runtime_mode(version))
    toolkit.generate_spec(node, SPEC)
    node.sh('rm -rf "$1"; mkdir -p "$1"', DAEMON)


@scenario(over="healthy")
def config_dangling_link(node: Node, version: str, driver: str) -> None:
    """config.toml is a link to a file that is gone."""
    node.sh('ln -sfn /srv/config-management/nvidia.toml "$1"', CONFIG)


@scenario(over="healthy")
def non_utf8_config(node: Node, version: str, driver: str) -> None:
    """config.toml has a comment in Latin-1."""
    node.write(CONFIG, b"# f\xfcr die Rechner im Keller\n" + node.read(CONFIG))


@scenario()
def gpus_container_running(node: Node, version: str, driver: str) -> None:
    """A container "trainer", started with `docker run --gpus all` through the legacy hook, is running."""
    equip(node, version, driver)
    toolkit.write_config(node)
    write_daemon(node, daemon_settings(node))
    node.run(["docker", "run", "-d", "--name", "trainer", "--gpus", "all", images.BASE, "sleep", "86400"])


@scenario(over="healthy")
def runtime_missing(node: Node, version: str, driver: str) -> None:
    """#14: all is right but that daemon.json has no runtime "nvidia"."""
    settings = daemon_settings(node)
    del settings["runtimes"]
    write_daemon(node, settings)


@scenario(over="healthy")
def cdi_feature_off(node: Node, version: str, driver: str) -> None:
    """#19: daemon.json says `features.cdi: false`."""
    write_daemon(node, daemon_settings(node, features={"cdi": False}))


def apply(node: Node, name: str, version: str = "1.17.8", driver: str = gpu.DEFAULT_DRIVER) -> None:
    """Brings a freshly booted node into the named state."""
    if SCENARIOS[name].over:
        apply(node, SCENARIOS[name].over, version, driver)
    add(node, name, version, driver)


def add(node: Node, name: str, version: str = "1.17.8", driver: str = gpu.DEFAULT_DRIVER) -> None:
    """Brings a node into the named state that is already in the state that this one begins with."""
    SCENARIOS[name].bring(node, version, driver)
