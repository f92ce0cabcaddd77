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
    "ansible-inventory-2.19.14-ini.json": "the same program, of an INI inventory with a range, groups of groups, and variables of groups",
    "ansible-inventory-2.19.14-yaml.json": "the same program, of a YAML inventory with variables of all, of groups, and of hosts",
    "ansible-inventory-2.19.14-template.json": "the same program, of an INI inventory whose ansible_host is a template",
    "kubectl-1.32.4-nodes.json": "`kubectl get nodes -o json` by kubectl 1.32.4, of an HTTP server that gave it the nodes of "
    "kubernetes/kubernetes#55005, podman-desktop/podman-desktop#7778 and akash-network/community#608",
    "scontrol-24.11.5.json": "`scontrol show nodes --json` by Debian trixie's slurm 24.11.5: slurmctld, slurmd on one of five nodes",
    "sinfo-24.11.5.json": "`sinfo --json` of the same cluster",
    "sinfo-22.05.8.json": "`sinfo --json` by Debian bookworm's slurm 22.05.8, of the same slurm.conf; its scontrol has no --json",
    "sinfo-24.11.json": "`sinfo -N --json` of Slurm 24.11 as a public pestat in Python documents it, two of its nodes",
    "terraform-1.11.4-output.json": "`terraform output -json` by Terraform 1.11.4 after `apply` of outputs without resources",
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
    found = read(f"kubectl:{FIXTURES}/kubectl-1.32.4-nodes.json")
    gke = "gke-my-gpu-cluster-default-pool-4d0fa82d-ttxh"
    assert addresses(found) == {gke: "35.196.11.232", "nvidia1": "192.168.1.94", "node1": "10.8.102.131"}
    assert members(found) == {"gpu": [gke, "nvidia1"], "worker": ["nvidia1"], "control-plane": ["node1"]}
    assert all(data["_sudo"] for _, data in found.hosts), "sudo for everyone but root"


def test_nodes_of_slurm() -> None:
    found = read(f"slurm:{FIXTURES}/sinfo-24.11.json")
    assert addresses(found) == {"demu4xcpu001": "demu4xcpu001", "demu4xgpu001": "demu4xgpu001"}
    assert members(found) == {"cpu": ["demu4xcpu001"], "gpu": ["demu4xgpu001"]}


ADDRESSES = {f"gpu0{number}": f"192.0.2.1{number}" for number in (1, 2, 3, 4)} | {"cpu01": "10.9.9.9"}


@pytest.mark.parametrize(
    ("file", "wanted"),
    [
        ("scontrol-24.11.5.json", ADDRESSES),
        ("sinfo-22.05.8.json", ADDRESSES),
        ("sinfo-24.11.5.json", {name: name for name in ADDRESSES}),
    ],
)
def test_nodes_of_real_slurm_controllers(file: str, wanted: dict[str, str]) -> None:
    found = read(f"slurm:{FIXTURES}/{file}")
    gpus = {"gpu01", "gpu02", "gpu03", "gpu04"}
    assert addresses(found) == wanted
    groups = {name: set(names) for name, names in members(found).items()}
    assert groups == {"gpu": gpus, "training": gpus, "batch": gpus | {"cpu01"}}


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


FARM = {
    "ini": (
        {
            "login.example.net": (None, None, None),
            **{f"h100-0{number}": (None, "ops", None) for number in (1, 2, 3)},
            "a100-1": ("192.0.2.21", "ops", None),
            "a100-2": ("192.0.2.22", "root", 2222),
        },
        {"gpu_nodes", "gpu_h100", "gpu_a100"},
    ),
    "yaml": (
        {
            "login.example.net": (None, "ops", None),
            "h100-01": (None, "ops", 2222),
            "h100-02": (None, "ops", 2222),
            "h100-03": ("192.0.2.13", "ops", 22),
            "a100-1": ("192.0.2.21", "root", 2222),
        },
        {"gpu-nodes", "h100", "a100"},
    ),
}


@pytest.mark.parametrize("form", FARM)
def test_variables_of_groups_and_groups_of_groups_of_ansible(form: str) -> None:
    text = (FIXTURES / f"ansible-inventory-2.19.14-{form}.json").read_text("utf-8")
    found = host_sources.convert("ansible", json.loads(text))
    wanted, groups = FARM[form]
    assert {
        name: (said.get("address"), said.get("user"), said.get("port"))
        for name, said in found["hosts"].items()
    } == wanted, "localhost, whose ansible_connection is local, is none"
    assert set(found["groups"]) == groups
    above = {"ini": "gpu_nodes", "yaml": "gpu-nodes"}[form]
    assert set(found["groups"][above]["hosts"]) == set(wanted) - {"login.example.net"}


def test_one_node_of_kubernetes() -> None:
    """`kubectl get node NAME -o json` is the node without a list."""
    [*_, node] = json.loads((FIXTURES / "kubectl-1.32.4-nodes.json").read_text("utf-8"))["items"]
    assert list(host_sources.convert("kubectl", node)["hosts"]) == ["node1"]


def test_outputs_of_a_real_terraform() -> None:
    """The other outputs are not looked at; one of them is sensitive."""
    file = f"terraform:{FIXTURES}/terraform-1.11.4-output.json"
    found = read(file)
    assert addresses(found) == {"gpu01": "192.0.2.31", "gpu02": "192.0.2.32"}
    assert {data["ssh_user"] for _, data in found.hosts} == {"ubuntu"}
    assert list(addresses(read(f"{file}#instance_ips"))) == ["192.0.2.31", "192.0.2.32"]
    assert list(addresses(read(f"{file}#lb_address"))) == ["gpu-lb.example.net"]


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
    pytest.param(  # what sinfo without its JSON plugin leaves: it tells that on standard error, and ends
        "slurm", "", "f.json: empty: did what should have written it fail?", id="nothing"
    ),
    pytest.param(
        "ansible",
        (FIXTURES / "ansible-inventory-2.19.14-template.json").read_text("utf-8"),
        "gpu1: ansible_host is not filled in by ansible-inventory (a template, or from a vault): write its value",
        id="a template",
    ),
    pytest.param("terraform", '{"hosts": {"value": []}}', "no hosts: add", id="no host of an output"),
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
        "g[1-4] stands for several nodes: `scontrol show nodes --json` names each",
        id="a range",
    ),
]


@pytest.mark.parametrize(("kind", "text", "said"), WRONG)
def test_what_is_not_of_the_format_is_told(tmp_path: Path, kind: str, text: str, said: str) -> None:
    (tmp_path / "f.json").write_text(text)
    with pytest.raises(HostsError) as told:
        read(f"{kind}:{tmp_path}/f.json")
    assert said in str(told.value)


def test_a_format_that_there_is_not_is_told() -> None:
    with pytest.raises(
        HostsError, match=r"kubectel:nodes\.json, which is not there; formats: kubectl, slurm, ansible"
    ):
        hosts_file.find("kubectel:nodes.json")


def test_a_file_whose_name_has_a_colon_is_a_hosts_file(tmp_path: Path) -> None:
    (tmp_path / "lab:hosts.toml").write_text("[hosts.a]\n")
    assert list(addresses(read(f"{tmp_path}/lab:hosts.toml"))) == ["a"]
