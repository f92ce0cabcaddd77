"""The agent as HealthCheckProgram of Debian's own slurmd, with its slurmctld and munge, on one booted node."""

from __future__ import annotations

import json
from typing import Any

from gpumend.agent.slurm import Node as SlurmNode
from gpumend.agent.slurm import parse
from tests.nodes import gpu, scenarios
from tests.nodes.conftest import Boot
from tests.nodes.drive import Target, start
from tests.nodes.lab import Lab, Node
from tests.nodes.slot import wait_for

HEALTH = "/usr/local/lib/gpumend/slurm-health"
PERIOD = 5  # seconds between two calls of HealthCheckProgram
CONF = """\
ClusterName=test
SlurmctldHost={name}({address})
SlurmUser=slurm
AuthType=auth/munge
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/linear
ReturnToService=2
StateSaveLocation=/var/lib/slurm/slurmctld
SlurmdSpoolDir=/var/lib/slurm/slurmd
MailProg=/bin/true
HealthCheckProgram={program}
HealthCheckInterval={period}
HealthCheckNodeState=ANY
NodeName={name} NodeAddr={address} CPUs=1 State=UNKNOWN
PartitionName=all Nodes={name} Default=YES State=UP
"""


def wanted(**slurm: Any) -> dict[str, Any]:
    return {"agent": {"interval": 60, "slurm": slurm}}


def install(lab: Lab, node: Node, **slurm: Any) -> None:
    more = ("-y", "--data", "agent_verb=install")
    ran = start(lab, Target(node, wanted=wanted(**slurm)), deploy="agent", more=more).finish()
    assert ran.rc == 0, ran.said


def shown(node: Node) -> SlurmNode:
    done = node.run(["scontrol", "-o", "show", "node", node.name], check=False)
    return parse(done.stdout) if done.returncode == 0 else SlurmNode("", "")


def health(node: Node) -> int:
    """The exit status of the program, called as slurmd does."""
    return node.run(["env", f"SLURMD_NODENAME={node.name}", HEALTH], check=False).returncode


def update(node: Node, *words: str) -> None:
    node.run(["scontrol", "update", f"NodeName={node.name}", *words])


def driver(node: Node, version: str) -> None:
    """Another driver is loaded: the CDI spec is stale, or is not any more."""
    gpu.set_driver(node, version)


def test_slurm_drains_a_node_with_a_fault_and_no_other(lab: Lab, boot: Boot) -> None:
    node = boot("trixie+fleet", "healthy")
    install(lab, node, drain=["fail"], resume=True)
    node.run(["systemctl", "stop", "gpumend-audit.timer", "gpumend-audit.path"])
    node.write("/etc/slurm/cgroup.conf", "CgroupPlugin=disabled\n")
    node.write(
        "/etc/slurm/slurm.conf",
        CONF.format(name=node.name, address=node.address, program=HEALTH, period=PERIOD),
    )
    node.sh("mkdir -p /var/lib/slurm/slurmctld /var/lib/slurm/slurmd; chown slurm: /var/lib/slurm/slurmctld")
    done = node.run(
        ["systemctl", "restart", "munge.service", "slurmctld.service", "slurmd.service"], check=False
    )
    assert done.returncode == 0, node.run(["journalctl", "-b", "-n", "60", "-o", "cat"]).stdout
    wait_for("the node takes jobs", lambda: shown(node).state == "IDLE", 60.0)
    assert node.run(["srun", "-N1", "hostname"]).stdout.strip() == node.name

    # A fault: within one period the node is drained, with the code as reason. It is ours to put back when it is gone.
    sound = gpu.DEFAULT_DRIVER
    driver(node, "560.35.03")
    wait_for("slurmd's health check drains it", lambda: shown(node).draining, PERIOD + 20.0)
    drained = shown(node)
    assert drained.reason.startswith("gpumend: ") and "GM304" in drained.reason, drained
    told = node.run(
        ["journalctl", "-o", "json", "SYSLOG_IDENTIFIER=gpumend", f"GPUMEND_NODE={node.name}"]
    ).stdout
    assert [json.loads(line)["MESSAGE"] for line in told.splitlines()] == [f"drained: {drained.reason}"]
    driver(node, sound)
    wait_for("it takes jobs again", lambda: shown(node).state == "IDLE", PERIOD + 20.0)
    # From here on nobody but this test calls it: slurmd would look while a driver is half changed.
    node.sh("sed -i s/^HealthCheckInterval=.*/HealthCheckInterval=0/ /etc/slurm/slurm.conf")
    node.run(["systemctl", "restart", "slurmctld.service", "slurmd.service"])
    wait_for("the node takes jobs", lambda: shown(node).state == "IDLE", 60.0)

    # Somebody else drained it: neither their reason nor their drain is ours to change.
    update(node, "State=DRAIN", "Reason=disk of bob")
    assert (health(node), shown(node).reason) == (0, "disk of bob")
    driver(node, "560.35.03")
    assert (health(node), shown(node).reason) == (0, "disk of bob")
    driver(node, sound)
    assert health(node) == 0 and shown(node) == SlurmNode("IDLE+DRAIN", "disk of bob")
    # And one that we drained, and somebody drained again for a reason of theirs.
    update(node, "State=RESUME")
    driver(node, "560.35.03")
    assert health(node) == 0 and shown(node).reason == "gpumend: GM304"
    update(node, "State=DRAIN", "Reason=wait for me")
    driver(node, sound)
    assert health(node) == 0 and shown(node) == SlurmNode("IDLE+DRAIN", "wait for me")
    update(node, "State=RESUME")

    # Where it was not told to, it drains nothing; where it cannot, it says so.
    install(lab, node)
    driver(node, "560.35.03")
    assert health(node) == 0 and not shown(node).draining
    install(lab, node, drain=["GM304"])
    node.run(["systemctl", "stop", "slurmctld.service"])
    assert health(node) == 1
    node.run(["systemctl", "start", "slurmctld.service"])
    wait_for("the controller answers", lambda: bool(shown(node).state), 30.0)
    assert health(node) == 0 and shown(node).reason == "gpumend: GM304"
    driver(node, sound)
    assert health(node) == 0 and shown(node).draining, "without `resume` it stays for the operator"

    ran = start(lab, Target(node), deploy="agent", more=("-y", "--data", "agent_verb=uninstall")).finish()
    assert ran.rc == 0 and not node.exists(HEALTH), ran.said
    assert scenarios.SPEC and not node.exists("/var/lib/gpumend/agent")
