"""Which commands a host is spared, and that no rule loses a reading by it."""

from __future__ import annotations

from dataclasses import replace
from re import _parser as sre_parse  # type: ignore[attr-defined]
from typing import Any

import pytest

from gpumend.payload.probe.look import by_pattern
from gpumend.payload.probe.planned import said_by_docker, spared
from gpumend.rules.judge import judge
from gpumend.rules.wanted import parse as parse_wanted
from gpumend.state.gpu import CUDA_LINE, EVERY_GPU
from gpumend.state.host_state import besides_of, request
from tests.unit.build import NOW, TODAY, Host, absent, healthy, state, unread
from tests.unit.test_healthy_kinds import KINDS
from tests.unit.test_judge import SICK

WANTED = ({}, {"grit": {"role": "both"}}, {"containerd": {"runtimes": ["nvidia"]}})
HOSTS = {
    **{kind.name: kind.host for kind in KINDS},
    **{f"{kind.name}, with a fault": kind.twin for kind in KINDS},
    "sick": SICK,
    "healthy": healthy(),
}


@pytest.mark.parametrize("wanted", WANTED, ids=["", "grit", "containerd"])
@pytest.mark.parametrize("host", HOSTS.values(), ids=HOSTS)
def test_no_rule_loses_a_reading(host: Host, wanted: dict[str, Any]) -> None:
    """What is found is the same to the byte whether all commands were run or those that the host was not spared."""
    asked = replace(host, besides=besides_of(wanted))
    told, whole = asked.answer(), asked.answer(plan=False)
    wants = parse_wanted(wanted)
    assert judge(state(told), wants, "gpu1", TODAY) == judge(state(whole), wants, "gpu1", TODAY)


def test_hosts_are_spared_commands() -> None:
    """Else the test above would say nothing."""
    named = {
        name
        for name, item in HOSTS["healthy"].answer()["commands"].items()
        if "not asked" in item.get("error", "")
    }
    assert {"containerd-config", "unit-log", "kernel-log"} <= named
    assert "containerd-config" not in {
        name
        for name, item in HOSTS["kubeadm"].answer()["commands"].items()
        if "not asked" in item.get("error", "")
    }
    without = HOSTS["healthy"].but(
        files={"/proc/driver/nvidia/version": None},
        commands={"nvidia-smi": absent(), "kernel-log": (0, "", "")},
    )
    assert "none of what would need it" in without.answer()["commands"]["kernel-log"]["error"]
    assert "where_one" not in request(besides=besides_of(WANTED[1]))["commands"]["containerd-config"]


# --- each reason, and what is unread beside it


def answer(**sections: Any) -> dict[str, Any]:
    return {
        "files": {}, "stats": {}, "globs": {}, "programs": {}, "docker": {"status": "ok"},
        "processes": {"status": "ok", "processes": []}, **sections,
    }  # fmt: skip


def process(name: str, **more: Any) -> dict[str, Any]:
    path = f"/usr/bin/{name}"
    return {
        "pid": 9,
        "argv": [path],
        "uid": 0,
        "start": NOW,
        "exe": path,
        "env": {},
        "nested": False,
        "container": None,
        **more,
    }


def processes(*found: dict[str, Any]) -> dict[str, Any]:
    return {"status": "ok", "processes": list(found)}


ONE = {"where_one": ["kubelet", "/etc/here", "/etc/*.conf"]}
NONE = {"stats": {"/etc/here": absent()}, "globs": {"/etc/*.conf": {"status": "ok", "paths": []}}}
TOLD = {"told_by": {"globs": ["/u/*.service"], "pattern": r"run$"}}
XFS = {"mounted": ["xfs"]}
TAKEN = {"taken_by": ["dockerd", "/etc/d"]}
SAID = {"said_by": ["other", CUDA_LINE]}
FILE = {"status": "ok", "kind": "file", "ctime": NOW - 5, "mtime": NOW - 5}
LISTED = {"listed_by": EVERY_GPU}
ROW, MIG = "GPU 0: NVIDIA L4 (UUID: GPU-5c6d)\n", "  MIG 1g.5gb Device 0: (UUID: MIG-9)\n"
INFORMATION, UEVENT = (pattern for pattern, _ in EVERY_GPU[2])
ITS = {"files": {"/etc/d": FILE}, "processes": processes(process("dockerd"))}


def unit(*found: str, status: str = "ok") -> dict[str, Any]:
    return {
        "globs": {"/u/*.service": {"status": "ok", "paths": ["/u/a.service"]}},
        "stats": {"/u/a.service": {"status": status, "found": {"0": list(found)} if found else {}}},
    }


