"""Installed packages that concern GPUs and containers, from dpkg and rpm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from facts.reading import Reading, Status
from facts.request import Command, Request
from facts.snapshot import Output, Snapshot

PATTERNS = (
    "nvidia*", "libnvidia*", "cuda*", "cudnn*", "libcu*", "libnv*", "libnpp*", "libnccl*", "nv-tensorrt*", "tensorrt*",
    "gds-tools*", "docker*", "containerd*", "runc", "crun", "podman*", "cri-o*", "criu", "linux-modules-nvidia*",
    "linux-objects-nvidia*", "linux-signatures-nvidia*", "xserver-xorg-video-nvidia*", "unattended-upgrades",
)  # fmt: skip

REQUEST = Request(
    commands={
        "dpkg": Command(
            ("dpkg-query", "-W", "-f=${db:Status-Abbrev}\\t${Package}\\t${Version}\\n", *PATTERNS), timeout=20
        ),
        "rpm": Command(("rpm", "-qa", "--qf", "%{NAME}\\t%{EPOCH}:%{VERSION}-%{RELEASE}\\n"), timeout=20),
    },
)


@dataclass(frozen=True)
class Packages:
    """installed: package name -> full version, of dpkg and rpm together. held: names that dpkg is told to leave as
    they are (`apt-mark hold`). manager: `apt` or `dnf`, whose database the driver's packages would be in; empty where
    neither dpkg nor rpm answers."""

    installed: Reading[Mapping[str, str]]
    held: frozenset[str] = frozenset()
    manager: str = ""


def parse_dpkg(output: Output) -> dict[str, str]:
    """Packages whose status is installed. dpkg-query exits 1 when one pattern matches nothing: no error."""
    found = {}
    for line in output.out.splitlines():
        fields = line.split("\t")
        if len(fields) == 3 and fields[0][1:2] == "i":
            found[fields[1]] = fields[2]
    if output.rc > 1:
        raise ValueError(f"dpkg-query: exit status {output.rc}: {output.err.strip()}")
    return found


def parse_held(output: Output) -> frozenset[str]:
    """Installed packages on hold: the first letter of dpkg's status, the wish, is `h`."""
    rows = (line.split("\t") for line in output.out.splitlines())
    return frozenset(row[1] for row in rows if len(row) == 3 and row[0][:2] == "hi")


def parse_rpm(output: Output) -> dict[str, str]:
    """Name -> [epoch:]version-release; an epoch of (none) is left out."""
    if output.rc:
        raise ValueError(f"rpm: exit status {output.rc}: {output.err.strip()}")
    found = {}
    for line in output.out.splitlines():
        name, _, version = line.partition("\t")
        if version:
            found[name] = version.removeprefix("(none):")
    return found


def parse(snapshot: Snapshot) -> Packages:
    parts = (snapshot.command("dpkg").map(parse_dpkg), snapshot.command("rpm").map(parse_rpm))
    unread = [part for part in parts if not part.known]
    if unread:
        return Packages(Reading(unread[0].status, None, unread[0].source, unread[0].detail))
    found: dict[str, str] = {}
    for part in parts:
        found.update(part.value or {})
    if all(part.absent for part in parts):
        return Packages(Reading(Status.ABSENT, None, "dpkg, rpm", "neither is installed"))
    dpkg, rpm = parts
    return Packages(
        Reading.of(found, "dpkg, rpm"),
        snapshot.command("dpkg").map(parse_held).value or frozenset(),
        # Debian has an rpm, too, with an empty database
        "apt" if dpkg.value or (dpkg.ok and not rpm.value) else "dnf" if rpm.value else "",
    )
