"""The part of the program on a host that looks whether what a plan was made of is still so: stdlib only, Python 3.6 or newer.

A transaction has it along where the host was not looked at since one before it (gpumend/run/foresight.py).
"""

from typing import Any, Dict

from gpumend.payload.change.files import Refused
from gpumend.payload.probe.files import expand, read_file
from gpumend.payload.probe.running import run


def must_be_so(evidence: Dict[str, Any]) -> None:
    """The files that the plan was made of have the same bytes, there are no others where it looked, and the daemon that the
    transaction is about is the same process of the same unit. Raises Refused, as `moved`, where anything is otherwise, or cannot
    be told."""
    for path, before in sorted(evidence["files"].items()):
        found = read_file(path)
        if found["status"] not in ("ok", "absent") or found.get("sha256") != before:
            raise Refused("%s changed since the plan was made" % path, "moved")
    for pattern, paths in sorted(evidence["globs"].items()):
        listed, unread = expand(pattern)
        if unread or sorted(listed) != sorted(paths):
            raise Refused("there are other files at %s than when the plan was made" % pattern, "moved")
    for unit, before in sorted(evidence["units"].items()):
        if unit_as_told(unit, sorted(before)) != before:
            raise Refused("%s is not as it was when the plan was made" % unit, "moved")


def unit_as_told(unit: str, names: Any) -> Dict[str, str]:
    """What systemd says of a unit: these properties."""
    argv = ["systemctl", "show"]
    for name in names:
        argv += ["-p", name]
    rows = [row.partition("=") for row in run(argv + [unit], 20).get("out", "").splitlines()]
    return {name: value for name, _, value in rows if name in names}
