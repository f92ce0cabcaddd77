"""GM509: what `systemctl daemon-reload` takes from running containers, with real runc and real systemd.

There is no driver behind the device nodes: a container that is let at one reads "No such device or address".
"""

from __future__ import annotations

from gpumend.rules.finding import Component
from gpumend.state.driver import CHAR_RULE
from tests.nodes.conftest import Boot
from tests.nodes.drive import audit, mend
from tests.nodes.images import BASE
from tests.nodes.lab import Lab, Node

KEPT, LOST = "No such device or address", "Operation not permitted"


def reads(node: Node, name: str) -> str:
    """What a running container is told when it opens the GPU."""
    said = node.run(["docker", "exec", name, "cat", "/dev/nvidia0"], check=False).stderr
    return said.strip().rpartition(": ")[2]


def after_reload(node: Node, name: str) -> str:
    """The same after a daemon-reload; before it the container is let at the GPU."""
    assert reads(node, name) == KEPT
    node.sh("systemctl daemon-reload")
    return reads(node, name)


def start(node: Node, name: str) -> str:
    """A container with the GPU in its config.json."""
    node.run(["docker", "run", "-d", "--name", name, "--device", "/dev/nvidia0", BASE, "sleep", "86400"])
    return name


def unlink(node: Node) -> None:
    node.sh("rm /dev/char/195:* /dev/char/238:*")


def test_runc_1_1_5_keeps_the_gpu_with_links_and_the_hook_does_not(boot: Boot, lab: Lab) -> None:
    node = boot("bookworm", scenario="gpus_container_running")
    assert "runc version 1.1.5" in node.run(["runc", "--version"]).stdout
    assert node.exists("/dev/char/195:0")

    found = audit(lab, node).finding(node, "GM509")
    assert found["status"] == "warn" and found["mends"] is None
    assert [each["text"] for each in found["evidence"]][-1] == "running container trainer"
    assert after_reload(node, "trainer") == LOST, "as foretold"
    node.run(["docker", "rm", "-f", "trainer"])

    assert after_reload(node, start(node, "linked")) == KEPT
    unlink(node)
    assert after_reload(node, start(node, "unlinked")) == LOST, "the breakage must be seen first"
    told = audit(lab, node).finding(node, "GM509")
    assert told["mends"] == Component.DRIVER and "runc 1.1.5" in told["summary"]

    done = mend(lab, node)
    assert done.rc == 0, done.said
    assert done.statuses(node)[Component.DRIVER] == "changed" and node.exists(CHAR_RULE)
    assert reads(node, "unlinked") == LOST, "it has to be recreated"
    assert after_reload(node, start(node, "mended")) == KEPT
    again = mend(lab, node)
    assert (again.rc, again.statuses(node)) == (0, {}), again.said


def test_later_runc_needs_no_links(boot: Boot, lab: Lab) -> None:
    node = boot("trixie")
    unlink(node)
    assert after_reload(node, start(node, "unlinked")) == KEPT
    found = audit(lab, node)
    assert (found.rc, found.codes(node)) == (0, []), found.said
