"""docs/kubernetes: the manifests by Kubernetes' own schemas and kubectl's Kustomize, and on a booted node what they start. There is no
API server and no kubelet: Docker starts the agent's container with what the manifest says, and tests/nodes/npd.py stands in for
node-problem-detector."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from gpumend.agent.bundle import bundle
from tests.nodes import gpu
from tests.nodes.base import base
from tests.nodes.conftest import Boot
from tests.nodes.drive import audit
from tests.nodes.images import BASE
from tests.nodes.lab import Lab, LabError, Node
from tests.nodes.npd import Detector
from tests.nodes.slot import wait_for
from tests.nodes.test_agent import found

KUBERNETES = Path(__file__).resolve().parents[2] / "docs/kubernetes"
STATE = "/var/lib/gpumend/agent"


@cache
def objects() -> dict[tuple[str, str], dict[str, Any]]:
    """What `kubectl kustomize docs/kubernetes` makes, by kind and name without the hash of a ConfigMap."""
    kubectl = base("trixie+fleet") / "usr/bin/kubectl"
    done = subprocess.run(
        [kubectl, "kustomize", KUBERNETES], capture_output=True, text=True, check=True, timeout=60
    )
    made = [item for item in yaml.safe_load_all(done.stdout) if item]
    return {(item["kind"], item["metadata"]["name"]): item for item in made}


def config_map(name: str) -> dict[str, str]:
    [(_, made)] = [
        (key, item) for key, item in objects().items() if key[0] == "ConfigMap" and key[1].startswith(name)
    ]
    data: dict[str, str] = made["data"]
    return data


def daemon_set(name: str) -> Any:
    return objects()["DaemonSet", name]["spec"]["template"]["spec"]


@pytest.mark.parametrize("version", ["1.30.0", "1.34.0", kubernetes_validate.latest_version()])
def test_the_manifests_are_kubernetes(version: str) -> None:
    assert {kind for kind, _ in objects()} == {
        "Namespace", "ServiceAccount", "ClusterRoleBinding", "ConfigMap", "DaemonSet",
    }  # fmt: skip
    for made in objects().values():
        kubernetes_validate.validate(made, version.rsplit(".", 1)[0], strict=True)


def test_what_the_pods_may_do() -> None:
    """The agent asks nothing of the API server; the detector has its own role and no right on the node."""
    agent, npd = daemon_set("gpumend-agent"), daemon_set("gpumend-npd")
    assert agent["automountServiceAccountToken"] is False and "serviceAccountName" not in agent
    assert not agent.get("hostNetwork") and agent["hostPID"] is True
    writable = [
        mount["mountPath"] for mount in agent["containers"][0]["volumeMounts"] if not mount.get("readOnly")
    ]
    assert writable == ["/host/var/lib/gpumend"]
    assert objects()["ClusterRoleBinding", "gpumend-npd"]["roleRef"]["name"] == "system:node-problem-detector"
    secure = npd["containers"][0]["securityContext"]
    assert (
        secure["capabilities"] == {"drop": ["ALL"]}
        and not secure.get("privileged")
        and not npd.get("hostPID")
    )
    assert all(mount["readOnly"] for mount in npd["containers"][0]["volumeMounts"])


def findings(node: Node) -> list[dict[str, Any]]:
    """Of the last report, but notes."""
    report = (
        json.loads(node.read(f"{STATE}/report.json"))
        if node.exists(f"{STATE}/report.json")
        else {"hosts": {}}
    )
    return [f for host in report["hosts"].values() for f in host["findings"] if f["status"] != "note"]


def docker_run(node: Node, pod: Any, mounts: dict[str, str], environment: dict[str, str]) -> list[str]:
    """`docker run` of a pod's one container, as its manifest says. mounts: where volumes that are none of the host's lie."""
    [container] = pod["containers"]
    secure = container["securityContext"]
    argv = ["docker", "run", "--network=none", "--read-only"] if secure["readOnlyRootFilesystem"] else []
    argv += (
        ["--privileged"]
        if secure.get("privileged")
        else ["--cap-drop=ALL", "--security-opt=no-new-privileges"]
    )
    argv += ["--pid=host"] if pod.get("hostPID") else []
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    for mount in container["volumeMounts"]:
        volume = volumes[mount["name"]]
        source = volume["hostPath"]["path"] if "hostPath" in volume else mounts[mount["name"]]
        options = f"type=bind,source={source},target={mount['mountPath']}"
        if mount.get(
            "readOnly"
        ):  # as a kubelet mounts it: what is mounted below stays as it is (recursiveReadOnly)
            options += ",readonly,bind-recursive=writable"
        if mount.get("mountPropagation") == "HostToContainer":
            options += ",bind-propagation=rslave"
        argv.append(f"--mount={options}")
    for item in container["env"]:
        argv.append(f"--env={item['name']}={environment.get(item['name'], item.get('value'))}")
    return argv


def test_the_agent_in_a_pod_finds_what_an_operator_finds_and_the_node_has_a_condition(
    lab: Lab, boot: Boot
) -> None:
    node = boot("trixie", "healthy")
    for name in ("gpumend-agent", "gpumend-npd"):
        for file, text in config_map(name).items():
            node.write(f"/srv/{name}/{file}", text)
    node.sh("chmod 755 /srv/gpumend-npd/condition.sh; mkdir -p /var/lib/gpumend")
    node.write("/srv/program/agent", bundle())

    pod = daemon_set("gpumend-agent")
    given = {"NODE_NAME": node.name, "INTERVAL": "1", "SPREAD": "0"}
    argv = docker_run(node, pod, {"config": "/srv/gpumend-agent"}, given)
    node.run(
        [
            *argv,
            "--detach",
            "--name=agent",
            "--volume=/srv/program:/gpumend:ro",
            BASE,
            *pod["containers"][0]["command"],
        ]
    )

    plugin = docker_run(
        node, daemon_set("gpumend-npd"), {"plugin": "/srv/gpumend-npd"}, {"NODE_NAME": node.name}
    )

    def start(argv: Sequence[str], limit: float) -> subprocess.CompletedProcess[bytes]:
        # Docker's own start is not the plugin's time: busybox's timeout is NPD's limit.
        return node.run_bytes([*plugin, "--rm", BASE, "timeout", f"{limit:g}", *argv], check=False)

    detector = Detector(config_map("gpumend-npd")["gpumend.json"], start)

    def condition() -> tuple[str, str]:
        detector.look()
        assert detector.condition is not None
        return detector.condition["status"], detector.condition["message"]

    def settled(what: str, ready: Callable[[], bool]) -> None:
        try:
            wait_for(what, ready, 60.0, 1.0)
        except LabError as error:
            said = [(f["code"], f["summary"], f["evidence"][:1]) for f in findings(node)]
            logs = node.run(["docker", "logs", "--tail=3", "agent"], check=False)
            raise AssertionError(f"{error}\n{detector.state}\n{logs.stdout}{logs.stderr}\n{said}") from None

    assert condition() == ("Unknown", "no audit by gpumend's agent yet") or node.exists(f"{STATE}/condition")
    settled("the node is said to be well", lambda: condition()[0] == "False")
    gpu.set_driver(node, "560.35.03")
    settled("the condition is set, with the code", lambda: condition() == ("True", "GM304"))
    assert any(
        "is now True, reason: GPUContainerStackIsBroken, message: 'GM304'" in event
        for event in detector.events
    )

    node.run(["docker", "stop", "--time=1", "agent"])
    report = json.loads(node.read(f"{STATE}/report.json"))
    assert found(report) == found(audit(lab, node).report)
    assert report["hosts"][node.name]["facts"]["driver"] == "560.35.03"
    node.sh(f"sed -i 's/ [0-9]* / 1 /' {STATE}/condition")
    assert condition() == ("Unknown", "gpumend: the last audit is too old")
    node.run(["docker", "start", "agent"])
    gpu.set_driver(node, gpu.DEFAULT_DRIVER)
    settled("the condition is cleared", lambda: condition()[0] == "False")
