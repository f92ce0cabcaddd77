"""Mode cdi and the next boot: what mend leaves behind still works when the node comes up again (gpumend explain GM314)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.nodes import scenarios, toolkit
from tests.nodes.conftest import Boot
from tests.nodes.drive import audit, mend
from tests.nodes.images import BASE
from tests.nodes.lab import Lab, Node
from tests.nodes.toolkit import CONFIG, REFRESH_ENV

VERSION = "1.18.2"
SLOW = "/etc/systemd/system/nvidia-cdi-refresh.service.d/slow.conf"
# Generators that are not done when dockerd starts; the last is ended by systemd while the node comes up.
GENERATORS = {
    "takes-5-s": "ExecStartPre=/bin/sleep 5",
    "fails": "ExecStartPre=/bin/false",
    "hangs": "ExecStartPre=/bin/sleep 100000\nTimeoutStartSec=15",
}
RUNTIME = ("--runtime=nvidia", "-e", "NVIDIA_VISIBLE_DEVICES=all")
DEVICE = ("--device", "nvidia.com/gpu=0")


def starts_at_boot(node: Node, options: tuple[str, ...], generator: str) -> None:
    """A container with these options comes back at each boot, at which the generator is no quicker than that."""
    node.run(["docker", "run", "-d", "--name", "plex", "--restart=always", *options, BASE, "sleep", "100000"])
    node.write(SLOW, f"[Service]\n{generator}\n")
    node.run(["systemctl", "daemon-reload"])


def container(node: Node) -> dict[str, Any]:
    found: list[dict[str, Any]] = json.loads(node.run(["docker", "inspect", "plex"]).stdout)
    state: dict[str, Any] = found[0]["State"]
    return state


@pytest.mark.parametrize("generator", GENERATORS.values(), ids=GENERATORS.keys())
def test_a_container_of_the_runtime_comes_back(boot: Boot, lab: Lab, generator: str) -> None:
    node = boot("sid", scenario="healthy", toolkit=VERSION)
    assert audit(lab, node).rc == 0
    toolkit.write_config(node, mode="cdi")
    starts_at_boot(node, RUNTIME, generator)
    node.reboot()
    lost = container(node)
    assert (lost["Running"], lost["ExitCode"]) == (False, 128), "the trap must be seen first"
    assert "unresolvable CDI devices" in lost["Error"]

    slowness = node.read(SLOW)
    node.sh(
        'rm "$1"; systemctl daemon-reload; systemctl restart nvidia-cdi-refresh.service', SLOW
    )  # too late
    found = audit(lab, node)
    assert found.rc == 3, found.said
    assert "GM314" in found.codes(node)
    assert "plex" in found.finding(node, "GM314")["summary"]

    done = mend(lab, node)
    assert "GM314" not in done.codes(node), done.said
    assert 'mode = "auto"' in node.read(CONFIG).decode()
    node.run(["docker", "start", "plex"])
    node.write(SLOW, slowness)
    node.reboot()
    assert node.is_active("docker.service")
    assert container(node)["Running"] is True
    assert node.run(["docker", "exec", "plex", "ls", "/dev/nvidia0"]).stdout == "/dev/nvidia0\n"


def test_a_container_with_a_device_comes_back(boot: Boot, lab: Lab) -> None:
    node = boot("sid", scenario="healthy", toolkit=VERSION)
    starts_at_boot(node, DEVICE, GENERATORS["takes-5-s"])
    node.reboot()
    assert container(node)["Running"] is False, "the trap must be seen first"
    node.run(["systemctl", "restart", "nvidia-cdi-refresh.service"])

    done = mend(lab, node)
    # It did not start at this boot, and mend starts no container: it is told of until somebody does, or the next boot.
    assert (done.rc, done.codes(node)) == (3, ["GM416"]), done.said
    assert node.exists(scenarios.SPEC) and not node.exists("/var/run/cdi/nvidia.yaml")
    assert f"NVIDIA_CTK_CDI_OUTPUT_FILE_PATH={scenarios.SPEC}\n" in node.read(REFRESH_ENV).decode()
    node.run(["docker", "start", "plex"])
    node.reboot()
    assert container(node)["Running"] is True
    assert mend(lab, node).statuses(node) == {}, "a second run changes nothing"
