"""What systemd says of its units, of itself and of the machine."""

import os
import re
import struct
from typing import Dict, List, Optional, Sequence, Set, Tuple

from gpumend.payload.probe.bus import (
    PRIVATE,
    TOP,
    Bus,
    properties_of,
    services_loaded,
    units_wanted,
    wanted_property,
)
from gpumend.payload.probe.files import Json
from gpumend.payload.probe.processes import without_secrets
from gpumend.payload.probe.running import execute, told

SYSTEMD_SECONDS = 3  # for all that is asked of systemd's socket; it takes 20 ms
# Whatever is none of these, or systemd's word for a container that itself runs in, is for systemd-detect-virt to tell
# (systemd src/basic/virt.c).
MACHINES = (
    "qemu", "kvm", "amazon", "zvm", "vmware", "microsoft", "oracle", "powervm", "xen", "bochs", "uml", "parallels",
    "bhyve", "qnx", "acrn", "apple", "sre", "google", "vm-other",
)  # fmt: skip
# Of org.freedesktop.systemd1.Unit; all others are of the unit's own kind.
OF_EACH_UNIT = (
    "Id", "LoadState", "ActiveState", "SubState", "UnitFileState", "FragmentPath", "DropInPaths", "NeedDaemonReload",
    "ActiveEnterTimestampMonotonic", "After", "Before", "RequiredBy", "WantedBy", "BoundBy", "ConsistsOf",
    "StartLimitAction", "FailureAction",
)  # fmt: skip
# What a row of systemd's list of units has in which column (org.freedesktop.systemd1(5), ListUnits).
LISTED = {"Id": 0, "LoadState": 2, "ActiveState": 3, "SubState": 4}
NAMES_OF_UNITS = ("After", "Before", "BoundBy", "ConsistsOf", "RequiredBy", "WantedBy")


def unit_properties(text: str, wanted: List[str]) -> Dict[str, str]:
    """The properties that `systemctl show` prints of one unit. It prints a line break of an ExecStart as it is: a line that
    begins none of the `wanted` properties goes on with the one before."""
    found, last = {}, None
    for line in text.strip("\n").split("\n"):
        key, sign, value = line.partition("=")
        if sign and key in wanted and key not in found:
            last, found[key] = key, value
        elif last:
            found[last] += " " + line
    return told_properties(found)


def told_properties(found: Dict[str, str]) -> Dict[str, str]:
    """Properties as they leave the host."""
    told = {key: without_secrets(value.split(" ")) for key, value in found.items()}
    # systemd keeps names of units in a hash table: their order says nothing, and changes with a daemon-reload.
    return {key: " ".join(sorted(words) if key in NAMES_OF_UNITS else words) for key, words in told.items()}


def owner_of(unit: str, name: str) -> Tuple[str, str]:
    """(The interface that has a unit's property, its name)."""
    kind = unit.rpartition(".")[2].capitalize()
    return "Unit" if name in OF_EACH_UNIT else kind, name


def units_told(bus: Bus, names: Sequence[str], properties: Sequence[str]) -> Json:
    """State of systemd units by name, as `units` has it; of one that is not there only that."""
    (listed,) = bus.ask([units_wanted(names)])
    if listed is None or len(listed) != len(names):
        raise ValueError("systemd does not list the units")
    known = [name for name in LISTED if name in ("Id", "LoadState") or name in properties]
    there = {unit: row for unit, row in zip(names, listed) if row[LISTED["LoadState"]] != "not-found"}
    asked = [name for name in properties if name not in LISTED]
    found = properties_of(bus, {unit: [owner_of(unit, name) for name in asked] for unit in there})
    told = {unit: {"Id": unit, "LoadState": "not-found", "ActiveState": "inactive"} for unit in names}
    for unit, row in there.items():
        told[unit] = told_properties(dict({name: row[LISTED[name]] for name in known}, **found[unit]))
    return {"status": "ok", "units": told}


