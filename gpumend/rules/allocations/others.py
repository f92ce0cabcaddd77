"""GM810, GM812, GM813: who else reconciles, and other bookkeepers of GPUs. Nothing of theirs is changed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from gpumend.payload import allocations as ledger
from gpumend.rules.allocations.books import books_of, hardware, look_of, named
from gpumend.rules.finding import Evidence, Finding, Status
from gpumend.rules.rule import Context, rule
from gpumend.state.allocations import KUBELET, SLURM, SLURM_CONF
from gpumend.state.reading import Reading, Unread
from gpumend.text.pattern import Pattern

RECONCILES = Pattern(r"reconcil|gpu[-_]state|stale[-_]gpu|validate-state")
OURS = Pattern(r"/gpumend[^/]*$")
RESOURCE = Pattern(r"nvidia\.com/(?:gpu|mig-)")


@rule(
    "GM810",
    "nobody else is reconciling the same books",
    "report 003: an hourly cron job; systems.md B.2: `5 * * * *` cleanup, `0 2 * * *` validate-state.py --fix",
    applies=named,
)
def two_reconcilers(context: Context) -> Iterator[Finding]:
    jobs = {**(context.state.storage.cron.get() or {}), **context.state.allocations.timers}
    releases = books_of(context).reconcile == "release"
    for path, scripts in sorted(jobs.items()):
        mine = [each for each in scripts if RECONCILES.search(each) and not OURS.search(each)]
        if mine:
            yield Finding(
                code="GM810",
                status=Status.WARN if releases else Status.NOTE,
                summary=f"{path} runs {', '.join(mine)}, which reconciles the same books"
                + (": two that do not know of each other" if releases else ""),
                evidence=(Evidence(path, ", ".join(mine)),),
                cause="The site's own job frees by what it sees at one moment; while Docker is down it may take every container "
                "for gone (GM708).",
                remedy="Switch one of the two off: comment the job out, or leave `allocations.reconcile` at `report`.",
                refused="a site's own job is the site's",
            )


def _wants(name: str) -> Any:
    return lambda context: named(context) and name in books_of(context).bookkeepers


def hostlist_has(text: str, host: str) -> bool:
    """Whether Slurm's list of nodes, `gpu[01-04,7],login`, has a host (scontrol show hostnames)."""
    for part in re.findall(r"[^,\[]+(?:\[[^][]*\][^,\[]*)?", text):
        found = re.fullmatch(r"([^\[]*)\[([^\]]*)\](.*)", part)
        if found is None:
            if part in (host, "DEFAULT"):
                return True
            continue
        before, numbers, after = found.groups()
        middle = host[len(before) : len(host) - len(after) or None]
        if not (host.startswith(before) and host.endswith(after) and re.fullmatch(r"\d{1,9}", middle)):
            continue
        for each in numbers.split(","):
            first, _, last = each.partition("-")
            told = first.isdigit() and (last or first).isdigit() and len(middle) == len(first)
            if told and int(first) <= int(middle) <= int(last or first):
                return True
    return False


def _fields(line: str) -> dict[str, str]:
    return {key.lower(): value for key, _, value in (word.partition("=") for word in line.split())}


def files_of(text: str) -> list[str]:
    """`/dev/nvidia[0-3]` of gres.conf, each by itself."""
    found = re.fullmatch(r"(.*)\[([\d,-]{1,100})\]", text)
    if found is None:
        return [text]
    names = []
    for each in found.group(2).split(","):
        first, _, last = each.partition("-")
        if first.isdigit() and (last or first).isdigit():
            names += [
                f"{found.group(1)}{number}" for number in range(int(first), min(int(last or first), 1023) + 1)
            ]
    return names


def _slurm(problem: str, path: str, line: str, status: Status, cause: str, remedy: str) -> Finding:
    return Finding(
        code="GM812",
        status=status,
        summary=f"Slurm: {problem}",
        evidence=(Evidence(path, line),),
        cause=cause,
        remedy=remedy,
        refused="Slurm's files are the cluster's",
    )