def gpus(
    out: str, known: int = 1, bus: tuple[str, ...] = ("30200",), rc: int = 0, err: str = ""
) -> dict[str, Any]:
    """What nvidia-smi -L prints, how many GPUs the module knows, and the PCI classes of NVIDIA's devices on the bus."""
    events = {
        f"/sys/bus/pci/devices/0000:0{number}:00.0/uevent": {
            "status": "ok",
            "found": {"0": [f"DRIVER=nvidia\nPCI_CLASS={kind}\nPCI_ID=10DE:27B8"]},
        }
        for number, kind in enumerate(bus)
    }
    paths = [f"/proc/driver/nvidia/gpus/0000:0{number}:00.0/information" for number in range(known)]
    return {
        "commands": {"nvidia-smi": {"status": "ok", "rc": rc, "out": out, "err": err}},
        "globs": {
            INFORMATION: {"status": "ok", "paths": paths},
            UEVENT: {"status": "ok", "paths": list(events)},
        },
        "stats": events,
    }


def mounts(kind: str) -> dict[str, Any]:
    row = f"24 1 8:1 / / rw,relatime - {kind} /dev/sda1 rw\n"
    return {"files": {"/proc/self/mountinfo": {"status": "ok", "data": row}}}


@pytest.mark.parametrize(
    ("command", "sections", "expected"),
    [
        (ONE, NONE, True),
        (ONE, {**NONE, "processes": processes(process("kubelet"))}, False),
        (ONE, {**NONE, "processes": unread("denied")}, False),
        (ONE, {**NONE, "processes": {**processes(), "left_out": 3}}, False),
        (ONE, {**NONE, "stats": {"/etc/here": {"status": "ok"}}}, False),
        (ONE, {**NONE, "stats": {"/etc/here": unread("failed")}}, False),
        (ONE, {**NONE, "globs": {"/etc/*.conf": {"status": "ok", "paths": ["/etc/a.conf"]}}}, False),
        (ONE, {**NONE, "globs": {"/etc/*.conf": {**unread("timeout"), "paths": []}}}, False),
        (ONE, {**NONE, "stats": {}}, False),
        (TOLD, unit("Restart=always"), True),
        (TOLD, unit(), True),
        (TOLD, unit("docker run"), False),
        (TOLD, unit(status="failed"), False),
        (TOLD, {"globs": {"/u/*.service": {**unread("denied"), "paths": []}}}, False),
        (TOLD, {}, False),
        (XFS, mounts("ext4"), True),
        (XFS, mounts("xfs"), False),
        (XFS, {"files": {"/proc/self/mountinfo": unread("denied")}}, False),
        (TAKEN, ITS, True),
        (TAKEN, {**ITS, "files": {"/etc/d": {**FILE, "ctime": NOW + 1}}}, False),
        (TAKEN, {**ITS, "files": {"/etc/d": {**FILE, "link": "/srv/d"}}}, False),
        (TAKEN, {**ITS, "files": {"/etc/d": absent()}}, False),
        (TAKEN, {**ITS, "processes": processes(process("dockerd", exe="/usr/bin/dockerd (deleted)"))}, False),
        (TAKEN, {**ITS, "processes": processes(process("dockerd", exe=None))}, False),
        (TAKEN, {**ITS, "processes": processes(process("dockerd", container="0123456789ab"))}, False),
        (TAKEN, {**ITS, "processes": processes(process("dockerd", uid=1000))}, False),
        (TAKEN, {**ITS, "processes": processes(process("dockerd", argv=["dockerd", "--config-file=/x"]))}, False),
        (TAKEN, {**ITS, "processes": processes(process("dockerd"), process("dockerd"))}, False),
        (TAKEN, {**ITS, "processes": unread("denied")}, False),
        (SAID, {"commands": {"other": {"status": "ok", "rc": 0, "out": "CUDA Version : 13.0\n"}}}, True),
        (SAID, {"commands": {"other": {"status": "ok", "rc": 9, "out": "CUDA Version : 13.0\n"}}}, False),
        (SAID, {"commands": {"other": {"status": "ok", "rc": 0, "out": "CUDA Version : N/A\n"}}}, False),
        (SAID, {"commands": {"other": unread("timeout")}}, False),
        (SAID, {}, False),
        (LISTED, gpus(ROW), True),
        (LISTED, gpus(ROW + MIG), True),
        (LISTED, gpus(ROW + ROW, known=2, bus=("30200", "30000")), True),
        (LISTED, gpus(ROW, bus=("30200", "40300", "68000")), True),  # its sound, and an NVSwitch
        (LISTED, gpus("", known=0, bus=()), True),
        (LISTED, gpus(ROW, known=2), False),
        (LISTED, gpus(ROW, bus=("30200", "30200")), False),
        (LISTED, gpus(ROW, known=0, bus=("30200", "30200")), False),
        (LISTED, gpus(ROW + MIG, known=2), False),
        (LISTED, gpus(""), False),
        (LISTED, gpus("No devices were found\n"), False),
        (LISTED, gpus(ROW + "Unable to determine the device handle for GPU1: 0000:01:00.0: Unknown Error\n"), False),
        (LISTED, gpus(ROW, err="WARNING: infoROM is corrupted at gpu 0000:00:00.0\n"), False),
        (LISTED, gpus(ROW, rc=14), False),
        (LISTED, {**gpus(ROW), "commands": {"nvidia-smi": unread("timeout")}}, False),
        (LISTED, {**gpus(ROW), "commands": {"nvidia-smi": absent()}}, False),
        (LISTED, {**gpus(ROW), "globs": {INFORMATION: {"status": "ok", "paths": []}}}, False),
        (LISTED, {**gpus(ROW), "globs": {**gpus(ROW)["globs"], UEVENT: {**unread("denied"), "paths": []}}}, False),
        (LISTED, {**gpus(ROW, bus=("40300", "40300")), "stats": {}}, False),
        (LISTED, {}, False),
        ({}, {}, False),
    ],
)  # fmt: skip
def test_what_spares_a_command_and_what_does_not(
    command: dict[str, Any], sections: dict[str, Any], expected: bool
) -> None:
    assert bool(spared(command, answer(**sections))) is expected