def services_told(bus: Bus, names: Sequence[str], named: Optional[Set[str]]) -> str:
    """Some properties of all services that are loaded, as `systemctl show` prints them. Of one that is inactive nothing has been
    started again; what is done where one fails is asked of those that are `named`, where anything is."""
    (listed,) = bus.ask([services_loaded()])
    if listed is None:
        raise ValueError("systemd lists no units")
    units = {each[0]: each for each in listed if each[2] != "not-found" or each[3] != "inactive"}
    there = {
        unit: [
            owner_of(unit, name)
            for name in names
            if name not in ("Id", "SubState")
            and (named is None or unit in named if name.endswith("Action") else each[3] != "inactive")
        ]
        for unit, each in units.items()
    }
    found = properties_of(bus, there)
    blocks = []
    for unit, each in units.items():
        lines = ["Id=" + unit] + ["%s=%s" % pair for pair in found[unit].items()]
        blocks.append("\n".join(lines + ["SubState=" + each[4]]) + "\n")
    return "\n".join(blocks)


def named_by(listed: Optional[Json]) -> Optional[Set[str]]:
    """The names of the units whose files were listed; None where not all could be."""
    if listed is None or listed["status"] not in ("ok", "absent"):
        return None
    return {os.path.basename(path) for path in listed.get("paths", ())}


def told_by_systemd(bus: Bus, command: Json, answer: Json) -> Optional[str]:
    """What a program of systemd's would print, by systemd's own word, or None where that does not tell."""
    argv = command["argv"]
    if argv[:2] == ["systemctl", "show"]:
        named = named_by(answer["globs"].get(command.get("units_of")))
        return services_told(bus, argv[2].partition("=")[2].split(","), named)
    if argv == ["systemctl", "--version"]:
        (version,) = bus.ask([wanted_property(TOP, "Manager", "Version")])
        number = re.match(r"(?:systemd )?v?(\d+)", version or "")
        return "systemd %s (%s)\n" % (number.group(1), version) if number else None
    if argv == ["systemd-detect-virt", "--vm"]:
        (name,) = bus.ask([wanted_property(TOP, "Manager", "Virtualization")])
        return None if name not in MACHINES and name != "" else (name or "none") + "\n"
    return None


def ask_systemd(request: Json, todo: List[str], answer: Json) -> Json:
    """What systemd says by itself, as root: `units`, and the answers to those of the commands that are to be run which it can
    give. What it does not say is asked of its programs."""
    answers: Json = {"commands": {}}
    if os.geteuid() != 0 or not os.path.exists(PRIVATE):
        return answers
    try:
        bus = Bus(SYSTEMD_SECONDS)
    except (OSError, ValueError):
        return answers
    try:
        for name in todo:
            command = request["commands"][name]
            said = told_by_systemd(bus, command, answer) if command.get("by_systemd") else None
            if said is not None:
                answers["commands"][name] = told(command, {"status": "ok", "rc": 0, "out": said, "err": ""})
        if request.get("units"):
            answers["units"] = units_told(bus, request["units"], request.get("unit_properties", ()))
    except (OSError, ValueError, LookupError, TypeError, struct.error, RecursionError):
        pass  # what it has said until then holds
    finally:
        bus.close()
    return answers


def units(names: Sequence[str], properties: Sequence[str], timeout: float) -> Json:
    """State of systemd units by name. One `systemctl show` for all; `absent` on a host without systemd."""
    if not os.path.isdir("/run/systemd/system"):  # sd_booted(3)
        return {"status": "absent", "error": "this host was not booted by systemd"}
    wanted = ["Id"] + [name for name in properties if name != "Id"]

    def show(some: List[str]) -> Json:
        item = execute({"argv": ["systemctl", "show", "--property=" + ",".join(wanted)] + some}, "", timeout)
        if item["status"] == "ok" and item["rc"]:
            item["status"] = "failed"
            item["error"] = item.pop("err") or "systemctl show: exit status %d" % item["rc"]
        return item

    item, found = show(list(names)), {}
    blocks = item.get("out", "").split("\n\n")
    # With an empty line in an ExecStart, whose block is whose cannot be told: each unit is asked for by itself.
    together = len(blocks) == len(names) and all(re.search(r"(?m)^Id=", block) for block in blocks)
    for block, name in zip(blocks if together else names, names):
        if not together and item["status"] == "ok":
            item = show([name])
            block = item.get("out", "")
        found[name] = unit_properties(block, wanted)
    return {"status": "ok", "units": found} if item["status"] == "ok" else item
