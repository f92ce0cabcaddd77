"""What will change the driver under the host: installed kernels, pending reboots, automatic upgrades."""

from __future__ import annotations

import re
from collections.abc import Mapping

from gpumend.state.packages import parse as parse_packages
from gpumend.state.reading import Reading, first_unknown
from gpumend.state.request import Command, Glob, Request
from gpumend.state.snapshot import Snapshot
from gpumend.text.record import Record

KERNELS = "/lib/modules/*/kernel"  # a directory that only DKMS left behind has none
MODULES = "/lib/modules/*/modules.dep"
VERSIONLOCK = ("/etc/dnf/plugins/versionlock.list", "/etc/dnf/versionlock.toml")  # dnf 4, dnf 5
REBOOT = "/run/reboot-required"  # update-notifier, unattended-upgrades
# What apt's timer executes (apt debian/apt.systemd.daily: `which unattended-upgrade`): without it nothing is upgraded.
UPGRADERS = ("/usr/bin/unattended-upgrade", "/usr/bin/unattended-upgrades")
UPGRADE_TIMER = "apt-daily-upgrade.timer"

RELEASE_NUMBERS = re.compile(r"[\d.+_~-]*")
DIGITS = re.compile(r"\d+")

REQUEST = Request(
    files=(f"{REBOOT}.pkgs", *VERSIONLOCK),
    stats=(REBOOT, "/usr/bin/nvidia-uninstall"),
    globs=(
        Glob(KERNELS, read=False),
        # depmod's index names the module wherever a package, DKMS or the runfile put it (modules.dep(5))
        Glob(MODULES, read=False, search=r"(?m)^([^:\n]*/nvidia(?:-current)?\.ko[^:/\n]*):"),
    ),
    commands={
        # apt's merged configuration; of it only what concerns automatic upgrades: proxies hold passwords
        "apt-config": Command(
            ("apt-config", "dump"),
            timeout=10,
            keep=r"(?mi)^(?:APT::Periodic|Unattended-Upgrade)::.*$",
            needs_one=UPGRADERS,
        ),
    },
    units=(UPGRADE_TIMER,),
    unit_properties=("LoadState", "ActiveState", "UnitFileState"),
)


class Unattended(Record):
    """apt's automatic upgrades. blacklist: regular expressions of packages that they leave alone."""

    enabled: bool
    blacklist: tuple[str, ...] = ()

    def covers(self, package: str) -> bool:
        """Whether this package is left alone. unattended-upgrades matches from the start of the name (re.match)."""
        return any(_matches(pattern, package) for pattern in self.blacklist)


class Drift(Record):
    """reboot: whether the distribution waits for one; reboot_packages: for these. kernels: installed kernel releases;
    with_module: those of them that have an nvidia module. versionlock: dnf's locked patterns. runfile: NVIDIA's own
    uninstaller is there, so the driver came from a .run file."""

    reboot: Reading[bool]
    reboot_packages: Reading[tuple[str, ...]]
    kernels: Reading[tuple[str, ...]]
    with_module: Reading[tuple[str, ...]]
    unattended: Reading[Unattended]
    versionlock: tuple[str, ...]
    runfile: bool

    def orphaned(self, running: str) -> str | None:
        """The newest installed kernel of the running one's kind, where it has no nvidia module while the running one
        has; else None. Raises Unread where kernels could not be listed, or what one of them has."""
        mine = [name for name in self.kernels.get() or () if kernel_kind(name) == kernel_kind(running)]
        newest = max(mine, key=kernel_number, default=running)
        if kernel_number(newest) <= kernel_number(running) or newest in (
            have := self.with_module.get() or ()
        ):
            return None
        return newest if running in have else None


def _matches(pattern: str, package: str) -> bool:
    try:
        return re.match(pattern, package) is not None
    except re.error:
        return False


def kernel_number(release: str) -> tuple[int, ...]:
    """The numbers a kernel release begins with: `6.8.0-60-generic` -> (6, 8, 0, 60)."""
    lead = RELEASE_NUMBERS.match(release)
    return tuple(map(int, DIGITS.findall(lead.group() if lead else "")))


def kernel_kind(release: str) -> str:
    """What a kernel release is besides its numbers: `generic`, `aws`, `el.x`: kinds are not upgraded to each other."""
    return re.sub(r"[\d.+_~-]+", ".", release).strip(".")


def apt_settings(text: str) -> Unattended:
    """`apt-config dump`: `APT::Periodic::Unattended-Upgrade "1";`, `Unattended-Upgrade::Package-Blacklist:: "nvidia";`.
    apt compares names without regard to case, and it prints the spelling that it read first."""
    values: dict[str, list[str]] = {}
    for key, value in re.findall(r'(?m)^(\S+?)(?:::)? "(.*)";$', text):
        values.setdefault(key.lower(), []).append(value)
    days = values.get("apt::periodic::unattended-upgrade", ["0"])[-1]
    on = values.get("apt::periodic::enable", ["1"])[-1] != "0"
    blacklist = tuple(value for value in values.get("unattended-upgrade::package-blacklist", ()) if value)
    return Unattended(on and days not in ("", "0"), blacklist)


def locked(text: str) -> tuple[str, ...]:
    """What `dnf versionlock` holds: a line each in dnf 4's list (`!` excludes), `name = "..."` in dnf 5's TOML."""
    if not text:
        return ()
    named = tuple(re.findall(r'(?m)^[ \t]*name[ \t]*=[ \t]*"([^"\n]+)"', text))
    return named or tuple(re.findall(r"(?m)^([^\s#!\[]\S*)[ \t\r]*$", text))


def _with_module(snapshot: Snapshot) -> Reading[tuple[str, ...]]:
    listed = snapshot.glob(MODULES)
    found = {path: snapshot.found(path) for path in listed.value or ()}
    unread = first_unknown((listed, *found.values()))
    if unread is not None:
        return unread.without_value()
    return Reading.of(
        tuple(path.split("/")[3] for path, names in found.items() if names.value), "modules.dep"
    )


def _kernels(snapshot: Snapshot) -> Reading[tuple[str, ...]]:
    return snapshot.glob(KERNELS).map(lambda paths: tuple(path.split("/")[3] for path in paths))


def _unattended(snapshot: Snapshot, packages: Mapping[str, str] | None) -> Reading[Unattended]:
    settings = snapshot.succeeded("apt-config").map(lambda output: apt_settings(output.out))
    if settings.value is None:
        return settings
    unit = snapshot.unit(UPGRADE_TIMER)
    if not unit.known:
        return unit.without_value()
    timer = unit.value or {}
    off = timer.get("LoadState") == "masked" or timer.get("UnitFileState") in ("masked", "disabled")
    there = packages is None or "unattended-upgrades" in packages
    found = settings.value
    return Reading.of(Unattended(found.enabled and there and not off, found.blacklist), "apt-config dump")


def parse(snapshot: Snapshot) -> Drift:
    reboot = snapshot.stat(REBOOT)
    return Drift(
        reboot=Reading.of(False, REBOOT) if reboot.absent else reboot.map(lambda _: True),
        reboot_packages=snapshot.text(f"{REBOOT}.pkgs").map(lambda text: tuple(dict.fromkeys(text.split()))),
        kernels=_kernels(snapshot),
        with_module=_with_module(snapshot),
        unattended=_unattended(snapshot, snapshot.once(parse_packages).installed.value),
        versionlock=tuple(name for path in VERSIONLOCK for name in locked(snapshot.text(path).value or "")),
        runfile=snapshot.stat("/usr/bin/nvidia-uninstall").ok,
    )
