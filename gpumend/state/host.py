"""The host itself: distribution, kernel, what kind of machine it is, SELinux."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping

from gpumend.state.reading import Reading
from gpumend.state.request import Command, Glob, Request
from gpumend.state.snapshot import Impostor, Snapshot
from gpumend.text.record import Record
from gpumend.text.shared import shared
from gpumend.text.version import Version

# A value in which a shell has nothing to do but to take the quotes away: shlex takes 10 us for each.
PLAIN_VALUE = re.compile(r"""([^\s"'\\]*)|"([^"\\]*)"|'([^']*)'""")

MEMINFO = "/proc/meminfo"
MEM_TOTAL = r"(?m)^MemTotal:\s+(\d{1,15}) kB$"

# What selinuxfs says of a boolean: its value now, and after the next load of pending ones (selinux(8), kernel selinuxfs.c).
BOOLEANS = "/sys/fs/selinux/booleans"
DEVICE_BOOLEANS = ("container_use_devices", "container_use_xserver_devices")
APPARMOR = "/sys/kernel/security/apparmor"
# Of the kernel's last lines those in which AppArmor denies something to, or of, a program of NVIDIA's.
DENIALS = r"(?m)^[^\n]{0,400}apparmor=\"DENIED\"[^\n]{0,400}nvidia[^\n]{0,200}"

REQUEST = Request(
    files=(
        "/etc/os-release",
        "/usr/lib/os-release",
        "/proc/version",
        "/proc/sys/net/core/bpf_jit_harden",
        "/sys/fs/selinux/enforce",
        *(f"{BOOLEANS}/{name}" for name in DEVICE_BOOLEANS),
    ),
    stats=("/etc/nv_tegra_release", "/dev/dxg", "/run/systemd/system"),
    globs=(Glob(MEMINFO, read=False, search=MEM_TOTAL),),
    commands={
        "mokutil": Command(("mokutil", "--sb-state"), timeout=3),
        "systemd-version": Command(
            ("systemctl", "--version"),
            timeout=5,
            needs=("/run/systemd/system",),
            keep=r"(?m)^systemd \d+",
            by_systemd=True,
        ),
        "apparmor-denials": Command(
            ("journalctl", "--dmesg", "--boot", "--lines=2000", "--output=cat", "--no-pager"),
            timeout=5,
            needs=("/run/systemd/system", APPARMOR),
            keep=DENIALS,
        ),
    },
)


class HostFacts(Record):
    """distribution: os-release ID; release: the first number of its VERSION_ID; like: ID_LIKE words; time: seconds since the epoch, at the probe.

    wsl2 by the kernel's name and /dev/dxg (learn.microsoft.com, WSL), tegra by /etc/nv_tegra_release (L4T).
    systemd_version: one number; absent where systemd did not boot the host.
    readonly: mount points among /, /etc, /var/lib, /run that are mounted read-only; free: bytes there.
    selinux_booleans: those that let containers at devices; absent where the policy has none
    of that name. denials: what AppArmor denied programs of NVIDIA's since boot, the newest last.
    memory: of the whole host, in MiB. impostors: processes that are not the daemons that they call themselves.
    """

    hostname: str
    uid: int
    kernel: str
    machine: str
    python: str
    time: float
    distribution: Reading[str]
    name: Reading[str]
    release: str
    like: tuple[str, ...]
    wsl2: bool
    tegra: bool
    systemd: bool
    systemd_version: Reading[Version]
    selinux_enforcing: Reading[bool]
    secure_boot: Reading[bool]
    bpf_jit_harden: Reading[int]
    readonly: tuple[str, ...]
    free: Mapping[str, int]
    memory: Reading[int]
    selinux_booleans: Mapping[str, Reading[bool]]
    denials: Reading[tuple[str, ...]]
    impostors: Reading[tuple[Impostor, ...]]

    @property
    def root(self) -> bool:
        return self.uid == 0


@shared(64, 4096)
def os_release(text: str) -> Mapping[str, str]:
    """os-release(5), for reading; raises ValueError for a line that is no assignment."""
    found = {}
    for line in text.splitlines():
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        key, sign, value = line.partition("=")
        if not sign:
            raise ValueError(f"no assignment: {line!r}")
        plain = PLAIN_VALUE.fullmatch(value)
        if plain is not None:
            found[key] = plain.group(plain.lastindex or 0)
            continue
        words = shlex.split(value)
        found[key] = words[0] if words else ""
    return found


def sb_state(text: str) -> bool:
    """`mokutil --sb-state`: whether modules must be signed. Where shim does not validate, neither does the kernel
    (mokutil src/mokutil.c sb_state_internal). Raises ValueError where it could not tell, which ends with status 0, too."""
    lines = text.splitlines()
    if not {"SecureBoot enabled", "SecureBoot disabled"} & set(lines):
        raise ValueError(lines[-1] if lines else "mokutil said nothing")
    return "SecureBoot enabled" in lines and "SecureBoot validation is disabled in shim" not in lines


def release_fields(snapshot: Snapshot) -> Reading[Mapping[str, str]]:
    """What os-release says, from the first of its two places (os-release(5))."""
    release = snapshot.text("/etc/os-release")
    if release.absent:
        release = snapshot.text("/usr/lib/os-release")
    return release.map(os_release)


def parse(snapshot: Snapshot) -> HostFacts:
    system = snapshot.system
    fields = snapshot.once(release_fields)
    kernel = str(system.get("kernel", ""))
    filesystems = system.get("filesystems", {})
    return HostFacts(
        hostname=str(system.get("hostname", "")),
        uid=int(system.get("uid", -1)),
        kernel=kernel,
        machine=str(system.get("machine", "")),
        python=str(system.get("python", "")),
        time=float(system.get("time", 0)),
        distribution=fields.map(lambda found: found["ID"]),
        name=fields.map(lambda found: found.get("PRETTY_NAME") or found["ID"]),
        release=(fields.value or {}).get("VERSION_ID", "").partition(".")[0],
        like=tuple((fields.value or {}).get("ID_LIKE", "").split()),
        wsl2="microsoft" in kernel.lower() and not snapshot.stat("/dev/dxg").absent,
        tegra=snapshot.stat("/etc/nv_tegra_release").ok,
        systemd=snapshot.stat("/run/systemd/system").ok,
        systemd_version=snapshot.succeeded("systemd-version").map(lambda found: (int(found.out.split()[1]),)),
        selinux_enforcing=snapshot.text("/sys/fs/selinux/enforce").map(lambda text: text.strip() == "1"),
        secure_boot=snapshot.succeeded("mokutil").map(lambda found: sb_state(found.out)),
        bpf_jit_harden=snapshot.text("/proc/sys/net/core/bpf_jit_harden").map(int),
        readonly=tuple(path for path, found in filesystems.items() if found.get("readonly")),
        free={path: int(found["free"]) for path, found in filesystems.items() if "free" in found},
        selinux_booleans={
            name: snapshot.text(f"{BOOLEANS}/{name}").map(lambda text: text.split()[0] == "1")
            for name in DEVICE_BOOLEANS
        },
        denials=snapshot.succeeded("apparmor-denials").map(
            lambda found: tuple(row for row in found.out.splitlines() if row)[-20:]
        ),
        memory=snapshot.found(MEMINFO, MEM_TOTAL).map(lambda found: int(found[0]) // 1024),
        impostors=snapshot.impostors(),
    )
