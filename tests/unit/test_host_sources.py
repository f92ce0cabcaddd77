"""`--hosts FORMAT:FILE`: hosts out of what other programs say of them, and none made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gpumend.deploy import host_sources, hosts, hosts_file
from gpumend.deploy.hosts_file import HostsError

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures/hosts"
# file -> where its text is from
SOURCES = {
    "ansible-inventory-2.19.14.json": "ansible-inventory [core 2.19.14] --list, of an INI inventory of three hosts",
    "kubectl-nodes.json": "the nodes of kubernetes/kubernetes#55005, podman-desktop/podman-desktop#7778 and "
    "akash-network/community#608, with the fields of `kubectl get nodes -o json` that are read",
    "sinfo-24.11.json": "`sinfo -N --json` of Slurm 24.11 as a public pestat in Python documents it, two of its nodes",
    "terraform-output.json": "developer.hashicorp.com/terraform/cli/commands/output: its example's outputs, as -json gives them",
}


def read(named: str) -> hosts.Hosts:
    return hosts.of(hosts_file.find(named))


def addresses(found: hosts.Hosts) -> dict[str, str]:
    return {name: data["ssh_hostname"] for name, data in found.hosts}


def members(found: hosts.Hosts) -> dict[str, list[str]]:
    return {name: names for name, (names, _) in found.groups.items()}


def test_each_fixture_has_its_source() -> None:
    assert {path.name for path in FIXTURES.iterdir()} == set(SOURCES)


def test_nodes_of_kubernetes() -> None:
    found = read(f"kubectl:{FIXTURES}/kubectl-nodes.json")
    gke = "gke-my-gpu-cluster-default-pool-4d0fa82d-ttxh"
    assert addresses(found) == {gke: "35.196.11.232", "nvidia1": "192.168.1.94", "node1": "10.8.102.131"}
    assert members(found) == {"gpu": [gke, "nvidia1"], "worker": ["nvidia1"], "control-plane": ["node1"]}
    assert all(data["_sudo"] for _, data in found.hosts), "sudo for everyone but root"


def test_nodes_of_slurm() -> None:
    found = read(f"slurm:{FIXTURES}/sinfo-24.11.json")
    assert addresses(found) == {"demu4xcpu001": "demu4xcpu001", "demu4xgpu001": "demu4xgpu001"}
    assert members(found) == {"cpu": ["demu4xcpu001"], "gpu": ["demu4xgpu001"]}


def test_nodes_of_scontrol_have_addresses() -> None:
    """`scontrol show nodes --json`, the fields of node in Slurm's data_parser v0.0.41."""
    node = {
        "name": "g1",
        "address": "10.0.0.7",
        "gres": "gpu:h100:8(S:0-1)",
        "partitions": ["batch", "debug"],
    }
    assert host_sources.slurm({"nodes": [node]}, "") == {
        "hosts": {"g1": {"address": "10.0.0.7"}},
        "groups": {"gpu": {"hosts": ["g1"]}, "batch": {"hosts": ["g1"]}, "debug": {"hosts": ["g1"]}},
    }


def test_an_inventory_of_ansible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh/id_ed25519").touch()
    found = read(f"ansible:{FIXTURES}/ansible-inventory-2.19.14.json")
    of = dict(found.hosts)
    assert addresses(found) == {
        "gpu1": "192.0.2.11",
        "gpu2": "192.0.2.12",
        "login1.example.net": "login1.example.net",
    }
    assert (of["gpu1"]["ssh_user"], of["gpu1"]["ssh_port"]) == ("ops", 2222)
    assert of["gpu1"]["ssh_key"] == str(tmp_path / ".ssh/id_ed25519") and of["gpu1"]["_sudo"]
    assert of["gpu2"]["ssh_user"] == "root" and "_sudo" not in of["gpu2"]
    assert members(found) == {"cluster": list(of), "gpu": ["gpu1", "gpu2"], "login": ["login1.example.net"]}


def test_an_output_of_terraform() -> None:
    found = read(f"terraform:{FIXTURES}/terraform-output.json#instance_ips")
    assert list(addresses(found)) == ["54.43.114.12", "52.122.13.4", "52.4.116.53"]


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ({"gpu1": "192.0.2.1"}, {"gpu1": {"address": "192.0.2.1"}}),
        (
            {"gpu1": {"id": "i-0abc", "public_ip": "192.0.2.1", "user": "ubuntu"}},
            {"gpu1": {"address": "192.0.2.1", "user": "ubuntu"}},
        ),
        ("gpu1.example.net", {"gpu1.example.net": {"address": "gpu1.example.net"}}),
    ],
)
def test_shapes_of_an_output(value: Any, wanted: dict[str, Any]) -> None:
    assert host_sources.terraform({"hosts": {"value": value}}, "")["hosts"] == wanted


WRONG = [
    pytest.param("kubectl", "{}", "it is not what kubectl gives", id="no nodes"),
    pytest.param("kubectl", '{"kind": "List", "items": []}', "no hosts: add", id="empty"),
    pytest.param("slurm", "gpu1 idle", "not JSON, as slurm has it", id="text"),
    pytest.param("slurm", "[]", "it is not what slurm gives", id="list"),
    pytest.param("ansible", '{"all": {}}', "it is not what ansible gives", id="no hostvars"),
    pytest.param(
        "terraform", '{"ips": {"value": []}}', "there is no output 'hosts'; outputs: ips", id="output"
    ),
    pytest.param(
        "slurm",
        json.dumps(
            {"sinfo": [{"nodes": {"nodes": ["g[1-4]"]}, "partition": {"name": "p"}, "gres": {"total": ""}}]}
        ),
        "g[1-4] stands for several nodes: `sinfo -N --json` names each",
        id="a range",
    ),
]


@pytest.mark.parametrize(("kind", "text", "said"), WRONG)
def test_what_is_not_of_the_format_is_told(tmp_path: Path, kind: str, text: str, said: str) -> None:
    (tmp_path / "f.json").write_text(text)
    with pytest.raises(HostsError) as told:
        read(f"{kind}:{tmp_path}/f.json")
    assert said in str(told.value)


def test_a_file_whose_name_has_a_colon_is_a_hosts_file(tmp_path: Path) -> None:
    (tmp_path / "lab:hosts.toml").write_text("[hosts.a]\n")
    assert list(addresses(read(f"{tmp_path}/lab:hosts.toml"))) == ["a"]
