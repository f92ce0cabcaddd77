"""The state of systemd units."""

import os
import re
from typing import Dict, List, Sequence

from gpumend.payload.probe.execution import execute
from gpumend.payload.probe.files import Json
from gpumend.payload.probe.processes import without_secrets

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
    told = {key: without_secrets(value.split(" ")) for key, value in found.items()}
    # systemd keeps names of units in a hash table: their order says nothing, and changes with a daemon-reload.
    return {key: " ".join(sorted(words) if key in NAMES_OF_UNITS else words) for key, words in told.items()}


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