@rule(
    "GM812",
    "Slurm counts the GPUs that are there",
    "slurm.schedmd.com/gres.conf.html; slurmd: `gres/gpu count reported lower than configured (3 < 4)`, `can't stat gres.conf file`",
    applies=_wants("slurm"),
)
def slurm(context: Context) -> Iterator[Finding]:
    host = context.state.host.hostname.partition(".")[0]
    gres, nodes = context.state.allocations.gres.get() or (), context.state.allocations.nodes.get() or ()
    units = hardware(context)
    whole = [unit for unit in units if "." not in unit]
    nodes_of = [
        line
        for line in gres
        if "nodename" not in _fields(line) or hostlist_has(_fields(line)["nodename"], host)
    ]
    for line in nodes_of:
        fields = _fields(line)
        if fields.get("autodetect", "").lower() == "nvidia" and len(units) > len(whole):
            yield _slurm("AutoDetect=nvidia finds no MIG devices, and there are some", SLURM, line, Status.WARN,
                "It reads /proc/driver/nvidia, which has whole GPUs alone.", "Use AutoDetect=nvml, or name each device.")  # fmt: skip
        gone = [
            path
            for path in files_of(fields.get("file", ""))
            if (number := re.fullmatch(r"/dev/nvidia(\d+)", path)) and number.group(1) not in whole
        ]
        if gone:
            yield _slurm(f"{SLURM} names {', '.join(gone)}, and no such GPU answers", SLURM, line, Status.FAIL,
                "slurmd does not start where it cannot stat the device node.", "Where the GPU should be there, see GM1xx; else correct the line.")  # fmt: skip
    for line in nodes:
        fields = _fields(line)
        if not hostlist_has(fields.get("nodename", ""), host):
            continue
        counts = re.findall(
            r"(?:^|,)gpu(?::[A-Za-z][\w.-]*)?(?::(\d{1,4}))?(?:\([^)]*\))?(?=,|$)", fields.get("gres", "")
        )
        configured = sum(int(count or 1) for count in counts)
        there = len([unit for unit in units if "." in unit or not ledger.has_devices(unit, units)])
        if configured > there:
            yield _slurm(f"{host} is configured with {configured} GPUs, and {there} answer", SLURM_CONF, line, Status.FAIL,
                "Slurm drains the node: gres/gpu count reported lower than configured.", "See the GPU's own findings (GM1xx), or correct Gres=.")  # fmt: skip
        elif counts and configured < there:
            yield _slurm(f"{host} is configured with {configured} GPUs of {there}: nobody is given the others", SLURM_CONF, line,
                Status.NOTE, "Slurm ignores GPUs beyond the configured count without a word.", "Correct Gres= where they are meant.")  # fmt: skip


def checkpoint_of(text: str) -> tuple[list[dict[str, Any]], dict[str, list[str]]]:
    """(Entries of pods, registered devices by resource) of the device manager's checkpoint: DeviceIDs by NUMA node, or a plain
    list as before 1.20 (kubernetes pkg/kubelet/cm/devicemanager/checkpoint). Raises ValueError."""
    data = json.loads(text)["Data"]
    entries = []
    for raw in data.get("PodDeviceEntries") or ():
        ids = raw.get("DeviceIDs") or {}
        flat = [each for group in (ids.values() if isinstance(ids, dict) else [ids]) for each in group]
        entries.append({"pod": str(raw["PodUID"]), "container": str(raw["ContainerName"]), "resource": str(raw["ResourceName"]),
                        "ids": [str(each) for each in flat]})  # fmt: skip
    registered = {
        str(name): [str(each) for each in ids or ()]
        for name, ids in (data.get("RegisteredDevices") or {}).items()
    }
    return entries, registered


@rule(
    "GM813",
    "the kubelet's device manager counts what is there",
    "kubernetes pkg/kubelet/cm/devicemanager (kubelet_internal_checkpoint): entries of completed pods stay; kubernetes/kubernetes#130145",
    applies=_wants("kubelet"),
)
def kubelet(context: Context) -> Iterator[Finding]:
    text = context.state.allocations.kubelet
    if text.absent:
        return
    entries, registered = text.map(checkpoint_of).need()
    look, units = look_of(context), hardware(context)
    pods = look.get("pods")
    if pods is None:
        raise Unread(Reading.fail("/proc", "which pods run is not known"))
    mine = [each for each in entries if RESOURCE.match(each["resource"])]
    known = set(units.values())
    for resource, ids in sorted(registered.items()):
        gone = [each for each in ids if RESOURCE.match(resource) and each.partition("::")[0] not in known]
        if gone:
            yield _kubelet(f"{resource} has {', '.join(gone)}, which no GPU here has", Status.WARN, resource,
                "The GPUs were changed since the device plugin registered them.", "Restart the device plugin's pod on this node.")  # fmt: skip
    holders: dict[str, list[dict[str, Any]]] = {}
    for each in mine:
        for device in each["ids"]:
            holders.setdefault(device, []).append(each)
    for device, held in sorted(holders.items()):
        live = sorted({f"{each['pod']}/{each['container']}" for each in held if each["pod"] in pods})
        if len({each.partition("/")[0] for each in live}) > 1 and "::" not in device:
            yield _kubelet(f"{device} is given to {len(live)} containers that run: {', '.join(live)}", Status.FAIL, device,
                "The device manager gave one device twice.", "Delete one of the pods.")  # fmt: skip
    left = sorted({each["pod"] for each in mine if each["pod"] not in pods})
    if left:
        yield _kubelet(f"{len(left)} pods that do not run have devices in it: {', '.join(left[:5])}", Status.NOTE, "PodDeviceEntries",
            "Entries of completed pods stay, and count for nobody, until the kubelet needs the device. A pod with `requested number "
            "of devices unavailable` while one of these has it is the kubelet's leak.", "Restart the kubelet where pods wait for them.")  # fmt: skip


def _kubelet(problem: str, status: Status, place: str, cause: str, remedy: str) -> Finding:
    return Finding(
        code="GM813",
        status=status,
        summary=f"the kubelet's device manager: {problem}",
        evidence=(Evidence(KUBELET, place),),
        cause=cause,
        remedy=remedy,
        refused="the kubelet's checkpoint is the kubelet's",
    )
