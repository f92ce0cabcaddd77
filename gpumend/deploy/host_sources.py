"""Hosts out of what other programs say of them, as hosts.toml would have them: `--hosts FORMAT:FILE`. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Raw = dict[str, Any]
UNFIT = re.compile(r"[^\w.-]+")  # in a group's name (hosts.py)


class SourceError(ValueError):
    """The file is not what its format says. The text says what is missing."""


def _raw(hosts: Mapping[str, Raw], groups: Mapping[str, list[str]]) -> Raw:
    """As in hosts.toml; a group that is a host, `all` or empty is left out."""
    named = {UNFIT.sub("_", name).lstrip("_"): names for name, names in groups.items()}
    return {
        "hosts": dict(hosts),
        "groups": {
            name: {"hosts": list(dict.fromkeys(names))}
            for name, names in named.items()
            if name and names and name != "all" and name not in hosts
        },
    }


def kubectl(found: Any, _: str) -> Raw:
    """`kubectl get nodes -o json`. Every node, since one whose GPU does not work does not say that it has one; group `gpu`: those that
    say it; a group for each role and instance type. Addresses: ExternalIP, else InternalIP (NodeStatus in k8s.io/api core/v1)."""
    hosts: dict[str, Raw] = {}
    groups: dict[str, list[str]] = {}
    for node in found["items"] if found["kind"].endswith("List") else [found]:
        name, labels = node["metadata"]["name"], node["metadata"].get("labels", {})
        addresses = {item["type"]: item["address"] for item in node["status"].get("addresses", ())}
        hosts[name] = {"address": addresses.get("ExternalIP") or addresses.get("InternalIP") or name}
        capacity = node["status"].get("capacity", {})
        gpu = any(key.startswith("nvidia.com/") and str(value) != "0" for key, value in capacity.items())
        gpu = gpu or labels.get("nvidia.com/gpu.present") == "true"
        gpu = gpu or any(
            key.startswith("feature.node.kubernetes.io/pci-") and "10de" in key for key in labels
        )
        gpu = gpu or "nvidia" in labels.get("cloud.google.com/gke-accelerator", "")
        roles = [key.partition("/")[2] for key in labels if key.startswith("node-role.kubernetes.io/")]
        kind = labels.get("node.kubernetes.io/instance-type", "")
        for group in (*(["gpu"] if gpu else []), *roles, kind):
            groups.setdefault(group, []).append(name)
    return _raw(hosts, groups)


def slurm(found: Any, _: str) -> Raw:
    """`scontrol show nodes --json`, or `sinfo --json`: of 22.05 the same, of newer ones the names of nodes without addresses. Group
    `gpu`: nodes with a gres `gpu`; a group for each partition (Slurm data_parser, sinfo and node)."""
    hosts: dict[str, Raw] = {}
    groups: dict[str, list[str]] = {}
    for row in found["sinfo"] if "sinfo" in found else found["nodes"]:
        if "sinfo" in found:
            nodes, partitions, gres = row["nodes"]["nodes"], [row["partition"]["name"]], row["gres"]["total"]
            addresses = row["nodes"].get("addresses") or []
        else:
            nodes, partitions, gres = [row["name"]], row.get("partitions", []), row.get("gres", "")
            addresses = [row["address"]] if row.get("address") else []
        for number, name in enumerate(nodes):
            if "[" in name:
                raise SourceError(f"{name} stands for several nodes: `scontrol show nodes --json` names each")
            known = hosts.setdefault(name, {"address": name})
            if len(addresses) == len(nodes):
                known["address"] = addresses[number]
            gpu = ["gpu"] if re.search(r"(^|,)gpu(:|$)", gres) else []
            for group in (*gpu, *partitions):
                groups.setdefault(group, []).append(name)
    return _raw(hosts, groups)


# What Ansible's variables are called here (docs.ansible.com, "Connecting to hosts: behavioral inventory parameters")
ANSIBLE = {
    "address": ("ansible_host", "ansible_ssh_host"),
    "user": ("ansible_user", "ansible_ssh_user"),
    "port": ("ansible_port", "ansible_ssh_port"),
    "key": ("ansible_ssh_private_key_file", "ansible_private_key_file"),
}


def ansible(found: Any, _: str) -> Raw:
    """`ansible-inventory --list`: hosts with their ways to connect, and its groups."""
    variables = found["_meta"]["hostvars"]

    def members(group: str, above: tuple[str, ...] = ()) -> Iterator[str]:
        here = found.get(group, {})
        yield from here.get("hosts", ())
        for child in here.get("children", ()):
            if child not in above:
                yield from members(child, (*above, group))

    groups = {name: list(members(name)) for name in found if name != "_meta"}
    hosts: dict[str, Raw] = {}
    for name in dict.fromkeys(
        (*members("all"), *(host for names in groups.values() for host in names), *variables)
    ):
        if variables.get(name, {}).get("ansible_connection") == "local":
            continue
        said = variables.get(name, {})
        hosts[name] = {}
        for key, names in ANSIBLE.items():
            variable = next((each for each in names if each in said), "")
            value = said.get(variable)
            if "{{" in str(value) or isinstance(value, (dict, list)):
                raise SourceError(
                    f"{name}: {variable} is not filled in by ansible-inventory (a template, or from a vault): write its value"
                )
            if variable:
                hosts[name][key] = value
        if "port" in hosts[name]:
            hosts[name]["port"] = int(hosts[name]["port"])
    left = {
        name: [host for host in names if host in hosts]
        for name, names in groups.items()
        if name != "ungrouped"
    }
    return _raw(hosts, left)


ADDRESS = ("address", "public_ip", "private_ip", "ip", "public_dns")


def terraform(found: Any, output: str) -> Raw:
    """`terraform output -json`: the output that FILE#NAME names, else `hosts`: a list of addresses, a map from names to addresses, or
    to objects with an address, and maybe user and port."""
    name = output or "hosts"
    if name not in found:
        raise SourceError(
            f"there is no output {name!r}; outputs: {', '.join(sorted(found))}; name one by FILE#OUTPUT"
        )
    value = found[name]["value"]
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list):
        value = {str(item): item for item in value}
    hosts: dict[str, Raw] = {}
    for host, said in value.items():
        if isinstance(said, str):
            hosts[host] = {"address": said}
            continue
        address = next((said[key] for key in ADDRESS if said.get(key)), host)
        hosts[host] = {"address": address, **{key: said[key] for key in ("user", "port") if key in said}}
    return _raw(hosts, {})


FORMATS: dict[str, Callable[[Any, str], Raw]] = {
    "kubectl": kubectl,
    "slurm": slurm,
    "ansible": ansible,
    "terraform": terraform,
}


def convert(kind: str, found: Any, part: str = "") -> Raw:
    """The hosts as a hosts.toml would have them. Raises SourceError."""
    try:
        return FORMATS[kind](found, part)
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError(f"it is not what {kind} gives: {type(error).__name__} {error}") from None