VERSIONS = {"status": "ok", "version": {"Components": {"containerd": "v2.1.4", "runc": "1.3.0"}}}
PATHS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"
DOCKERD = process("dockerd", env={"PATH": PATHS})
KNOWN = {
    "docker": VERSIONS,
    "programs": {name: {"status": "ok", "path": f"/usr/bin/{name}"} for name in ("containerd", "runc")},
    "processes": processes(process("containerd"), DOCKERD),
}


def replaced(number: int, **more: Any) -> dict[str, Any]:
    found = [process("containerd"), DOCKERD]
    found[number] = {**found[number], **more}
    return {**KNOWN, "processes": processes(*found)}


@pytest.mark.parametrize(
    ("name", "sections", "expected"),
    [
        ("containerd", KNOWN, "containerd version v2.1.4\n"),
        ("runc", KNOWN, "runc version 1.3.0\n"),
        ("containerd", replaced(0, exe="/usr/bin/containerd (deleted)"), None),
        ("containerd", replaced(0, exe="/opt/bin/containerd"), None),
        ("containerd", replaced(0, container="0123456789ab"), None),
        ("containerd", {**KNOWN, "processes": processes(process("containerd"), process("containerd"), DOCKERD)}, None),
        ("containerd", {**KNOWN, "processes": processes(DOCKERD)}, None),
        ("containerd", {**KNOWN, "programs": {"containerd": {"status": "absent"}}}, None),
        ("containerd", {**KNOWN, "docker": {"status": "ok", "version": {}}}, None),
        ("containerd", {**KNOWN, "docker": unread("timeout")}, None),
        ("containerd", {**KNOWN, "processes": unread("denied")}, None),
        ("runc", replaced(1, env={}), None),
        ("runc", replaced(1, env={"PATH": "/opt/bin:" + PATHS}), None),
        ("runc", replaced(1, env={"PATH": "/usr/local/sbin"}), None),
        ("criu", KNOWN, None),
    ],
)  # fmt: skip
def test_whose_version_docker_tells(name: str, sections: dict[str, Any], expected: str | None) -> None:
    found = said_by_docker(name, answer(**sections))
    assert (found and found["out"]) == expected


# --- what is not searched


def always(parsed: Any, word: str) -> bool:
    """Whether all that a parsed pattern matches has that word in it."""
    run = ""
    for operation, argument in parsed:
        name = str(operation)
        run = run + chr(argument) if name == "LITERAL" else ""
        if word in run:
            return True
        inner: list[Any] = []
        if name == "BRANCH":
            inner = argument[1]
        elif name == "SUBPATTERN":
            inner = [argument[-1]]
        elif name in ("MAX_REPEAT", "MIN_REPEAT") and argument[0]:
            inner = [argument[2]]
        if inner and all(always(each, word) for each in inner):
            return True
    return False


def test_one_search_of_a_pattern_follows_to_scripts() -> None:
    groups = by_pattern(request()["globs"])
    assert [sum("follow" in spec for spec in specs) for specs in groups if "follow" in str(specs)]
    assert all(sum("follow" in spec for spec in specs) < 2 for specs in groups)


def test_a_file_that_is_not_searched_has_nothing_to_find() -> None:
    specs = [spec for spec in request()["globs"] if "holds" in spec]
    assert len(specs) > 30
    for spec in specs:
        assert always(sre_parse.parse(spec["search"]), spec["holds"]), spec
    assert not always(sre_parse.parse(r"a(?:--gpus)?|b"), "--gpus")
    assert not always(sre_parse.parse(r"--gpus|b"), "--gpus")
