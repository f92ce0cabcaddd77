"""Device nodes besides their metadata in `driver`: the kernel's numbers for them, and who says which mode they get."""

from __future__ import annotations

import re
from collections.abc import Mapping

from gpumend.state.driver import PARAMS
from gpumend.state.reading import Reading, Status
from gpumend.state.request import Glob, Request
from gpumend.state.snapshot import FileMeta, Snapshot
from gpumend.text.pattern import Pattern
from gpumend.text.record import Record

DEVICES = "/proc/devices"
CAPS, CHANNELS = "/dev/nvidia-caps/nvidia-cap[0-9]*", "/dev/nvidia-caps-imex-channels/channel[0-9]*"
# A distribution's and a package's have nvidia in their names; the host's own may have any.
RULES = (
    "/etc/udev/rules.d/*.rules",
    "/run/udev/rules.d/*.rules",
    "/usr/lib/udev/rules.d/*nvidia*.rules",
    "/lib/udev/rules.d/*nvidia*.rules",
)
MODE_RULE = r'(?m)^[^#\n]*nvidia[^\n]*MODE:?="[0-7]+"[^\n]*$'
MAJOR = re.compile(r"(?m)^[ \t]*(\d+) (\S+)$")
OPTION = Pattern(r"(?m)^[ \t]*options[ \t]+nvidia[ \t][^\n]*?\b(NVreg_DeviceFileMode)=(\S+)")

REQUEST = Request(
    files=(DEVICES, PARAMS),
    globs=(
        Glob(CAPS, read=False),
        Glob(CHANNELS, read=False),
        *(Glob(pattern, read=False, search=MODE_RULE) for pattern in RULES),
        Glob("/etc/modprobe.d/*.conf"),
    ),
)


class Nodes(Record):
    """majors: of character devices, by name (/proc/devices). mode: what the module makes nodes with (NVreg_DeviceFileMode).
    options: (file, value as written) of that parameter. rules: udev's lines that give NVIDIA's nodes a mode, by file.
    caps, channels: nodes of MIG's and IMEX's capabilities."""

    majors: Reading[Mapping[str, int]]
    mode: Reading[int]
    options: tuple[tuple[str, str], ...]
    rules: Mapping[str, tuple[str, ...]]
    caps: Reading[Mapping[str, FileMeta]]
    channels: Reading[Mapping[str, FileMeta]]


def majors(text: str) -> dict[str, int]:
    """/proc/devices' character devices; raises ValueError where it has none."""
    part = text.partition("Block devices:")[0]
    found = {name: int(number) for number, name in MAJOR.findall(part)}
    if not found:
        raise ValueError("no character devices")
    return found


def device_mode(text: str) -> int:
    """`DeviceFileMode: 438` of /proc/driver/nvidia/params, which is decimal: 438 is 0666."""
    match = re.search(r"(?m)^DeviceFileMode:\s*(\d+)\s*$", text)
    if match is None:
        raise ValueError("no DeviceFileMode")
    return int(match.group(1))


def _nodes(snapshot: Snapshot, pattern: str) -> Reading[Mapping[str, FileMeta]]:
    listed = snapshot.glob(pattern)
    if not listed.ok:
        return listed.without_value()
    found = {}
    for path in listed.value or ():
        meta = snapshot.stat(path)
        if meta.value is None:
            return Reading(Status.FAILED if meta.absent else meta.status, None, path, meta.detail)
        found[path] = meta.value
    return Reading.of(found, pattern)


def parse(snapshot: Snapshot) -> Nodes:
    settings: list[tuple[str, str]] = []
    for path in snapshot.glob("/etc/modprobe.d/*.conf").value or ():
        settings.extend((path, value) for _, value in OPTION.findall(snapshot.text(path).value or ""))
    rules = {}
    for pattern in RULES:
        for path in snapshot.glob(pattern).value or ():
            lines = snapshot.found(path, MODE_RULE).value or ()
            if lines:
                rules[path] = lines
    return Nodes(
        majors=snapshot.text(DEVICES).map(majors),
        mode=snapshot.text(PARAMS).map(device_mode),
        options=tuple(settings),
        rules=rules,
        caps=_nodes(snapshot, CAPS),
        channels=_nodes(snapshot, CHANNELS),
    )
